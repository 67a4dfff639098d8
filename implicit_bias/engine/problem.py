"""What the engine is asked for: runs to be computed together."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from torch import Tensor

from implicit_bias.engine.mini_batches import MiniBatches
from implicit_bias.engine.variance_reduction import VarianceReduction
from implicit_bias.losses import Loss
from implicit_bias.measures.margins import Optimum
from implicit_bias.measures.probe import Probe
from implicit_bias.models import Data, Model, Parameters
from implicit_bias.norms import Norm
from implicit_bias.optimizers import Optimizer
from implicit_bias.schedules import Schedule

Compile = Literal["auto", "on", "off"]
#: Takes a line on what is not as it was wanted.
Tell = Callable[[str], None]


def silent(line: str) -> None:
    """Discards a line: the default where nobody is to be informed."""


@dataclass(frozen=True)
class Problem:
    """R runs to be computed together.

    Attributes:
        model, loss, optimizer, schedule: As registered; numeric fields of the optimizer may be tensors (R, 1, 1), of the
        schedule (R,). data: Training sets, (R, n, d) or (1, n, d).
        initial: Initial parameters, one tensor (R, p, q) a block.
        steps: Updates to make; 0: the initial point is measured.
        batch: The samples of each update; None: all of them. Records are of all samples whatever it is.
        variance_reduction: What is done to the gradients of mini-batches, :mod:`implicit_bias.engine.variance_reduction`.
        measured: The norms to log, by label; the optimizer's own is among them.
        norm: The norm of the general methods (nsd, nmd, sd); None for the others.
        optima: References by label; norms without one have empty columns.
        points: About how many log-spaced records.
        weights: Which parameters to keep: those of every record, the last, or none.
        certificate_iterations: First-order steps that tighten the last record's certificate (linear models).
        kkt_products: Jacobian products for the KKT ratio, a norm and record (other models).
        frozen: Blocks that are not trained, as ``initial``.
        test: A test set, on which the accuracy is measured.
        levels: Also record the first step at which the loss falls below 10^(-j / levels), for every j = 0, 1, ...; 0: do not.
        stop_log_loss: A run's last record is its first step with a log loss below this.
        compile: Whether to make compiled steps: off; auto, in C where :mod:`implicit_bias.engine.steppers.native` covers them and
            they are small enough to gain, else by torch.compile where the run is long enough to repay it; on, wherever that is
            possible. Without a compiler the steps are plain.
        tell: Told in a line why fast steps are not taken where they should be: they are not the plain ones (the first few are
            made both ways, see :mod:`implicit_bias.engine.steppers.verification`), or cannot be compiled.
        probes: What adds columns of its own; a batch works on copies.
    """

    model: Model
    loss: Loss
    optimizer: Optimizer
    schedule: Schedule
    data: Data
    initial: Parameters
    steps: int
    measured: Mapping[str, Norm]
    norm: Norm | None = None
    batch: MiniBatches | None = None
    variance_reduction: VarianceReduction = "none"
    optima: Mapping[str, Optimum] = field(default_factory=dict)
    points: int = 60
    weights: Literal["all", "last", "none"] = "last"
    certificate_iterations: int = 0
    kkt_products: int = 0
    frozen: Parameters = field(default_factory=dict)
    test: Data | None = None
    levels: float = 0
    stop_log_loss: float = -math.inf
    compile: Compile = "auto"
    tell: Tell = silent
    probes: Sequence[Probe] = ()

    @property
    def runs(self) -> int:
        """R."""
        return len(next(iter(self.initial.values())))

    @property
    def cadence(self) -> int:
        """After how many updates loss and gradient of all samples are looked at between records: 1, or with mini-batches about an
        epoch."""
        return 1 if self.batch is None else self.batch.cadence

    @property
    def reduces_variance(self) -> bool:
        """Whether gradients of mini-batches are corrected; those of all samples need not be."""
        return self.batch is not None and self.variance_reduction != "none"

    @property
    def watches_loss(self) -> bool:
        """Whether the loss of every step is asked for."""
        return self.levels > 0 or self.stop_log_loss > -math.inf

    def at(self, runs: Tensor) -> Problem:
        """The same steps of these runs alone, without what is measured."""
        given: dict[str, Any] = {"model": self.model, "optimizer": self.optimizer, "schedule": self.schedule, "data": self.data}
        given |= {key: value for key, value in (("batch", self.batch), ("norm", self.norm)) if value is not None}
        parts: dict[str, Any] = {key: at_runs(instance, runs, self.runs) for key, instance in given.items()}
        initial, frozen = ({name: block[runs] for name, block in blocks.items()} for blocks in (self.initial, self.frozen))
        return replace(self, **parts, initial=initial, frozen=frozen, measured={}, optima={}, test=None, probes=())


def at_runs(instance: Any, runs: Tensor, count: int) -> Any:
    """A dataclass with the entries of these runs in every field that is a tensor with one for each of ``count`` runs."""
    values = {field.name: getattr(instance, field.name) for field in fields(instance)}
    mine = {key: v[runs] for key, v in values.items() if isinstance(v, Tensor) and v.dim() and len(v) == count}
    return replace(instance, **mine) if mine else instance
