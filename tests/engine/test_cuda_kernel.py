"""The kernel of linear.cu beside the plain steps: its own source, with a block's threads as coroutines where there is no GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch

from implicit_bias.engine import Problem, simulate
from implicit_bias.engine.mini_batches import MiniBatches
from implicit_bias.engine.steppers import choose
from implicit_bias.engine.steppers.base import Setup, Stepper
from implicit_bias.engine.steppers.choose import Kind
from implicit_bias.engine.steppers.cuda_kernel import kernel
from implicit_bias.engine.steppers.cuda_kernel.kernel import CudaKernel
from implicit_bias.engine.steppers.eager import Eager
from implicit_bias.engine.steppers.verification import disagreement, wrong
from implicit_bias.losses.pair_logistic import PairLogistic
from implicit_bias.models import MODELS, Data
from implicit_bias.norms.blocks import WholeVector
from implicit_bias.optimizers.muon_adam import MuonAdam
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
    """Samples are classified rightly, and next to nothing is left of one class: its row has a scale of its own."""
    given = problem("nmgd", gaussian(4, 9, 14), 15, loss=loss)
    classes = torch.arange(14) % 4
    x = given.data.x.clone()
    x[:, :, :4] += 8 * torch.nn.functional.one_hot(classes, 4) * (1.0 + classes[:, None])
    x[:, classes < 3, 3] -= 20
    data = Data(x, classes.expand(RUNS, -1).contiguous(), 4)
    start = torch.zeros_like(given.initial["weight"])
    start[:, range(4), range(4)] = 300.0
    given = replace(given, data=data, initial={"weight": start + given.initial["weight"]})
    gradient = Setup.of(given).begun().gradient
    assert gradient is not None
    scales = gradient.blocks["weight"].log_scale
    assert scales.max() < -700 and (scales.amax(dim=1) - scales.amin(dim=1) > 700).all()
    assert_agrees(given)


@needs_compiler
def test_entries_that_cancel_are_zero() -> None:
    """At zero, of two classes that mirror each other, all entries but those of one feature."""
    x = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    data = Data(torch.cat([x, x])[None].expand(RUNS, -1, -1).contiguous(), torch.tensor([[0] * 3 + [1] * 3]).expand(RUNS, -1), 2)
    data.x[:, 0, 2] += 1
    given = problem("signgd", Data(data.x, data.y.contiguous(), 2), 3)
    setup = Setup.of(replace(given, initial={"weight": torch.zeros_like(given.initial["weight"])}))
    moved = of(setup).step(setup.begun(), 1).parameters["weight"]
    assert (moved[:, :, 2] != 0).all() and (moved[:, :, [0, 1, 3, 4]] == 0).all()


@needs_compiler
@pytest.mark.parametrize("rule", quick_of(["signum", "adam", "sd in row", "muon", "coordinate_descent"], "signum", "muon"))
def test_no_thread_reads_what_another_has_not_written(rule: str) -> None:
    """In whichever order threads have their turns between two barriers, the bits are the same; shared memory begins as NaN."""
    setup = Setup.of(problem(rule, gaussian(4, 9, 70), 15))
    ends = []
    for backwards in (False, True):
        steps = of(setup, backwards=backwards)
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
        ({"schedule": LyuLi(lr=0.1)}, "losses that are looked at"),
        ({"levels": 2.0}, "losses that are looked at after every step"),
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
            assert found is not None and (told in found or (told.startswith("losses") and "schedule=lyu_li" in found)), changes
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
    base = problem("signum", gaussian(3, 4, 6), 1000)
    with pretended_cuda() as device:
        chosen = choose.choose(Setup.of(on(device, base)))
    assert chosen.refused["cuda kernel"] == "the kernel cannot be compiled (RuntimeError: nvrtcCompileProgram: no such thing)"
    assert chosen.stepper.stepping == "cuda graph"


def test_a_block_has_room_for_what_the_source_lays_out() -> None:
    """That nothing is written beyond, the emulation looks at after every launch."""
    rule = kernel._rule_of(Setup.of(problem("muon", gaussian(3, 4, 6), 2)))
    assert rule is not None
    small, large = kernel.Shape(100, 10, 25, rule), kernel.Shape(750, 15, 25, rule)
    assert small.threads == 128 and large.threads == 512
    assert small.bytes(x_shared=True) < 48 * 1024 < large.bytes(x_shared=False) < 227 * 1024 < large.bytes(x_shared=True)
    assert small.seconds(1) < small.seconds(10_000) < small.seconds(20_000)
