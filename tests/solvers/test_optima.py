"""Optima on data as people have it: any units, any scale, proven or absent; separable or not, by proof."""

from __future__ import annotations

import importlib.util
import math
import subprocess
import sys
import time
from fractions import Fraction
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer, load_wine

from implicit_bias import run
from implicit_bias.core.errors import BadInput, NotSeparable
from implicit_bias.datasets.base import Dataset
from implicit_bias.engine import Trajectory
from implicit_bias.measures.certificate import rounding_of
from implicit_bias.measures.kkt import _mirror_step
from implicit_bias.models import Data as DataSets
from implicit_bias.models.linear import Linear
from implicit_bias.norms import Norm, make_norm
from implicit_bias.norms.lp import Lp
from implicit_bias.solvers.coordinates import Coordinates
from implicit_bias.solvers.enclosure import combination, double_product, gaps, lower_bound, upper_bound
from implicit_bias.solvers.primal_dual import Game, solve
from implicit_bias.solvers.reference import Reference, improve_weights, solve_certified, solve_exact
from implicit_bias.solvers.separability import decide
from implicit_bias.storage.tables import Interval, ProofViolated, narrowed, trajectory_table
from implicit_bias.sweep.references import solve_all
from tests.support.quick import quick_of

Array = NDArray[np.float64]
Labels = NDArray[np.int64]
Data = tuple[Array, Labels]

NORMS = ("linf", "l1", "l2", "row", "lp3", "spectral", "nuclear")


def two_columns(size: float) -> Data:
    return size * np.array([[1.0, 0.5], [2.0, -0.3], [-1.0, 0.2], [-3.0, -1.0]]), np.array([0, 0, 1, 1])


def timestamps(start: float, step: float) -> Data:
    """A column of seconds since 1970, and the feature that decides."""
    signal = np.tile([1.0, -1.0], 4)
    return np.stack([start + step * np.arange(8), signal], axis=1), (signal < 0).astype(np.int64)


def rooms() -> Data:
    x = np.array([[1200.0, 3.0, 0.1], [1150.0, 5.0, 0.4], [1300.0, 4.0, 0.9], [1250.0, 2.0, 0.5]])
    return x, np.array([0, 1, 2, 0])


def stars() -> Data:
    x = [[1.99e33, 3.83e33, 5772.0], [2.1e33, 5.1e33, 5930.0], [4.1e33, 9.7e34, 9940.0], [3.9e33, 7.7e34, 8590.0]]
    return np.array(x), np.array([1, 1, 0, 0])


def wine() -> Data:
    x, y = load_wine(return_X_y=True)
    return x, y.astype(np.int64)


# Optima to 2e-6 or better; of stars in grams the linf one was computed elsewhere, too.
ROOT2 = math.sqrt(2)
KNOWN: dict[str, tuple[Data, dict[str, float]]] = {
    "wine": (wine(), {"linf": 0.2609822, "l1": 0.0323627, "l2": 0.0998676, "spectral": 0.1043817, "nuclear": 0.0823083}),
    "rooms and prices": (rooms(), {"nuclear": 0.3916107, "linf": 1.144069, "spectral": 0.7323059}),
    "stars in grams": (stars(), {"linf": 3.4218236e33}),
    "seconds": (timestamps(1.7e9, 86400.0), {"linf": 2.0, "l1": 1.0, "l2": ROOT2, "spectral": ROOT2, "nuclear": ROOT2}),
    "milliseconds": (timestamps(1.7e12, 8.64e7), {"linf": 2.0, "l2": ROOT2}),
    "huge": (two_columns(1e32), {"linf": 2e32, "l1": 1e32, "l2": ROOT2 * 1e32, "spectral": ROOT2 * 1e32}),
    "larger still": (two_columns(1e78), {"linf": 2e78, "nuclear": ROOT2 * 1e78}),
    "tiny": (two_columns(1e-99), {"linf": 2e-99, "l1": 1e-99, "l2": ROOT2 * 1e-99, "nuclear": ROOT2 * 1e-99}),
}


@pytest.mark.parametrize(("case", "label"), [(case, label) for case, (_, answers) in KNOWN.items() for label in answers])
def test_known_optima_of_data_in_their_own_units(case: str, label: str) -> None:
    (x, y), answers = KNOWN[case]
    k = int(y.max()) + 1
    for found in (solve_exact(x, y, k, make_norm(label)), solve_certified(x[None], y[None], k, make_norm(label))[0]):
        assert found.lower <= answers[label] * (1 + 2e-6)
        assert answers[label] <= found.upper * (1 + 2e-6)
        assert found.gap <= 1e-5
        assert found.proven


def test_wine_takes_seconds_in_all_norms() -> None:
    x, y = wine()
    began = time.process_time()
    for label in ("linf", "l1", "l2", "spectral", "nuclear"):
        assert solve_exact(x, y, 3, make_norm(label)).gap <= 1e-6
    assert time.process_time() - began < 10  # about half a second; it once took minutes


@cache
def of_breast_cancer(label: str) -> Reference:
    x, y = load_breast_cancer(return_X_y=True)
    return solve_exact(x, y.astype(np.int64), 2, make_norm(label))


@pytest.mark.slow
@pytest.mark.parametrize("label", ["linf", "l2", "spectral", "nuclear", "schatten1.5"])
def test_breast_cancer_in_its_own_units(label: str) -> None:
    found = of_breast_cancer(label)
    assert found.gap <= 1e-6
    if label != "linf":  # for two classes all Schatten norms are one problem
        assert found.lower == pytest.approx(of_breast_cancer("l2").lower, rel=1e-9)


@pytest.mark.parametrize("label", ["nuclear", "schatten1.5"])
def test_columns_a_million_apart(label: str) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((12, 5))
    y = (x @ rng.standard_normal((5, 3))).argmax(axis=1)
    found = solve_exact(x * np.array([1, 1e4, 1e6, 1, 1e4]), y, 3, make_norm(label), timeout=20)
    assert found.gap <= 1e-6


@pytest.mark.slow
@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1000), exponent=st.floats(-100, 100), label=st.sampled_from(NORMS))
def test_the_optimum_scales_with_the_data(seed: int, exponent: float, label: str) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((12, 4))
    y = (x @ rng.standard_normal((4, 3))).argmax(axis=1)
    k = len(np.unique(y))
    y = np.unique(y, return_inverse=True)[1]
    scale, norm = 10.0**exponent, make_norm(label)
    plain, scaled = solve_exact(x, y, k, norm), solve_exact(scale * x, y, k, norm)
    assert scaled.lower == pytest.approx(scale * plain.lower, rel=2e-6)
    assert scaled.lower <= scale * plain.upper * (1 + 1e-12)
    assert scale * plain.lower <= scaled.upper * (1 + 1e-12)


# --- the fuzz ----------------------------------------------------------------------------------------------------------


def fuzz() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fuzz_optima", Path(__file__).parents[2] / "scripts" / "fuzz_optima.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize("decades", [2.0, 8.0])
def test_small_problems_in_bad_units(decades: float) -> None:
    """No wrong optimum, by exact arithmetic and by foreign solvers; scripts/fuzz_optima.py tries hundreds."""
    module = fuzz()
    module.mpmath.mp.dps = 40
    kinds = []
    for seed in range(1000, 1010):
        x, y, k = module.problem(seed, decades)
        if k > 1:
            for label in ("linf", "l2", "spectral"):
                kind, said = module.complaints(x, y, k, label)
                assert said == []
                kinds.append(kind)
    assert kinds.count("proven") > len(kinds) / 2


# --- bounds that rounding cannot turn wrong ----------------------------------------------------------------------------


def awkward(seed: int, n: int, d: int) -> Array:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, d)) * 10.0 ** rng.integers(-8, 9, (1, d))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000), m=st.integers(1, 40))
def test_products_in_twice_the_working_precision(seed: int, m: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = awkward(seed, 2, m), rng.standard_normal((m, 2))
    a[:, m // 2 :] = -a[:, : m - m // 2]  # cancellation
    high, low = double_product(a, b)
    for i in range(2):
        for j in range(2):
            exact = sum((Fraction(a[i, t]) * Fraction(b[t, j]) for t in range(m)), Fraction(0))
            error = abs(Fraction(high[i, j]) + Fraction(low[i, j]) - exact)
            size = sum((abs(Fraction(a[i, t]) * Fraction(b[t, j])) for t in range(m)), Fraction(0))
            assert error <= size * m * m * Fraction(2) ** -102 + abs(exact) * Fraction(2) ** -100


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000), label=st.sampled_from(["linf", "l1"]), k=st.integers(2, 4))
def test_bounds_are_rounded_outwards(seed: int, label: str, k: int) -> None:
    """Whatever W and the weights are: the lower bound is at most the exact margin, the upper at least the exact dual value."""
    rng = np.random.default_rng(seed)
    x, y = awkward(seed, 6, 4), np.append(np.arange(k), rng.integers(0, k, 6 - k)).astype(np.int64)
    w, weights = rng.standard_normal((k, 4)) / np.abs(x).max(axis=0), rng.random((6, k)) ** 4
    module, norm = fuzz(), make_norm(label)
    module.mpmath.mp.dps = 40
    weights[np.arange(6), y] = 0.0
    lower, exact = lower_bound(x, y, w, norm), module.exact_lower(x, y, w, label)
    assert lower <= exact
    assert lower == pytest.approx(exact, rel=1e-12)
    upper, exact = upper_bound(x, y, weights, norm), module.exact_upper(x, y, weights, label)
    assert upper >= exact
    assert upper == pytest.approx(exact, rel=1e-12)


def test_nothing_is_proven_by_nonsense() -> None:
    x, y = two_columns(1.0)
    norm = make_norm("l2")
    weights = np.array([[0.0, 1.0]] * 2 + [[1.0, 0.0]] * 2)
    assert lower_bound(x, y, np.zeros((2, 2)), norm) == -math.inf
    assert lower_bound(x, y, np.full((2, 2), np.nan), norm) == -math.inf
    for wrong in (np.zeros((4, 2)), -weights, np.full((4, 2), np.nan), np.full((4, 2), np.inf)):
        assert upper_bound(x, y, wrong, norm) == math.inf
    assert upper_bound(x, y, 1e-200 * weights, norm) == pytest.approx(upper_bound(x, y, weights, norm), rel=1e-12)


def test_gaps_and_combination_are_the_definition() -> None:
    rng = np.random.default_rng(0)
    x, y, w, weights = rng.standard_normal((5, 3)), np.array([0, 1, 2, 0, 1]), rng.standard_normal((3, 3)), rng.random((5, 3))
    weights[np.arange(5), y] = 0
    z = {(i, c): np.outer(np.eye(3)[y[i]] - np.eye(3)[c], x[i]) for i in range(5) for c in range(3) if c != y[i]}
    found = gaps(x, y, w)
    assert all(found[i, c] == pytest.approx((w * matrix).sum(), rel=1e-12) for (i, c), matrix in z.items())
    assert np.isinf(found[np.arange(5), y]).all()
    np.testing.assert_allclose(combination(x, y, weights), sum(weights[i, c] * m for (i, c), m in z.items()), rtol=1e-12)


@pytest.mark.parametrize("label", ["linf", "l2", "spectral"])
@pytest.mark.parametrize("shape", [(20, 4), (4, 20), (5, 5), (1, 3), (3, 1)])
def test_coordinates_are_those_of_the_same_gaps(label: str, shape: tuple[int, int]) -> None:
    x, norm = awkward(1, *shape), make_norm(label)
    coordinates = Coordinates.of(x, norm)
    assert np.abs(coordinates.features).max() <= 2
    b = np.random.default_rng(0).standard_normal((2, coordinates.features.shape[1]))
    w = coordinates.matrix(b)
    high, low = double_product(x, np.ascontiguousarray(w.T))
    np.testing.assert_allclose(high + low, coordinates.features @ b.T, atol=1e-6)
    value = float(norm.value(torch.from_numpy(b * coordinates.scale)))
    assert float(norm.value(torch.from_numpy(w))) == pytest.approx(value, rel=1e-12)


# --- separable or not, by proof ----------------------------------------------------------------------------------------


def units(seed: int, d: int) -> Array:
    return np.asarray(10.0 ** np.random.default_rng(seed).uniform(-6, 6, d))


@pytest.mark.parametrize("seed", range(6))
def test_both_answers_carry_a_proof(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((30, 4)) * units(seed, 4)
    teacher = rng.standard_normal((4, 3)) / units(seed, 4)[:, None]
    separable, random = (x @ teacher).argmax(axis=1), rng.integers(0, 3, 30)
    found = decide(x / np.abs(x).max(), np.unique(separable, return_inverse=True)[1], len(np.unique(separable)), 60)
    assert found.separable
    assert found.separator is not None and found.margin > 0
    found = decide(x / np.abs(x).max(), random, 3, 60)
    assert found.separable is False
    assert (found.weights >= 0).all() and found.weights.sum() > 0


@pytest.mark.parametrize("bits", [45, 46, 48, 50, 52])
def test_between_the_two_double_precision_cannot_tell(bits: int) -> None:
    """Two samples that differ by some round-off units can be separated, and no double knows it: no proof is claimed."""
    x, y = np.array([[1.0, 1.0], [1.0 + 2.0**-bits, 1.0]]), np.array([0, 1])
    assert decide(x, y, 2, 60).separable is not False
    try:
        assert solve_exact(x, y, 2, make_norm("l2")).lower > 0
    except NotSeparable as error:
        assert "cannot be told in double precision (best margin found" in str(error)


def test_nanoseconds_that_decide_are_not_denied() -> None:
    i = np.arange(10)
    found = decide(np.stack([1.6e18 + 256.0 * i, np.ones(10)], axis=1) / 1.6e18, (i >= 5).astype(np.int64), 2, 60)
    assert found.separable is not False


DEGENERATE: dict[str, Data] = {
    "noise": (np.random.default_rng(0).standard_normal((60, 3)), np.random.default_rng(1).integers(0, 3, 60)),
    "indicators and a constant": (
        np.column_stack([np.eye(3)[np.arange(40) % 3], np.ones(40), np.random.default_rng(0).standard_normal(40)]),
        np.random.default_rng(1).integers(0, 3, 40),
    ),
    "both sides of a line": (np.array([[1.0, 1.0], [-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0]]), np.array([0, 0, 1, 1])),
    "opposite samples of one class": (np.array([[1.0, 2.0], [-1.0, -2.0], [3.0, 1.0]]), np.array([0, 0, 1])),
    "ten from one side": (np.arange(1.0, 11.0)[:, None], (np.arange(10) > 4).astype(np.int64)),
}


@pytest.mark.parametrize("case", DEGENERATE)
@pytest.mark.parametrize("unit", [1.0, 1e-30, 1e30])
def test_what_cancels_exactly_is_found_to(case: str, unit: float) -> None:
    x, y = DEGENERATE[case]
    found = decide(x * np.where(np.arange(x.shape[1]) == 0, unit, 1.0) / max(unit, 1.0), y, int(y.max()) + 1, 60)
    assert found.separable is False


@pytest.mark.slow
@pytest.mark.parametrize("decade", [0, 8, 14, 20, 33, 60])
@pytest.mark.parametrize("label", quick_of(["linf", "l1", "l2", "spectral", "nuclear"], "linf", "spectral"))
def test_one_column_in_larger_and_larger_units(decade: int, label: str) -> None:
    """Weights in doubles cannot balance such a column; that weights near them do is proven all the same."""
    rng = np.random.RandomState(2)
    means = rng.randn(3, 10)
    x = np.abs(np.concatenate([(2 * means[c][:, None] + rng.randn(10, 20)).T for c in range(3)]))
    y, limit = np.repeat(np.arange(3), 20), {"linf": 2.7235153, "l1": 0.3237961, "l2": 0.93174037}
    x[:, 0] *= 10.0**decade
    found = solve_exact(x, y, 3, make_norm(label))
    assert found.gap <= 1e-6
    if decade >= 14 and label in limit:
        assert found.lower == pytest.approx(limit[label], rel=1e-6)


def test_a_separator_in_hand_is_never_denied() -> None:
    """Two samples 1e-9 of the data's size apart: the margin is as small, and proven."""
    x = np.array([[1.0, 1.0], [1.0, 1.0 - 1e-9], [-1.0, 3.0]])
    y = np.array([0, 1, 0])
    found = solve_exact(x, y, 2, make_norm("linf"))
    assert 0 < found.lower <= found.upper < 1e-8
    assert lower_bound(x, y, found.separator, make_norm("linf")) > 0


# --- the interval rule -------------------------------------------------------------------------------------------------


def test_the_rule_is_a_ten_thousandth() -> None:
    reference = Reference("l2", np.ones((2, 2)), 1.0 - 0.99e-4, 1.0, np.ones((3, 2)), "clarabel", 0.1)
    assert reference.proven
    assert not Reference("l2", np.ones((2, 2)), 1.0 - 1.01e-4, 1.0, np.ones((3, 2)), "clarabel", 0.1).proven


def recorded(margins: list[float], max_margin: float, upper: float) -> Trajectory:
    count = len(margins)

    def column(value: Any) -> Array:
        return np.broadcast_to(np.asarray(value, dtype=float).reshape(-1, 1), (count, 1)).copy()

    names = ("relative_gap", "correlation", "alignment", "kkt_ratio", "param_norm")
    columns = {"margin": column(margins), "max_margin": column(max_margin), "upper_bound": column(upper)}
    columns |= {name: column(1.0) for name in names}
    common = {name: column(1.0) for name in ("lr", "log_loss", "accuracy")}
    steps = list(range(count))
    return Trajectory("l2", steps=steps, recorded=np.ones((count, 1), bool), common=common, by_norm={"l2": columns})


def test_a_margin_above_the_lower_end_raises_it_and_one_above_the_upper_is_an_error() -> None:
    trajectory = recorded([0.5, 1.00002, 0.9], 1.0, upper=2.0)
    intervals = narrowed(trajectory, 0, "l2", {"l2": Interval(1.0, 1.00005)})
    assert (intervals["l2"].lower, intervals["l2"].upper) == (1.00002, 1.00005)
    table = trajectory_table(trajectory, 0, 1, "l2", intervals)
    assert (table["max_margin"] == 1.00002).all()
    assert table["relative_gap"].tolist() == pytest.approx([0.50001, 0, 0.10002], rel=1e-3, abs=1e-12)
    slightly = recorded([1.00005 + 1e-9], 1.0, upper=2.0)
    assert narrowed(slightly, 0, "l2", {"l2": Interval(1.0, 1.00005, 1e-8)})["l2"].lower == 1.00005
    with pytest.raises(ProofViolated, match="above the proven optimum"):
        narrowed(trajectory, 0, "l2", {"l2": Interval(1.0, 1.00001)})


def test_a_run_narrows_an_interval_by_its_own_certificates() -> None:
    """Wide before, proven by the run itself: then it is the optimum."""
    trajectory = recorded([0.5, 0.99995], math.nan, upper=1.0)
    intervals = narrowed(trajectory, 0, "l2", {"l2": Interval(0.2, 3.0)})
    assert (intervals["l2"].lower, intervals["l2"].upper) == (0.99995, 1.0)
    assert (trajectory_table(trajectory, 0, 1, "l2", intervals)["max_margin"] == 0.99995).all()
    still_wide = narrowed(recorded([0.5], math.nan, upper=1.0), 0, "l2", {"l2": Interval(0.2, 3.0)})
    assert (still_wide["l2"].lower, still_wide["l2"].upper) == (0.5, 1.0)
    assert trajectory_table(recorded([0.5], math.nan, upper=1.0), 0, 1, "l2", still_wide)["max_margin"].isna().all()


@pytest.fixture
def files(tmp_path: Path) -> Path:
    x, y = rooms()
    np.savez(tmp_path / "rooms.npz", x=x, y=y)
    return tmp_path


def of(files: Path, **keys: Any) -> dict[str, Any]:
    return {"dataset": "file", "dataset.path": str(files / "rooms.npz"), "results_dir": str(files / "r"), "steps": 20, **keys}


def test_where_no_optimum_is_proven_the_interval_stands_and_it_is_tried_again(
    files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = of(files, **{"log.norms": ["l2"], "optimizer": "ngd"})
    exact = solve_exact(*rooms(), 3, make_norm("l2"))
    wide = Reference("l2", exact.separator, exact.lower, exact.upper * 1.01, exact.weights, "clarabel", 1.0, late=True)

    def impatient(*_: Any, **__: Any) -> Reference:
        return wide

    monkeypatch.setattr("implicit_bias.sweep.references.solve_exact", impatient)
    monkeypatch.setattr("implicit_bias.storage.references.ReferenceCache.get", lambda *_: None)
    trajectory, summary = run(**keys)
    upper = trajectory["upper_bound"].min()
    assert trajectory["max_margin"].isna().all() and trajectory["relative_gap"].isna().all()
    assert trajectory["correlation"].isna().all() and summary["ratio"].isna().all()
    assert summary[["optimum_lower", "optimum_upper"]].to_numpy().tolist() == [[wide.lower, min(wide.upper, upper)]]
    again, _ = run(**keys)  # asked for again, tried again, and no better: the run is not computed again
    np.testing.assert_array_equal(again["margin"], trajectory["margin"])
    assert "computed again" not in capsys.readouterr().err
    monkeypatch.undo()
    proven, summary = run(**keys)
    assert "optima are proven by now" in capsys.readouterr().err
    assert summary["ratio"].iloc[0] == pytest.approx(summary["margin"].iloc[0] / exact.lower, rel=1e-6)
    np.testing.assert_array_equal(proven["margin"], trajectory["margin"])
    run(**keys)
    assert "again" not in capsys.readouterr().err


# --- certificates ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1e-90, 1.0, 1e90])
@pytest.mark.parametrize("label", ["linf", "l2", "spectral", "nuclear"])
def test_certificates_at_every_scale(scale: float, label: str) -> None:
    x, y = two_columns(1.0)
    points, labels = torch.from_numpy(x)[None], torch.from_numpy(y)[None]
    weights = torch.tensor([[[0.0, 1.0], [0.0, 2.0], [1.0, 0.0], [3.0, 0.0]]], dtype=torch.float64)
    separator = torch.tensor([[[1.0, 0.2], [-1.0, -0.2]]], dtype=torch.float64)
    _, plain = improve_weights(points, labels, make_norm(label), weights, separator, 40)
    _, upper = improve_weights(scale * points, labels, make_norm(label), weights, separator, 40)
    assert float(upper) == pytest.approx(scale * float(plain), rel=1e-9)
    assert float(upper) >= solve_exact(scale * x, y, 2, make_norm(label)).lower


@pytest.mark.parametrize("label", ["linf", "l1", "l2", "lp3", "spectral", "nuclear", "schatten1.5", "row", "column", "hybrid0.5"])
def test_what_rounding_adds_to_a_bound_is_in_proportion_to_the_data_to_the_bit(label: str) -> None:
    """Also where squares of features are beyond every double (1e155), lose digits (1e-161) or vanish (1e-170)."""
    x = torch.randn(2, 9, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = torch.arange(9).remainder(3).expand(2, 9)

    def added(unit: float) -> torch.Tensor:
        return rounding_of(Linear(), DataSets(unit * x, y, 3), {label: make_norm(label)})[label] / unit

    assert all(torch.equal(added(2.0**power), added(1.0)) for power in (515, -535, -565, -900))


def test_a_point_that_is_optimal_already_is_not_lost(tmp_path: Path) -> None:
    np.savez(tmp_path / "pair.npz", x=np.array([[1.0], [-1.0]]), y=np.array([0, 1]))
    keys: dict[str, Any] = {"dataset.path": str(tmp_path / "pair.npz"), "results_dir": str(tmp_path / "r")}
    for reference in ("exact", "none"):
        trajectory, _ = run(dataset="file", steps=100, reference=reference, **keys)
        assert (trajectory["upper_bound"] >= trajectory["margin"].fillna(0)).all()


def test_what_fails_or_is_interrupted_after_the_last_step_costs_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys: dict[str, Any] = {"steps": 40, "reference": "none", "log.norms": ["l2"], "dataset.dim": 30}

    def failing(*_: Any) -> None:
        raise RuntimeError("a decomposition\nfailed")

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("implicit_bias.engine.tighten.improve_weights", failing)
    run(results_dir=str(tmp_path / "a"), **keys)
    assert len(list((tmp_path / "a" / "runs").iterdir())) == 1
    monkeypatch.setattr("implicit_bias.engine.tighten.improve_weights", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(results_dir=str(tmp_path / "b"), **keys)
    assert len(list((tmp_path / "b" / "runs").iterdir())) == 1


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_certificates_enclose_the_optimum_in_either_precision(tmp_path: Path, precision: str) -> None:
    """Proofs are made in double precision, and rounded outwards."""
    keys: dict[str, Any] = {
        "steps": 300,
        "dataset.num_classes": 3,
        "dataset.dim": 4,
        "dataset.samples_per_class": 4,
        "dataset.noise": 0.3,
    }
    for seed in range(3):
        trajectory, _ = run(results_dir=str(tmp_path), seed=seed, precision=precision, optimizer="signgd", **keys)
        assert (trajectory["upper_bound"] >= trajectory["max_margin"]).all()
        assert not (trajectory["kkt_ratio"] > 1).any()
        assert not (trajectory["margin"] > trajectory["max_margin"] * (1 + 1e-12)).any()


# --- many datasets -----------------------------------------------------------------------------------------------------


class Kept(dict[str, Reference]):
    """A cache that counts."""

    def get(self, x: Array, y: Labels, norm: Norm, method: str) -> Reference | None:  # type: ignore[override]
        return super().get(f"{norm.label} {x.tobytes()!r}")

    def put(self, x: Array, y: Labels, norm: Norm, method: str, reference: Reference) -> None:
        self[f"{norm.label} {x.tobytes()!r}"] = reference


def sets(count: int) -> list[Dataset]:
    rng = np.random.default_rng(0)
    return [Dataset(rng.standard_normal((6, 8)), np.array([0, 1, 2, 0, 1, 2]), 3) for _ in range(count)]


def test_references_are_kept_one_by_one_and_counted() -> None:
    told: list[str] = []

    def notify(text: str) -> None:
        told.append(text)
        if "5 of 8" in text:
            raise KeyboardInterrupt

    cache, wanted = Kept(), [(dataset, {label: make_norm(label) for label in ("l2", "linf")}) for dataset in sets(4)]
    with pytest.raises(KeyboardInterrupt):
        solve_all(wanted, "exact", cache, notify)
    assert told[3:] == ["solving optimum 4 of 8 (l2)", "solving optimum 5 of 8 (linf)"]
    assert len(cache) == 4
    found = solve_all(wanted, "exact", cache, lambda _: None)
    assert len(cache) == 8
    assert all(isinstance(one, dict) and set(one) == {"l2", "linf"} for one in found)


@pytest.mark.slow
def test_a_norm_whose_exponent_is_a_tensor() -> None:
    """Two copies of a game, one of which ends before the other."""
    rng = np.random.default_rng(3)
    x = rng.standard_normal((12, 5))
    y = (x @ rng.standard_normal((5, 3))).argmax(axis=1)
    points, labels = torch.from_numpy(x)[None], torch.from_numpy(y)[None]
    game = Game.of(points.repeat(2, 1, 1), labels.repeat(2, 1), 3)
    found = solve(game, Lp(p=torch.tensor([1.2, 3.0], dtype=torch.float64)), 1e-3, 20_000)
    assert found.iterations[0] != found.iterations[1]
    for place, p in enumerate((1.2, 3.0)):
        alone = solve(Game.of(points, labels, 3), Lp(p=p), 1e-3, 20_000)
        assert float(found.lower[place]) <= float(alone.upper)
        assert float(alone.lower) <= float(found.upper[place])


def test_time_that_runs_out_leaves_a_proven_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("implicit_bias.solvers.reference.CONIC_SIZE", 0)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 30))
    y = (x @ rng.standard_normal((30, 5))).argmax(axis=1)
    began = time.perf_counter()
    found = solve_exact(x, y, 5, make_norm("spectral"), timeout=0.05)
    assert time.perf_counter() - began < 10
    assert found.late and not found.proven
    monkeypatch.undo()
    assert found.lower <= solve_exact(x, y, 5, make_norm("spectral")).lower <= found.upper


@pytest.mark.slow
def test_no_cvxpy_for_the_norms_of_the_house() -> None:
    code = (
        "import sys, numpy as np; from implicit_bias.solvers.reference import solve_exact;"
        "from implicit_bias.norms import make_norm;"
        "[solve_exact(np.eye(3), np.arange(3), 3, make_norm(l)) for l in ('linf', 'l1', 'l2', 'row', 'spectral', 'nuclear')];"
        "sys.exit('cvxpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("scale", [1e-200, 1e-90, 1e90, 1e200])
def test_the_search_for_a_kkt_ratio_does_not_know_the_unit_of_the_data(scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    weights, slopes = (torch.rand(2, 3, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    weights = weights / weights.sum(dim=(1, 2), keepdim=True)
    excess = torch.tensor([0.3, 0.1], dtype=torch.float64)
    torch.testing.assert_close(
        _mirror_step(weights, scale * slopes, scale * excess), _mirror_step(weights, slopes, excess), rtol=1e-9, atol=0
    )


def test_a_network_whose_scores_no_double_holds_is_refused(tmp_path: Path) -> None:
    x, y = two_columns(1e78)
    np.savez(tmp_path / "large.npz", x=x, y=y)
    keys: dict[str, Any] = {"dataset.path": str(tmp_path / "large.npz"), "results_dir": str(tmp_path / "r"), "steps": 5}
    keys |= {"model.width": 4, "model.depth": 3}
    with pytest.raises(BadInput, match=r"gradients of this model overflow on features of size 3e\+78; rescale the data"):
        run(model="mlp", dataset="file", **keys)
