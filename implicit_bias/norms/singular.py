"""Batched singular values, polar factors and top singular pairs, by the cheapest decomposition that is exact enough."""

from __future__ import annotations

import torch
from torch import Tensor

from implicit_bias.norms.base import normalised

# Singular values below this fraction of the largest count as zero in a polar factor.
RANK_TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}
# The Gram matrix squares the condition number; its eigenvectors give a polar factor good to eps * cond^2. This bound on
# lambda_min / lambda_max (cond <= 200) keeps that below 1e-11 in float64; of worse conditioned matrices they are a first guess.
GRAM_TOLERANCE = {torch.float64: 2.5e-5, torch.float32: 1e-2}
# Down to this lambda_min / lambda_max (cond = 1e5) the correction of a polar factor is small; below it none is tried.
CORRECTED_TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}
# A correction of this size leaves an error of about its square, 1e-12; a larger one is not trusted.
LARGEST_CORRECTION = {torch.float64: 1e-6, torch.float32: 1e-3}
# The SVD of a matrix of fewer rows takes less than the operations of a correction.
CORRECTED_ROWS = 32
# From this many columns a row a QR decomposition first is cheaper than an SVD of the whole.
WIDE = 2


def singular_values(w: Tensor) -> Tensor:
    """Singular values (..., min(p, q)), descending, of (..., p, q).

    Args:
        w: Matrices (..., p, q).

    Returns:
        Singular values, (..., min(p, q)).
    """
    unit, size = normalised(w)
    values: Tensor = torch.linalg.svdvals(unit) * size.squeeze(-1)
    return values


def polar(g: Tensor) -> Tensor:
    """The truncated polar factor U_r V_r^T of every g = U S V^T, over singular values above 1e-12 of the largest (float32:
    1e-5): the maximiser of <g, u> over ||u||_spectral <= 1 of least rank. Computed as (g g^T)^(-1/2) g on the smaller side
    by a batched symmetric eigendecomposition where that is exact to 1e-11, by one correction of it where that is small enough to
    be exact, else by an SVD; 0 where g is 0.

    Args:
        g: Matrices (..., p, q).

    Returns:
        The polar factors, (..., p, q).
    """
    unit, _ = normalised(g)
    if unit.shape[-2] > unit.shape[-1]:
        return _polar_wide(unit.mT).mT
    return _polar_wide(unit)


def _polar_wide(g: Tensor) -> Tensor:
    if g.shape[-2] == 1:
        norm = torch.linalg.vector_norm(g, dim=-1, keepdim=True)
        unit: Tensor = g / torch.where(norm == 0, torch.ones_like(norm), norm)
        return unit
    eigenvalues, vectors = torch.linalg.eigh(g @ g.mT)
    exact = eigenvalues[..., 0] > GRAM_TOLERANCE[g.dtype] * eigenvalues[..., -1]
    coordinates = vectors.mT @ g
    inverse_root = eigenvalues.clamp(min=torch.finfo(g.dtype).tiny).rsqrt()
    factors = vectors * inverse_root.unsqueeze(-2)
    all_exact = bool(exact.all())
    if not all_exact and g.shape[-2] >= CORRECTED_ROWS:
        near = ~exact & (eigenvalues[..., 0] > CORRECTED_TOLERANCE[g.dtype] * eigenvalues[..., -1])
        factors[near], exact[near] = _corrected(vectors[near], coordinates[near])
        all_exact = bool(exact.all())
    result: Tensor = factors @ coordinates
    if not all_exact:
        result[~exact] = _polar_svd(g[~exact])
    return result


def _corrected(vectors: Tensor, coordinates: Tensor) -> tuple[Tensor, Tensor]:
    """What times C = V^T G is the polar factor of G, for an orthogonal V that makes the rows of C orthogonal to some digits only.

    With D the lengths of its rows and C C^T = D (I + N) D it is V O (I + N)^(-1/2) D^(-1), where O is the orthogonal polar factor
    of D (I + K), I + K = (I + N)^(1/2): I + W + W^2 / 2 with W_ij = K_ij (d_i - d_j) / (d_i + d_j), to the square of K. V is as
    orthogonal as doubles are, and N is known to round-off however far the d_i are apart, so that nothing is lost by having V
    from a Gram matrix: what is left is the rounding of C, which is one of G.

    Args:
        vectors: V, (m, p, p).
        coordinates: C, (m, p, q).

    Returns:
        The factors (m, p, p), and whether N is so small that they are exact, (m,).
    """
    gram = coordinates @ coordinates.mT
    lengths = gram.diagonal(dim1=-2, dim2=-1).sqrt()
    rows, columns = lengths.unsqueeze(-1), lengths.unsqueeze(-2)
    identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    off = gram / (rows * columns) - identity
    square = off @ off
    turn = (0.5 * off - 0.125 * square) * ((rows - columns) / (rows + columns))
    orthogonal = identity + turn + 0.5 * (turn @ turn)
    inverse_root = identity - 0.5 * off + 0.375 * square
    small = torch.linalg.matrix_norm(off) <= LARGEST_CORRECTION[gram.dtype]
    return vectors @ (orthogonal @ inverse_root) / columns, small


def _polar_svd(g: Tensor) -> Tensor:
    """The same by an SVD; of a wide matrix G = L Q, Q with orthonormal rows, polar(G) = polar(L) Q takes half the time."""
    if g.shape[-1] >= WIDE * g.shape[-2]:
        q, r = torch.linalg.qr(g.mT)
        wide: Tensor = _polar_svd(r.mT) @ q.mT
        return wide
    u, s, vh = torch.linalg.svd(g, full_matrices=False)
    keep = s > RANK_TOLERANCE[g.dtype] * s[..., :1]
    factor: Tensor = (u * keep.unsqueeze(-2)) @ vh
    return factor


def rank_one(g: Tensor) -> Tensor:
    """u_1 v_1^T, the top singular pair of each g: the maximiser of <g, u> over ||u||_nuclear <= 1. Shape (..., p, q).

    Args:
        g: Matrices (..., p, q).

    Returns:
        The outer products, (..., p, q); 0 where g is 0.
    """
    unit, _ = normalised(g)
    if unit.shape[-2] > unit.shape[-1]:
        return _rank_one_wide(unit.mT).mT
    return _rank_one_wide(unit)


def _rank_one_wide(g: Tensor) -> Tensor:
    # The top eigenvector of the Gram matrix is exact to round-off over its gap, and any mixture of tied ones is a maximiser.
    left = torch.linalg.eigh(g @ g.mT).eigenvectors[..., -1:]
    right = left.mT @ g
    norm = torch.linalg.vector_norm(right, dim=-1, keepdim=True)
    product: Tensor = left @ (right / torch.where(norm == 0, torch.ones_like(norm), norm))
    return product
