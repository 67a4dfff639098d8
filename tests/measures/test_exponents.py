"""Norm identification: the curve over exponents, its peak, interval and trend, what may be said, and the optima behind it."""

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from implicit_bias.analysis import exponent_optima
from implicit_bias.analysis.exponent_optima import ExponentOptima, Memory
from implicit_bias.analysis.fingerprints import fingerprints, tables
from implicit_bias.analysis.weights import BLOCK, Weights
from implicit_bias.core.errors import BadInput
from implicit_bias.datasets import Dataset, make_dataset
from implicit_bias.measures.exponents import (
    CANNOT_TELL,
    GRID,
    MAXIMISES,
    NEAREST,
    NONE_OF_THESE,
    NOT_SEPARATED,
    SHARE,
    Curve,
    Fit,
    neighbourhood,
    norm_at,
    possible_families,
    trend,
    verdict,
)
from implicit_bias.norms import Norm, make_norm
from implicit_bias.norms.vectors import lp_value, project_lp
from implicit_bias.solvers.reference import Reference, solve_certified, solve_from
from implicit_bias.storage.references import ReferenceCache

U = np.array(GRID)


def mixture(classes: int = 3, dim: int = 8, per_class: int = 3, seed: int = 4) -> Dataset:
    """Few enough to be solved in a second, and more classes than two, for which Schatten norms differ."""
    keys = {"num_classes": classes, "dim": dim, "samples_per_class": per_class, "noise": 0.5, "seed": seed}
    return make_dataset({"name": "gaussian_mixture", **keys}).load()


def curve(values: np.ndarray) -> Curve:
    return Curve(U, values, values)


class Kept(Memory):
    """A cache of what has been solved in this process."""

    def __init__(self) -> None:
        self.references: dict[tuple[bytes, str, str], Reference] = {}

    def get(self, x: np.ndarray, y: np.ndarray, norm: Norm, method: str) -> Reference | None:
        return self.references.get((x.tobytes(), norm.label, method))

    def put(self, x: np.ndarray, y: np.ndarray, norm: Norm, method: str, reference: Reference) -> None:
        self.references[x.tobytes(), norm.label, method] = reference


@pytest.fixture(scope="module")
def optima() -> dict[str, ExponentOptima]:
    """Both families on small data, at the grid and at p = 3."""
    found, cache = {}, Kept()
    for family in ("lp", "schatten"):
        found[family] = ExponentOptima([mixture()], family, cache, 60.0, lambda text: None)
        found[family].want([GRID])
        found[family].want([[1 / 3]])
    return found


@pytest.mark.parametrize("place", [0.12, 0.31, 0.5, 0.93])
def test_the_peak_is_the_parabolas_and_the_interval_where_a_share_of_what_lacks_is_lost(place: float) -> None:
    kappa = 0.98 * np.exp(-0.3 * (U - place) ** 2)
    at, height = curve(kappa).peak()
    assert at == pytest.approx(place, abs=1e-9)
    assert height == pytest.approx(0.98, abs=1e-12)
    best = kappa.max()
    width = math.sqrt(math.log(0.98 / (best - SHARE * (1 - best))) / 0.3)
    low, high = curve(kappa).interval()
    assert low == pytest.approx(max(0.0, place - width), abs=1e-4)
    assert high == pytest.approx(min(1.0, place + width), abs=1e-4)


def test_a_peak_at_an_end_stays_there_and_a_kink_is_no_parabola() -> None:
    falling = curve(0.99 * np.exp(-0.5 * U))
    at, height = falling.peak()
    assert at == 0.0
    assert height == pytest.approx(0.99)
    assert falling.interval()[0] == 0.0
    assert curve(np.where(U == 0.4, 0.9, 0.1)).peak()[0] == pytest.approx(0.4)


def test_an_interval_is_wider_where_optima_are_known_less_well() -> None:
    kappa = 0.98 * np.exp(-0.3 * (U - 0.4) ** 2)
    narrow, wide = curve(kappa).interval(), Curve(U, kappa, kappa * 1.001).interval()
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_curves_enclose_and_nothing_is_said_without_a_margin() -> None:
    found = Curve.of([0, 0.5, 1], np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.5, 4.0]), np.array([1.1, 2.6, 4.1]))
    np.testing.assert_allclose(found.lower, [1 / 1.1, 2 / 2.6, 3 / 4.1])
    np.testing.assert_allclose(found.upper, [1, 0.8, 0.75])
    assert not Curve.of([0, 0.5, 1], np.array([-1.0, -2.0, -3.0]), np.ones(3), np.ones(3)).separated


def test_the_trend_is_the_factor_of_a_decade() -> None:
    steps = [0, 1, 3, 10, 30, 100, 330, 1000]
    kappa = [math.nan, *(1 - 0.3 * t**-0.5 for t in steps[1:])]
    assert trend(steps, kappa) == pytest.approx(math.sqrt(10))
    assert trend(steps, [math.nan] * 6 + kappa[6:]) == pytest.approx(math.sqrt(10))
    assert math.isnan(trend([1000], [0.9]))
    assert math.isnan(trend([900, 1000], [0.9, 0.91]))  # too near to each other


FIT = Fit(u=0.3, low=0.25, high=0.35, kappa=0.99, upper=0.991, trend=3.0)
OTHER = Fit(u=0.4, low=0.3, high=0.6, kappa=0.995, upper=0.996, trend=3.0)


@pytest.mark.parametrize(
    ("changes", "other", "says"),
    [
        ({}, None, MAXIMISES),
        ({"trend": math.nan}, None, MAXIMISES),
        ({"trend": 1.9}, None, NEAREST),
        ({"kappa": 0.969}, None, NEAREST),
        ({"kappa": 0.899}, None, NONE_OF_THESE),
        ({"flat": True}, None, CANNOT_TELL),
        ({"flat": True, "kappa": 0.5}, None, CANNOT_TELL),
        ({"possible": False}, None, NEAREST),
        ({"possible": False, "high": 0.5}, None, MAXIMISES),
        ({}, OTHER, NEAREST),
        ({"upper": 0.9951}, OTHER, MAXIMISES),  # not proven to be worse
        ({"high": 0.5}, OTHER, NEAREST),
        ({"high": 0.5, "kappa": 0.9948, "upper": 0.9949}, OTHER, MAXIMISES),  # p = 2 in both, and as good: one norm
        ({"kappa": 0.9948, "upper": 0.9949}, OTHER, NEAREST),
        ({"high": 0.5, "kappa": 0.9948, "upper": 0.9949, "network": True}, OTHER, NEAREST),
        ({"network": True}, None, MAXIMISES),
        ({"network": True, "trend": math.nan}, None, NEAREST),
    ],
)
def test_verdicts(changes: dict[str, float], other: Fit | None, says: str) -> None:
    assert verdict(Fit(**{**FIT.__dict__, **changes}), other) == says


def test_nothing_is_said_of_what_is_not_separated() -> None:
    assert verdict(None, FIT) == NOT_SEPARATED


@pytest.mark.parametrize(
    ("norm", "families"),
    [("linf", ["lp"]), ("lp3", ["lp"]), ("spectral", ["schatten"]), ("schatten1.5", ["schatten"]), ("l2", []),
     ("row", ["schatten"]), ("nuclear", ["schatten"]), ("l1", ["lp"])],
)  # fmt: skip
def test_symmetries_rule_families_out(norm: str, families: list[str]) -> None:
    assert possible_families(make_norm(norm)) == families


def test_neighbourhoods_stay_inside() -> None:
    assert neighbourhood(0.0) == [0.0, 0.025]
    assert neighbourhood(0.3001) == [0.275, 0.3, 0.325]
    assert neighbourhood(1.0) == [0.975, 1.0]


on_one_worker = pytest.mark.xdist_group("exponents")


@on_one_worker
@pytest.mark.slow
def test_margins_grow_as_norms_shrink_and_the_families_meet_at_two(optima: dict[str, ExponentOptima]) -> None:
    for family in optima.values():
        for known in family.known:
            ordered = [known[u] for u in sorted(known, reverse=True)]
            assert all(a.lower <= b.upper for a, b in pairwise(ordered))
            assert all(reference.gap <= 1e-4 for reference in ordered)
    assert optima["lp"].known[0][0.5].lower == optima["schatten"].known[0][0.5].lower


@on_one_worker
@pytest.mark.slow
@pytest.mark.parametrize("family", ["lp", "schatten"])
def test_an_optimum_is_found_again_at_its_own_exponent(optima: dict[str, ExponentOptima], family: str) -> None:
    data = optima[family].datasets[0]
    w = torch.from_numpy(optima[family].known[0][1 / 3].separator)[None]
    runs = [Weights("a", data, {BLOCK: w}), Weights("b", data, {BLOCK: 1e6 * w})]
    found = tables(runs, fingerprints(runs, [family], optima[family].cache, 60.0, lambda text: None))
    first, second = (row for _, row in found.verdicts.iterrows())
    assert first["verdict"] == MAXIMISES
    assert 1 / first["p"] == pytest.approx(1 / 3, abs=0.01)
    assert first["p_low"] <= 3 <= first["p_high"]
    assert first["kappa"] >= 0.999
    assert second["kappa"] == pytest.approx(first["kappa"], rel=1e-12)
    curves = found.curves
    assert (curves["kappa_lower"] <= curves["kappa_upper"]).all()
    assert (curves["kappa_upper"] <= 1).all()
    assert curves["resolution"].max() == pytest.approx(1, abs=1e-3)


@on_one_worker
@pytest.mark.slow
def test_many_exponents_at_once_are_each_of_them_alone(optima: dict[str, ExponentOptima]) -> None:
    data = optima["lp"].datasets[0]
    start = optima["lp"].known[0][0.5]
    x, y = np.stack([data.x] * 2), np.stack([data.y] * 2)
    for family in ("lp", "schatten"):
        norms = [norm_at(family, 0.7), norm_at(family, 0.3)]
        together = solve_from([start] * 2, x, y, data.num_classes, norms, tol=1e-5)
        for one, norm in zip(together, norms, strict=True):
            alone = solve_certified(data.x[None], data.y[None], data.num_classes, norm, tol=1e-5)[0]
            assert one.norm == norm.label
            assert one.lower <= alone.upper
            assert alone.lower <= one.upper
            assert one.gap <= 1e-5


def test_optima_are_kept_and_tried_again_where_time_ran_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, cache = mixture(), ReferenceCache(tmp_path)
    hasty = ExponentOptima([data], "lp", cache, 1e-9, lambda text: None)
    hasty.want([[0.0, 0.5, 1.0, 0.3]])
    assert not hasty.known[0][0.3].proven
    patient = ExponentOptima([data], "lp", cache, 60.0, lambda text: None)
    patient.want([[0.0, 0.5, 1.0, 0.3]])
    assert patient.known[0][0.3].proven

    def refused(*arguments: object, **keys: object) -> list[Reference]:
        raise AssertionError("it is in the cache")

    monkeypatch.setattr(exponent_optima, "solve_from", refused)
    monkeypatch.setattr(exponent_optima, "solve_all", lambda wanted, *_: [{"linf": None, "l2": None, "l1": None}] * len(wanted))
    again = ExponentOptima([data], "lp", cache, 60.0, lambda text: None)
    again.want([[0.3]])
    assert again.known[0][0.3].lower == patient.known[0][0.3].lower


@pytest.mark.slow
def test_of_two_classes_the_data_cannot_tell_schatten_norms_apart() -> None:
    data = mixture(classes=2, dim=6)
    optimum = solve_certified(data.x[None], data.y[None], 2, make_norm("lp4"))[0]
    run = Weights("a", data, {BLOCK: torch.from_numpy(optimum.separator)[None]})
    found = tables([run], fingerprints([run], ["lp", "schatten"], Memory(), 60.0, lambda text: None))
    lp, schatten = (row for _, row in found.verdicts.iterrows())
    assert lp["verdict"] == MAXIMISES
    assert 1 / lp["p"] == pytest.approx(1 / 4, abs=0.02)
    assert schatten["verdict"] == CANNOT_TELL
    assert math.isnan(schatten["p"])
    flat = found.curves[found.curves["family"] == "schatten"]["resolution"]
    assert flat.max() - flat.min() < 1e-4


def test_classes_that_cannot_be_separated_are_refused() -> None:
    x = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    data = Dataset(x, np.array([0, 1, 1]), 2, origin="mine")
    run = Weights("a", data, {BLOCK: torch.eye(2, dtype=torch.float64)[None]})
    with pytest.raises(BadInput, match=r"^mine: there is no optimum to compare with: the classes"):
        fingerprints([run], ["lp"], Memory(), 60.0, lambda text: None)


@pytest.mark.parametrize("p", [1.001, 1.03, 1.5, 2.5, 40.0, 300.0])
@pytest.mark.parametrize("size", [1.0, 1e3, 1e100])
def test_projections_onto_lp_balls_are_stationary(p: float, size: float) -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(20, 30, generator=generator, dtype=torch.float64)
    x = torch.cat([size * x, x.abs() ** 8, x / lp_value(x, p)[:, None] * (1 + 1e-6)])
    x[:, 3] = 0
    found = project_lp(x, p)
    outside = lp_value(x, p) > 1
    slack = 1e-13 / min(1.0, p - 1)
    assert (lp_value(found[outside], p) - 1).abs().max() < 100 * slack
    assert (found[~outside] == x[~outside]).all()
    # x - u is a multiple of the gradient of sum |u|^p, the same for every entry that is large enough to tell.
    u, rest = found[outside].abs(), (x - found)[outside].abs()
    logs = rest.log() - (p - 1) * u.log()
    telling = (rest > 1e-4 * x[outside].abs()) & (u > 1e-3 * u.amax(dim=-1, keepdim=True))
    middle = torch.where(telling, logs, math.nan).nanmedian(dim=-1, keepdim=True).values
    assert torch.where(telling, logs - middle, 0.0).abs().max() < 1e-8
