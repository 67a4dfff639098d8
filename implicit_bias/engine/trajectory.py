"""What a batch of runs leaves: its trajectories, or which of them diverged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from implicit_bias.engine.steppers.base import Stepping
from implicit_bias.models import Parameters


@dataclass
class Trajectory:
    """What was recorded. Arrays are indexed (record, run).

    Attributes:
        steps: The step of each record.
        recorded: Whether the record is one of the run's, (record, run): at a loss level of another run it is not, nor after the
            run has stopped.
        common: lr, log_loss, accuracy; with a test set test_accuracy; for networks later_cosine, with the first iterate that was
            recorded at ten times the step or later.
        by_norm: For each norm label, the columns of :func:`implicit_bias.measures.margins.measure`, filled; for networks also
            soft_margin.
        parameters: Step to parameters, for the records that were kept.
        stepping: What made the steps: ``c``, ``torch.compile``, or ``torch``, the plain ones; they agree to round-off.
        stepping_refused: Why not faster ones, by name, in words.
        compiled_with: The compiler and its options, where the steps are made in C.
        probed: The columns of the problem's own probes, in order; they are in ``common`` or in ``by_norm``.
        interrupted: What asked to stop after the last step was made: to be raised when the runs are kept.
        facts: What the optimizer tells of each run, see :meth:`implicit_bias.optimizers.Optimizer.facts`.
        untightened: Why the last certificates are the trajectory's own, where tightening them failed.
    """

    own: str
    stepping: Stepping = "torch"
    stepping_refused: dict[str, str] = field(default_factory=dict)
    compiled_with: dict[str, str] = field(default_factory=dict)
    probed: tuple[str, ...] = ()
    steps: list[int] = field(default_factory=list)
    recorded: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), dtype=bool))
    common: dict[str, np.ndarray] = field(default_factory=dict)
    by_norm: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    parameters: dict[int, Parameters] = field(default_factory=dict)
    interrupted: BaseException | None = None
    untightened: str | None = None
    facts: list[dict[str, Any]] = field(default_factory=list)


class Diverged(ArithmeticError):
    """Some runs of a batch have diverged: see :class:`implicit_bias.engine.divergence.Divergence`.

    Attributes:
        runs: Their places in the batch.
        step: The step at which it was noticed.
        sign: By what, in words.
    """

    def __init__(self, runs: Sequence[int], step: int, exact: bool = False, limit: float | None = None) -> None:
        self.sign = "parameters are no longer finite numbers" if limit is None else f"parameters exceed {limit:g}"
        told = (
            f"diverged {'at' if exact else 'by'} step {step}: the {self.sign}; choose a smaller schedule.lr"
            if step
            else "loss or gradient at the initial point are no finite numbers; rescale the data or the start, or look at the loss"
        )
        super().__init__(told)
        self.runs = list(runs)
        self.step = step
