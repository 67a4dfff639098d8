"""The figure of product norms: what it asks of a table, and that its rows are the methods that are run."""

from functools import cache

import pandas as pd
import pytest

from implicit_bias.config.overrides import compose
from implicit_bias.figures.claims import Claim
from implicit_bias.figures.nesgd.product_norms import ADAPTIVE, ANGLE, GROWTH, L2, MAX, METHODS, NORMS, ProductNorms

COLUMNS = ["method", "norm", "seed", "ratio", "part"]


@cache
def rows(own: float = 0.96, other: float = 0.6) -> pd.DataFrame:
    cells = [
        (name, norm, s, own if m.own == norm else other, None) for name, m in METHODS.items() for norm in NORMS for s in (1, 2)
    ]
    angles = [(ANGLE, norm, None, 1e-16, None) for norm in NORMS]
    grown = [(name, "W1", s, 1.01 if name == ADAPTIVE else 4.0, GROWTH) for name in METHODS for s in (1, 2)]
    grown += [(name, "W2", s, 6.0, GROWTH) for name in METHODS for s in (1, 2)]
    return pd.DataFrame([*cells, *angles, *grown], columns=COLUMNS)


def claims(table: pd.DataFrame) -> list[Claim]:
    return ProductNorms().claims(table, "default")


def changed(method: str, norm: str, ratio: float) -> list[str]:
    """The claims that no longer hold with another number in one cell."""
    table = rows().copy()
    table.loc[(table["method"] == method) & (table["norm"] == norm), "ratio"] = ratio
    return [claim.claim for claim in claims(table) if not claim.holds]


def test_the_diagonal_the_pair_the_angle_the_clock_and_what_freezes_are_asked_for() -> None:
    assert len(claims(rows())) == len(NORMS) + 7
    assert all(claim.holds for claim in claims(rows()))
    assert sum(not claim.holds for claim in claims(rows(0.92))) == len(NORMS)
    (failed,) = changed(f"nsd {L2}", MAX, 0.9)
    assert failed.startswith("a maximum and l2 are told apart: under max(5 ‖W1‖, ‖W2‖_inf)")
    assert len(changed("nsd hybrid1", "hybrid0.2", 0.97)) == 1
    assert "in the same direction" in changed(ANGLE, MAX, 1e-9)[0]
    assert changed(f"sd {MAX}", MAX, 0.935) == []
    assert "sd in max(5 ‖W1‖, ‖W2‖_inf)" in changed(f"sd {MAX}", MAX, 0.92)[0]
    for part, ratio in (("W1", 1.1), ("W2", 4.0)):
        (failed,) = changed(ADAPTIVE, part, ratio)
        assert failed.startswith("MuonMax freezes its matrix")
    assert changed(ADAPTIVE, L2, 0.91)[0].startswith("MuonMax freezes its matrix")
    (failed,) = changed("nsd hybrid1-l2-l2", "W1", 1.1)
    assert "the matrix does not freeze" in failed


@pytest.mark.parametrize("preset", ["smoke", "default"])
def test_every_row_is_a_method_that_is_run(preset: str) -> None:
    found = [compose(sweep, multirun=True) for sweep in ProductNorms().sweeps(preset)]  # type: ignore[arg-type]
    assert {cell.spec.method for cells in found for cell in cells} == set(METHODS)
    for cell, method in zip((cells[0] for cells in found), METHODS.values(), strict=True):
        assert cell.spec.own_label == method.own
        assert set(NORMS) <= set(cell.spec.measured)
