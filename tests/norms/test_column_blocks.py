"""Norms of matrices in blocks of columns: those of the parameter sets, in the identities that solvers rest on."""

import cvxpy
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from implicit_bias.norms import make_norm
from implicit_bias.norms.column_blocks import ColumnBlocks, block_names, cut_columns, joined_columns
from tests.support.quick import quick_of

LABELS = ["spectral", "nuclear", "row", "schatten1.5", "hybrid0.5", "hybrid2-max-l2", "hybrid2-l2-linf", "hybrid0.5-l2-l2"]
LABELS += ["spectral-rms", "hybrid0.5-rms", "hybrid2-l2-linf-rms"]
SIZES = [(2, 4), (1, 2, 3), (6,), (0, 6), (4, 0, 2)]


def matrices(seed: int) -> Tensor:
    return torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_numpy(label: str, sizes: tuple[int, ...], w: np.ndarray) -> float:
    """The norm by its definition, block by block."""
    rms, label = label.endswith("-rms"), label.removesuffix("-rms")
    blocks = [block for block in np.split(w, np.cumsum(sizes)[:-1], axis=1) if block.size]
    if not label.startswith("hybrid"):
        singular = [np.linalg.svd(block, compute_uv=False) for block in blocks]
        own = {
            "spectral": [(b.shape[1] / b.shape[0]) ** (rms / 2) * s[0] for b, s in zip(blocks, singular, strict=True)],
            "nuclear": [s.sum() for s in singular],
            "schatten1.5": [np.linalg.norm(s, 1.5) for s in singular],
            "row": [np.linalg.norm(block, axis=1).max() for block in blocks],
        }
        return float(max(own[label]))
    ratio, outer, rest = [*label.removeprefix("hybrid").split("-"), "max", "linf"][:3]
    matrix, others = w[:, : sizes[0]], w[:, sizes[0] :].ravel()
    weight = float(ratio) * (sizes[0] / len(w)) ** (rms / 2)
    parts = [weight * float(np.linalg.norm(matrix, 2)) if matrix.size else 0.0]
    parts += [float(np.linalg.norm(others, np.inf if rest == "linf" else 2)) if others.size else 0.0]
    return float(np.linalg.norm(parts, np.inf if outer == "max" else 2))


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("sizes", quick_of(SIZES, *SIZES[:2]))
@settings(max_examples=2, deadline=None)
@given(seed=st.integers(0, 2**31), size=st.floats(0.01, 1e4))
def test_value_dual_direction_and_projection(label: str, sizes: tuple[int, ...], seed: int, size: float) -> None:
    norm, w = ColumnBlocks.of_rows(make_norm(label), sizes, 4), size * matrices(seed)
    np.testing.assert_allclose(norm.value(w).numpy(), [by_numpy(label, sizes, one.numpy()) for one in w], rtol=1e-10)
    u = norm.direction(w)
    torch.testing.assert_close((w * u).sum(dim=(-2, -1)), norm.dual(w), rtol=1e-10, atol=0)
    torch.testing.assert_close(norm.value(u), torch.ones(3, dtype=torch.float64), rtol=1e-10, atol=0)
    p = norm.project(w)
    assert (norm.value(p) <= 1 + 1e-9).all()
    assert (((w - p) * (norm.direction(w - p) - p)).sum(dim=(-2, -1)) <= 1e-8 * size).all()
    off = 1e-10 * max(size, 1)  # a polar factor is exact to 1e-11
    for function in (norm.value, norm.dual, norm.direction, norm.project):
        torch.testing.assert_close(function(w), torch.stack([function(one) for one in w]), rtol=1e-10, atol=off)
        torch.testing.assert_close(function(w[None, :, None]), function(w)[None, :, None], rtol=1e-10, atol=off)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("sizes", quick_of([(2, 4), (1, 2, 3), (4, 0, 2)], (1, 2, 3)))
def test_expression_is_the_same_norm(label: str, sizes: tuple[int, ...]) -> None:
    """min N(V) s.t. <G, V> = 1 is 1 / N_*(G)."""
    norm, g = ColumnBlocks.of_rows(make_norm(label), sizes, 4), matrices(5)[0]
    v = cvxpy.Variable((4, 6))
    problem = cvxpy.Problem(cvxpy.Minimize(norm.expression(v)), [cvxpy.sum(cvxpy.multiply(v, g.numpy())) == 1])
    assert problem.solve(solver="CLARABEL") == pytest.approx(1 / norm.dual(g).item(), rel=1e-5)


@pytest.mark.parametrize("label", LABELS)
def test_the_norm_of_some_columns_is_that_of_matrices_that_are_zero_in_the_others(label: str) -> None:
    norm, w = ColumnBlocks.of_rows(make_norm(label), (2, 4), 4), matrices(1)
    for kept in ([True, False, True, True, False, True], [False, False, True, False, True, True]):
        mask = np.array(kept)
        some = norm.of_columns(mask)
        torch.testing.assert_close(some.value(w[..., mask]), norm.value(w * torch.tensor(mask)), rtol=1e-12, atol=0)
        torch.testing.assert_close(some.dual(w[..., mask]), norm.dual(w * torch.tensor(mask)), rtol=1e-12, atol=0)
    assert make_norm("l2").of_columns(np.array([True, False])) == make_norm("l2")


def test_names_labels_and_one_exponent_a_run() -> None:
    assert block_names([2, 4]) == ["weight1", "weight2"]
    assert ColumnBlocks(make_norm("hybrid2-l2-linf"), (2, 4)).label == "hybrid2-l2-linf@2+4"
    w = matrices(2)
    assert torch.equal(joined_columns(cut_columns(w, (2, 4))), w)
    exponents = torch.tensor([1.3, 2.0, 9.0], dtype=torch.float64)
    together = ColumnBlocks(type(make_norm("schatten"))(p=exponents), (2, 4))  # type: ignore[call-arg]
    apart = [ColumnBlocks(make_norm("schatten", p=p), (2, 4)).dual(one) for p, one in zip(exponents.tolist(), w, strict=True)]
    torch.testing.assert_close(together.dual(w), torch.stack(apart), rtol=1e-12, atol=0)
    last = torch.tensor([False, False, True])
    torch.testing.assert_close(together.at(last).dual(w[last])[0], apart[2], rtol=1e-12, atol=0)
