"""Batches on a GPU: the numbers of the CPU, whatever makes the steps. Without a GPU all of it but the rounding is tried on a
pretended one, which finds tensors that were left on the other side."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from implicit_bias.engine import Problem, Trajectory, simulate
from implicit_bias.engine.mini_batches import MiniBatches
from implicit_bias.engine.snapshot import Snapshot
from implicit_bias.engine.steppers import choose
from implicit_bias.engine.steppers.base import Reached, Setup
from implicit_bias.engine.steppers.eager import Eager
from implicit_bias.engine.steppers.verification import disagreement
from implicit_bias.losses import LOSSES
from implicit_bias.models import MODELS
from implicit_bias.norms import make_norm
from implicit_bias.norms.blocks import WholeVector
from implicit_bias.optimizers import OPTIMIZERS
from implicit_bias.schedules import SCHEDULES
from tests.engine.test_native import RULES, RUNS, gaussian, problem, same_bits
from tests.support.devices import on
from tests.support.pretended_cuda import pretended_cuda

NONE = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
REAL = pytest.param("cuda", marks=[pytest.mark.cuda, NONE])
#: Rules whose runs do not amplify round-off.
STABLE = ("signgd", "ngd", "spectral_gd", "adam, eps", "signum, decay", "gd")
#: Rules that linear.cu has.
KERNELS = [rule for rule in RULES if not rule.startswith("muon_ns") and not rule.endswith(("lp", "schatten", "column"))]


def cases(rules: Iterable[str], tried: Collection[str]) -> list[Any]:
    """Every rule on a GPU, some of them on a pretended one, where dispatching takes ten times as long as computing."""
    real = [pytest.param(rule, "cuda", marks=REAL.marks) for rule in rules]
    return [*((rule, "pretended") for rule in tried), *real]


@pytest.fixture(params=["pretended", REAL])
def device(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """A GPU."""
    if request.param == "cuda":
        yield torch.device("cuda")
    else:
        with pretended_cuda() as there:
            yield there


def apart(here: Trajectory, there: Trajectory) -> float:
    """How far two trajectories are apart, relative, in any column of any norm."""
    found = 0.0
    for label, columns in here.by_norm.items():
        for key, column in columns.items():
            other = there.by_norm[label][key]
            assert (np.isnan(column) == np.isnan(other)).all(), (label, key)
            size = np.nanmax(np.abs(column), initial=0.0)
            found = max(found, float(np.nanmax(np.abs(column - other), initial=0.0) / size) if 0 < size < np.inf else 0.0)
    return found


def network(name: str, **keys: Any) -> Problem:
    """A small MLP on two classes."""
    model, data = MODELS.get("mlp")(width=5), gaussian(2, 6, 12, runs=2)
    return Problem(
        model=model, loss=LOSSES.get("cross_entropy")(), optimizer=OPTIMIZERS.get(name)(),
        schedule=SCHEDULES.get("power")(lr=0.02, power=0.8), data=data, initial=model.initial(data, range(2)), steps=6,
        measured={label: make_norm(label) for label in ("l2", "spectral")}, points=3, kkt_products=2, **keys,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("rule", "device"), cases(RULES, ["muon", "adam, eps", "sd in nuclear"]), indirect=["device"])
def test_one_step_from_the_same_state_agrees(rule: str, device: torch.device) -> None:
    setup = Setup.of(problem(rule, gaussian(3, 4, 6), 20, compile="off"))
    there = Eager(Setup.of(on(device, setup.problem)))

    def on_device(start: Reached, t: int) -> Reached:
        moved = on(device, start._replace(gradient=None))
        made = on("cpu", there.step(moved, t)._replace(gradient=None))
        return made._replace(gradient=setup.objective.gradient(made.parameters))

    plain = Eager(setup)
    decomposes = not isinstance(setup.geometry, WholeVector)
    with torch.no_grad():
        assert disagreement(on_device, plain.step, setup, setup.begun(), 0, 3, decomposes) is None


@pytest.mark.parametrize(("rule", "device"), cases(STABLE, ["signum, decay"]), indirect=["device"])
def test_whole_runs_agree(rule: str, device: torch.device) -> None:
    base = problem(rule, gaussian(4, 6, 12), 8 if device.index == 0 else 40, certificate_iterations=1)
    base = replace(base, points=4, measured={label: make_norm(label) for label in ("linf", "spectral")})
    assert apart(simulate(base), simulate(on(device, base))) < 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"levels": 2.0}, {"batch": MiniBatches(4, "reshuffle", torch.arange(RUNS), 12)}])
def test_levels_and_mini_batches_agree(changes: dict[str, Any], device: torch.device) -> None:
    base = problem("signgd", gaussian(3, 5, 12), 15, **changes)
    there = on(device, replace(base, batch=None))
    assert apart(simulate(base), simulate(replace(there, batch=base.batch))) < 1e-9


@pytest.mark.slow
@pytest.mark.parametrize(("name", "device"), cases(["signgd", "muon", "adam"], ["muon"]), indirect=["device"])
def test_networks_agree(name: str, device: torch.device) -> None:
    base = network(name)
    assert apart(simulate(base), simulate(on(device, base))) < 1e-8


@pytest.mark.cuda
@NONE
@pytest.mark.parametrize("rule", ["signgd", "signum, decay", "ngd", "adam, eps"])
def test_entrywise_steps_are_recorded_as_a_graph(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no kernel, which would be taken first."""
    monkeypatch.setattr(choose, "KINDS", [kind for kind in choose.KINDS if kind.stepping == "cuda graph"])
    said: list[str] = []
    base = on("cuda", problem(rule, gaussian(4, 6, 12), 300, tell=said.append))
    ours, plain = simulate(base), simulate(replace(base, compile="off"))
    assert (ours.stepping, plain.stepping, said) == ("cuda graph", "torch", [])
    assert apart(plain, ours) < 1e-9


@pytest.mark.cuda
@NONE
@pytest.mark.parametrize("shape", [(4, 6, 12), (15, 25, 750)])
@pytest.mark.parametrize("rule", KERNELS)
def test_the_kernel_makes_the_plain_steps(rule: str, shape: tuple[int, int, int]) -> None:
    """Whichever they are; and stable runs are those of the CPU, whose data and labels may be shared."""
    said: list[str] = []
    base = problem(rule, gaussian(*shape), 120, tell=said.append, certificate_iterations=1, compile="on")
    ours = simulate(on("cuda", base))
    assert (ours.stepping, said) == ("cuda kernel", []) and ours.compiled_with["compiler"].startswith("NVRTC")
    if rule in STABLE:
        assert apart(simulate(base), ours) < 1e-9


@pytest.mark.cuda
@NONE
def test_a_runs_bits_from_the_kernel_do_not_depend_on_its_batch() -> None:
    base = on("cuda", problem("muon", gaussian(3, 5, 12), 60, compile="on"))
    assert same_bits(on("cpu", simulate(base)), on("cpu", simulate(base.at(torch.tensor([5], device="cuda")))), 5)


@pytest.mark.cuda
@pytest.mark.slow
@NONE
def test_steps_compiled_by_torch_agree_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "KINDS", [kind for kind in choose.KINDS if kind.stepping == "torch.compile"])
    base = on("cuda", problem("adam, eps", gaussian(4, 6, 12), 200, compile="on"))
    ours = simulate(base)
    assert ours.stepping == "torch.compile" and apart(simulate(replace(base, compile="off")), ours) < 1e-9


def test_a_run_that_is_gone_on_with_has_the_same_bits(device: torch.device) -> None:
    base, kept = on(device, problem("signum", gaussian(3, 5, 8), 12)), dict[int, Snapshot]()
    whole = simulate(base, keep=lambda t, snapshot: kept.update({t: deepcopy(snapshot())} if t == 5 else {}))
    assert same_bits(on("cpu", simulate(base, resume=kept[5])), on("cpu", whole))
