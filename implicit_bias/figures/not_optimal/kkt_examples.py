"""Small networks with KKT points of the l2 margin problem that are no optima, and their gradient flow in log time.

Homogeneity lets one look very far: gradient flow of the direction runs in the logarithm of the norm, and a normalised step of a
fixed share of the norm follows it whatever the loss is. The engine makes such steps in short segments, each with the step
size that fits the norm at its start.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from implicit_bias.engine import Problem, simulate
from implicit_bias.losses import LOSSES
from implicit_bias.models import MODELS, Data, Model, Parameters
from implicit_bias.norms import make_norm
from implicit_bias.optimizers import OPTIMIZERS
from implicit_bias.schedules import SCHEDULES

#: A step as a share of the norm at the start of its segment, and the steps of a segment.
SHARE = 0.01
SEGMENT = 20
KKT_PRODUCTS = 20
X1 = math.hypot(1, 0.25)

Vector = tuple[float, ...]
#: One matrix a block.
Matrices = tuple[tuple[Vector, ...], ...]


@dataclass(frozen=True)
class Example:
    """A KKT point, all labels +1.

    Attributes:
        name, label: In the table, and in words.
        model, keys: The network.
        x: Samples.
        start: Where a flow that ends at the KKT point starts, one matrix a block.
        point: The KKT point, with margin 1.
        norm2, best: Squared norm there, and of the global optimum.
        lower: A feasible point of smaller norm for every small delta > 0, going to the KKT point with delta; None where that is a
            local optimum.
        slope: Growth of log10 log(1/loss) at the escape with log10(1/noise); see ``kkt_not_optimal``. None: no escape.
    """

    name: str
    label: str
    model: str
    keys: dict[str, object]
    x: tuple[Vector, ...]
    start: Matrices
    point: Matrices
    norm2: float
    best: float
    lower: Callable[[float], Matrices] | None
    slope: float | None

    def network(self) -> Model:
        """The model."""
        model: Model = MODELS.get(self.model)(**self.keys)
        return model

    def data(self) -> Data:
        """The samples, shared by all runs of a batch."""
        return Data(torch.tensor([self.x], dtype=torch.float64), torch.ones(1, len(self.x), dtype=torch.int64), 2)


def _wakened(delta: float) -> Matrices:
    """D1 with its neurons turned by delta, the dead one towards the first sample."""
    size = math.sqrt(4 * delta / X1)
    return ((-delta, 2 - 4 * delta), (size / X1, 0.25 * size / X1)), ((2, size),)


RELU = {"activation": "relu", "width": 2}
HEIGHT = math.sqrt(2)
THIRD = 0.5 ** (1 / 3)
EXAMPLES = (
    Example(
        "D1",
        "ReLU, one dead neuron",
        "mlp",
        RELU,
        ((1, 0.25), (-1, 0.25)),
        start=(((0, 3), (0, -2)), ((3, 2),)),
        point=(((0, 2), (0, 0)), ((2, 0),)),
        norm2=8,
        best=4 / X1,
        lower=_wakened,
        slope=2 / (2 * X1 - 1),
    ),
    Example(
        "D2",
        "ReLU, inputs of zero",
        "mlp",
        RELU,
        ((1, 0), (0, 1)),
        start=(((0.3, 0), (0, 0.3)), ((0.8, 0.8),)),
        point=(((1, 0), (0, 1)), ((1, 1),)),
        norm2=4,
        best=2 * math.sqrt(2),
        lower=lambda d: (((1, d), (0, math.sqrt(1 - d))), ((1, math.sqrt(1 - d)),)),
        slope=0.0,
    ),
    Example(
        "D3",
        "ReLU, every input active",
        "mlp",
        RELU,
        ((1, 0.25), (-1, 0.25)),
        start=(((0.2, 1), (-0.2, 1)), ((1, 1),)),
        point=(((0, HEIGHT), (0, HEIGHT)), ((HEIGHT, HEIGHT),)),
        norm2=8,
        best=4 / X1,
        lower=None,
        slope=None,
    ),
    Example(
        "D4",
        "diagonal, depth 2",
        "diagonal",
        {"depth": 2},
        ((1, 2),),
        start=(((0.3, 0),), ((0.8, 0),)),
        point=(((1, 0),),) * 2,
        norm2=2,
        best=1,
        lower=lambda d: (((math.sqrt(1 - 2 * d), math.sqrt(d)),),) * 2,
        slope=2.0,
    ),
    Example(
        "D5",
        "diagonal, depth 3",
        "diagonal",
        {"depth": 3},
        ((1, 1),),
        start=(((0.3, 0.3),), ((0.5, 0.5),), ((0.8, 0.8),)),
        point=(((THIRD, THIRD),),) * 3,
        norm2=6 * 0.5 ** (2 / 3),
        best=3,
        lower=lambda d: (((math.cbrt(0.5 + d), math.cbrt(0.5 - d)),),) * 3,
        slope=3.0,
    ),
)


def blocks_of(values: Matrices, runs: int = 1) -> Parameters:
    """layer1, layer2, ... from nested tuples, the same in every run."""
    return {
        f"layer{j}": torch.tensor(matrix, dtype=torch.float64).expand(runs, -1, -1).clone() for j, matrix in enumerate(values, 1)
    }


def squared_norm(parameters: Parameters) -> Tensor:
    """The squared l2 norm of all blocks together, (R,)."""
    return torch.stack([block.square().sum(dim=(-2, -1)) for block in parameters.values()]).sum(dim=0)


def smallest_gap(example: Example, parameters: Parameters) -> Tensor:
    """The smallest gap of each run, (R,)."""
    objective = example.network().objective(example.data(), LOSSES.get("exponential")())
    return -objective.negative_gaps(parameters).amax(dim=(-2, -1))


def better_points(example: Example, deltas: np.ndarray) -> pd.DataFrame:
    """delta, norm2 and the smallest gap of the feasible points near the KKT point; nothing where it is a local optimum."""
    if example.lower is None:
        return pd.DataFrame({"delta": [], "norm2": [], "gap": []})
    points = [blocks_of(example.lower(delta)) for delta in deltas.tolist()]
    norm2 = [float(squared_norm(point)) for point in points]
    return pd.DataFrame({"delta": deltas, "norm2": norm2, "gap": [float(smallest_gap(example, p)) for p in points]})


def noisy(example: Example, scales: np.ndarray, draws: int, seed: int = 1) -> tuple[Parameters, pd.DataFrame]:
    """The KKT point plus ``draws`` random directions at every scale, noise of norm scale times the point's; and which is which.

    The directions are the same at every scale.
    """
    rng = np.random.RandomState(seed)
    point = blocks_of(example.point, len(scales) * draws)
    noise = {name: torch.from_numpy(rng.randn(draws, *block.shape[1:])) for name, block in point.items()}
    unit = squared_norm(noise).sqrt()
    sizes = torch.from_numpy(scales).repeat_interleave(draws) * math.sqrt(example.norm2)
    index = torch.arange(draws).repeat(len(scales))
    start = {name: point[name] + (sizes / unit[index])[:, None, None] * noise[name][index] for name in point}
    return start, pd.DataFrame({"scale": np.repeat(scales, draws), "draw": np.tile(np.arange(draws), len(scales))})


def flow(example: Example, start: Parameters, log_growth: float, leaves_below: float = 0.0, kkt: bool = False) -> pd.DataFrame:
    """Gradient flow of the exponential loss from ``start``, until a run's norm has grown by the factor e^log_growth, or its
    squared norm at margin one is less than ``leaves_below``.

    Returns:
        run, log10_time (log10 of the smallest gap, which is log(1/loss) up to a constant), norm2 (the squared norm at margin
        one) and, where ``kkt``, kkt_ratio; one row a segment while the gap is positive.
    """
    degree = example.network().degree()
    parameters, limit = start, squared_norm(start) * math.exp(2 * log_growth)
    going = torch.arange(len(limit))
    rows = []
    while len(going):
        gap, size2 = smallest_gap(example, parameters), squared_norm(parameters)
        norm2 = size2 / gap.abs() ** (2 / degree)
        after, ratio = _segment(example, parameters, KKT_PRODUCTS if kkt else 0)
        row = {"run": going.numpy(), "log10_time": gap.log10().numpy(), "norm2": norm2.numpy(), "kkt_ratio": ratio}
        rows.append(pd.DataFrame(row)[(gap > 0).numpy()])
        on = (size2 < limit[going]) & ~((gap > 0) & (norm2 < leaves_below))
        going, parameters = going[on], {name: block[on] for name, block in after.items()}
    return pd.concat(rows, ignore_index=True)


def _segment(example: Example, start: Parameters, kkt_products: int) -> tuple[Parameters, np.ndarray]:
    """The parameters after SEGMENT steps, and the KKT ratio at their start."""
    problem = Problem(
        model=example.network(),
        loss=LOSSES.get("exponential")(),
        optimizer=OPTIMIZERS.get("ngd")(),
        schedule=SCHEDULES.get("constant")(lr=SHARE * squared_norm(start).sqrt()),
        data=example.data(),
        initial=start,
        steps=SEGMENT,
        measured={"l2": make_norm("l2")},
        points=1,
        kkt_products=kkt_products,
        # Samples of D1 and D3 are mirror images, and so are their sums in plain steps, to the bit. Fused multiply-adds of steps
        # in C round them apart, and steps of a share of the norm then go to and fro between the two, by as much.
        compile="off",
    )
    trajectory = simulate(problem)
    return trajectory.parameters[SEGMENT], trajectory.by_norm["l2"]["kkt_ratio"][0]
