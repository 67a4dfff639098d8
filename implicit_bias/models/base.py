"""The interface of a model: parameter blocks, scores, and the exact gradient of a loss in scaled form."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from implicit_bias.core.data import Data, Parameters
from implicit_bias.core.options import Option
from implicit_bias.core.registry import Registry
from implicit_bias.losses import Loss
from implicit_bias.models.gradient import Gradient, Quick
from implicit_bias.models.perturbations import Perturbed
from implicit_bias.norms import Norm

MODELS = Registry("implicit_bias.models", "model")


class Objective(ABC):
    """A model with a loss on given data: what the engine evaluates at every step."""

    data: Data

    def quick(self, parameters: Mapping[str, Tensor]) -> Quick | None:
        """The first part of :meth:`gradient`, without a look at any number; None where it cannot be split like that.

        Args:
            parameters: One tensor (R, p, q) a block.

        Returns:
            The part that is tensors alone.
        """
        return None

    def finished(self, parameters: Mapping[str, Tensor], quick: Quick) -> Gradient:
        """What :meth:`gradient` of all samples returns, from its first part.

        Args:
            parameters: Those of ``quick``.
            quick: What :meth:`quick` gave for them.

        Returns:
            The gradient.
        """
        return self.gradient(parameters)

    def read_in_one_unit(self, blocks: Collection[str]) -> Objective:
        """The same for a reader to whom an entry of these blocks' gradients is a plain number in units of its block's largest.

        What is too small for a double there need not be computed: entries below e^-1000 of the largest (float32: e^-300) may be
        zero, or too small. All others keep their bits.

        Args:
            blocks: Names.

        Returns:
            An objective; by default this one.
        """
        return self

    @abstractmethod
    def negative_gaps(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """u_ic = f_c(x_i) - f_{y_i}(x_i), shape (R, k, n); -inf at the label.

        Args:
            parameters: One tensor (R, p, q) a block.

        Returns:
            u; with one scalar output (R, 1, n).
        """

    def unperturbed_gaps(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """:meth:`negative_gaps` on the samples as they are, where a model has its own gaps on perturbed ones.

        Args:
            parameters: One tensor (R, p, q) a block.

        Returns:
            u, of the same shape.
        """
        return self.negative_gaps(parameters)

    @property
    def kinks(self) -> bool:
        """Whether steps are to end at places where gaps have no derivative (:meth:`landed`)."""
        return False

    def landed(self, before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> Parameters:
        """Where a step ends that would lead past a place where gaps have no derivative.

        Args:
            before: Where it starts, one tensor (R, p, q) a block.
            after: Where it would lead.

        Returns:
            ``after``, or a point on the way.
        """
        return dict(after)

    @abstractmethod
    def gradient(self, parameters: Mapping[str, Tensor], batch: Tensor | None = None) -> Gradient:
        """Gradient of the mean loss, with log loss and weights.

        Args:
            parameters: One tensor (R, p, q) a block.
            batch: Indices of the samples that the mean is over, (b,) or (R, b), as in :meth:`Data.batch`; None for all. All of
                them in their order give the same bits as None.

        Returns:
            Loss and gradient, in scaled form.

        Raises:
            ValueError: no such samples.
        """

    @abstractmethod
    def weights(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """The loss gradient's weights w_ic, normalised to sum one: (R, n, pairs), 0 at the label.

        Args:
            parameters: One tensor (R, p, q) a block.

        Returns:
            The weights.
        """

    @abstractmethod
    def scores(self, parameters: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """f_c(x_i) for samples x (R or 1, m, d): shape (R, k, m), or (R, 1, m) for a scalar output.

        Args:
            parameters: One tensor (R, p, q) a block.
            x: Samples, (R, m, d), or (1, m, d) for all runs.

        Returns:
            The scores.
        """

    @abstractmethod
    def pull(self, parameters: Mapping[str, Tensor], weights: Tensor) -> Parameters:
        """sum_ic w_ic grad m_ic, a vector-Jacobian product with weights (R, pairs, n).

        Args:
            parameters: Where the gaps are differentiated, one tensor (R, p, q) a block.
            weights: w, (R, pairs, n).

        Returns:
            The combination, one tensor (R, p, q) a block.
        """

    @abstractmethod
    def push(self, parameters: Mapping[str, Tensor], tangent: Mapping[str, Tensor]) -> Tensor:
        """<grad m_ic, v> for a parameter set v, a Jacobian-vector product: (R, pairs, n), 0 at the label.

        Args:
            parameters: Where the gaps are differentiated, one tensor (R, p, q) a block.
            tangent: v, blocks of the same shapes.

        Returns:
            The derivatives of all gaps.
        """

    def derivatives(self, parameters: Mapping[str, Tensor]) -> Derivatives:
        """Many Jacobian products at one point, which may share what they are made from.

        Args:
            parameters: Where the gaps are differentiated, one tensor (R, p, q) a block, not to be changed.

        Returns:
            :meth:`pull` and :meth:`push` there.
        """
        return Derivatives(self, parameters)


class Derivatives:
    """Jacobian products of an objective at one point.

    Args:
        objective: The model with its loss and data.
        parameters: The point.
    """

    def __init__(self, objective: Objective, parameters: Mapping[str, Tensor]) -> None:
        self._objective, self._parameters = objective, parameters
        self._kept: tuple[Tensor, Parameters] | None = None

    def pull(self, weights: Tensor) -> Parameters:
        """As :meth:`Objective.pull`.

        Args:
            weights: w, (R, pairs, n).
        """
        return self._objective.pull(self._parameters, weights)

    def pull_once(self, weights: Tensor) -> Parameters:
        """The same, which is kept for who asks for these very weights again.

        Args:
            weights: w, (R, pairs, n), not to be changed.
        """
        if self._kept is None or self._kept[0] is not weights:
            self._kept = weights, self.pull(weights)
        return self._kept[1]

    def push(self, tangent: Mapping[str, Tensor]) -> Tensor:
        """As :meth:`Objective.push`.

        Args:
            tangent: v, one tensor (R, p, q) a block.
        """
        return self._objective.push(self._parameters, tangent)


@dataclass(frozen=True)
class Model(Option, ABC):
    """A family f(x; theta) in R^k, positively homogeneous of a known degree in theta."""

    name: ClassVar[str]
    #: True when f is linear in theta, so that weights on the gaps certify an upper bound on the margin.
    linear: ClassVar[bool] = False

    @property
    def homogeneous(self) -> bool:
        """Whether f(x; c theta) = c^L f(x; theta). Where it is not, margins are q / N, with the exponent 1."""
        return True

    @abstractmethod
    def degree(self) -> float:
        """L with f(x; c theta) = c^L f(x; theta), c > 0; 1 for a model that is not homogeneous."""

    @property
    def perturbed(self) -> Perturbed | None:
        """How the samples are perturbed that gaps, margins and optima are of; None: they are as given. Of a single run."""
        return None

    @property
    def robust(self) -> bool:
        """Whether gaps are of perturbed samples, be the perturbations of size zero."""
        return False

    def layer_degrees(self) -> dict[str, float]:
        """k_l by trained block, where f is homogeneous of degree k_l in every one of them alone, the others fixed; else empty.
        They sum to the degree."""
        return {}

    def check(self, x: NDArray[np.float64], num_classes: int) -> None:
        """Refuse samples that the model cannot be put on.

        Args:
            x: Samples (n, d).
            num_classes: k.

        Raises:
            BadInput: names the key.
        """

    def numbers(self, dim: int, num_classes: int) -> int:
        """Parameters of one run on samples of ``dim`` features, where they can be told before they are made.

        Args:
            dim: d.
            num_classes: k.

        Returns:
            Their count; 0 where it is not known.
        """
        return 0

    @abstractmethod
    def initial(self, data: Data, seeds: Sequence[int]) -> Parameters:
        """Initial parameters of each run, frozen ones included, blocks of shape (R, p, q); run r depends on ``seeds[r]`` only.

        Args:
            data: The training sets.
            seeds: One a run.

        Returns:
            theta_0, one tensor (R, p, q) a block.
        """

    def frozen_blocks(self) -> tuple[str, ...]:
        """The blocks that are not trained: no part of theta, of its norms or of the degree."""
        return ()

    @property
    def single_layer_of_units(self) -> bool:
        """Whether every trained weight belongs to one unit of one layer, so that norms of units can be taken of them."""
        return False

    def incompatible(self, other: object) -> str | None:
        if isinstance(other, Norm) and other.of_units and not self.single_layer_of_units:
            return (
                f"is of the weights of the units of one layer, which model={self.name} with its keys is not"
                " (mlp is with model.depth=2 and model.bias=none or first, linear with model.blocks=null)"
            )
        return super().incompatible(other)

    def hidden_matrices(self, names: Sequence[str]) -> list[str]:
        """Those of the blocks that are matrices of hidden layers: Muon's part in a hybrid. All of them in a linear model.

        Args:
            names: Trained blocks.

        Returns:
            Some of them, in their order.
        """
        return list(names)

    @abstractmethod
    def objective(self, data: Data, loss: Loss, frozen: Mapping[str, Tensor] | None = None) -> Objective:
        """The model with ``loss`` on ``data``, and the values of its frozen blocks.

        Args:
            data: The training sets.
            loss: The loss of the gaps.
            frozen: Values of the frozen blocks, (R, p, q) each; None where nothing is frozen.

        Returns:
            What the engine evaluates.
        """

    def row_bases(self, data: Data) -> dict[str, Tensor]:
        """For blocks whose gradients' columns always lie in a subspace, an orthonormal basis of it (p, r).

        Args:
            data: The training sets.

        Returns:
            Bases (p, r) by block; none for a block without such a subspace.
        """
        return {}

    def matrix_norm(self, norm: Norm, shape: tuple[int, int]) -> Norm:
        """Of a linear model: the norm of W (k, d) that a norm is on its parameter set.

        Args:
            norm: The norm of one block, or of the entries.
            shape: (k, d).

        Returns:
            The norm itself, unless W has several blocks, or its shape has a part in the norm.
        """
        return norm.of_shape(*shape)

    def in_blocks(self, w: Tensor, names: Sequence[str]) -> Parameters:
        """Of a linear model: the parameter set that a matrix is.

        Args:
            w: W (R, k, d).
            names: What its blocks are called.

        Returns:
            Its blocks.
        """
        return {names[0]: w}

    def as_matrix(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Of a linear model: the matrix that a parameter set is.

        Args:
            parameters: Its blocks, (R, k, columns) each.

        Returns:
            W (R, k, d).
        """
        return next(iter(parameters.values()))

    @abstractmethod
    def unit_step(self, data: Data, norm: Norm, initial: Parameters | None = None) -> Tensor:
        """B, per run (R or 1,), the unit of learning rates: max_i,c N_*(grad m_ic), by how much a step of size one can change a
        gap, for a linear model; for others see their own.

        Args:
            data: The training sets.
            norm: The norm of the steps.
            initial: theta_0, where the unit depends on it.

        Returns:
            B, in the unit of the scores.
        """
