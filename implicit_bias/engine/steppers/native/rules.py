"""Which step linear.c, and of some network.c, makes of an optimizer's: a table of classes and norms, compared by exact type.

A subclass of any of them may override anything, and has none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple

import torch

from implicit_bias.engine.steppers.native.compiling import Definitions
from implicit_bias.losses import FLOOR, Loss
from implicit_bias.losses.base import EXPONENTIAL_TAIL
from implicit_bias.losses.cross_entropy import CrossEntropy
from implicit_bias.losses.exponential import Exponential
from implicit_bias.models.linear import CANCELLED, UNDERFLOW, zero_sum_basis
from implicit_bias.norms import Norm, ParameterNorm, ProductNorm
from implicit_bias.norms.blocks import InRowSpace, SingleBlock, WeightedByShape, WholeVector
from implicit_bias.norms.column import Column
from implicit_bias.norms.hybrid import Hybrid
from implicit_bias.norms.l1 import L1
from implicit_bias.norms.l2 import L2
from implicit_bias.norms.layer_weights import rms_weight
from implicit_bias.norms.linf import Linf
from implicit_bias.norms.lp import Lp
from implicit_bias.norms.nuclear import Nuclear
from implicit_bias.norms.row import Row
from implicit_bias.norms.schatten import Schatten
from implicit_bias.norms.singular import RANK_TOLERANCE
from implicit_bias.norms.spectral import Spectral
from implicit_bias.norms.vectors import Exponent, conjugate, is_inf, is_one
from implicit_bias.optimizers import Optimizer
from implicit_bias.optimizers.adam import Adam
from implicit_bias.optimizers.coordinate_descent import CoordinateDescent
from implicit_bias.optimizers.gd import GD
from implicit_bias.optimizers.lion import Lion
from implicit_bias.optimizers.momentum_gd import MomentumGD
from implicit_bias.optimizers.muon import Muon
from implicit_bias.optimizers.muon_ns import OWN, MuonNS, Triples
from implicit_bias.optimizers.muon_signum import MuonSignum
from implicit_bias.optimizers.ngd import NGD
from implicit_bias.optimizers.nmd import NMD
from implicit_bias.optimizers.nmgd import NMGD
from implicit_bias.optimizers.nsd import NSD
from implicit_bias.optimizers.nucgd import NucGD
from implicit_bias.optimizers.row_gd import RowGD
from implicit_bias.optimizers.sd import SD
from implicit_bias.optimizers.shampoo import Shampoo
from implicit_bias.optimizers.signgd import SignGD
from implicit_bias.optimizers.signum import Signum
from implicit_bias.optimizers.spectral_gd import SpectralGD
from implicit_bias.optimizers.weight_decay import WithWeightDecay

# The codes of rules and norms in linear.c. They are defined here alone, as are the constants that others use too.
CROSS_ENTROPY, EXPONENTIAL = range(2)
STEEPEST, GRADIENT, ADAM, SIGN, NORMALISED, POLAR, COORDINATE, ROWS, RANK_ONE, NEWTON_SCHULZ, LP, SCHATTEN, COLUMNS = range(13)
NO_MOMENTUM, AVERAGE, LOOK_AHEAD, BEFORE = range(4)
OUTER_MAX, OUTER_L2 = range(2)
LOSSES: dict[type[Loss], int] = {CrossEntropy: CROSS_ENTROPY, Exponential: EXPONENTIAL}
OUTER = {"max": OUTER_MAX, "l2": OUTER_L2}
DECOMPOSED = (POLAR, RANK_ONE, NEWTON_SCHULZ, SCHATTEN)
# What is made for groups of runs only, and not for one alone.
IN_GROUPS = (LP, SCHATTEN, COLUMNS)
DEFINITIONS: Definitions = (
    *{"CROSS_ENTROPY": CROSS_ENTROPY, "EXPONENTIAL": EXPONENTIAL}.items(),
    *{"STEEPEST": STEEPEST, "GRADIENT": GRADIENT, "ADAM": ADAM}.items(),
    *{"SIGN": SIGN, "NORMALISED": NORMALISED, "POLAR": POLAR, "COORDINATE": COORDINATE, "ROWS": ROWS}.items(),
    ("COLUMNS", COLUMNS),
    *{"RANK_ONE": RANK_ONE, "NEWTON_SCHULZ": NEWTON_SCHULZ, "LP": LP, "SCHATTEN": SCHATTEN}.items(),
    *{"NO_MOMENTUM": NO_MOMENTUM, "AVERAGE": AVERAGE, "LOOK_AHEAD": LOOK_AHEAD, "BEFORE": BEFORE}.items(),
    *{"OUTER_MAX": OUTER_MAX, "OUTER_L2": OUTER_L2}.items(),
    ("RANK_TOLERANCE", RANK_TOLERANCE[torch.float64]),
    ("FLOOR", FLOOR[torch.float64]),
    ("TAIL", EXPONENTIAL_TAIL),
    ("UNDERFLOW", UNDERFLOW[torch.float64]),
    ("CANCELLED", CANCELLED * torch.finfo(torch.float64).eps),
)

# The optimizers whose rule linear.c has, by what they do with the direction of steepest descent, where that is covered.
NORMALISED_DESCENT = frozenset({NSD, SignGD, NGD, SpectralGD, NucGD, CoordinateDescent, RowGD, Shampoo})
WITH_MOMENTUM = frozenset({NMD, Signum, NMGD, Muon})

#: The columns of W that each block has, (first, end).
Columns = Mapping[str, tuple[int, int]]
#: Normalised steepest descent in a norm on the parameter set; None where there is none in C.
InNorm = Callable[[ParameterNorm, Columns], "Rule | None"]


@dataclass(frozen=True)
class Part:
    """Columns ``first``, ..., ``end`` - 1 of W, and the norm in which they descend; its weight among those of the parts, and its
    exponent p in (1, inf) where it is of l_p or Schatten."""

    kind: int
    first: int
    end: int
    weight: float = 1.0
    exponent: Exponent | None = None


@dataclass(frozen=True)
class Rule:
    """A step as linear.c knows it: what is done with the gradient or its average.

    Attributes:
        kind: Steepest descent, the gradient itself, or Adam.
        parts: Of steepest descent; their norms are composed by ``outer``.
        by_dual: Whether a step has the length N_*(g), at most ``clip``.
        triples: The coefficients of each Newton-Schulz iteration.
        from_first: Whether averages begin with the first gradient, not with zero.
        momentum: None; of the buffer m <- beta m + gain g; of ahead_beta m + ahead_gain g with that m, or with the one before.
    """

    kind: int
    parts: tuple[Part, ...] = ()
    outer: int = OUTER_MAX
    by_dual: bool = False
    clip: float = math.inf
    triples: Triples = ()
    from_first: bool = False
    momentum: int = NO_MOMENTUM
    beta: Any = 0.0
    gain: Any = 1.0
    ahead_beta: Any = 0.0
    ahead_gain: Any = 1.0
    beta2: Any = 0.0
    eps: Any = 0.0
    bias_correction: bool = False
    decay: Any = 0.0

    @property
    def decomposed(self) -> list[int]:
        """The columns of the matrices that a step decomposes."""
        return [part.end - part.first for part in self.parts if part.kind in DECOMPOSED]

    @property
    def dual_exponent(self) -> Exponent:
        """q with 1/p + 1/q = 1, p that of the parts; 2 where they have none."""
        return next((conjugate(part.exponent) for part in self.parts if part.exponent is not None), 2.0)


def rule_of(optimizer: Optimizer, geometry: ParameterNorm, columns: Columns, found_in: InNorm | None = None) -> Rule | None:
    """The rule of an optimizer's step; None where linear.c has none: of buffers and gradient alone, and of these some.

    Args:
        optimizer: The method.
        geometry: The norm on the parameter set that it works in.
        columns: Of each block.
        found_in: Normalised steepest descent in a norm; None: :func:`in_norm`.
    """
    if not optimizer.needs_gradient_only:
        return None
    rule = _special(optimizer, columns) or _steepest(optimizer, (found_in or in_norm)(geometry, columns))
    if rule is None or not isinstance(optimizer, WithWeightDecay):
        return rule
    return replace(rule, decay=optimizer.weight_decay)


def _special(optimizer: Any, columns: Columns) -> Rule | None:
    """Of methods that are not steepest descent in their norm."""
    if type(optimizer) is Adam:
        rule = Rule(ADAM, momentum=AVERAGE, beta=optimizer.beta1, gain=1 - optimizer.beta1, beta2=optimizer.beta2)
        return replace(rule, eps=optimizer.eps, bias_correction=optimizer.bias_correction)
    if type(optimizer) is MuonNS and optimizer.dtype == OWN:
        parts = tuple(Part(NEWTON_SCHULZ, first, end) for first, end in columns.values())
        rule = Rule(STEEPEST, parts, triples=optimizer.triples, eps=optimizer.eps)
        return _averaged(rule, optimizer, 1 - optimizer.beta)
    return None


def _steepest(optimizer: Any, rule: Rule | None) -> Rule | None:
    exact = type(optimizer)
    if rule is None:
        return None
    if exact in NORMALISED_DESCENT:
        return rule if exact is not Shampoo or optimizer.spectral else None
    if exact in WITH_MOMENTUM:
        return _averaged(rule, optimizer, 1 - optimizer.beta)
    if exact is MuonSignum:  # its rates are ratio times those of steepest descent in the hybrid norm
        parts = tuple(replace(part, weight=part.weight / optimizer.ratio) for part in rule.parts)
        return _averaged(replace(rule, parts=parts), optimizer, 1 - optimizer.beta)
    if exact is Lion:
        shown, kept = optimizer.beta1, optimizer.beta2
        return replace(rule, momentum=BEFORE, beta=kept, gain=1 - kept, ahead_beta=shown, ahead_gain=1 - shown)
    return _unnormalised(optimizer, rule)


def _unnormalised(optimizer: Any, rule: Rule) -> Rule | None:
    """Of steps of length N_*(g), which in l2 are the gradient itself."""
    exact, in_l2 = type(optimizer), [part.kind for part in rule.parts] == [NORMALISED]
    if exact is SD:
        return _descent(optimizer, rule, in_l2)
    if not in_l2 or exact not in (GD, MomentumGD):
        return None
    if exact is GD:
        return Rule(GRADIENT)
    return _averaged(Rule(GRADIENT), optimizer, 1 - optimizer.beta if optimizer.ema else 1.0)


def _descent(optimizer: Any, rule: Rule, in_l2: bool) -> Rule | None:
    if optimizer.truncate:
        return None
    if in_l2 and optimizer.clip is None:
        rule = Rule(GRADIENT)
    else:
        rule = replace(rule, by_dual=True, clip=math.inf if optimizer.clip is None else optimizer.clip)
    if not optimizer.beta:
        return rule
    return replace(rule, momentum=AVERAGE, beta=optimizer.beta, gain=1 - optimizer.beta, from_first=optimizer.from_first)


def _averaged(rule: Rule, optimizer: Any, gain: Any) -> Rule:
    momentum = LOOK_AHEAD if optimizer.nesterov else AVERAGE
    return replace(rule, momentum=momentum, beta=optimizer.beta, gain=gain, ahead_beta=optimizer.beta, ahead_gain=gain)


def in_norm(geometry: ParameterNorm, columns: Columns) -> Rule | None:
    """Normalised steepest descent in a norm on the parameter set; None where linear.c has none.

    Args:
        geometry: The norm.
        columns: Of each block.
    """
    if type(geometry) is not ProductNorm:
        part = _part(geometry, columns, 1.0)
        return None if part is None else Rule(STEEPEST, (part,))
    found = [_part(of.norm, {name: columns[name] for name in of.blocks}, of.weight) for of in geometry.parts]
    parts = tuple(part for part in found if part is not None)
    return Rule(STEEPEST, parts, OUTER[geometry.outer]) if len(parts) == len(found) else None


def _part(geometry: ParameterNorm, columns: Columns, weight: float) -> Part | None:
    spans = sorted(columns.values())
    if type(geometry) is WeightedByShape and type(geometry.norm.norm) is InRowSpace:
        weight *= rms_weight(geometry.norm.norm.basis.shape[-2], spans[-1][1] - spans[0][0])
        geometry = geometry.norm
    direction = _direction(geometry)
    if direction is None or any(end != first for (_, end), (first, _) in pairwise(spans)):
        return None
    if direction.kind == COORDINATE and len(spans) > 1:
        return None  # of equal entries the first is taken: that of the first block, not of the first row
    return Part(direction.kind, spans[0][0], spans[-1][1], weight * direction.weight, direction.exponent)


class Direction(NamedTuple):
    """Steepest descent in which norm: of all entries, of a matrix in the row space of gradients, or of its rows or columns; a
    factor of the norm, and its exponent."""

    kind: int
    weight: float = 1.0
    exponent: Exponent | None = None


def _direction(geometry: ParameterNorm) -> Direction | None:
    if type(geometry) is WholeVector:
        return _entrywise(geometry.norm)
    if type(geometry) is not SingleBlock:
        return None
    norm = geometry.norm
    if type(norm) is not InRowSpace:
        kind = {Row: ROWS, Column: COLUMNS}.get(type(norm))
        return None if kind is None else Direction(kind)
    basis = norm.basis  # linear.c has this one
    if basis.shape[-2] != basis.shape[-1] + 1 or not torch.equal(basis, zero_sum_basis(basis.shape[-2]).to(basis)):
        return None
    if type(norm.norm) is Schatten:
        return _of_exponent(norm.norm.p, RANK_ONE, SCHATTEN, POLAR)
    if type(norm.norm) is Hybrid:
        return Direction(POLAR, norm.norm.ratio)
    matrix = {Spectral: POLAR, Nuclear: RANK_ONE}.get(type(norm.norm))
    return None if matrix is None else Direction(matrix)


def _entrywise(norm: Norm) -> Direction | None:
    if type(norm) is Lp:
        return _of_exponent(norm.p, COORDINATE, LP, SIGN)
    kind = {Linf: SIGN, L2: NORMALISED, L1: COORDINATE}.get(type(norm))
    return None if kind is None else Direction(kind)


def _of_exponent(p: Exponent, one: int, between: int, infinite: int) -> Direction:
    """Of a family of norms by exponents p from 1 to inf."""
    if is_one(p):
        return Direction(one)
    return Direction(infinite) if is_inf(p) else Direction(between, exponent=p)
