"""Fingerprints and atlas: packages that are missing, and what is read off a table."""

import math

import numpy as np
import pandas as pd
import pytest

from implicit_bias.config.overrides import compose
from implicit_bias.figures.base import Preset
from implicit_bias.figures.claims import UNKNOWN
from implicit_bias.figures.fromage.fromage import (
    CONSTANT,
    DECAYING,
    FROMAGE,
    GROWTH,
    LAYERS,
    MARGIN,
    Fromage,
    compared_at_one_loss,
)
from implicit_bias.figures.fromage.measured import COMPOSITIONS, Composition
from implicit_bias.figures.fromage.measured import growth as norm_growth
from implicit_bias.figures.own import torch_classes
from implicit_bias.figures.own.adam_batch import AdamBatch
from implicit_bias.figures.own.adam_batch_judged import BINARY, EXPONENT, MOVES
from implicit_bias.figures.own.atlas import Atlas
from implicit_bias.figures.own.atlas_drawn import exponent_text
from implicit_bias.figures.own.atlas_judged import nearest, own_norms
from implicit_bias.figures.own.fingerprints import CLASSES, Fingerprints
from implicit_bias.figures.own.fingerprints_drawn import exponent_color
from implicit_bias.figures.own.fingerprints_judged import growth, kappa_at
from implicit_bias.figures.own.muon_eps import MuonEps
from implicit_bias.figures.own.muon_eps_judged import SHORT, USUAL, _lengths
from implicit_bias.figures.own.shampoo_accumulation import AVERAGE, NONE, PAIR, SUM, ShampooAccumulation
from implicit_bias.figures.own.torch_classes import (
    ADAM,
    ADAM_SHORT,
    ADAM_SHORT_WITHOUT_EPS,
    ADAM_WITHOUT_EPS,
    LION,
    MADGRAD,
    OF_PACKAGES,
    OF_TORCH,
    class_of,
)
from implicit_bias.figures.own.weight_decay import WeightDecay
from implicit_bias.figures.own.weight_decay_judged import ADAM as ADAMW
from implicit_bias.figures.own.weight_decay_judged import END, MOMENTUM, PLAIN, READ, SINGLE
from implicit_bias.plotting.style import norm_look


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """No package of optimizers but torch."""
    monkeypatch.setattr(torch_classes, "find_spec", lambda name: object() if name == "torch" else None)


def targets(sweeps: list[list[str]]) -> set[str]:
    return {word.partition("=")[2] for sweep in sweeps for word in sweep if word.startswith("optimizer.target=")}


@pytest.mark.parametrize("figure", [Fingerprints(), Atlas()])
def test_without_packages_their_classes_are_left_out_and_named(figure: Fingerprints | Atlas, bare: None) -> None:
    left = targets(figure.sweeps("default"))
    assert left and all(target.startswith("torch.optim.") for target in left)
    note = figure.caption("default")
    assert "Left out" in note and "pytorch_optimizer" in note and "MADGRAD" in note
    assert "Left out" not in figure.caption("smoke")


def test_the_atlas_has_all_of_torch_that_steps_without_a_closure() -> None:
    import torch

    known = {name for name in dir(torch.optim) if isinstance(getattr(torch.optim, name), type)}
    known -= {"Optimizer", "LBFGS", "SparseAdam"}  # a base class, closures, sparse gradients
    assert {f"torch.optim.{name}" for name in known} == {one.target for one in OF_TORCH}
    assert len(OF_PACKAGES) >= 12
    assert {one.package for one in OF_PACKAGES} == {"pytorch_optimizer", "lion_pytorch", "schedulefree", "prodigyopt"}


def test_a_class_is_told_by_what_it_is_made_with() -> None:
    for one in (ADAM, ADAM_WITHOUT_EPS, ADAM_SHORT, ADAM_SHORT_WITHOUT_EPS):
        assert class_of(CLASSES, compose(one.words("log_loss"))[0].spec) is one


def test_claims_on_packages_that_were_not_there_cannot_be_tested() -> None:
    table = pd.read_csv("results/figures/fingerprints.csv")
    without = table[~table["method"].str.contains("Lion|MADGRAD|Shampoo")]
    before, after = (Fingerprints().claims(rows, "default") for rows in (table, without))
    assert sum(claim.holds is None for claim in after) - sum(claim.holds is None for claim in before) == 3
    untested = " ".join(claim.claim for claim in after if claim.holds is None)
    assert LION.label in untested and MADGRAD.label in untested


def test_growth_is_measured_from_a_tenth_of_the_steps() -> None:
    rows = [("depth", "m", 1, step, size) for step, size in ((1, 0.1), (10, 1.0), (100, 2.0), (1000, 3.0))]
    table = pd.DataFrame(rows, columns=["part", "method", "seed", "step", "size"])
    assert growth(table, "m").to_dict() == {1: 1.5}


def test_kappa_is_read_off_a_curve_by_exponent() -> None:
    rows = [("curve", "m", "lp", 1, x, kappa) for x, kappa in ((0.0, 0.5), (0.5, 0.9))]
    table = pd.DataFrame(rows, columns=["part", "method", "norm", "seed", "x", "kappa"])
    assert kappa_at(table, "m", "lp", 0.5).to_dict() == {1: 0.9}
    assert kappa_at(table, "m", "schatten", 0.5).empty


def test_the_nearest_exponent_is_of_the_family_with_the_higher_peak() -> None:
    rows = [("fit", "m", "lp", 0.2, 0.9), ("fit", "m", "lp", 0.3, 0.8), ("fit", "m", "schatten", 0.5, 0.84)]
    table = pd.DataFrame(rows, columns=["part", "method", "norm", "found", "ratio"])
    family, *numbers = nearest(table, "m")
    assert family == "lp" and numbers == pytest.approx([0.25, 0.85])
    assert math.isnan(nearest(table.assign(ratio=np.nan), "m")[2])


def test_an_own_norm_needs_an_alignment_that_leaves_no_doubt() -> None:
    table = pd.DataFrame({"part": "static", "method": ["a", "b", "c"], "norm": "lp", "found": [0.0, 0.0, 0.25]})
    table["alignment"] = [0.999, 0.98, 1.0]
    assert own_norms(table) == {"a": "linf"}


def test_exponents_are_told_and_coloured_by_their_norms() -> None:
    assert exponent_text("schatten", 0.501) == exponent_text("lp", 0.5) == r"$\ell_{2}$"
    assert exponent_text("lp", 0.01) == r"$\ell_{\infty}$" and exponent_text("schatten", 0.25) == "$S_{4}$"
    for family, u, label in (("lp", 0.0, "linf"), ("lp", 0.5, "l2"), ("schatten", 1.0, "nuclear"), ("schatten", 0.0, "spectral")):
        assert exponent_color(family, u) == norm_look(label).color.lower()
    assert len({exponent_color("lp", 1 / p) for p in (1, 1.5, 2, 3, 4, 6, 8)}) == 7


def decayed(over: float, size: float = 0.0, read: float = 0.0, single: float = 1.005) -> pd.DataFrame:
    """A table of weight decay whose gaps are the law's at small decay, and off by a factor from .02 on."""
    rows: list[dict[str, object]] = []
    for decay, factor in ((0.3, 1.02), (0.1, single)):
        told = {"part": SINGLE, "method": ADAMW, "norm": "linf", "seed": 1, "weight_decay": decay, "step": 100}
        rows.append({**told, "size": 0.7 * factor, "predicted": 0.7})
    for method in (*PLAIN, *MOMENTUM, ADAMW):
        norm = {"ngd": "l2", "nmgd": "l2", "spectral_gd": "spectral", "muon": "spectral"}.get(method, "linf")
        for seed in (1, 2):
            for decay in (0.05, 0.02, 0.01, 0.005):
                gap = decay * (1 + (over - 1) * decay / 0.02) / 3
                told = {"method": method, "norm": norm, "seed": seed, "weight_decay": decay, "step": 100}
                known = {"gap": gap, "predicted": decay / 3, "path": gap, "size": size, "fw_gap": 0.1}
                rows.append({**told, **known, "part": END})
            rows.append({"part": READ, "method": method, "norm": norm, "seed": seed, "step": 100, "gap": 0.01, "read": read})
    return pd.DataFrame(rows)


def test_weight_decay_is_held_against_the_law_the_ball_and_the_solver() -> None:
    def failing(table: pd.DataFrame) -> list[str]:
        return [claim.claim for claim in WeightDecay().claims(table, "default") if not claim.holds]

    assert failing(decayed(1.08)) == []
    assert len(WeightDecay().claims(decayed(1.08), "default")) == 16
    assert [text.split(":")[0] for text in failing(decayed(1.08, single=1.015))] == [
        "AdamW by single samples stops at a size that its fixed point tells beforehand, not at 1"
    ]
    # Off at .02 by more than a tenth; at .01, where max-norm steps are judged, by 6 % only.
    assert [text.split(":")[0] for text in failing(decayed(1.12))] == ["NGD", "NMGD", "Spectral-GD", "Muon"]
    (outside,) = failing(decayed(1.08, size=1e-9))
    assert outside.startswith("N(W) wd <= 1 at every record")
    (short,) = failing(decayed(1.08, size=-0.01))
    assert short == outside
    assert sum("read off the loss curve" in text for text in failing(decayed(1.08, read=-0.002))) == 4
    unsolved = decayed(1.08)
    unsolved.loc[(unsolved["method"] == "muon") & (unsolved["weight_decay"] == 0.01), "path"] *= 1.02
    (text,) = failing(unsolved)
    assert text.startswith("spectral, with momentum: in every seed")


def accumulated(average: float = 0.97, loss: float = -9.0, slope: float = -1.0, away: float | None = 1e-13) -> list[bool | None]:
    """Verdicts on a made-up table: the average's ratio at the end, the sum's log loss there and how fast it falls."""
    rows: list[tuple[object, ...]] = []
    for how, ratio in ((NONE, 0.99), (AVERAGE, average), (SUM, 0.7)):
        for step in (1000, 3000, 10_000):
            log_loss = loss + slope * math.log(step / 10_000) if how == SUM else -0.01 * step
            rows += [(how, seed, norm, step, ratio, log_loss) for seed in (1, 2) for norm in ("spectral", "l2", "linf")]
    if away is not None:
        rows.append((PAIR, math.nan, None, 150, away, math.nan))
    table = pd.DataFrame(rows, columns=["accumulation", "seed", "norm", "step", "ratio", "log_loss"])
    return [claim.holds for claim in ShampooAccumulation().claims(table, "default")]


def test_shampoos_averages_its_sum_and_the_package_are_judged() -> None:
    assert accumulated() == [True] * 4
    assert accumulated(average=0.94) == [False, True, True, True]
    assert accumulated(loss=-20.0) == [True, False, True, True]
    assert accumulated(slope=-0.5) == [True, True, False, True]
    assert accumulated(away=1e-9) == [True, True, True, False]
    assert accumulated(away=None) == [True, True, True, None]


def relative(decaying: float = 0.98, constant: float = 0.95, grown: float = 1.01**500, apart: float = 1.02) -> pd.DataFrame:
    """A made-up table of Fromage; of four compositions one is ``apart`` from the others' layer margins."""
    rows: list[tuple[object, ...]] = [(MARGIN, DECAYING, s, 10_000, decaying, -9.0, None, None) for s in (1, 2)]
    rows += [(MARGIN, CONSTANT, s, 10_000, constant, -9.0, None, None) for s in (1, 2)]
    rows += [(GROWTH, "lars", 1, 1000, None, None, None, grown), (GROWTH, FROMAGE, 1, 1000, None, None, None, 1.0)]
    for i, name in enumerate(COMPOSITIONS):
        # The same loss at other steps; the last goes deeper than all others.
        for j in range(1, 10 + (i == 3)):
            rows.append((LAYERS, name, 1, j * (i + 1), None, -2.31 * j, 0.2 * (apart if i == 1 else 1.0), i + 1.0))
    return pd.DataFrame(rows, columns=["part", "method", "seed", "step", "ratio", "log_loss", "layer_margin", "size"])


def test_fromage_is_judged_by_its_rates_its_norms_and_layers_at_one_loss() -> None:
    def holds(table: pd.DataFrame) -> list[bool | None]:
        return [claim.holds for claim in Fromage().claims(table, "default")]

    assert holds(relative()) == [True, True, True, None]
    assert holds(relative(decaying=0.96)) == holds(relative(constant=0.98)) == [False, True, True, None]
    assert holds(relative(grown=144.0)) == [True, False, True, None]
    assert holds(relative(apart=1.06)) == [True, True, False, None]
    compared = compared_at_one_loss(relative())
    assert compared["level"].max() == 18 and (compared.groupby("level").size() == len(COMPOSITIONS)).all()


def test_a_loss_that_is_blind_to_size_makes_lars_alone_grow() -> None:
    assert norm_growth("lars", 0.1, 20, 3) == pytest.approx(1.01 ** (np.arange(21) / 2), rel=1e-12)
    assert norm_growth("fromage", 0.1, 20, 3) == pytest.approx(np.ones(21), rel=1e-12)


def test_rates_of_compositions_are_in_units_of_their_balls() -> None:
    assert Composition("l2", (1, 1)).relative_rate((2, 1)) == 1
    assert Composition("max", (8, 1)).relative_rate((2, 1)) == pytest.approx(4 * Composition("max", (1, 1)).relative_rate((2, 1)))
    assert Composition("max", (1, 1)).relative_rate((1, 1)) == pytest.approx(0.5**0.5)


def ended(
    off: float, cosine: float, ratios: tuple[float, ...] = (0.5, 0.6, 0.98), us: tuple[float, ...] = (0.5, 0.4, 0.0)
) -> pd.DataFrame:
    """Last records of Adam at three batch sizes, so far off the prediction in one seed, and exponents ``us`` in the other."""
    rows = [
        (END, BINARY, b, norm, seed, ratio, ratio - off * (seed == 2), cosine)
        for b, ratio in zip((1, 3, 12), ratios, strict=True)
        for norm in ("linf", "l2")
        for seed in (1, 2)
    ]
    table = pd.DataFrame(rows, columns=["part", "problem", "batch", "norm", "seed", "ratio", "predicted", "cosine"])
    found = [(EXPONENT, BINARY, b, seed, u) for b, u in zip((1, 3, 12), us, strict=True) for seed in (1, 2)]
    exponents = pd.DataFrame(found, columns=["part", "problem", "batch", "seed", "u"])
    exponents.loc[exponents["seed"] == 2, "u"] = 0.5 - exponents["batch"] / 24
    return pd.concat([table, exponents])


def test_adam_by_batches_is_judged_in_every_seed() -> None:
    def judged(table: pd.DataFrame, preset: Preset = "default") -> list[bool | None]:
        return [claim.holds for claim in AdamBatch().claims(table, preset)]

    assert judged(ended(0.029, 0.991)) == [True, True, True, True, True]
    assert judged(ended(0.029, 0.991), "paper") == [False, False, False, True, True]
    assert judged(ended(0.031, 0.989)) == [False, False, False, True, True]
    assert judged(ended(0.0, 1.0, (0.5, 0.98, 0.6))) == [True, True, True, False, True]
    assert judged(ended(0.0, 1.0, us=(0.4, 0.5, 0.0))) == [True, True, True, True, False]


def test_what_is_known_of_adam_at_one_sample_is_told_of_one_sample_alone() -> None:
    def reasons(table: pd.DataFrame, preset: Preset) -> list[str]:
        return [claim.reason for claim in AdamBatch().claims(table, preset)][:3]

    assert reasons(ended(0.029, 0.991), "paper") == [MOVES] * 3
    assert reasons(ended(0.031, 0.989), "default") == [UNKNOWN] * 3
    table = ended(0.029, 0.991)
    others = table["batch"] != 1
    table = table.assign(ratio=table["ratio"].where(others, table["predicted"]), cosine=table["cosine"].where(others, 1.0))
    assert reasons(table, "paper") == [UNKNOWN] * 3


def test_lengths_of_muon_s_steps_that_are_off_name_the_seeds_and_their_singular_values() -> None:
    figure, share = MuonEps(), [0.7, 0.97]
    table = pd.DataFrame({"seed": [1, 2], "eps": USUAL, "log10_gradient": SHORT, "length": [0.052, 0.07], "share": share})
    whole, short = _lengths(figure, pd.concat([table, table.assign(log10_gradient=-4.0, length=[1.05, 0.7])]), "paper")
    assert not whole.holds and not short.holds and whole.kind == short.kind == "check"
    assert all("0.970 in seed 2 " in claim.reason and "seed 1" not in claim.reason for claim in (whole, short))
