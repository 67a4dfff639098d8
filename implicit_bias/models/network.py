"""What all networks share: blocks and their initial values, frozen blocks, heads, exact gradients and Jacobian products.

A network is a function ``forward`` of blocks (R, p, q) and samples, written for a batch of runs; everything else is derived
from it by ``torch.func`` and autograd, unless it says itself what pulls weights on its scores back (``linearised``). Gradients
are taken in a frame: the weights w_ic = -dl_i/dm_ic that multiply the gaps' gradients are divided by the largest of the run,
whose logarithm becomes the scale of the result, so that nothing depends on how small the loss is.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cache, cached_property, partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from implicit_bias.core.data import Data, Parameters
from implicit_bias.core.errors import BadInput
from implicit_bias.core.registry import hyper
from implicit_bias.core.scaled import Scaled
from implicit_bias.losses import FLOOR, LOSSES, Loss, LossTerms
from implicit_bias.models.bands import sum_in_bands
from implicit_bias.models.base import Derivatives, Model, Objective
from implicit_bias.models.gradient import Gradient
from implicit_bias.models.linearised import Linearised, by_autograd
from implicit_bias.norms import Norm, ParameterNorm, over_blocks

# A gradient entry below this fraction of its run's largest weight may owe its value to the floor of the weights: e^-600, or
# 1e-261 (float32: e^-80). It is then summed again, band of weights by band.
UNDERFLOW = {torch.float64: 1e-230, torch.float32: 1e-28}
#: Margins are q / N^L: with N = 10 this is the last power of two whose N^L is a double.
LARGEST_DEGREE = 256
# Ascent steps that look for a large gap in the unit of learning rates.
UNIT_STEPS = 20
# Other starts of that search, where the run's own leads to no positive gap. The sign of a draw's mean gap is even odds.
UNIT_STARTS = 16
# A mean of gaps below so many rounding units of the mean of their sizes is zero.
CANCELLED = 100.0


class Shape(NamedTuple):
    """A block's rows and columns, and the inputs that each of its outputs sums."""

    rows: int
    columns: int
    fan_in: int


@dataclass(frozen=True)
class Network(Model):
    """A network with blocks layer1, layer2, ... (and bias1, ...), one scalar output for two classes, else one a class."""

    init: str = hyper(
        "uniform", help="initial entries, scaled by init_scale / fan_in^init_exponent", choices=("uniform", "normal")
    )
    init_scale: float = hyper(
        0.1, help="bound (uniform) or deviation (normal) of initial entries times fan_in^init_exponent", gt=0
    )
    init_exponent: float = hyper(0.5, help="power of the number of inputs that initial entries are divided by", ge=0)
    head: str = hyper(
        "auto",
        help="binary: one output, y = +-1; multiclass: one a class; auto by the data",
        choices=("auto", "binary", "multiclass"),
    )
    frozen: list[str] | None = hyper(None, help="blocks to keep at their initial values, such as [layer2]")
    allow_inhomogeneous: bool = hyper(False, help="train a model that is not homogeneous; its margins are q / N")

    def __post_init__(self) -> None:
        names = self.block_names()
        for name in self.frozen or ():
            if name not in names:
                raise BadInput(f"model.frozen={list(self.frozen or ())}: there is no block {name}; allowed: {', '.join(names)}")
        if self.frozen and not set(names) - set(self.frozen):
            raise BadInput(f"model.frozen={list(self.frozen)}: nothing is left to train; allowed: some of {', '.join(names)}")
        found = self._degree()
        if isinstance(found, str) and not self.allow_inhomogeneous:
            raise BadInput(f"{found}; model.allow_inhomogeneous=true trains it all the same, with margins q / N")
        if not isinstance(found, str) and not 0 < found <= LARGEST_DEGREE:
            raise BadInput(
                f"{self._degree_keys()}: the degree of homogeneity is {found:g}, and margins q / N^{found:g} would overflow;"
                f" must be a model of degree <= {LARGEST_DEGREE}"
            )

    @abstractmethod
    def block_names(self) -> list[str]:
        """The names of all blocks, from the input to the output."""

    @abstractmethod
    def shapes(self, dim: int, outputs: int) -> dict[str, Shape]:
        """The shape of every block for samples of ``dim`` features.

        Args:
            dim: d.
            outputs: One, or one a class.

        Returns:
            Shapes by block, from the input to the output.
        """

    def prepared(self, x: Tensor) -> Tensor:
        """What ``forward`` reads of samples x (R or 1, m, d), computed once: by default their transpose (R or 1, d, m).

        Args:
            x: Samples.

        Returns:
            The inputs of ``forward``.
        """
        return x.mT

    @abstractmethod
    def forward(self, blocks: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """f_c(x_i) from blocks (R, p, q) and prepared samples: (R, outputs, m).

        Args:
            blocks: theta and the frozen blocks, (R, p, q) each.
            inputs: What :meth:`prepared` made of the samples.

        Returns:
            The scores.
        """

    def linearised(self, trained: Mapping[str, Tensor], frozen: Mapping[str, Tensor], inputs: Tensor) -> Linearised:
        """What :meth:`forward` gives, and its vector-Jacobian products; by autograd unless a network has them in closed form.

        Args:
            trained: The blocks to differentiate in, (R, p, q) each.
            frozen: The others.
            inputs: What :meth:`prepared` made of the samples.

        Returns:
            The scores, with what pulls weights on them back.
        """
        return by_autograd(lambda leaves: self.forward({**leaves, **frozen}, inputs), trained)

    @abstractmethod
    def _degree(self) -> float | str:
        """The degree of homogeneity; or which part breaks it, a sentence that begins with the key."""

    @abstractmethod
    def _degree_keys(self) -> str:
        """The settings that the degree comes from, as one would type them."""

    @property
    def homogeneous(self) -> bool:
        return not isinstance(self._degree(), str)

    def degree(self) -> float:
        found = self._degree()
        if isinstance(found, str):
            return 1
        return int(found) if found == int(found) else found

    def outputs(self, num_classes: int) -> int:
        """One for a binary head, else one a class.

        Args:
            num_classes: k.

        Returns:
            The number of outputs.
        """
        binary = self.head == "binary" or (self.head == "auto" and num_classes == 2)
        return 1 if binary else num_classes

    def check(self, x: NDArray[np.float64], num_classes: int) -> None:
        if self.head == "binary" and num_classes != 2:
            raise BadInput(f"model.head=binary: the data have {num_classes} classes; must be multiclass or auto")

    def numbers(self, dim: int, num_classes: int) -> int:
        return sum(shape.rows * shape.columns for shape in self.shapes(dim, self.outputs(num_classes)).values())

    def frozen_blocks(self) -> tuple[str, ...]:
        return tuple(self.frozen or ())

    def hidden_matrices(self, names: Sequence[str]) -> list[str]:
        """The weight matrices before the head; the head and the biases are the rest.

        Args:
            names: Trained blocks.

        Returns:
            Some of them, in their order.
        """
        *hidden, _ = [name for name in self.block_names() if name.startswith("layer")]
        return [name for name in names if name in hidden]

    def initial(self, data: Data, seeds: Sequence[int]) -> Parameters:
        shapes = self.shapes(data.x.shape[-1], self.outputs(data.num_classes))
        draws = [self._draw(shapes, seed) for seed in seeds]
        scale = torch.as_tensor(self.init_scale, dtype=torch.float64)
        stacked = {name: scale.cpu() * torch.from_numpy(np.stack([draw[name] for draw in draws])) for name in shapes}
        return {name: block.to(data.x) for name, block in stacked.items()}

    def _draw(self, shapes: Mapping[str, Shape], seed: int) -> dict[str, NDArray[np.float64]]:
        """Blocks in their order from ``RandomState(seed)``; biases start at zero and draw nothing."""
        rng = np.random.RandomState(seed)
        blocks: dict[str, NDArray[np.float64]] = {}
        for name, shape in shapes.items():
            size = (shape.rows, shape.columns)
            if name.startswith("bias"):
                blocks[name] = np.zeros(size)
                continue
            drawn = rng.uniform(-1, 1, size) if self.init == "uniform" else rng.randn(*size)
            blocks[name] = drawn / shape.fan_in**self.init_exponent
        return blocks

    def objective(self, data: Data, loss: Loss, frozen: Mapping[str, Tensor] | None = None) -> Objective:
        return NetworkObjective(self, data, loss, frozen or {})

    def unit_step(self, data: Data, norm: Norm, initial: Parameters | None = None) -> Tensor:
        """B = M^(1/L), M the largest mean gap that a parameter of norm one is found to have.

        A parameter of norm s then has mean gaps up to (s B)^L: learning rates are sizes of s in units of 1 / B, the norm at
        which gaps are of order one. M comes from conditional-gradient steps theta <- (1 - a) theta + a direction(grad mean
        gap), a = 1 / (j + 1), from the initial point. Blocks move all at once, so that a gap can stay negative throughout
        (small networks, dead units): then M is the largest that the same steps find from ``UNIT_STARTS`` draws of the initial
        distribution, which are the same for every run. 0 where these too find none.

        Args:
            data: The training sets.
            norm: The norm of the steps.
            initial: theta_0, one tensor (R, p, q) a block; None to draw it from seed 0.

        Returns:
            B, (R,) or (1,), in the unit of the scores to the power 1 / L.
        """
        start = initial if initial is not None else self.initial(data, [0])
        frozen = {name: start[name] for name in self.frozen_blocks()}
        theta = {name: block for name, block in start.items() if name not in frozen}
        runs = len(next(iter(theta.values())))
        objective = NetworkObjective(self, data, LOSSES.get("exponential")(), frozen)
        whole = over_blocks(norm, list(theta), None, self.hidden_matrices(list(theta)))
        best, _ = _ascended(objective, whole, theta)
        lost = ~(best > 0)
        for seed in range(UNIT_STARTS if bool(lost.any()) else 0):
            draw = self.initial(data, [seed] * runs)
            found = torch.maximum(*_ascended(objective, whole, {name: draw[name] for name in theta}))
            best = torch.where(lost, torch.fmax(best, found), best)
        return best ** (1 / self.degree())


def _ascended(objective: NetworkObjective, whole: ParameterNorm, theta: Parameters) -> tuple[Tensor, Tensor]:
    """The largest mean gap (R,) of norm one that conditional-gradient steps from ``theta`` come to (0: none that is positive),
    and that of ``theta`` itself."""
    weights = objective.even_weights(len(next(iter(theta.values()))))

    def mean_gap(at: Parameters) -> Tensor:
        u = objective.negative_gaps(at)
        parts = weights * torch.where(weights > 0, -u, torch.zeros_like(u))
        mean = parts.sum(dim=(-2, -1))
        # Gaps that cancel (the same samples in two classes) leave round-off, which is no gap.
        return torch.where(mean.abs() > CANCELLED * parts.abs().sum(dim=(-2, -1)) * torch.finfo(u.dtype).eps, mean, 0.0)

    theta = _times(theta, 1 / whole.value(theta))
    own = mean_gap(theta)
    best = torch.zeros_like(own)
    for j in range(1, UNIT_STEPS + 1):
        slope = objective.pull(theta, weights)
        if not all(bool(block.isfinite().all()) for block in slope.values()):
            size = float(objective.data.x.abs().max())
            raise BadInput(f"dataset: gradients of this model overflow on features of size {size:.3g}; rescale the data")
        ascent = whole.direction(slope)
        theta = {name: block.lerp(ascent[name], 1 / (j + 1)) for name, block in theta.items()}
        theta = _times(theta, 1 / whole.value(theta))
        best = torch.maximum(best, mean_gap(theta))
    return best, own


class NetworkObjective(Objective):
    """Gaps, gradients and Jacobian products of a network for a batch of runs, layout (runs, pairs, samples).

    With a scalar output there is one pair, with gap y f for y = +-1 (class 1 is +1); else a pair for each class, of which the
    label's counts for nothing.
    """

    def __init__(self, network: Network, data: Data, loss: Loss, frozen: Mapping[str, Tensor]) -> None:
        self.network = network
        self.loss = loss
        self.frozen = dict(frozen)
        self.in_one_unit: frozenset[str] = frozenset()
        self.binary = network.outputs(data.num_classes) == 1
        self._take(data)
        self._read_often = True

    def _take(self, data: Data) -> None:
        """All that depends on the samples."""
        self.data = data
        self.label = data.is_label()
        self.index = data.y.unsqueeze(-2)
        self.sign = (2 * data.y - 1).to(data.x.dtype).unsqueeze(-2)
        self.against = -self.sign
        self.log_n = math.log(data.x.shape[1])
        self._inputs: Tensor | None = None
        self._read_often = False

    @property
    def inputs(self) -> Tensor:
        """What the network's functions read of the samples, made when it is first asked for: steps in C do not."""
        if self._inputs is None:
            made = self.network.prepared(self.data.x)
            # Read at every step: products with what lies in memory row by row are a tenth faster.
            self._inputs = made.contiguous() if self._read_often else made
        return self._inputs

    def scores(self, parameters: Mapping[str, Tensor], x: Tensor) -> Tensor:
        return self.network.forward({**parameters, **self.frozen}, self.network.prepared(x))

    def negative_gaps(self, parameters: Mapping[str, Tensor]) -> Tensor:
        return self._negative_gaps(self._outputs(parameters))

    def read_in_one_unit(self, blocks: Collection[str]) -> NetworkObjective:
        part = copy(self)
        part.in_one_unit = frozenset(blocks)
        return part

    def _outputs(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """The scores of the training set."""
        return self.network.forward({**parameters, **self.frozen}, self.inputs)

    def gradient(self, parameters: Mapping[str, Tensor], batch: Tensor | None = None) -> Gradient:
        if batch is not None:
            return self._on(batch).gradient(parameters)
        at = self._linearised(parameters)
        u = self._negative_gaps(at.scores)
        terms = self.loss.terms(u.clone())
        weights = self._weights(terms)
        blocks = self._shallow(at, weights, terms.log_unit)
        if blocks is None:
            blocks = self._deep(at, parameters, self.loss.log_weights(u))
        return self._gradient(blocks, u, terms, weights)

    def gradient_of(self, scores: Tensor, blocks: dict[str, Scaled]) -> Gradient:
        """:meth:`gradient` of all samples where scores and derivatives are known.

        Args:
            scores: Of the training set, (R, outputs, n).
            blocks: The gradient of the mean loss, one scaled tensor (R, p, q) a block.

        Returns:
            The gradient.
        """
        u = self._negative_gaps(scores)
        terms = self.loss.terms(u.clone())
        return self._gradient(blocks, u, terms, self._weights(terms))

    def _gradient(self, blocks: dict[str, Scaled], u: Tensor, terms: LossTerms, weights: Tensor) -> Gradient:
        def normalised() -> Tensor:
            return weights / weights.sum(dim=(-2, -1), keepdim=True)

        log_losses, largest = partial(self.loss.log_losses, terms), partial(u.amax, dim=-2)
        return Gradient(blocks, terms.total, terms.log_unit, log_losses, normalised, largest)

    def _on(self, batch: Tensor) -> NetworkObjective:
        """The same objective of these samples."""
        chosen = self.data.batch(batch)
        if chosen is self.data:
            # Copied anew they would lie otherwise in memory, and a product's bits depend on how its operands lie there.
            return self
        part = copy(self)
        part._take(chosen)  # noqa: SLF001 - a copy of this very object
        return part

    def weights(self, parameters: Mapping[str, Tensor]) -> Tensor:
        log_weights = self.loss.log_weights(self.negative_gaps(parameters)).mT
        return log_weights.flatten(start_dim=1).softmax(dim=-1).reshape(log_weights.shape)

    def even_weights(self, runs: int) -> Tensor:
        """Equal weights on all gaps, (R, pairs, n), summing to one.

        Args:
            runs: R.

        Returns:
            The weights.
        """
        shape = (runs, 1 if self.binary else self.data.num_classes, self.data.x.shape[1])
        even = self.data.x.new_ones(shape)
        if not self.binary:
            even = even.masked_fill(self.label, 0.0)
        return even / even.sum(dim=(-2, -1), keepdim=True)

    def pull(self, parameters: Mapping[str, Tensor], weights: Tensor) -> Parameters:
        return {name: -g for name, g in self._vector_jacobian(self._linearised(parameters), weights).items()}

    def derivatives(self, parameters: Mapping[str, Tensor]) -> Derivatives:
        return _AtPoint(self, parameters)

    def push(self, parameters: Mapping[str, Tensor], tangent: Mapping[str, Tensor]) -> Tensor:
        names = list(parameters)

        def outputs(*blocks: Tensor) -> Tensor:
            return self._outputs(dict(zip(names, blocks, strict=True)))

        primals = tuple(parameters[name] for name in names)
        change: Tensor = torch.func.jvp(outputs, primals, tuple(tangent[name] for name in names))[1]
        return self.in_gaps(change)

    def in_gaps(self, change: Tensor) -> Tensor:
        """The change of all gaps, (R, pairs, n), 0 at the label, from that of the scores.

        Args:
            change: (R, outputs, n).

        Returns:
            The change.
        """
        if self.binary:
            return self.sign * change
        return change.gather(-2, self.index.expand(len(change), 1, -1)) - change

    def _negative_gaps(self, f: Tensor) -> Tensor:
        """New memory: the caller may overwrite it."""
        if self.binary:
            return self.against * f
        index = self.index.expand(len(f), 1, -1)
        return (f - f.gather(-2, index)).scatter_(-2, index, -math.inf)

    def _linearised(self, parameters: Mapping[str, Tensor]) -> Linearised:
        """The scores of the training set, with what pulls weights on them back."""
        if not _is_what_it_linearises(type(self.network)):
            return by_autograd(self._outputs, parameters)
        return self.network.linearised(parameters, self.frozen, self.inputs)

    def _weights(self, terms: LossTerms) -> Tensor:
        """w_ic in units of exp(log_unit), floored; 0 at the label alone, so that no entry fed by a pair is 0."""
        weights = terms.shape.mul_(terms.share.unsqueeze(-2)).clamp_(min=math.exp(FLOOR[terms.share.dtype]))
        return weights if self.binary else weights.masked_fill_(self.label, 0.0)

    def _vector_jacobian(self, at: Linearised, weights: Tensor) -> Parameters:
        """-sum_ic w_ic grad m_ic."""
        if self.binary:
            cotangent = self.against * weights
        else:
            index = self.index.expand(len(weights), 1, -1)
            cotangent = weights.scatter_add(-2, index, -weights.sum(dim=-2, keepdim=True))
        return at.pull(cotangent)

    def _shallow(self, at: Linearised, weights: Tensor, log_unit: Tensor) -> dict[str, Scaled] | None:
        """One scale a run; None where an entry is so small that weights below the floor may matter for it."""
        limit = UNDERFLOW[weights.dtype]
        smallest = weights if self.binary else weights.masked_fill(self.label, 1.0)
        wide = bool(smallest.amin() < limit)
        mantissas = self._vector_jacobian(at, weights)
        if wide and any(bool(((g != 0) & (g.abs() < limit)).any()) for g in mantissas.values()):
            return None
        scale = (log_unit - self.log_n).unsqueeze(-1)
        return {name: Scaled(g, scale) for name, g in mantissas.items()}

    def _deep(self, at: Linearised, parameters: Mapping[str, Tensor], log_weights: Tensor) -> dict[str, Scaled]:
        """One scale an entry: the sum over bands of weights, each within the range of a double."""
        pull, pull_some = partial(self._vector_jacobian, at), partial(self._pull_some, parameters)
        return sum_in_bands(log_weights, -self.log_n, pull, pull_some, self.in_one_unit)

    def _pull_some(self, parameters: Mapping[str, Tensor], runs: Tensor, samples: Tensor, weights: Tensor) -> Parameters:
        """-sum_ic w_ic grad m_ic of some runs (A,), and of each some samples (A, m)."""
        data, part = self.data, copy(self)

        def of_runs(block: Tensor) -> Tensor:
            return block[runs] if len(block) > 1 else block

        own = (runs if len(data.x) > 1 else torch.zeros_like(runs)).unsqueeze(1)
        part.frozen = {name: of_runs(block) for name, block in self.frozen.items()}
        part._take(Data(data.x[own, samples], data.y[own, samples], data.num_classes))  # noqa: SLF001 - a copy of this very object
        at = part._linearised({name: of_runs(block) for name, block in parameters.items()})  # noqa: SLF001
        return part._vector_jacobian(at, weights)  # noqa: SLF001


class _AtPoint(Derivatives):
    """Of a network: all from one linearisation."""

    def __init__(self, objective: NetworkObjective, parameters: Mapping[str, Tensor]) -> None:
        super().__init__(objective, parameters)
        self._network = objective

    @cached_property
    def _linearised(self) -> Linearised:
        return self._network._linearised(self._parameters)  # noqa: SLF001 - a part of that class

    def pull(self, weights: Tensor) -> Parameters:
        return {name: -g for name, g in self._network._vector_jacobian(self._linearised, weights).items()}  # noqa: SLF001

    def push(self, tangent: Mapping[str, Tensor]) -> Tensor:
        push = self._linearised.push
        return super().push(tangent) if push is None else self._network.in_gaps(push(tangent))


def layers_degree(orders: Sequence[float | None], trained: Sequence[bool], biases: Sequence[str], describe: Any) -> float | str:
    """The degree of a chain of layers, z_j = W_j h_{j-1} + b_j and h_j = s_j(z_j), or which part breaks it.

    L_j = p_j (L_{j-1} + [W_j is trained]) from L_0 = 0, for s_j of order p_j.

    Args:
        orders: p_j of every layer, None for an activation that is not homogeneous; 1 for the last layer, which has none.
        trained: Whether W_j is trained.
        biases: ``trained``, ``frozen`` or ``none`` for b_j.
        describe: Words for layer j's activation (``describe("activation", j)``) or bias, beginning with the key.

    Returns:
        The degree, or a sentence that begins with the key.
    """
    degree = 0.0
    for j, (order, is_trained, bias) in enumerate(zip(orders, trained, biases, strict=True)):
        degree += is_trained
        if bias != "none" and degree != (bias == "trained"):
            part = describe("bias", j)
            return f"{part} breaks homogeneity, as what it is added to has degree {degree:g}; must be none or first"
        if order is None:
            if degree > 0:
                return f"{describe('activation', j)} breaks homogeneity: s(c z) is no power of c times s(z)"
            continue
        degree *= order
    return degree


def _times(blocks: Mapping[str, Tensor], factor: Tensor) -> Parameters:
    return {name: block * factor[:, None, None] for name, block in blocks.items()}


@cache
def _is_what_it_linearises(network: type[Network]) -> bool:
    """Whether a network's scores are those that its closed form is of: a subclass may have others, by ``forward`` or
    ``activate``."""
    owner = next(part for part in network.__mro__ if "linearised" in vars(part))
    return all(getattr(network, name, None) is getattr(owner, name, None) for name in ("forward", "activate"))
