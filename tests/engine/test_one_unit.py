"""Steps that read a gradient as plain numbers: entries too small for these are not computed, and no recorded bit changes."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from implicit_bias.engine import Problem, simulate
from implicit_bias.engine.steppers.base import Setup
from implicit_bias.models import Parameters
from implicit_bias.models.network import NetworkObjective
from implicit_bias.norms import make_norm
from implicit_bias.optimizers import OPTIMIZERS
from implicit_bias.schedules import SCHEDULES
from tests.support.networks import mlp, problem, six

RELU = mlp(width=6, depth=3, activation="relu", init_scale=1.0)
#: Methods by the norm that they are given, with the blocks whose gradients they read as plain numbers.
READS: list[tuple[str, str | None, int]] = [
    ("muon", None, 3), ("ngd", None, 3), ("nucgd", None, 3), ("nsd", "l1", 3), ("nmd", "hybrid", 2), ("sd", "schatten3", 3), 
    ("scion", None, 2), ("muon_adam", None, 2), ("muon_max", None, 2),
    ("signum", None, 0), ("nsd", "lp3", 0), ("nsd", "row", 0), ("adam", None, 0),
]  # fmt: skip


def batch(method: str, norm: str | None) -> Problem:
    data, _ = six()
    rate = SCHEDULES.get("constant")(lr=4.0 if method in ("sd", "muon_max") else 100.0)
    given = problem(RELU, data, method, 4, 1.0, logged=("l2",), kkt_products=0, schedule=rate)
    return replace(given, norm=None if norm is None else make_norm(norm), weights="all")


@pytest.mark.parametrize(
    ("method", "norm", "blocks"),
    [case if case[0] in ("muon", "nmd", "adam") else pytest.param(*case, marks=pytest.mark.slow) for case in READS],
)
def test_no_bit_of_a_run_changes(method: str, norm: str | None, blocks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    given = batch(method, norm)
    setup = Setup.of(given)
    assert len(setup.problem.optimizer.in_one_unit(setup.geometry, list(given.initial))) == blocks
    if not blocks:
        return
    ours, products = _parameters(given, monkeypatch)
    monkeypatch.setattr(NetworkObjective, "read_in_one_unit", lambda self, blocks: self)
    whole, all_products = _parameters(given, monkeypatch)
    assert products < all_products
    for step, blocks_then in whole.items():
        assert all(torch.equal(ours[step][name], block) for name, block in blocks_then.items()), step


@pytest.mark.parametrize("method", ["update", "averaged"])
def test_a_rule_of_ones_own_reads_it_all(method: str) -> None:
    muon: Any = OPTIMIZERS.get("muon")
    mine = type("Mine", (muon,), {method: lambda self, *args: getattr(muon, method)(self, *args)})()
    names = ["layer1"]
    assert mine.in_one_unit(mine.geometry(names, None), names) == frozenset()
    assert muon().in_one_unit(mine.geometry(names, None), names) == {"layer1"}


def _parameters(given: Problem, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[int, Parameters], int]:
    """The parameters at every record, and how many vector-Jacobian products they took."""
    made = []
    product = NetworkObjective._vector_jacobian

    def counted(self: NetworkObjective, *args: Any, **more: Any) -> Parameters:
        made.append(1)
        return product(self, *args, **more)

    with monkeypatch.context() as patch:
        patch.setattr(NetworkObjective, "_vector_jacobian", counted)
        return simulate(given).parameters, len(made)
