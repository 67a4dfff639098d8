"""The interface of a norm: value, dual value, linear minimisation oracle, projection and cvxpy expression."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor

from implicit_bias.core.options import Option
from implicit_bias.core.registry import Registry, hyper_fields
from implicit_bias.core.scaled import Scaled, largest_size

if TYPE_CHECKING:
    import cvxpy
    import numpy as np
    from numpy.typing import NDArray

NORMS = Registry("implicit_bias.norms", "norm")


@dataclass(frozen=True)
class Norm(Option, ABC):
    """A norm N on matrices (..., p, q), batched over every leading axis.

    Identities, for every G != 0, with N_* the dual norm: ``<G, direction(G)> = dual(G)`` and ``value(direction(G)) = 1``.
    ``dual(0) = 0`` and ``direction(0) = 0``. Any maximiser is a right direction; ties are resolved deterministically.
    """

    name: ClassVar[str]
    #: True for a function of the entries alone, which then acts on a whole parameter vector; False for a matrix norm.
    entrywise: ClassVar[bool] = False
    #: True when N(Q W) = N(W) for every Q with orthonormal columns.
    unitarily_invariant: ClassVar[bool] = False
    #: True for a function of the weights of units, which are rows of a matrix, and rows and columns of a network's blocks.
    of_units: ClassVar[bool] = False

    @property
    def smooth(self) -> bool:
        """Whether the unit ball is strictly convex, so that the direction is a continuous function of the gradient."""
        return False

    @property
    def saturating(self) -> bool:
        """Whether a direction moves every entry, row or singular value at full size at once (signs, polar factors)."""
        return False

    @property
    def separable(self) -> bool:
        """Whether an entry of :meth:`direction` depends on that entry of the gradient alone: blocks need not be joined for it."""
        return False

    @property
    def in_one_unit(self) -> bool:
        """Whether :meth:`scaled_direction` brings a matrix to plain numbers, in units of its largest scale, first."""
        return type(self).scaled_direction is Norm.scaled_direction

    @property
    def strong_convexity(self) -> float | Tensor:
        """The largest c with N(u + v)^2 / 2 >= N(u)^2 / 2 + <d, v> + c N(v)^2 / 2 for every u, v and subgradient d; 0: none is.

        A number, or a tensor (R,) where the norm has a parameter of one value a run.
        """
        return 0.0

    @property
    def dual_norm(self) -> Norm | None:
        """N_* as a norm of its own, where both balls are strictly convex; None where they are not, or nobody has said so.

        Then N_*(z) direction(z) and N(w) dual_norm.direction(w) are inverse maps, the gradients of N_*^2 / 2 and N^2 / 2.
        """
        return None

    @property
    def label(self) -> str:
        """The norm's name in files and columns, its parameter included: ``linf``, ``lp3``, ``schatten1.5``."""
        return self.name + "".join(format_number(getattr(self, f.name)) for f in fields(self))

    @classmethod
    def keys_of(cls, suffix: str) -> dict[str, Any] | None:
        """The parameters that stand in a label after the name (``3`` in ``lp3``); None where these are none.

        Args:
            suffix: What follows the name in a label.

        Returns:
            The parameters by key; None where these are none.
        """
        keys = list(hyper_fields(cls))
        try:
            return {keys[0]: float(suffix)} if len(keys) == 1 else None
        except ValueError:
            return None

    @classmethod
    def label_form(cls) -> str:
        """The form of a label, as :meth:`keys_of` reads it, with its parameters in angle brackets: ``row``, ``lp<p>``.

        Returns:
            The form.
        """
        keys = list(hyper_fields(cls))
        return f"{cls.name}<{keys[0]}>" if len(keys) == 1 else cls.name

    @abstractmethod
    def value(self, w: Tensor) -> Tensor:
        """N(w): shape (..., p, q) to (...).

        Args:
            w: Matrices (..., p, q).

        Returns:
            N(w), (...).
        """

    @abstractmethod
    def dual(self, g: Tensor) -> Tensor:
        """N_*(g) = max over N(u) <= 1 of <g, u>: shape (..., p, q) to (...).

        Args:
            g: Matrices (..., p, q).

        Returns:
            N_*(g), (...).
        """

    @abstractmethod
    def direction(self, g: Tensor) -> Tensor:
        """A maximiser u of <g, u> over N(u) <= 1 (the steepest ascent direction), same shape as ``g``; 0 where g is 0.

        Args:
            g: Matrices (..., p, q), usually gradients.

        Returns:
            A maximiser, (..., p, q), of norm 1, or 0.
        """

    @abstractmethod
    def project(self, w: Tensor) -> Tensor:
        """The Euclidean projection of each matrix of ``w`` onto the unit ball N <= 1, same shape.

        Args:
            w: Matrices (..., p, q).

        Returns:
            The nearest points of the ball, (..., p, q).
        """

    @abstractmethod
    def expression(self, variable: cvxpy.Expression) -> cvxpy.Expression:
        """N as a convex cvxpy expression of a (p, q) variable.

        Args:
            variable: A cvxpy variable or affine expression, (p, q).

        Returns:
            N(variable), a convex expression without dimension.
        """

    def clipped(self, w: Tensor) -> tuple[Tensor, float]:
        """Numbers s >= 0, orthogonal coordinates of w, and a factor with N(w) = factor max s, where the projection onto a ball
        cuts s off at one level and leaves the rest of w as it is: the sizes of entries for linf, singular values for the
        spectral norm, the norm itself for l2.

        Args:
            w: Matrices (..., p, q).

        Returns:
            The numbers, (..., m), and the factor.

        Raises:
            NotImplementedError: projections onto the norm's ball are none of this kind.
        """
        raise NotImplementedError(f"norm {self.name}: a projection onto its ball clips no numbers at one level")

    def of_columns(self, kept: NDArray[np.bool_]) -> Norm:
        """The norm of matrices that are zero outside of these columns, as a norm of the columns that are kept.

        Args:
            kept: Mask of the columns (q,), at least one of them kept.

        Returns:
            The norm of matrices (..., p, number kept): this one, unless columns have places in it.
        """
        return self

    def of_shape(self, rows: int, columns: int) -> Norm:
        """The norm that it is on matrices of this shape, as one in which rows and columns of zeros change nothing.

        Args:
            rows: Of the matrices.
            columns: Of the matrices.

        Returns:
            This one, unless shapes have a part in it.
        """
        return self

    def at(self, runs: Tensor) -> Self:
        """The norm of some runs of a batch, ``runs`` an index or mask of the leading axis: parameters of one value a run are
        taken along, others stay.

        Args:
            runs: Indices, or a mask, of the leading axis.

        Returns:
            The norm with the parameters of those runs.
        """
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{name: value[runs] for name, value in own.items() if isinstance(value, Tensor)})

    def scaled_direction(self, g: Scaled) -> Tensor:
        """:meth:`direction` of a scaled tensor. Norms that treat entries or rows apart override it, and lose nothing to
        underflow.

        Args:
            g: Matrices (..., p, q) with their scale.

        Returns:
            The direction, (..., p, q), a plain tensor.
        """
        return self.direction(g.collapse())


def format_number(p: float | Tensor) -> str:
    """``3`` for 3.0, ``1.5`` for 1.5, ``inf``: how a parameter stands in a label; ``*`` for a tensor of one value a run.

    Args:
        p: The number, or a tensor (R,) with one a run.

    Returns:
        The text.
    """
    if isinstance(p, Tensor):
        return "*"
    return str(int(p)) if math.isfinite(p) and p == int(p) else repr(p)


def normalised(g: Tensor) -> tuple[Tensor, Tensor]:
    """``g`` divided by its largest absolute entry, and that entry (..., 1, 1): nothing over- or underflows in what follows.

    The factor is 0 and the quotient 0 where g is 0.

    Args:
        g: Matrices (..., p, q).

    Returns:
        The quotient (..., p, q) and the factor (..., 1, 1).
    """
    size = largest_size(g, (-2, -1))
    return g / size.masked_fill(size == 0, 1.0), size


def flat(x: Tensor) -> Tensor:
    """(..., p, q) to (..., p q).

    Args:
        x: Matrices (..., p, q).

    Returns:
        The same numbers, (..., p q).
    """
    return x.flatten(start_dim=-2)


def one_hot_largest(g: Tensor) -> Tensor:
    """sign(g_j) e_j at the first entry j of largest absolute value along the last axis; 0 where g is 0.

    Args:
        g: Vectors (..., m).

    Returns:
        The signed unit vectors, (..., m).
    """
    index = g.abs().argmax(dim=-1, keepdim=True)
    return torch.zeros_like(g).scatter(-1, index, torch.gather(g, -1, index).sign())
