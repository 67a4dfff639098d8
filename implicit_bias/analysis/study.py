"""What an optimizer is, before any data: its response to the scale of gradients, its symmetries, the norm of its steps.

The optimizer is played on made-up gradients, 10 x 25, in about a second at most; methods of our own and classes of torch's by
the same functions. Symmetries are facts: a method that is no function of a norm's symmetries is steepest descent in no such norm.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from implicit_bias.core.errors import RunFailed
from implicit_bias.engine.steppers.eager import arrived
from implicit_bias.norms import Norm
from implicit_bias.optimizers import Here, Optimizer
from implicit_bias.optimizers.foreign.base import Foreign
from implicit_bias.optimizers.foreign.probe import (
    BLOCK,
    COLUMNS,
    FAMILIES,
    ROWS,
    ConstantSteps,
    constant_steps,
    made_up,
    played,
)

#: Steps of a made-up trajectory, and their rate, for responses and symmetries.
STEPS, LR = 30, 1e-3
#: Gradients are scaled by two to these powers.
SCALES = (13, -13, -27, -50, -100, -300, -500)
#: A displacement is the same up to rounding, or the same as far as bfloat16 inside the method lets it be; beyond it is another.
ROUNDING, SAME = 1e-6, 0.07
# Trajectories at two scales are one where sizes and directions agree to these.
SAME_SIZE, SAME_DIRECTION = 1e-6, 1e-9
#: Symmetries that a method of a family has: l_p those of entries, Schatten-p left and right rotations.
NEEDED = {"lp": ("entries",), "schatten": ("left", "right")}


@dataclass(frozen=True)
class Study:
    """What an optimizer is.

    Attributes:
        failed: Why nothing is known: what it raises, in a line.
        constant: Its steps at a constant gradient; alignment under many norms, growth, degree.
        response: j to the size of the displacement after 30 steps at gradients times 2^j, in units of that at j = 0, and its
            cosine with that.
        symmetries: Relative difference between the displacement at transformed gradients from a transformed start and the
            transformed displacement: entries permuted and signed, rotations from the left, the right, both, of all entries as one
            vector; rows and columns permuted.
    """

    failed: str | None
    constant: ConstantSteps
    response: Mapping[int, tuple[float, float]]
    symmetries: Mapping[str, float]

    @property
    def scale_free_to(self) -> int | None:
        """The smallest j such that gradients times 2^j make the same trajectory, all larger ones too; None: not even 2^-13."""
        free = None
        for j in (scale for scale in SCALES if scale < 0):
            size, cosine = self.response[j]
            if not (abs(size - 1) < SAME_SIZE and cosine > 1 - SAME_DIRECTION):
                break
            free = j
        return free

    @property
    def ruled_out(self) -> tuple[str, ...]:
        """The families no norm of which can be its own: it has not their symmetries."""
        if not self.symmetries:
            return ()
        return tuple(f for f in FAMILIES if max(self.symmetries[name] for name in NEEDED[f]) > SAME and not self.is_l2)

    @property
    def own(self) -> str | None:
        """The label of the norm that its steps are steepest descent in; None where there is no such."""
        return self.constant.own

    @property
    def is_l2(self) -> bool:
        """l2 is of both families, with the symmetries of each."""
        return self.symmetries["all"] <= SAME

    def lines(self) -> list[str]:
        """What a reader should know, in a line each."""
        if self.failed is not None:
            return [self.failed]
        if not self.constant.moves:
            return ["it does not move at a constant gradient"]
        return [_norm_line(self), _symmetry_line(self), _response_line(self)]


def study(optimizer: Optimizer, norm: Norm | None = None) -> Study:
    """What an optimizer is.

    Args:
        optimizer: Ours, or a class of torch's.
        norm: That of the methods that read one (nsd, nmd, sd).
    """
    constant = _constant(optimizer, norm)
    if constant.failed is not None or not constant.moves:
        return Study(constant.failed, constant, {}, {})
    trial = _Trial(optimizer, norm, math.nan if constant.rateless else LR)
    try:
        return Study(None, constant, trial.response(), trial.symmetries())
    except RunFailed as error:
        return Study(str(error), constant, {}, {})


def _constant(optimizer: Optimizer, norm: Norm | None) -> ConstantSteps:
    if isinstance(optimizer, Foreign):  # which has found out whether it is to be asked with closures
        return optimizer.constant
    return constant_steps(optimizer, apply=_applied, norm=norm)


def _applied(step: Any, here: Here) -> Tensor:
    return arrived(step, here.parameters, here.scheduled)[BLOCK]


class _Trial:
    """An optimizer on one made-up trajectory, plain and transformed."""

    def __init__(self, optimizer: Optimizer, norm: Norm | None, lr: float) -> None:
        self._optimizer, self._norm, self._lr = optimizer, norm, lr
        generator = torch.Generator().manual_seed(5)
        start = torch.randn(ROWS, COLUMNS, generator=generator, dtype=torch.float64)
        self._start, self._gradients = start - start.mean(0), made_up(STEPS)
        self._plain = self.displacement(lambda x: x)

    def displacement(self, transformed: Callable[[Tensor], Tensor], factor: float = 1.0) -> Tensor:
        """Where the trajectory with transformed gradients leads from the transformed start."""
        gradients = [transformed(gradient) * factor for gradient in self._gradients]
        points = played(self._optimizer, gradients, self._lr, transformed(self._start), _applied, self._norm)
        return points[-1] - points[0]

    def response(self) -> dict[int, tuple[float, float]]:
        size, found = self._plain.norm(), {}
        for j in SCALES:
            moved = self.displacement(lambda x: x, 2.0**j)
            cosine = (moved * self._plain).sum() / (moved.norm() * size).clamp(min=1e-300)
            found[j] = (float(moved.norm() / size), float(cosine))
        return found

    def symmetries(self) -> dict[str, float]:
        return {name: self._difference(transformed) for name, transformed in _transformations().items()}

    def _difference(self, transformed: Callable[[Tensor], Tensor]) -> float:
        moved, wanted = self.displacement(transformed), transformed(self._plain)
        return float((moved - wanted).norm() / wanted.norm())


def _transformations() -> dict[str, Callable[[Tensor], Tensor]]:
    generator = torch.Generator().manual_seed(3)

    def rotation(size: int) -> Tensor:
        q: Tensor = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))[0]
        return q

    left, right, whole = rotation(ROWS), rotation(COLUMNS), rotation(ROWS * COLUMNS)
    places = torch.randperm(ROWS * COLUMNS, generator=generator)
    signs = torch.randint(0, 2, (ROWS * COLUMNS,), generator=generator).double() * 2 - 1
    rows, columns = torch.randperm(ROWS, generator=generator), torch.randperm(COLUMNS, generator=generator)
    return {
        "entries": lambda x: (x.flatten()[places] * signs).reshape(ROWS, COLUMNS),
        "left": lambda x: left @ x,
        "right": lambda x: x @ right,
        "both": lambda x: left @ x @ right,
        "all": lambda x: (whole @ x.flatten()).reshape(ROWS, COLUMNS),
        "rows and columns": lambda x: x[rows][:, columns],
    }


def _norm_line(found: Study) -> str:
    known = found.constant
    if found.own is not None:
        return f"steps at a constant gradient are steepest descent in {found.own} (alignment {known.alignment:.4f})"
    if known.closure:
        return "it evaluates the loss by itself: a constant gradient does not show the norm of its steps"
    nearest = ", ".join(f"{family}{e.p:.3g} {e.alignment:.3f}" for family, e in (known.exponents or {}).items())
    return f"steps at a constant gradient are steepest descent in no known norm (best alignments: {nearest})"


def _symmetry_line(found: Study) -> str:
    if found.is_l2:
        return "it does not change under rotations of all entries: of the l_p and Schatten norms only l2 can be its own"
    words = {"lp": "signed permutations of entries", "schatten": "rotations from the left and the right"}
    has = [words[family] for family in FAMILIES if family not in found.ruled_out]
    names = {"lp": "l_p", "schatten": "Schatten"}
    out = [names[family] for family in found.ruled_out]
    says = f"no {' and no '.join(out)} norm can be its own" if out else "no family of norms is ruled out"
    if not has:
        return f"it changes under {' and under '.join(words.values())}: {says}"
    return f"it does not change under {' and '.join(has)}: {says}"


def _response_line(found: Study) -> str:
    known = found.constant
    if not known.normalised:
        return f"steps grow with gradients like their power {known.degree:.2f}"
    if found.scale_free_to is None:
        j = next((scale for scale in SCALES if scale < 0 and found.response[scale][0] < 1 / 2), None)
        where = "" if j is None else f"; at gradients times 2^{j} steps are {found.response[j][0]:.0e} of what they were"
        return f"steps do not keep their size when gradients shrink by 2^-13{where}"
    size = found.response[SCALES[-1]][0]
    end = "" if found.scale_free_to == SCALES[-1] else f"; at 2^{SCALES[-1]} they are {size:.0e} of what they were"
    return f"steps do not change when gradients shrink, down to factors of 2^{found.scale_free_to}{end}"
