"""What is measured beside the runs: norms on a loss that is blind to size, and descent in compositions of layers' norms."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from implicit_bias.config.spec import RunSpec
from implicit_bias.core.scaled import Scaled
from implicit_bias.engine import Problem, simulate
from implicit_bias.models import Data
from implicit_bias.norms import ParameterNorm, make_norm
from implicit_bias.norms.blocks import Part, ProductNorm, SingleBlock
from implicit_bias.norms.l2 import L2
from implicit_bias.optimizers import OPTIMIZERS, Here
from implicit_bias.optimizers.descent import NormalisedMomentumDescent
from implicit_bias.schedules import SCHEDULES, Evaluated, auto_network_lr

#: Rows and columns of the matrix, and samples, of the loss that is blind to size.
SHAPE, SAMPLES = (10, 20), 50


def growth(method: str, eta: float, steps: int, seed: int) -> list[float]:
    """|W_t|_F / |W_0|_F for t = 0 to ``steps`` of fromage or lars on (1 / 2n) |X (W / |W|_F)^T - Y|_F^2, X and Y Gaussian.

    Its gradient is at right angles to W, so that a step of length eta |W| takes |W| to sqrt(1 + eta^2) |W|.
    """
    rng = torch.Generator().manual_seed(seed)
    rows, columns = SHAPE
    x, y, w = (torch.randn(*size, generator=rng, dtype=torch.float64) for size in ((SAMPLES, columns), (SAMPLES, rows), SHAPE))
    parameters = {"weight": w.unsqueeze(0)}

    def evaluated(at: Mapping[str, Tensor]) -> Evaluated:
        leaf = at["weight"].detach().requires_grad_()
        with torch.enable_grad():
            loss = (x @ (leaf[0] / leaf.norm()).mT - y).square().sum() / (2 * SAMPLES)
        (g,) = torch.autograd.grad(loss, [leaf])
        return Evaluated({"weight": Scaled(g, torch.zeros_like(g[..., :1]))}, loss.detach().log().reshape(1))

    optimizer, log_eta = OPTIMIZERS.get(method)(), torch.tensor(math.log(eta), dtype=torch.float64)
    norm = optimizer.geometry(["weight"], None)
    sizes = [float(w.norm())]
    for t in range(1, steps + 1):
        _, step = optimizer.step_from({}, Here(parameters, evaluated, log_eta), t, norm)
        moved = step.keep * parameters["weight"] - eta * step.log_size.exp() * step.direction["weight"]
        parameters = {"weight": moved}
        sizes.append(float(moved.norm()))
    return [size / sizes[0] for size in sizes]


class Composition(NamedTuple):
    """How the layers' Frobenius norms make one norm: outer_l (weight_l |W_l|_F)."""

    outer: Literal["max", "l2"]
    weights: tuple[float, float]

    def relative_rate(self, degrees: Sequence[float]) -> float:
        """The rate that is natural in it, over that of l2 with weights one: f <= prod_l |W_l|^k_l |x|^.. is largest on the unit
        ball at |W_l| = 1 / weight_l for a maximum, at |W_l|^2 = k_l / (L weight_l^2) in l2, and rates are in units of its root
        of degree L = sum_l k_l."""
        whole = sum(degrees)
        weighted = sum(k * math.log(w) for w, k in zip(self.weights, degrees, strict=True))
        shared = sum(k / 2 * math.log(k / whole) for k in degrees) if self.outer == "max" else 0.0
        return math.exp((weighted + shared) / whole)


#: k_l of a network with two layers and squared ReLU.
DEGREES = (2, 1)
#: The l2 norm of all parameters, in which runs can be asked for by keys.
PLAIN = Composition("l2", (1, 1))
COMPOSITIONS: Mapping[str, Composition] = MappingProxyType(
    {
        "max": Composition("max", (1, 1)),
        "l2": PLAIN,
        "max, 1:5": Composition("max", (1, 5)),
        "l2, 5:1": Composition("l2", (5, 1)),
    }
)


@dataclass(frozen=True)
class Composed(NormalisedMomentumDescent):
    """Normalised momentum descent in a composition of the layers' Frobenius norms."""

    name: ClassVar[str] = "composed"
    composition: Composition = field(default_factory=lambda: COMPOSITIONS["max"])

    def geometry(
        self, names: Sequence[str], norm: Any, row_bases: Any = None, hidden: Sequence[str] | None = None
    ) -> ParameterNorm:
        outer, weights = self.composition
        parts = tuple(Part((n,), SingleBlock(n, L2()), float(w)) for n, w in zip(names, weights, strict=True))
        return ProductNorm("composed", parts, outer)


def composed_rows(specs: Sequence[RunSpec], steps: int) -> pd.DataFrame:
    """method, seed, step, log_loss, layer_margin (Frobenius) and size, |W_1|_F / |W_2|_F: a row a record of every composition but
    plain l2, on the data and from the starts of these runs."""
    problem = _problem(specs, steps)
    unit = auto_network_lr(
        problem.model.unit_step(problem.data, make_norm("l2"), problem.initial), problem.model.degree(), make_norm("l2"), True
    )
    parts = []
    for name, composition in COMPOSITIONS.items():
        if composition == PLAIN:
            continue
        schedule = SCHEDULES.get("power")(lr=unit * composition.relative_rate(DEGREES), power=0.8)
        trajectory = simulate(replace(problem, optimizer=Composed(composition=composition), schedule=schedule))
        columns = trajectory.by_norm["l2"]
        for r, spec in enumerate(specs):
            kept = trajectory.recorded[:, r]
            first, last = (
                np.array([float(blocks[name][r].norm()) for blocks in trajectory.parameters.values()])
                for name in ("layer1", "layer2")
            )
            parts.append(
                pd.DataFrame(
                    {
                        "method": name,
                        "seed": spec.seed,
                        "step": np.array(trajectory.steps)[kept],
                        "log_loss": trajectory.common["log_loss"][kept, r],
                        "layer_margin": columns["layer_margin"][kept, r],
                        "size": (first / last)[kept],
                    }
                )
            )
    return pd.concat(parts, ignore_index=True)


def _problem(specs: Sequence[RunSpec], steps: int) -> Problem:
    """The runs as one batch of the engine, their optimizer and schedule put aside."""
    spec = specs[0]
    sets = [one.dataset.load() for one in specs]
    x, y = (np.stack([getattr(one, column) for one in sets]) for column in ("x", "y"))
    data = Data(torch.tensor(x), torch.tensor(y), sets[0].num_classes)
    model = spec.model
    return Problem(
        model=model,
        loss=spec.loss,
        optimizer=Composed(),
        schedule=SCHEDULES.get("power")(lr=1.0, power=0.8),
        data=data,
        initial=model.initial(data, [one.seed for one in specs]),
        steps=steps,
        measured={"l2": make_norm("l2")},
        points=spec.log.points,
        levels=spec.log.levels,
        weights="all",
        compile="off",
    )
