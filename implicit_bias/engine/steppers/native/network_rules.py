"""Which networks, and which steps of theirs, network.c has: tables of classes, compared by exact type."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch

from implicit_bias.engine.steppers.native.compiling import Definitions
from implicit_bias.engine.steppers.native.network_structures import MOST_LAYERS
from implicit_bias.engine.steppers.native.rules import (
    ADAM,
    AVERAGE,
    GRADIENT,
    LOOK_AHEAD,
    NO_MOMENTUM,
    NORMALISED,
    OUTER_MAX,
    POLAR,
    SIGN,
    STEEPEST,
    Columns,
    Part,
    Rule,
    in_norm,
    rule_of,
)
from implicit_bias.engine.steppers.native.rules import DEFINITIONS as LINEAR_DEFINITIONS
from implicit_bias.losses import FLOOR
from implicit_bias.models.network import UNDERFLOW
from implicit_bias.norms import ParameterNorm, ProductNorm
from implicit_bias.norms.blocks import SingleBlock
from implicit_bias.norms.hybrid import Hybrid
from implicit_bias.norms.spectral import Spectral
from implicit_bias.optimizers import Optimizer

LINEAR, RELU, LEAKY_RELU, SQUARED_RELU, QUADRATIC, SIGMOID = range(6)
ACTIVATIONS = {
    "linear": LINEAR, "relu": RELU, "leaky_relu": LEAKY_RELU, "squared_relu": SQUARED_RELU, "quadratic": QUADRATIC,
    "sigmoid": SIGMOID,
}  # fmt: skip
NO_POOL, MAX_POOL, AVERAGE_POOL = range(3)
POOLS = {"none": NO_POOL, "max": MAX_POOL, "average": AVERAGE_POOL}
#: The kind of a layer that is not trained, beside those of rules.py.
FROZEN = -1
# From so many rows on polar factors that narrow_polar.h has not are made by wide_polar.h, in less time than by rotations or by
# PyTorch. Of larger matrices PyTorch's decompositions use all of the processor for one run.
MANY_ROWS, MOST_ROWS = 10, 256
DEFINITIONS: Definitions = (
    *LINEAR_DEFINITIONS,
    *{"LINEAR": LINEAR, "RELU": RELU, "LEAKY_RELU": LEAKY_RELU, "SQUARED_RELU": SQUARED_RELU, "QUADRATIC": QUADRATIC}.items(),
    ("SIGMOID", SIGMOID),
    ("FROZEN", FROZEN),
    *{"NO_POOL": NO_POOL, "MAX_POOL": MAX_POOL, "AVERAGE_POOL": AVERAGE_POOL}.items(),
    ("MANY_ROWS", MANY_ROWS),
    ("MOST_LAYERS", MOST_LAYERS),
    ("SMALL_ENTRY", UNDERFLOW[torch.float64]),
    ("LEAST_WEIGHT", math.exp(FLOOR[torch.float64])),
)


def network_rule_of(optimizer: Optimizer, geometry: ParameterNorm, names: Sequence[str]) -> Rule | None:
    """The rule of an optimizer's step on the layers of a network, one part each unless it is of all entries; None where network.c
    has none.

    Args:
        optimizer: The method.
        geometry: The norm on the parameter set that it works in.
        names: The layers, in their order.
    """
    columns = {name: (j, j + 1) for j, name in enumerate(names)}
    rule = rule_of(optimizer, geometry, columns, _by_layer)
    if rule is None or rule.momentum not in (NO_MOMENTUM, AVERAGE, LOOK_AHEAD) or rule.from_first or rule.by_dual:
        return None
    if rule.kind in (ADAM, GRADIENT):
        return rule
    alone = len(rule.parts) == 1
    known = all(part.kind in (SIGN, POLAR) or (part.kind == NORMALISED and alone and part.weight == 1) for part in rule.parts)
    return rule if rule.kind == STEEPEST and rule.outer == OUTER_MAX and not rule.triples and known else None


def _by_layer(geometry: ParameterNorm, columns: Columns) -> Rule | None:
    """Normalised steepest descent in the spectral norm of every layer, or in an entrywise one."""
    if type(geometry) is not ProductNorm:
        part = _part(geometry, columns, 1.0)  # of a single layer, the others being frozen, it is that layer's
        return None if part is None else Rule(STEEPEST, (part,))
    found = [_part(of.norm, {name: columns[name] for name in of.blocks}, of.weight) for of in geometry.parts]
    parts = tuple(part for part in found if part is not None)
    return Rule(STEEPEST, parts) if geometry.outer == "max" and len(parts) == len(found) else None


def _part(geometry: ParameterNorm, columns: Columns, weight: float) -> Part | None:
    """The part of a product norm that a norm on these layers is."""
    matrix = geometry.norm if type(geometry) is SingleBlock else None
    if type(matrix) is Spectral or type(matrix) is Hybrid:
        (span,) = columns.values()
        return Part(POLAR, *span, weight * (matrix.ratio if isinstance(matrix, Hybrid) else 1.0))
    rule = in_norm(geometry, columns)
    return None if rule is None else replace(rule.parts[0], weight=weight * rule.parts[0].weight)
