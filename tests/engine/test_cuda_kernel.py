"""The kernel of linear.cu beside the plain steps: its own source, with a block's threads as coroutines where there is no GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch

from implicit_bias.engine import Problem, simulate
from implicit_bias.engine.mini_batches import MiniBatches
from implicit_bias.engine.snapshot import Snapshot
from implicit_bias.engine.steppers import choose
from implicit_bias.engine.steppers.base import Setup, Stepper
from implicit_bias.engine.steppers.choose import Kind
from implicit_bias.engine.steppers.cuda_kernel import kernel
from implicit_bias.engine.steppers.cuda_kernel.kernel import CudaKernel
from implicit_bias.engine.steppers.eager import Eager
from implicit_bias.engine.steppers.native.compiling import compilers
from implicit_bias.engine.steppers.verification import disagreement, wrong
from implicit_bias.losses.pair_logistic import PairLogistic
from implicit_bias.models import MODELS, Data
from implicit_bias.norms.blocks import WholeVector
from implicit_bias.optimizers import OPTIMIZERS
from implicit_bias.optimizers.muon_adam import MuonAdam
from implicit_bias.schedules import SCHEDULES
from implicit_bias.schedules.lyu_li import LyuLi
from tests.engine.test_devices import KERNELS, apart
from tests.engine.test_native import RUNS, gaussian, problem, same_bits, with_zeros
from tests.support.devices import on
from tests.support.emulated_cuda import COMPILER, emulated
from tests.support.pretended_cuda import pretended_cuda
from tests.support.quick import quick_of

needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler here, which the emulation needs")
#: More shared memory than any problem here takes, and less than data take.
ROOM, SCARCE = 2**18, 0
#: How many threads of a block, and classes, features and samples: more and fewer than a warp has lanes, and a sum's classes.
SIZES = [(3, 5, 9), (5, 12, 23), (13, 4, 70), (2, 40, 65), (5, 7, 301)]


def of(setup: Setup, room: int = ROOM, backwards: bool = False) -> CudaKernel:
    """The kernel, emulated."""
    return CudaKernel(setup, partial(emulated, backwards=backwards), room)


def assert_agrees(given: Problem, count: int = 8, room: int = ROOM) -> None:
    """Steps from the plain trajectory's own states agree to the tolerance of fast steps, buffers and the averages, too."""
    setup = Setup.of(given)
    decomposes = not isinstance(setup.geometry, WholeVector)
    steps = of(setup, room)
    with torch.no_grad():
        assert disagreement(steps.step, Eager(setup).step, setup, setup.begun(), 0, count, decomposes) is None
        assert wrong(setup, steps, of, setup.begun(), 0) is None


@needs_compiler
@pytest.mark.parametrize("rule", quick_of(KERNELS, "signum", "adam"))
def test_every_step_is_the_plain_one_to_round_off(rule: str) -> None:
    assert_agrees(
        problem(rule, gaussian(4, 9, 14), 15, loss="exponential" if rule in ("signum", "nmgd", "muon") else "cross_entropy")
    )


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize(("rule", "room"), [("signum", ROOM), ("muon", SCARCE), ("adam", SCARCE)])
def test_problems_of_every_shape_agree(rule: str, room: int, shape: tuple[int, int, int]) -> None:
    k, d, n = shape
    assert_agrees(problem(rule, gaussian(k, d, n), 15), 5, room)


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("loss", ["cross_entropy", "exponential"])
def test_rows_far_below_others_agree(loss: str) -> None:
    given = deep(loss=loss)
    gradient = Setup.of(given).begun().gradient
    assert gradient is not None
    scales = gradient.blocks["weight"].log_scale
    assert scales.max() < -700 and (scales.amax(dim=1) - scales.amin(dim=1) > 700).all()
    assert_agrees(given)


def mirrored(rule: str) -> Problem:
    """At zero, two classes that mirror each other in all features but one."""
    x = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = torch.cat([x, x])[None].expand(RUNS, -1, -1).clone()
    x[:, 0, 2] += 1
    given = problem(rule, Data(x, torch.tensor([[0] * 3 + [1] * 3]).expand(RUNS, -1).contiguous(), 2), 15)
    return replace(given, initial={"weight": torch.zeros_like(given.initial["weight"])})


@needs_compiler
def test_entries_that_cancel_are_zero() -> None:
    setup = Setup.of(mirrored("signgd"))
    moved = of(setup).step(setup.begun(), 1).parameters["weight"]
    assert (moved[:, :, 2] != 0).all() and (moved[:, :, [0, 1, 3, 4]] == 0).all()


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("rule", ["nmgd", "muon", "signum"])
def test_a_class_without_samples_leaves_the_others_their_digits(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its row of a buffer is zero once its gradient, which ever less is left of, has been; it kept the scale that it had."""
    data, runs = Data(torch.tensor([[[1.0], [-1.0]]], dtype=torch.float64), torch.tensor([[0, 1]]), 3), 9
    given = replace(
        problem(rule, data, 600, runs=1), initial={"weight": torch.zeros(runs, 3, 1, dtype=torch.float64)},
        optimizer=OPTIMIZERS.get(rule)(beta=0.1), schedule=SCHEDULES.get("constant")(lr=50.0),
    )  # fmt: skip
    plain, in_c = simulate(replace(given, compile="off")), simulate(given)
    with tried(monkeypatch):
        ours = simulate(given)
    end = plain.parameters[600]["weight"]
    assert end.abs().max() > 2e4 and (ours.stepping, in_c.stepping) == ("cuda kernel", "c" if compilers() else "torch")
    for fast in (in_c, ours):
        torch.testing.assert_close(fast.parameters[600]["weight"], end, rtol=1e-11, atol=0)


def deep(rule: str = "nmgd", loss: str = "cross_entropy") -> Problem:
    """Samples are classified rightly, and next to nothing is left of one class: its row has a scale of its own."""
    given = problem(rule, gaussian(4, 9, 14), 15, loss=loss)
    classes = torch.arange(14) % 4
    x = given.data.x.clone()
    x[:, :, :4] += 8 * torch.nn.functional.one_hot(classes, 4) * (1.0 + classes[:, None])
    x[:, classes < 3, 3] -= 20
    start = torch.zeros_like(given.initial["weight"])
    start[:, range(4), range(4)] = 300.0
    data = Data(x, classes.expand(RUNS, -1).contiguous(), 4)
    return replace(given, data=data, initial={"weight": start + given.initial["weight"]})


#: What has a barrier of its own: rows with scales of their own, many samples, averages that begin with the first gradient, ...
BARRIERS: dict[str, tuple[Callable[[], Problem], int]] = {
    "signum": (lambda: problem("signum", gaussian(4, 9, 70), 15), ROOM),
    "adam": (lambda: problem("adam", gaussian(4, 9, 70), 15), ROOM),
    "muon": (lambda: problem("muon", gaussian(4, 9, 70), 15), ROOM),
    "sd in row": (lambda: problem("sd in row", gaussian(4, 9, 70), 15), ROOM),
    "sd in nuclear": (lambda: problem("sd in nuclear", gaussian(4, 9, 70), 15), ROOM),
    "sd in linf": (lambda: problem("sd in linf", gaussian(4, 9, 70), 15), ROOM),
    "coordinate_descent": (lambda: problem("coordinate_descent", gaussian(4, 9, 70), 15), ROOM),
    "lion": (lambda: problem("lion", gaussian(4, 9, 70), 15), ROOM),
    "first gradient": (lambda: problem("sd, first", gaussian(4, 9, 70), 15), ROOM),
    "many samples": (lambda: problem("signum", gaussian(5, 7, 301), 15), SCARCE),
    "rows of their own": (lambda: deep("signum"), ROOM),
    "rows that cancel": (lambda: mirrored("signgd"), ROOM),
}


@needs_compiler
@pytest.mark.parametrize("case", quick_of(list(BARRIERS), "signum", "many samples"))
def test_no_thread_reads_what_another_has_not_written(case: str) -> None:
    """In whichever order warps and threads have their turns between two barriers, the bits are the same; shared memory begins as
    NaN."""
    given, room = BARRIERS[case]
    setup = Setup.of(given())
    ends = []
    for backwards in (False, True):
        steps = of(setup, room, backwards)
        steps.load(setup.begun())
        assert steps.advance(0, 7) == 7
        ends.append(steps.parameters["weight"])
    assert ends[0].isfinite().all() and torch.equal(*ends)


@contextmanager
def tried(monkeypatch: pytest.MonkeyPatch, refused: str | None = None) -> Iterator[None]:
    """Batches take the kernel."""

    def make(setup: Setup) -> Stepper:
        return of(setup)

    with monkeypatch.context() as patch:
        patch.setattr(choose, "KINDS", (Kind("cuda kernel", lambda setup: refused, make),))
        yield


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("rule", ["signgd", "spectral_gd", "adam, eps"])
def test_whole_runs_and_their_certificates_agree(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    base = problem(rule, gaussian(4, 6, 12), 130, certificate_iterations=5)
    monkeypatch.setattr(CudaKernel, "check_on", 4)  # of fewer runs than the batch has another is made
    with tried(monkeypatch):
        ours = simulate(base)
    plain = simulate(replace(base, compile="off"))
    assert (ours.stepping, plain.stepping) == ("cuda kernel", "torch")
    assert ours.compiled_with == {"compiler": "emulated", "flags": ""}
    assert apart(plain, ours) < 1e-9


@pytest.mark.slow
@needs_compiler
def test_a_runs_bits_depend_neither_on_its_batch_nor_on_how_steps_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    base = problem("signum", gaussian(3, 5, 12), 60)
    with tried(monkeypatch):
        whole = simulate(base)
        (fifth,) = (simulate(base.at(torch.tensor([5]))),)
        monkeypatch.setattr(kernel, "MOST_STEPS", 7)
        in_parts = simulate(base)
    assert same_bits(whole, in_parts) and same_bits(whole, fifth, 5)


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("rule", ["signum", "adam", "sd, first", "lion"])
def test_a_run_that_is_gone_on_with_has_the_same_bits(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    base, kept = problem(rule, gaussian(3, 5, 12), 40), dict[int, Snapshot]()
    monkeypatch.setattr(kernel, "MOST_STEPS", 7)

    def keep(t: int, snapshot: Callable[[], Snapshot]) -> None:
        kept[t] = deepcopy(snapshot())

    with tried(monkeypatch):
        whole = simulate(base, keep=keep)
        assert all(same_bits(simulate(base, resume=kept[t]), whole) for t in sorted(kept)[1:4])


@needs_compiler
def test_a_wrong_kernel_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    given = problem("signum", gaussian(3, 5, 12), 30)
    said: list[str] = []

    class Wrong(CudaKernel):
        def _make(self, first: int, shares: Any) -> None:
            super()._make(first, shares)
            self._w.mul_(1 + 1e-9)

    monkeypatch.setattr(choose, "KINDS", (Kind("cuda kernel", lambda setup: None, lambda setup: Wrong(setup, emulated, ROOM)),))
    ended = simulate(replace(given, tell=said.append))
    assert ended.stepping == "torch" and "are not the plain ones" in said[0]


def test_what_the_kernel_is_not_made_for_is_said() -> None:
    base = problem("signum", gaussian(3, 4, 6), 200)
    batch = MiniBatches(4, "reshuffle", torch.arange(RUNS), 6)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"compile": "off"}, "compile=off"),
        ({"loss": PairLogistic()}, "model=linear with loss=pair_logistic has no kernel"),
        ({"schedule": LyuLi(lr=0.1)}, "schedule=lyu_li has no kernel"),
        ({"levels": 2.0}, "losses that are looked at after every step (log.levels, stop_log10_loss) have no kernel"),
        ({"optimizer": MuonAdam()}, "optimizer=muon_adam, or its norm, has no kernel"),
        ({"model": MODELS.get("linear")(blocks=[1, 3])}, "has no kernel"),
        ({}, "fewer than 1,000 steps do not repay compiling"),
        ({"steps": 1000}, "this PyTorch has no CUDA compiler (NVRTC)"),
        ({"compile": "on"}, "this PyTorch has no CUDA compiler (NVRTC)"),
    ]
    with pretended_cuda() as device:

        def there(given: Problem, **changes: Any) -> str | None:
            changed = replace(on(device, given), **changes)
            if "model" in changes:
                changed = replace(changed, initial=changes["model"].initial(changed.data, range(RUNS)))
            return kernel.refusal(Setup.of(changed))

        for changes, told in cases:
            found = there(base, **changes)
            assert found is not None and told in found, changes
        assert there(base, batch=batch) == "mini-batches (batch.size) have no kernel"
        zeros = replace(base, data=with_zeros(base.data))
        assert there(zeros) == "data with zeros have no kernel"
        assert there(base, compile="on") == "this PyTorch has no CUDA compiler (NVRTC)"
    assert kernel.refusal(Setup.of(base)) == "needs float64 data on the current CUDA GPU"


def test_a_kernel_that_does_not_compile_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> Any:
        raise RuntimeError("nvrtcCompileProgram: no such thing\nand more")

    monkeypatch.setattr(kernel, "libraries", lambda: object())
    monkeypatch.setattr(kernel, "_most_shared", lambda: ROOM)
    monkeypatch.setattr(kernel, "compiled", fails)
    said: list[str] = []
    base = problem("signum", gaussian(3, 4, 6), 1000, tell=said.append)
    with pretended_cuda() as device:
        chosen = choose.choose(Setup.of(on(device, base)))
    assert chosen.refused["cuda kernel"] == "the kernel cannot be compiled (RuntimeError: nvrtcCompileProgram: no such thing)"
    assert chosen.stepper.stepping == "cuda graph"
    assert said == [f"{chosen.refused['cuda kernel']}; other steps are taken"]


def test_a_block_has_room_for_what_the_source_lays_out() -> None:
    """That nothing is written beyond, the emulation looks at after every launch."""
    rule = kernel._rule_of(Setup.of(problem("muon", gaussian(3, 4, 6), 2)))
    assert rule is not None
    small, large = kernel.Shape(100, 10, 25, rule), kernel.Shape(750, 15, 25, rule)
    assert small.threads == 128 and large.threads == 512
    assert small.bytes(x_shared=True) < 48 * 1024 < large.bytes(x_shared=False) < 227 * 1024 < large.bytes(x_shared=True)
    assert small.seconds(10, slower=32) == 32 * small.seconds(10)
    assert small.seconds(1) < small.seconds(10_000) < small.seconds(20_000)
