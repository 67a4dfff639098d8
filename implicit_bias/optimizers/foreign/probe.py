"""What a constant gradient shows of an optimizer, before it sees any data: the norm of its steps, their size, their decay.

At a constant gradient G the steps of most methods become parallel to one direction U. Where U maximises <G, U> over the unit
ball of a norm N, the method is steepest descent in N once its averages have settled: the alignment <G, U> / (N(U) N_*(G)) is 1.
"""

from __future__ import annotations

import io
import math
import pickle
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from implicit_bias.core.errors import RunFailed
from implicit_bias.core.scaled import Scaled
from implicit_bias.norms import Norm, make_norm
from implicit_bias.norms.blocks import SingleBlock
from implicit_bias.norms.sizes import Sizes
from implicit_bias.optimizers.base import Here, Optimizer
from implicit_bias.optimizers.foreign.instance import Instances, NoRate
from implicit_bias.optimizers.foreign.target import in_a_line
from implicit_bias.schedules.base import Evaluated

ROWS, COLUMNS = 10, 25
#: Steps at a constant gradient; those of the last third are looked at, their decay beside those of the second.
STEPS, THIRD = 60, 20
BLOCK = "weight"
#: The norms that a learning rate may be in units of, and those that are called by name.
NAMED = ("linf", "l2", "spectral", "l1", "nuclear")
#: Alignment from which a norm is the optimizer's own, and below which steps mean nothing in the nearest of NAMED.
OWN, NEAR = 0.99, 0.9
FAMILIES = ("lp", "schatten")
# Steps of the grid of 1/p, and how often an interval around its best point loses a third; alignments this near are one.
GRID_STEPS, SEARCHES, FLAT = 20, 30, 1e-6
# Small beside the numbers that it meets, so that trust ratios and the like do not change along the way.
LR = 1e-6
# A step as large as in training, in the nearest of NAMED, and the factors that the displacement may be off by then: a trust ratio
# or a search for the step size shows here. Decoupled weight decay may shorten it by far more than either lengthens it.
PRACTICAL, STEADY = 0.1, (0.02, 2.0)
# Of the steps that are taken with and without a snapshot in between: from zero, so that no bit is lost beside large parameters.
TRIED_LR = 1e-2
# Powers of two that a gradient is made smaller by, in search of absolute constants.
LAST_HALVING = 500
# Where twice the rate does not make steps twice as long to this part, or steps grow or shrink by more than such factors from one
# third to the next, eta_t is no length of a step, or no longer soon.
LINEAR, GROWTH = 1e-3, (0.6, 1.15)
# A method whose steps grow at least like the root of its gradient is taken for an unnormalised one.
UNNORMALISED_DEGREE = 0.5
# An exponent whose alignment is this little below the best one's is called by the plainer name.
AS_GOOD = 1e-3
#: Of an optimizer that is named beside it.
NOT_FINITE = "its steps at a constant gradient are no finite numbers"


@dataclass(frozen=True)
class Exponent:
    """The exponent of a family of norms under which a step is most aligned.

    Attributes:
        p: In [1, inf]. alignment: <G, U> / (N(U) N_*(G)) there, at most 1.
    """

    p: float
    alignment: float


@dataclass(frozen=True)
class ConstantSteps:
    """What steps at a constant gradient are.

    Attributes:
        failed: Why nothing is known: what was raised, in a line.
        closure: Whether the optimizer has to be given a closure.
        moves: Whether it moves at all.
        rateless: Whether it has no learning rate to write.
        linear: How far twice the learning rate is from twice the displacement, relative.
        steady: The displacement by steps as large as in training, in units of what small ones let expect.
        growth: Size of late steps in units of those a third earlier.
        degree: d in size of steps ~ gradient^d.
        curve: Label of a norm, those of NAMED and row, to the alignment of late steps under it.
        exponents: Family, lp and schatten, to the exponent under whose norm they are most aligned.
        step: A late step with learning rate one, (k, d), subtracted. gradient: G.
    """

    failed: str | None = None
    closure: bool = False
    moves: bool = False
    rateless: bool = False
    linear: float = math.nan
    steady: float = math.nan
    growth: float = math.nan
    degree: float = math.nan
    curve: Mapping[str, float] | None = None
    exponents: Mapping[str, Exponent] | None = None
    step: Tensor | None = None
    gradient: Tensor | None = None

    @property
    def normalised(self) -> bool:
        """Whether steps keep their size when the gradient shrinks."""
        return not self.degree >= UNNORMALISED_DEGREE

    @property
    def nearest(self) -> str:
        """The norm under which late steps are most aligned, by its plainest name; l2 where nothing is known."""
        if not self.curve or not self.exponents:
            return "l2"
        named = max(self.curve, key=self.curve.__getitem__)
        family, best = max(self.exponents.items(), key=lambda item: item[1].alignment)
        return named if self.curve[named] >= best.alignment - AS_GOOD else make_norm(family, p=float(f"{best.p:.3g}")).label

    @property
    def alignment(self) -> float:
        """The largest alignment; nan where nothing is known."""
        if not self.curve or not self.exponents:
            return math.nan
        return max(*self.curve.values(), *(exponent.alignment for exponent in self.exponents.values()))

    @property
    def own(self) -> str | None:
        """The nearest norm where the alignment leaves no doubt. A class that asks for closures has none: what it makes of
        losses and curvatures a constant gradient does not show."""
        return self.nearest if self.alignment >= OWN and not self.closure else None

    @property
    def working(self) -> str:
        """The nearest of NAMED."""
        curve = self.curve
        return max(NAMED, key=lambda label: curve[label]) if curve else "l2"

    def unit(self, norm: Norm) -> float:
        """N of a late step with learning rate one; of an unnormalised method in units of N_*(G). 1 where nothing is known."""
        if self.step is None or self.gradient is None:
            return 1.0
        size = float(norm.value(self.step[None])[0])
        return size if self.normalised else size / float(norm.dual(self.gradient[None])[0])

    @property
    def decay(self) -> float:
        """a where late steps shrink like t^-a, 0 where they do not shrink; from their means around steps 30 and 50."""
        if not self.growth > 0:
            return 0.0
        return max(0.0, -math.log(self.growth) / math.log((STEPS - THIRD / 2) / (STEPS - 1.5 * THIRD)))

    @property
    def no_natural_rate(self) -> str | None:
        """Why a learning rate is no length of a step, in words; None where it is."""
        if self.rateless:
            return "it has no learning rate"
        if self.closure:
            return "it evaluates the loss by itself, and chooses its steps by that"
        if not self.moves:
            return "it does not move at a constant gradient"
        if not self.linear <= LINEAR:
            return f"twice the rate does not make its steps twice as long (off by {self.linear:.0e})"
        if not GROWTH[0] <= self.growth <= GROWTH[1]:
            return f"at a constant gradient the size of its steps changes by a factor of {self.growth:.2f} in {THIRD} steps"
        if not (self.curve and self.curve[self.working] >= NEAR):
            return "its steps at a constant gradient are near steepest descent in no known norm"
        if not STEADY[0] <= self.steady <= STEADY[1]:
            return "the size of its steps changes with the distance that it has come"
        return None


Apply = Callable[[Any, Here], Tensor]


def reached(step: Any, here: Here) -> Tensor:  # noqa: ARG001 - others go on from here
    """Where a step leads that names the point arrived at."""
    to: Tensor = step.to[BLOCK]
    return to


def played(
    optimizer: Optimizer,
    gradients: Sequence[Tensor],
    lr: float,
    start: Tensor,
    apply: Apply = reached,
    norm: Norm | None = None,
) -> list[Tensor]:
    """The points (k, d) that steps from these gradients (k, d) lead to, the start first; the same whatever was played before.

    Args:
        optimizer: Whose steps.
        gradients: One a step, (k, d).
        lr: The learning rate of every step.
        start: The first point, (k, d).
        apply: Gives the parameters after a step.
        norm: That of the methods that read one.

    Raises:
        RunFailed: the optimizer raises.
    """
    points, state = [start], None
    with torch.no_grad():
        geometry = optimizer.geometry([BLOCK], norm)
        for t, gradient in enumerate(gradients, 1):
            here = _here(gradient, points[-1], lr)
            state = optimizer.init(here.gradient) if state is None else state
            state, step = optimizer.step_from(state, here, t, geometry)
            points.append(apply(step, here)[0].clone())
    return points


def made_up(count: int, seed: int = 0, rows: int = ROWS, columns: int = COLUMNS) -> list[Tensor]:
    """A slowly turning sequence of gradients (k, d) whose rows sum to zero, as a classifier's do."""
    generator = torch.Generator().manual_seed(seed)
    noise = [torch.randn(rows, columns, generator=generator, dtype=torch.float64) for _ in range(count + 1)]
    turning, found = noise[0], []
    for fresh in noise[1:]:
        turning = 0.9 * turning + math.sqrt(1 - 0.9**2) * fresh
        found.append(turning - turning.mean(0))
    return found


def alignment(norm: Norm, gradient: Tensor, step: Tensor) -> float:
    """<G, U> / (N(U) N_*(G)), in [-1, 1]; nan where U is zero."""
    pairing = (gradient * step).sum()
    return float(pairing / (norm.value(step[None])[0] * norm.dual(gradient[None])[0]))


def best_exponent(family: str, gradient: Tensor, step: Tensor) -> Exponent:
    """The largest alignment over 1/p in [0, 1]: on a grid, then by thirds around its best point; of 1, 2 and inf one that is as
    good."""
    pairing = (gradient * step).sum()
    of_gradient, of_step = (Sizes({BLOCK: matrix[None]}) for matrix in (gradient, step))  # decomposed once for all exponents

    def at(u: float) -> float:
        norm = SingleBlock(BLOCK, make_norm(family, p=math.inf if u == 0 else 1 / u))
        return float(pairing / (of_step.value(norm)[0] * of_gradient.dual(norm)[0]))

    best = max((place / GRID_STEPS for place in range(GRID_STEPS + 1)), key=at)
    low, high = max(0.0, best - 1 / GRID_STEPS), min(1.0, best + 1 / GRID_STEPS)
    for _ in range(SEARCHES):
        a, b = low + (high - low) / 3, high - (high - low) / 3
        low, high = (a, high) if at(a) < at(b) else (low, b)
    refined = (low + high) / 2
    plain = next((u for u in (0.0, 1.0, 0.5) if at(u) >= at(refined) - FLAT), refined)
    return Exponent(math.inf if plain == 0 else 1 / plain, at(plain))


def late_step(points: Sequence[Tensor], lr: float) -> tuple[Tensor, float]:
    """The mean of the last third of the steps with learning rate one, subtracted, and its size in units of a third earlier."""
    late, before = points[STEPS - THIRD] - points[STEPS], points[STEPS - 2 * THIRD] - points[STEPS - THIRD]
    size = float(before.norm())
    return late / THIRD / lr, float(late.norm()) / size if size > 0 else math.nan


def constant_steps(
    optimizer: Optimizer, closure: bool = False, apply: Apply = reached, norm: Norm | None = None
) -> ConstantSteps:
    """What an optimizer's steps at a constant gradient are, from the point zero.

    Args:
        optimizer: Whose steps.
        closure: Whether it is played with closures; only told on.
        apply: Gives the parameters after a step.
        norm: That of the methods that read one.
    """
    gradient, zero = made_up(1)[0], torch.zeros(ROWS, COLUMNS, dtype=torch.float64)

    def steps(factor: float, lr: float) -> list[Tensor]:
        return played(optimizer, [gradient * factor] * STEPS, lr, zero, apply, norm)

    try:
        points, twice, smaller = steps(1.0, LR), steps(1.0, 2 * LR), steps(2.0**-7, LR)
    except NoRate:
        return _without_rate(optimizer, gradient, closure, apply)
    except RunFailed as error:
        return ConstantSteps(failed=str(error), closure=closure)
    step, growth = late_step(points, LR)
    size = float(step.norm())
    if not math.isfinite(size) or size == 0:
        return ConstantSteps(closure=closure, failed=None if size == 0 else NOT_FINITE)
    degree = _degree(size, smaller, LR)
    moved = points[STEPS] - points[0]
    known = ConstantSteps(
        closure=closure,
        moves=True,
        linear=float((twice[STEPS] - twice[0] - 2 * moved).norm() / (2 * moved.norm())),
        growth=growth,
        degree=degree,
        **_alignments(gradient, step),
    )
    practical = PRACTICAL / float(make_norm(known.working).value(step[None])[0])
    try:
        far = steps(1.0, practical)
        steady = float((far[STEPS] - far[0]).norm() / moved.norm()) * LR / practical
    except RunFailed:
        steady = math.nan
    return replace(known, steady=steady)


def _without_rate(optimizer: Optimizer, gradient: Tensor, closure: bool, apply: Apply) -> ConstantSteps:
    """What is known of an optimizer that has no learning rate: all but what another rate would do."""
    zero = torch.zeros_like(gradient)
    try:
        points, smaller = (played(optimizer, [gradient * f] * STEPS, math.nan, zero, apply) for f in (1.0, 2.0**-7))
    except RunFailed as error:
        return ConstantSteps(failed=str(error), closure=closure, rateless=True)
    step, growth = late_step(points, 1.0)
    size = float(step.norm())
    if not math.isfinite(size) or size == 0:
        failed = None if size == 0 else NOT_FINITE
        return ConstantSteps(closure=closure, failed=failed, rateless=True)
    degree = _degree(size, smaller, 1.0)
    return ConstantSteps(closure=closure, moves=True, rateless=True, growth=growth, degree=degree, **_alignments(gradient, step))


def _degree(size: float, smaller: Sequence[Tensor], lr: float) -> float:
    """d in size of steps ~ gradient^d, from the size of a late step and the points that gradients times 2^-7 lead to."""
    return math.log(size / max(float(late_step(smaller, lr)[0].norm()), 1e-300)) / math.log(2.0**7)


def _alignments(gradient: Tensor, step: Tensor) -> dict[str, Any]:
    """What a late step shows of its norm, as fields of ConstantSteps."""
    return {
        "curve": {label: alignment(make_norm(label), gradient, step) for label in (*NAMED, "row")},
        "exponents": {family: best_exponent(family, gradient, step) for family in FAMILIES},
        "step": step,
        "gradient": gradient,
    }


def halving_scale(optimizer: Optimizer, known: ConstantSteps, apply: Apply = reached) -> float | None:
    """The factor of a gradient of order one at which steps are half as long as at the gradient itself; None where there is none
    above 2^-500 (squares of what is smaller underflow), or where steps shrink with the gradient anyhow."""
    if not known.moves or not known.normalised or known.gradient is None or known.step is None:
        return None
    gradient, zero, size = known.gradient, torch.zeros_like(known.gradient), float(known.step.norm())
    lr, unit = (math.nan, 1.0) if known.rateless else (LR, LR)

    def halved(exponent: int) -> bool:
        points = played(optimizer, [gradient * 2.0**-exponent] * STEPS, lr, zero, apply)
        return float(late_step(points, unit)[0].norm()) < size / 2

    low, high = 0, LAST_HALVING
    if not halved(high):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if halved(middle) else (middle, high)
    return 2.0**-high


def unable_to_resume(optimizer: Optimizer, steps: int = 30, lr: float = TRIED_LR) -> str | None:
    """Why a run cannot go on from a snapshot, in words; None where it goes on to the last bit, as far as a try shows.

    With ``lr`` nan steps are of the rate that the optimizer has.
    """
    gradients, start = made_up(steps, seed=1), torch.zeros(ROWS, COLUMNS, dtype=torch.float64)
    try:
        whole = played(optimizer, gradients, lr, start)[-1]
    except RunFailed:
        return None  # the run itself will say so
    try:
        resumed = _played_in_two(optimizer, gradients, lr, start)
    except pickle.UnpicklingError as error:
        return f"its state holds {_foreign_class(error)}, which a file cannot hold safely"
    except Exception as error:  # noqa: BLE001 - pickling and loading are the optimizer's own code
        return str(error) if isinstance(error, RunFailed) else in_a_line(error)
    return None if torch.equal(whole, resumed) else "after state_dict and load_state_dict its steps are others"


def _foreign_class(error: pickle.UnpicklingError) -> str:
    """What torch does not load, by name."""
    found = re.search(r"GLOBAL ([\w.]+)", str(error))
    return found[1] if found else "an object of a class of its own"


def _played_in_two(optimizer: Optimizer, gradients: Sequence[Tensor], lr: float, start: Tensor) -> Tensor:
    """Where the steps lead if the state goes through a file half way."""
    point, half = start, len(gradients) // 2
    state: Any = None
    with torch.no_grad():
        geometry = optimizer.geometry([BLOCK], None)
        for t, gradient in enumerate(gradients, 1):
            here = _here(gradient, point, lr)
            if t == half + 1:
                assert isinstance(state, Instances)
                fresh: Any = optimizer.init(here.gradient)
                state = fresh.restore(_through_a_file(state.snapshot()))
            state = optimizer.init(here.gradient) if state is None else state
            state, step = optimizer.step_from(state, here, t, geometry)
            point = reached(step, here)[0].clone()
    return point


def _through_a_file(snapshot: Mapping[str, Any]) -> Any:
    buffer = io.BytesIO()
    torch.save(snapshot, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def _here(gradient: Tensor, point: Tensor, lr: float) -> Here:
    blocks = {BLOCK: Scaled(gradient[None].clone(), torch.zeros(1, len(gradient), 1, dtype=gradient.dtype))}
    flat = Evaluated(blocks, torch.zeros(1, dtype=gradient.dtype))  # a loss of 1
    return Here({BLOCK: point[None]}, lambda parameters: flat, torch.tensor(lr, dtype=torch.float64).log(), flat)
