"""The anthology's propositions on random matrices, by the house's norms and optimizers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from implicit_bias.core.scaled import Scaled
from implicit_bias.norms import ParameterNorm, make_norm, over_blocks
from implicit_bias.norms.blocks import Part, ProductNorm, SingleBlock
from implicit_bias.optimizers import OPTIMIZERS
from implicit_bias.optimizers.base import steepest

MINIMUM, EQUAL, SMALLEST = "minimum", "equal", "smallest"
#: lambda of the model <g, D> + lambda N(D)^2 / 2.
SHARPNESS = 3.0
SIZES = np.logspace(-4, 0, 9)
#: Shapes of one matrix, and of the layers of a network; weights of the modular norm.
MATRIX, LAYERS, WEIGHTS = (8, 6), {"a": (8, 6), "b": (5, 8), "c": (3, 5)}, (0.5, 2.0, 3.0)
#: Rows of Table 1, with Propositions 3, 5 and 7: what the norm is of.
TABLE = {"l2": "l2", "linf": "linf", "Frobenius": "schatten2", "spectral": "spectral"}
OVER_LAYERS = ("max linf", "max spectral", "modular")

Blocks = dict[str, Tensor]


def gaussian(generator: torch.Generator, layers: Mapping[str, tuple[int, int]]) -> Blocks:
    """One Gaussian matrix (1, rows, columns) a layer."""
    return {name: torch.randn(1, *shape, dtype=torch.float64, generator=generator) for name, shape in layers.items()}


def norms() -> dict[str, tuple[ParameterNorm, dict[str, tuple[int, int]]]]:
    """The norms of Table 1 and of Propositions 3, 5 and 7, with the layers that they are of."""
    found: dict[str, tuple[ParameterNorm, dict[str, tuple[int, int]]]] = {
        name: (over_blocks(make_norm(label), ["w"]), {"w": MATRIX}) for name, label in TABLE.items()
    }
    found["max linf"] = (over_blocks(make_norm("linf"), list(LAYERS)), LAYERS)
    found["max spectral"] = (over_blocks(make_norm("spectral"), list(LAYERS)), LAYERS)
    of = [SingleBlock("a", make_norm("spectral")), SingleBlock("b", make_norm("row")), SingleBlock("c", make_norm("lp3"))]
    parts = tuple(Part((name,), norm, weight) for name, norm, weight in zip(LAYERS, of, WEIGHTS, strict=True))
    found["modular"] = (ProductNorm("modular", parts), LAYERS)
    return found


def minimum_rows(draws: int, tried: int) -> pd.DataFrame:
    """What steepest descent makes of <g, D> + lambda N(D)^2 / 2, and what random steps near it and elsewhere do.

    ``value`` at x = 0: the value that steepest descent attains over -N_*(g)^2 / (2 lambda), less 1. At a size x > 0: the least of
    the values of random perturbations of that relative size, less the attained one, over its absolute value.
    """
    parts = []
    for name, (norm, layers) in norms().items():
        generator = torch.Generator().manual_seed(0)
        for draw in range(draws):
            g = gaussian(generator, layers)
            step = steepest({n: Scaled(b, torch.zeros(1, 1, 1, dtype=b.dtype)) for n, b in g.items()}, norm)
            assert step.log_size is not None
            length = step.log_size.exp() / SHARPNESS
            best = {n: -length * b for n, b in step.direction.items()}
            least, bound = float(_model(g, best, norm)), float(-norm.dual(g).square() / (2 * SHARPNESS))
            values = [least / bound - 1, *(_worse(g, best, norm, float(size), tried, generator) for size in SIZES)]
            parts.append(_part(MINIMUM, name, draw, np.array([0, *SIZES]), np.array(values)))
    return pd.concat(parts, ignore_index=True)


def _model(g: Blocks, step: Blocks, norm: ParameterNorm) -> Tensor:
    linear = torch.stack([(g[n] * step[n]).sum(dim=(-2, -1)) for n in g]).sum(dim=0)
    return linear + SHARPNESS / 2 * norm.value(step).square()


def _worse(g: Blocks, best: Blocks, norm: ParameterNorm, size: float, tried: int, generator: torch.Generator) -> float:
    """How much larger the model is at the best of some perturbations, relative to its minimum."""
    least = _model(g, best, norm)
    length = torch.cat([b.flatten() for b in best.values()]).norm()
    noise = {n: torch.randn(tried, *b.shape[1:], dtype=b.dtype, generator=generator) for n, b in best.items()}
    scale = torch.cat([b.flatten(1) for b in noise.values()], dim=1).norm(dim=1)[:, None, None]
    others = {n: best[n] + size * length * b / scale for n, b in noise.items()}
    values = _model({n: b.expand(tried, -1, -1) for n, b in g.items()}, others, norm)
    return float((values.min() - least) / least.abs())


def equal_rows(draws: int) -> pd.DataFrame:
    """x: 0; value: the largest difference of two things that a proposition says are equal, relative to the largest entry."""
    generator, parts = torch.Generator().manual_seed(1), []
    for draw in range(draws):
        w, layers = gaussian(generator, {"w": MATRIX})["w"], gaussian(generator, LAYERS)
        for name, (ours, known) in {**_steps(w), **_layer_steps(layers), **_operator_norms(w, generator)}.items():
            apart = (ours - known).abs().max() / known.abs().max()
            parts.append(_part(EQUAL, name, draw, np.zeros(1), np.array([float(apart)])))
    return pd.concat(parts, ignore_index=True)


def _steps(w: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Optimizers of the house against what the paper writes for them."""
    u, _, v = np.linalg.svd(w[0].numpy(), full_matrices=False)
    return {
        "Adam": (_direction("adam", w, beta1=0.0, beta2=0.0), w.sign()),
        "Shampoo": (_direction("shampoo", w), torch.tensor(_inverse_roots(w[0].numpy()))[None]),
        "polar": (_direction("shampoo", w), torch.tensor(u @ v)[None]),
    }


def _direction(name: str, w: Tensor, **keys: Any) -> Tensor:
    optimizer = OPTIMIZERS.get(name)(**keys)
    gradient = {"w": Scaled(w, torch.zeros(1, 1, 1, dtype=w.dtype))}
    norm = optimizer.geometry(["w"], None)
    found: Tensor = optimizer.update(optimizer.init(gradient), gradient, 1, norm)[1].direction["w"]
    return found


def _inverse_roots(g: np.ndarray) -> np.ndarray:
    """(G G^T)^(-1/4) G (G^T G)^(-1/4) with pseudo-inverses, by eigenvalues."""

    def root(gram: np.ndarray) -> np.ndarray:
        values, vectors = np.linalg.eigh(gram)
        large = values > 1e-12 * values.max()
        kept: np.ndarray = vectors[:, large] * values[large] ** -0.25 @ vectors[:, large].T
        return kept

    found: np.ndarray = root(g @ g.T) @ g @ root(g.T @ g)
    return found


def _layer_steps(g: Blocks) -> dict[str, tuple[Tensor, Tensor]]:
    """Steepest descent under a maximum over layers, laid end to end, against the paper's closed forms."""
    given = norms()
    factors = {name: np.linalg.svd(b[0].numpy(), full_matrices=False) for name, b in g.items()}
    nuclear = sum(s.sum() for _, s, _ in factors.values())
    polar = {name: torch.tensor(u @ v)[None] for name, (u, _, v) in factors.items()}
    total = sum(float(b.abs().sum()) for b in g.values())
    rows = max(float(b.abs().amax(dim=-1).max()) for b in g.values())
    value = given["max linf"][0].value(g)
    return {
        "max of max": (value, torch.full_like(value, rows)),
        "max linf": (_whole(g, given["max linf"][0]), _joined({n: total * b.sign() for n, b in g.items()})),
        "max spectral": (_whole(g, given["max spectral"][0]), _joined({n: float(nuclear) * b for n, b in polar.items()})),
    }


def _whole(g: Blocks, norm: ParameterNorm) -> Tensor:
    step = steepest({n: Scaled(b, torch.zeros(1, 1, 1, dtype=b.dtype)) for n, b in g.items()}, norm)
    assert step.log_size is not None
    return _joined({n: step.log_size.exp() * b for n, b in step.direction.items()})


def _joined(blocks: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([b.flatten() for b in blocks.values()])


def _operator_norms(w: Tensor, generator: torch.Generator) -> dict[str, tuple[Tensor, Tensor]]:
    """Largest |W x| over random x and over the x that attains it, against norms of columns and rows."""
    columns = MATRIX[1]
    lp, dual = make_norm("lp3"), make_norm("lp1.5")
    x = torch.randn(500, columns, dtype=w.dtype, generator=generator)
    units = torch.cat([x / x.abs().sum(dim=1, keepdim=True), torch.eye(columns, dtype=w.dtype)])
    to_lp = lp.value((units @ w[0].T)[:, None]).max()
    # The x of l_p norm one with the largest <row, x> is the direction of steepest descent of the row.
    best = lp.direction(w[0][:, None])[:, 0]
    x = torch.cat([x / lp.value(x[:, None])[:, None], best])
    from_lp = (x @ w[0].T).abs().max()
    return {
        "l1 to lp": (to_lp, lp.value(w[0].T[:, None]).max()),
        "lp to linf": (from_lp, dual.value(w[0][:, None]).max()),
        "l2 to linf": (make_norm("row").value(w), make_norm("l2").value(w[0][:, None]).max()),
    }


def smallest_rows(draws: int) -> pd.DataFrame:
    """Inequalities: value is the least of what must not be negative, over its scale.

    nearest: how much farther than the polar factor a random semi-orthogonal matrix is. square loss: the model of Proposition 6
    less the loss.
    """
    rng, parts = np.random.default_rng(2), []
    spectral = make_norm("spectral")
    for draw in range(draws):
        g = rng.standard_normal(MATRIX)
        polar = _direction("shampoo", torch.tensor(g)[None])[0].numpy()
        other = np.linalg.qr(polar + 10.0 ** rng.uniform(-3, 1) * rng.standard_normal(MATRIX))[0]
        other = other * np.sign((other * polar).sum(axis=0))
        farther = np.linalg.norm(g - other) ** 2 - np.linalg.norm(g - polar) ** 2
        parts.append(_part(SMALLEST, "nearest", draw, np.zeros(1), np.array([farther / np.linalg.norm(g) ** 2])))
        parts.append(_part(SMALLEST, "square loss", draw, np.zeros(1), np.array([_above_square_loss(rng, spectral)])))
    return pd.concat(parts, ignore_index=True)


def _above_square_loss(rng: np.random.Generator, spectral: Any) -> float:
    """L(W) + <grad, D> + (d_in / d_out) |D|_2^2 / 2 - L(W + D), over its last term, for L = mean |y - W x|^2 / (2 d_out)."""
    rows, columns, n = *MATRIX, 20
    w, y = rng.standard_normal(MATRIX), rng.standard_normal((n, rows))
    x = rng.standard_normal((n, columns))
    x *= columns**0.5 / np.linalg.norm(x, axis=1, keepdims=True)
    # Now and then aligned with a direction of the data, where the bound is nearest.
    step = rng.standard_normal(MATRIX) if rng.random() < 0.5 else np.outer(rng.standard_normal(rows), x[0])

    def loss(at: np.ndarray) -> float:
        return float(((y - x @ at.T) ** 2).sum() / (2 * n * rows))

    gradient = (x @ w.T - y).T @ x / (n * rows)
    bound = columns / rows * float(spectral.value(torch.tensor(step)[None])) ** 2 / 2
    return (loss(w) + float((gradient * step).sum()) + bound - loss(w + step)) / bound


def _part(part: str, method: str, seed: int, x: np.ndarray, value: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame({"part": part, "method": method, "seed": seed, "x": x, "value": value})
