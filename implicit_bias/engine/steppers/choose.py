"""Which stepper makes the steps of a batch: the first of a table that does not refuse it and proves to make the plain steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from implicit_bias.engine.steppers import cuda_graph, cuda_kernel, native, torch_compile
from implicit_bias.engine.steppers.base import Reached, Setup, Stepper, Stepping
from implicit_bias.engine.steppers.eager import Eager
from implicit_bias.engine.steppers.verification import wrong


class Kind(NamedTuple):
    """One kind of fast steppers.

    Attributes:
        stepping: What it is called.
        refusal: Why there is none for a batch, in words; None: there is one.
        make: Makes it.
        device: The only kind of device that it is for; on another it is not in question. None: any.
    """

    stepping: Stepping
    refusal: Callable[[Setup], str | None]
    make: Callable[[Setup], Stepper]
    device: str | None = None


#: The fast ones, in the order in which they are tried.
KINDS = (
    Kind("c", native.refusal, native.steps),
    Kind("cuda kernel", cuda_kernel.refusal, cuda_kernel.CudaKernel, device="cuda"),
    Kind("torch.compile", torch_compile.refusal, torch_compile.TorchCompile),
    Kind("cuda graph", cuda_graph.refusal, cuda_graph.CudaGraph, device="cuda"),
)


@dataclass(frozen=True)
class Choice:
    """The stepper that was chosen, and why others were not.

    Attributes:
        stepper: Made for the batch.
        kind: Of the stepper; None: it is the plain one.
        refused: Why not the faster ones, by name.
    """

    stepper: Stepper
    kind: Kind | None = None
    refused: dict[str, str] = field(default_factory=dict)

    def verified(self, setup: Setup, start: Reached, t: int) -> Choice:
        """The same; or, where the first updates after the t-th are not the plain ones, the next of the table whose are, at last
        the plain stepper. One line says which were refused, and which is taken."""
        choice = self
        failed: list[str] = []
        while choice.kind is not None:
            differ = wrong(setup, choice.stepper, choice.kind.make, start, t)
            if differ is None:
                break
            reason = f"steps by {choice.stepper.stepping} are not the plain ones ({differ})"
            after = KINDS[KINDS.index(choice.kind) + 1 :]
            choice = _first(after, setup, {**choice.refused, choice.kind.stepping: reason})
            failed.append(reason)
        if failed:  # what is taken instead is known once it is verified itself
            taken = "plain steps" if choice.kind is None else f"steps by {choice.stepper.stepping}"
            setup.problem.tell(f"{'; '.join(failed)}; {taken} are taken")
        return choice

    def refusals(self) -> dict[str, str]:
        """The reason why each faster stepper is not used, by its name, with those found while running."""
        if self.kind is None or self.stepper.refused is None:
            return self.refused
        return {**self.refused, self.kind.stepping: self.stepper.refused}


def choose(setup: Setup) -> Choice:
    """The fastest stepper that does not refuse the batch."""
    return _first(KINDS, setup, {})


def _first(kinds: Sequence[Kind], setup: Setup, refused: Mapping[str, str]) -> Choice:
    """The first of some kinds that does not refuse the batch, else the plain one; with why others were not taken before."""
    reasons = dict(refused)
    for kind in kinds:
        if kind.device not in (None, setup.like.device.type):
            continue
        reason = kind.refusal(setup)
        if reason is None:
            return Choice(kind.make(setup), kind, reasons)
        reasons[kind.stepping] = reason
    return Choice(Eager(setup), None, reasons)
