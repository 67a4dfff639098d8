"""The interface of a probe, which makes columns of a trajectory from the batch at records or at every step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from torch import Tensor

from implicit_bias.measures.averages import StepAverage
from implicit_bias.measures.margins import Point
from implicit_bias.models import Gradient, Objective, Parameters
from implicit_bias.models.base import Derivatives
from implicit_bias.norms import ParameterNorm
from implicit_bias.norms.sizes import Routines, Sizes

#: Numbers of a run each, (R,), by the name of their column; nan stands for an empty cell.
Columns = dict[str, Tensor]


@dataclass(frozen=True)
class Update:
    """The update that led to a record.

    Attributes:
        gradient: Loss and gradient of all samples where it was made from, theta_{t-1}.
        make: Gives :attr:`descent`.
    """

    gradient: Gradient
    make: Callable[[], Parameters]

    @cached_property
    def descent(self) -> Parameters:
        """theta_{t-1} - theta_t, one tensor (R, p, q) a block, times a positive number of each run's own; computed when it is
        first asked for. It is what the optimizer's rule gives there, without the rounding of the parameters, however short it is;
        where a schedule took the step back, the step that was tried. Of an optimizer with a state of its own kind (torch's) it
        is the difference of the parameters."""
        return self.make()


@dataclass(frozen=True)
class Record:
    """Where a batch is when it is recorded, in double precision where the model is linear (proofs need it).

    Attributes:
        t: The step.
        runs: The runs whose record it is, (R,); others are recorded at other levels of their loss, or have stopped.
        parameters: theta_t, one tensor (R, p, q) a block, not to be changed; frozen blocks are no part of it. Of an optimizer
            that shows others than it trains (an average of theirs), those that it shows.
        gradient: Loss and gradient there.
        objective: The model with its loss and data.
        degree: L, the model's degree of homogeneity.
        q: The smallest gap, (R,).
        update: The update from theta_{t-1}; None at step 0, and where no probe looks back.
        pair_average: What the optimizer's buffers hold of it (:meth:`implicit_bias.optimizers.Optimizer.pair_average`), if any.
        routines: What norms are computed by, as of :class:`implicit_bias.norms.sizes.Sizes`.
    """

    t: int
    runs: Tensor
    parameters: Parameters
    gradient: Gradient
    objective: Objective
    degree: float
    q: Tensor
    update: Update | None = None
    pair_average: Parameters | None = None
    routines: Routines | None = None

    @cached_property
    def of_all(self) -> bool:
        """Whether it is a record of all runs."""
        return bool(self.runs.all())

    @cached_property
    def c(self) -> Parameters:
        """-grad L / sum w = sum_j w_j grad m_j with weights that sum to one, one tensor (R, p, q) a block."""
        return self.gradient.per_weight()

    @cached_property
    def point(self) -> Point:
        """What all norms share there: margins are of theta and the gradient downhill."""
        found, downhill = self.gradient.found, self.gradient.downhill()
        known = found is not None and downhill is found.per_weight
        return Point(self.parameters, downhill, self.q, self.degree, self.routines, found.sized if known and found else None)

    @cached_property
    def c_sizes(self) -> Sizes:
        """N_*(c) under norms."""
        return self.point.c_sizes if self.point.c is self.c else Sizes(self.c, self.routines)

    @cached_property
    def derivatives(self) -> Derivatives:
        """Jacobian products there, which all norms share."""
        return self.objective.derivatives(self.parameters)

    @cached_property
    def weights(self) -> Tensor | None:
        """Those weights, (R, pairs, n); None where the model is linear."""
        return None if self.gradient.weights is None else self.gradient.weights()


@dataclass(frozen=True)
class Pile:
    """Records of a batch of a linear model one after the other, which are measured under norms together: what costs operations
    by their number, not by their size, costs once what it costs a record. Their numbers are those of each record alone.

    Attributes:
        steps: The step of each, (M, 1), as numbers of the precision of q.
        runs: The runs whose record each is, (M, R).
        q: The smallest gaps, (M, R).
        point: What all norms share there, in tensors of a leading axis M.
        c: As :attr:`Record.c`, one tensor (M, R, p, q) a block.
        pair_averages: As :attr:`Record.pair_average`, one tensor (M, R, p, q) a block.
        kept: What probes have kept of each (:meth:`Probe.keep`), by their names: tensors of a leading axis M.
        routines: As of a record.
    """

    steps: Tensor
    runs: Tensor
    q: Tensor
    point: Point
    c: Parameters
    pair_averages: Parameters | None
    kept: Mapping[str, Mapping[str, Tensor]]
    routines: Routines | None

    @cached_property
    def c_sizes(self) -> Sizes:
        """N_*(c) under norms, (M, R)."""
        return self.point.c_sizes if self.point.c is self.c else Sizes(self.c, self.routines)


class Probe:
    """Columns of the trajectory. One that needs no more than a record writes :meth:`measure`, or :meth:`under`.

    A batch has a copy of its own of every probe, made before the first step. Runs must not look at each other: the numbers of a
    run may not depend on the batch it is in.
    """

    name: ClassVar[str]
    #: The names of its columns; left out: its own name.
    columns: ClassVar[tuple[str, ...]] = ()
    #: An average that :meth:`collect` takes ``gradient.per_weight()`` into, at the steps that the average wants, and does nothing
    #: else: what makes many steps in a call may then do that itself (``Stepper.serve`` of the engine).
    averaged: StepAverage | None = None
    #: Whether it needs ``record.update``: many steps in a call then end one before every record, too.
    looks_back: ClassVar[bool] = False
    #: Whether it has :meth:`under_all` beside :meth:`under`, so that records of linear models may be measured under norms later,
    #: several together. In a batch with a probe that has :meth:`under` alone, each is measured at once.
    waits: ClassVar[bool] = False

    @classmethod
    def may_wait(cls) -> bool:
        """Whether its columns under norms may be measured later: not where a subclass has another ``under`` alone."""
        has_under, has_under_all = (next(c for c in cls.__mro__ if name in vars(c)) for name in ("under", "under_all"))
        return cls.waits and issubclass(has_under_all, has_under)

    @classmethod
    def writes(cls) -> tuple[str, ...]:
        """The names of its columns."""
        return cls.columns or (cls.name,)

    def wants(self, t: int) -> bool:
        """Whether the gradient at theta_t is to be collected. Every step that is wanted has its price.

        Args:
            t: The step; with mini-batches the number of the full gradient, of which there is one every ceil(n / b) steps, from 0.

        Returns:
            The truth value.
        """
        return False

    def collect(self, t: int, gradient: Gradient) -> None:
        """Look at loss and gradient at theta_t; called for all wanted steps, in their order.

        Args:
            t: The step.
            gradient: Of all samples, at theta_t, where the next step starts; not to be changed.
        """

    def measure(self, record: Record) -> Columns:
        """The columns of which a run has one number a record.

        Args:
            record: Where the batch is.

        Returns:
            Numbers (R,) by column.
        """
        return {}

    def under(self, record: Record, label: str, norm: ParameterNorm, columns: Mapping[str, Tensor]) -> Columns:
        """The columns of which a run has one number a record and norm.

        Args:
            record: Where the batch is.
            label: Of the norm.
            norm: On the parameter set.
            columns: What is known under the norm: margin, alignment, param_norm, ..., (R,) each.

        Returns:
            Numbers (R,) by column.
        """
        return {}

    def keep(self, record: Record) -> Mapping[str, Tensor]:
        """What :meth:`under_all` will need of a record, where the probe ``waits``; called after :meth:`measure`.

        Args:
            record: Where the batch is.

        Returns:
            Tensors of the same shapes at every record, by name; they are copied.
        """
        return {}

    def gathered(self, pile: Pile) -> None:
        """Look at records that are now measured, where the probe ``waits``; called before :meth:`under_all` of the first norm.

        Args:
            pile: The records.
        """

    def under_all(self, pile: Pile, label: str, norm: ParameterNorm, columns: Mapping[str, Tensor]) -> Columns:
        """The same as :meth:`under` of several records together, in their order, where the probe ``waits``.

        Args:
            pile: The records.
            label: Of the norm.
            norm: On the parameter set.
            columns: What is known under the norm, (M, R) each, or (R,) where it is the same at all.

        Returns:
            Numbers (M, R) by column.
        """
        return {}

    def complete(self, steps: Sequence[int]) -> Columns:
        """Columns that are known only at the end: (records, R), for the records at ``steps``.

        Args:
            steps: The steps of all records, ascending.

        Returns:
            Numbers (records, R) by column.
        """
        return {}

    def snapshot(self) -> dict[str, Any]:
        """The state of the probe: nested dictionaries and lists of tensors, numbers and strings."""
        return {}

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Restore the state from a snapshot; called on a fresh probe.

        Args:
            snapshot: As :meth:`snapshot` gave it.

        Raises:
            ValueError: it is no snapshot of such a probe.
        """
        if snapshot != {}:
            raise ValueError(f"probe {self.name} remembers nothing")
