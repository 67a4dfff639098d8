"""Figures of homogeneous networks after Gronich and Vardi: helpers, and claims that turn when their data are perturbed."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from implicit_bias.analysis.runs import Run, mean_and_spread
from implicit_bias.config.overrides import compose
from implicit_bias.figures.claims import Claim
from implicit_bias.figures.gronich_vardi.common import at_levels, last_record, shares, winners
from implicit_bias.figures.gronich_vardi.flow_conditions import (
    ALLOWED,
    BETAS,
    GROWING,
    GROWTH,
    PAIRS,
    POWERS,
    SCHEDULES,
    FlowConditions,
    first_rate,
    pair_name,
)
from implicit_bias.figures.gronich_vardi.gv_fig1 import BEST, DEEP, DEEP_METHODS, METHODS, RELU, SMOOTH, GvFig1
from implicit_bias.figures.gronich_vardi.gv_fig2 import CNN, FOUR, HYBRIDS, TWO, GvFig2
from implicit_bias.figures.gronich_vardi.gv_fig2 import METHODS as METHODS_2
from implicit_bias.figures.gronich_vardi.margin_matrix_networks import NORMS, OWN, MarginMatrixNetworks, number

SEEDS = (1, 2, 3)


def verdicts(claims: list[Claim], containing: str) -> list[bool | None]:
    found = [claim.holds for claim in claims if containing in claim.claim]
    assert found
    return found


def test_runs_are_read_at_loss_levels_and_at_their_end() -> None:
    losses = np.array([0.69, 0.5, 0.05, 1e-5, 1e-9])
    rows = pd.DataFrame({"seed": 1, "step": [0, 1, 5, 20, 90], "norm": "l2", "log_loss": np.log(losses), "margin": losses})
    run = Run(compose(["optimizer=nmgd"])[0].spec, rows)
    levels = at_levels(run, deepest=-6).set_index("level")["step"]
    assert levels[0.0] == 0 and levels[-0.5] == 5 and levels[-1.0] == 5 and levels[-1.5] == 20 and levels[-6.0] == 90
    end = last_record(run)
    assert end["step"].tolist() == [90] and end["log10_loss"].iloc[0] == pytest.approx(-9) and end["own"].tolist() == ["l2"]


def test_shares_and_winners_compare_seed_by_seed() -> None:
    rows = [("a", 1, 2.0), ("b", 1, 1.0), ("a", 2, 10.0), ("b", 2, 40.0)]
    table = pd.DataFrame(rows, columns=["optimizer", "seed", "margin"]).assign(norm="l2")
    assert shares(table)["share"].tolist() == [1, 0.5, 0.25, 1]
    assert winners(table, "l2") == ["a", "b"]
    assert mean_and_spread([1.0, 3.0]) == "2 ± 1.4"
    assert [number(v) for v in (1.0, 0.0123, 2.04e-4, -0.5)] == ["1.00", "0.012", "2e-4", "\N{MINUS SIGN}0.50"]


def fig1_table(own: float = 1.0, last: float = 0.9, deepest: float = -40.0) -> pd.DataFrame:
    """Own-norm margins of `own`, NGD second in spectral, alignments that go from .5 to `last`."""
    owners = {m: norm for norm, methods in BEST.items() for m in methods}
    base = dict.fromkeys(METHODS, 0.1) | {"ngd": 0.4, "nmgd": 0.4}
    rows: list[tuple[Any, ...]] = []
    for part in (SMOOTH, RELU):
        for m in METHODS:
            for norm in BEST:
                for seed in SEEDS:
                    margin = (own if owners[m] == norm else base[m]) * (0.9 if m == "adam" else 1.0) * seed
                    for level, alignment, loss in ((-1.0, 0.5, -1.0), (np.nan, last, -8.1)):
                        rows.append((part, m, norm, owners[m], seed, level, 10, loss, margin, alignment, np.nan, np.nan))
    for m in DEEP_METHODS:
        for step, loss, kkt in ((10, -1.0, 0.3), (100, -9.0, 0.6), (1000, deepest, 0.8)):
            rows.append((DEEP, m, owners[m], owners[m], 1, np.nan, step, loss, 1.0, kkt, kkt, 0.995))
    columns = ["part", "optimizer", "norm", "own", "seed", "level", "step", "log10_loss", "margin"]
    return pd.DataFrame(rows, columns=[*columns, "alignment", "kkt_ratio", "later_cosine"])


def test_gv_fig1_judges_order_alignment_and_depth() -> None:
    assert all(c.holds is not False for c in GvFig1().claims(fig1_table(), "default"))
    assert not any(verdicts(GvFig1().claims(fig1_table(own=0.01), "default"), "the best"))
    assert not any(verdicts(GvFig1().claims(fig1_table(last=0.4), "default"), "rises from"))
    assert verdicts(GvFig1().claims(fig1_table(deepest=-20.0), "default"), "KKT ratio") == [False, True, True, True]
    late = fig1_table()
    late.loc[late["log10_loss"] == -8.1, "log10_loss"] = -7.0
    assert verdicts(GvFig1().claims(late, "default"), "every run reaches") == [False]


def test_gv_fig2_asks_both_hybrids_to_win_on_every_seed() -> None:
    def claims(adam: float) -> list[Claim]:
        value = dict.fromkeys(METHODS_2, 1.0) | dict.fromkeys(HYBRIDS, 20.0) | {"muon_adam": adam}
        rows = [(n, m, s, np.nan, -8.1, value[m] * s) for n in (TWO, FOUR, CNN) for m in METHODS_2 for s in SEEDS]
        columns = ["network", "optimizer", "seed", "level", "log10_loss", "margin"]
        return GvFig2().claims(pd.DataFrame(rows, columns=columns), "default")

    assert all(c.holds is not False for c in claims(19.0))
    assert not any(verdicts(claims(0.9), "both have larger")) and verdicts(claims(0.9), "are close") == [False]


def test_the_matrix_asks_for_the_diagonal() -> None:
    def claims(own: float) -> list[Claim]:
        rows = [(m, n, s, 10, -8.1, own if OWN[m] == n else 0.5) for m in OWN for n in NORMS for s in SEEDS]
        table = pd.DataFrame(rows, columns=["optimizer", "norm", "seed", "step", "log10_loss", "margin"])
        return MarginMatrixNetworks().claims(table.assign(share=table["margin"], alignment=table["margin"]), "default")

    assert all(c.holds is not False for c in claims(0.9))
    assert not any(verdicts(claims(0.4), "reached by a method"))


def test_schedules_travel_equally_far() -> None:
    steps = np.arange(1, 1001)
    assert [first_rate(p) * (steps**-p).sum() for p in POWERS] == pytest.approx([first_rate(0.8) * (steps**-0.8).sum()] * 4)


def test_flow_conditions_judge_falls_and_pairs() -> None:
    def claims(fall: float, pair: float) -> list[Claim]:
        rows: list[tuple[Any, ...]] = []
        for m in ("nmgd", "ngd"):
            for p in POWERS:
                for s in SEEDS:
                    end = 0.95 - (fall if p < 2 / 3 else 0)
                    variant = f"{p:g}"
                    rows += [
                        (SCHEDULES, variant, m, s, 10, 7.0, 1.0, 0.95, np.nan),
                        (SCHEDULES, variant, m, s, 99, 80.0, 1.0, end, np.nan),
                    ]
        for b in PAIRS:
            alignment = 0.8 if b == ALLOWED or b[0] <= b[1] else pair
            rows += [(BETAS, pair_name(*b), "adam", s, 99, 8.1, 1.0, alignment, np.nan) for s in SEEDS]
        for b1, b2 in GROWING:
            for step in (100, 150, 200):
                size = step**-0.8 * (b1 / b2**0.5 + fall - 0.3) ** step
                rows += [(GROWTH, pair_name(b1, b2), "adam", s, step, 0.1, 1.0, 0.9, np.nan, size) for s in SEEDS]
        for m, margin in (("muon", 1.0), ("muon_ns", 0.9)):
            rows += [("iteration", m, m, s, 99, 8.1, margin, 0.9, np.nan) for s in SEEDS]
        for a, cosine in (("relu", 0.9), ("squared_relu", 0.99)):
            rows += [("activation", a, "nmgd", s, 99, 8.1, 1.0, 0.9, cosine) for s in SEEDS]
        columns = ["part", "variant", "optimizer", "seed", "step", "depth", "margin", "alignment", "later_cosine", "param_norm"]
        rows = [(*row, np.nan)[: len(columns)] for row in rows]
        return FlowConditions().claims(pd.DataFrame(rows, columns=columns), "default")

    assert all(c.holds is not False for c in claims(0.3, 0.79))
    assert verdicts(claims(0.0, 0.79), "falls after") == [False, False]
    assert not any(verdicts(claims(0.0, 0.79), "factor a step"))
    assert not any(verdicts(claims(0.3, 0.5), "ends with the linf alignment"))
