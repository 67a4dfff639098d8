"""Figures of networks by Lyu and Li, Tsilivis et al., Fan et al. and Vardi et al.: helpers, and claims on made-up tables."""

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
import pytest
import torch

from implicit_bias.analysis.curves import at_end, means, over_seeds, separated, tidy, told
from implicit_bias.analysis.runs import Run
from implicit_bias.config.overrides import compose
from implicit_bias.figures.base import Figure
from implicit_bias.figures.claims import Claim
from implicit_bias.figures.fan.fan_fig3 import PANELS, FanFig3, first_positive
from implicit_bias.figures.flavors.flavors_adam import ADAMS, GD, SIGN, FlavorsAdam, repeated
from implicit_bias.figures.flavors.flavors_shampoo import FlavorsShampoo, learning_rate
from implicit_bias.figures.flavors.flavors_teacher_student import NORMS, OWN, SCALES, FlavorsTeacherStudent, geometric_means
from implicit_bias.figures.lyu_li.lyu_li_schedule import LyuLiSchedule, largest_dip
from implicit_bias.figures.not_optimal.kkt_examples import (
    EXAMPLES,
    better_points,
    blocks_of,
    flow,
    noisy,
    smallest_gap,
    squared_norm,
)
from implicit_bias.figures.not_optimal.kkt_not_optimal import FLOW, LOWER, NOISE, RANDOM, KktNotOptimal, escape_slope

STEPS = (1, 10, 100)


def curves(margins: Mapping[tuple[str, str], tuple[float, ...]], log_loss: float = -1.0) -> pd.DataFrame:
    """A tidy table of two seeds from (method, norm) to margins at STEPS."""
    rows = [
        (method, seed, norm, step, log_loss * step, 1.0, 1.0, margin)
        for (method, norm), values in margins.items()
        for seed in (1, 2)
        for step, margin in zip(STEPS, values, strict=True)
    ]
    return pd.DataFrame(rows, columns=["method", "seed", "norm", "step", "log_loss", "accuracy", "test_accuracy", "margin"])


def holding(figure: Figure, table: pd.DataFrame) -> list[bool | None]:
    claims: list[Claim] = figure.claims(table, "default")
    return [claim.holds for claim in claims if claim.holds is not None]


def test_tidy_keeps_what_is_there_and_leaves_the_rest_empty() -> None:
    trajectory = pd.DataFrame({"seed": 1, "step": [0, 1], "norm": "l2", "margin": [0.0, 1.0], "log_loss": [0.0, -1.0]})
    table = tidy([Run(compose([])[0].spec, trajectory)], ["GD"], ["l2"])
    assert table["step"].tolist() == [1] and table["method"].tolist() == ["GD"]
    assert table["test_accuracy"].isna().all()


def test_curves_over_seeds_need_every_seed() -> None:
    table = curves({("GD", "l2"): (-1.0, 1.0, 2.0)})
    assert over_seeds(table, "margin").index.tolist() == list(STEPS)
    assert over_seeds(table.iloc[:-1], "margin").index.tolist() == [1, 10]
    assert separated(table)["step"].unique().tolist() == [10, 100]
    assert at_end(table, "margin").tolist() == [2.0, 2.0]
    assert means(at_end(table, "margin"), "l2") == {"GD": (2.0, 0.0)}
    assert told({"a": (1.0, 0.1), "b": (2.0, 0.0)}, {"a": "A"}) == "b 2 +- 0, A 1 +- 0.1"


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda e: e.name)
def test_every_example_is_feasible_and_has_the_stated_norm(example) -> None:  # type: ignore[no-untyped-def]
    point = blocks_of(example.point)
    assert float(smallest_gap(example, point)) == pytest.approx(1)
    assert float(squared_norm(point)) == pytest.approx(example.norm2)
    near = better_points(example, np.array([0.01, 0.1]))
    assert (near["norm2"] < example.norm2).all() and np.allclose(near["gap"], 1)
    assert (near["norm2"] >= example.best).all()


def test_noise_has_the_asked_norm_and_the_same_directions_at_every_scale() -> None:
    example = EXAMPLES[0]
    start, which = noisy(example, np.array([1e-3, 1e-1]), draws=4)
    point = blocks_of(example.point)
    moved = {name: start[name] - point[name] for name in start}
    assert torch.allclose(
        squared_norm(moved).sqrt(), torch.tensor(which["scale"].tolist(), dtype=torch.float64) * math.sqrt(example.norm2)
    )
    assert torch.allclose(moved["layer1"][:4] * 100, moved["layer1"][4:])


def test_the_flow_stays_at_a_kkt_point_and_leaves_it_with_noise() -> None:
    example = EXAMPLES[3]
    path = flow(example, blocks_of(example.point), math.log(3), kkt=True)
    assert path["norm2"].iloc[-1] == pytest.approx(example.norm2) and path["kkt_ratio"].iloc[-1] == pytest.approx(1)
    start, _ = noisy(example, np.array([0.1]), draws=2)
    assert flow(example, start, math.log(100), leaves_below=0.9 * example.norm2)["norm2"].min() < 0.9 * example.norm2


def kkt_table(slopes: dict[str, float], local_leaves: bool = False) -> pd.DataFrame:
    rows = []
    for e in EXAMPLES:
        rows += [(FLOW, e.name, 0, x, e.norm2, 1.0) for x in (0.0, 4.0)]
        near = better_points(e, np.array([0.1]))
        rows += [(LOWER, e.name, 0, d, e.norm2 - n, g) for d, n, g in near.itertuples(index=False)]
        for s in (1e-2, 1e-1):
            leaves = e.slope is not None or local_leaves
            rows += [(NOISE, e.name, k, s, e.norm2, -math.log10(s) * slopes[e.name] if leaves else math.nan) for k in range(3)]
    rows += [(RANDOM, "width 8", seed, 50.0, 2 + 0.1 * seed, 0.95) for seed in (1, 2, 3)]
    return pd.DataFrame(rows, columns=["part", "example", "run", "x", "norm2", "value"])


def test_kkt_claims_turn_when_their_data_do() -> None:
    slopes = {e.name: e.slope or 0.0 for e in EXAMPLES}
    table = kkt_table(slopes)
    figure = KktNotOptimal()
    assert all(holding(figure, table))
    assert holding(figure, kkt_table({**slopes, "D4": 1.0})) == [True, True, True, False, True, True, True]
    assert holding(figure, kkt_table(slopes, local_leaves=True)) == [True, True, True, True, True, False, True]
    worse = table.assign(norm2=np.where(table["part"] == FLOW, 1.01 * table["norm2"], table["norm2"]))
    assert holding(figure, worse)[0] is False
    less = table.assign(value=np.where(table["part"] == FLOW, 0.99, table["value"]))
    assert holding(figure, less)[1] is False
    one = table.assign(norm2=np.where(table["part"] == LOWER, 0.0, table["norm2"]))
    assert holding(figure, one)[2] is False
    same = table.assign(norm2=np.where(table["part"] == RANDOM, 2.0, table["norm2"]))
    assert holding(figure, same)[6] is False


def test_a_draw_that_never_leaves_counts_as_late() -> None:
    rows = pd.DataFrame({"x": [0.1, 0.1, 0.1, 0.01, 0.01, 0.01], "value": [1.0, 1.0, math.nan, 3.0, 3.0, math.nan]})
    assert escape_slope(rows) == pytest.approx(2)
    assert math.isnan(escape_slope(rows.assign(value=math.nan)))


def test_lyu_li_claims() -> None:
    def table(fast: float, margins: tuple[float, float, float]) -> pd.DataFrame:
        slow = curves({("constant", "l2"): (-1.0, 0.1, 0.2)}, -0.01)
        return pd.concat([slow, curves({("loss-based", "l2"): margins}, fast)], ignore_index=True)

    figure = LyuLiSchedule()
    assert holding(figure, table(-1.0, (-1.0, 0.5, 1.0))) == [True, True, True]
    assert holding(figure, table(-0.1, (-1.0, 0.5, 1.0))) == [False, True, True]
    assert holding(figure, table(-1.0, (-1.0, 0.2, 0.3))) == [True, False, True]
    assert holding(figure, table(-1.0, (-1.0, 2.0, 1.0))) == [True, True, False]
    assert math.isnan(largest_dip(curves({("loss-based", "l2"): (-1.0, -1.0, -1.0)})))


def test_shampoo_claims_and_scaled_learning_rates() -> None:
    good = {("gd", "spectral"): 1.0, ("adam", "spectral"): 2.0, ("shampoo", "spectral"): 3.0}
    good |= {("gd", "linf"): 1.0, ("adam", "linf"): 2.0, ("shampoo", "linf"): 1.5}
    made = {key: (0.1, 3.0 if key == ("adam", "linf") else 0.2, value) for key, value in good.items()}
    assert holding(FlavorsShampoo(), curves(made)) == [True, True, True]
    assert holding(FlavorsShampoo(), curves({**made, ("adam", "spectral"): (0.1, 0.2, 4.0)})) == [False, True, True]
    assert holding(FlavorsShampoo(), curves({**made, ("gd", "linf"): (0.1, 0.2, 4.0)})) == [True, False, True]
    assert holding(FlavorsShampoo(), curves({**made, ("adam", "linf"): (0.1, 0.2, 2.0)})) == [True, True, False]
    assert [learning_rate(m, "paper") for m in ("gd", "adam", "shampoo")] == [1000, 0.01, 1]


def test_adam_claims() -> None:
    early = next(iter(ADAMS))
    linf = {SIGN: (1.0, 9.0, 10.0), GD: (0.1, 0.2, 0.3)} | dict.fromkeys(ADAMS, (1.0, 5.0, 3.0)) | {early: (1.0, 9.5, 6.0)}
    l2 = {SIGN: (0.1, 0.1, 0.1), GD: (0.1, 0.3, 0.6)} | dict.fromkeys(ADAMS, (0.1, 0.1, 0.2))
    made = {(m, "linf"): v for m, v in linf.items()} | {(m, "l2"): v for m, v in l2.items()}

    def judged(method: str = GD, norm: str = "l2", margins: tuple[float, ...] = (0.1, 0.3, 0.6)) -> list[bool | None]:
        return holding(FlavorsAdam(), curves({**made, (method, norm): margins}))

    assert all(judged())
    assert judged(SIGN, "linf", (1.0, 9.0, 2.0))[0] is False
    assert judged(GD, "l2", (0.1, 0.1, 0.1))[1] is False
    assert judged(early, "linf", (1.0, 7.0, 6.0))[2:4] == [False, False]
    assert judged(early, "linf", (1.0, 4.0, 3.0))[4] is False
    unfitted = curves(made).assign(accuracy=0.99)
    assert holding(FlavorsAdam(), unfitted)[5] is False


def test_a_run_that_stopped_keeps_its_last_values() -> None:
    table = curves({(SIGN, "l2"): (1.0, 2.0, 3.0), (GD, "l2"): (0.0, 0.0, 0.0)})
    short = table[(table["method"] != SIGN) | (table["step"] < 100)]
    added = pd.concat(repeated(short, SIGN))
    assert added["step"].tolist() == [100, 100] and added["margin"].tolist() == [2.0, 2.0]


def test_fan_fig3_claims() -> None:
    made = {
        (f"{trained} {method}", "spectral"): (-1.0, 1.0, 3.0) if method == methods[-1] else (-1.0, -0.5, 1.0)
        for trained, methods in PANELS
        for method in methods
    }
    assert all(holding(FanFig3(), curves(made)))
    assert holding(FanFig3(), curves({**made, ("V ngd", "spectral"): (-1.0, -0.5, 4.0)}))[:2] == [False, True]
    assert holding(FanFig3(), curves({**made, ("V ngd", "spectral"): (1.0, 1.0, 1.0)}))[:2] == [True, False]
    assert math.isinf(first_positive(curves({("V ngd", "spectral"): (-1.0, -1.0, -1.0)})))


def test_teacher_student_claims() -> None:
    def table(own: float, power: float, best: str = "CD") -> pd.DataFrame:
        rows = [
            (method, alpha, seed, norm, 100, (own if OWN[method] == norm else 1.0) * alpha**power, 0.8 if method == best else 0.6)
            for method in OWN
            for alpha in SCALES
            for seed in (1, 2)
            for norm in NORMS
        ]
        return pd.DataFrame(rows, columns=["method", "alpha", "seed", "norm", "step", "margin", "test_accuracy"])

    assert holding(FlavorsTeacherStudent(), table(2.0, -0.1)) == [True] * 7
    assert holding(FlavorsTeacherStudent(), table(0.5, -0.1)) == [False] * 3 + [True] * 4
    assert holding(FlavorsTeacherStudent(), table(2.0, 0.1)) == [True] * 3 + [False] * 3 + [True]
    assert holding(FlavorsTeacherStudent(), table(2.0, -0.1, best="GD")) == [True] * 6 + [False]
    assert holding(FlavorsTeacherStudent(), table(-1.0, 0.1)) == [False] * 6 + [True]  # not separated: margins rise to zero
    mean = geometric_means(table(4.0, 0.0).assign(margin=[4.0, 4.0, -1.0] * 18))
    assert mean["margin"].round(9).unique().tolist() == [4.0] and (mean["seed"] == 0).all()
