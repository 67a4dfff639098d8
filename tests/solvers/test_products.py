"""Certified optima under norms of blocks of columns: cvxpy as the oracle, and what is proven from both sides."""

import cvxpy
import numpy as np
import pytest
from numpy.typing import NDArray

from implicit_bias.norms import make_norm
from implicit_bias.norms.column_blocks import ColumnBlocks
from implicit_bias.solvers.reference import Reference, solve_certified, solve_exact

LABELS = ["hybrid1", "hybrid5-l2-linf", "hybrid0.2-max-l2", "hybrid1-l2-l2", "spectral", "nuclear", "row", "column"]
K, SIZES = 3, (3, 4)


def data(seed: int, zero: tuple[int, ...] = ()) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    rng = np.random.RandomState(seed)
    means, y = 2 * rng.randn(K, sum(SIZES)), np.repeat(np.arange(K), 4)
    x = means[y] + 0.5 * rng.randn(len(y), sum(SIZES))
    x[:, zero] = 0
    return x, y


def by_cvxpy(x: NDArray[np.float64], y: NDArray[np.int64], label: str) -> float:
    """The maximum margin, from the definitions of norm and gaps alone."""
    w, first = cvxpy.Variable((K, x.shape[1])), SIZES[0]
    blocks = [w[:, :first], w[:, first:]]
    if label.startswith("hybrid"):
        ratio, outer, rest = [*label.removeprefix("hybrid").split("-"), "max", "linf"][:3]
        of_rest = cvxpy.max(cvxpy.abs(blocks[1])) if rest == "linf" else cvxpy.norm(blocks[1], "fro")
        parts = [float(ratio) * cvxpy.sigma_max(blocks[0]), of_rest]
        inside = [cvxpy.norm(cvxpy.hstack(parts)) <= 1] if outer == "l2" else [part <= 1 for part in parts]
    else:
        own = {"spectral": cvxpy.sigma_max, "nuclear": cvxpy.normNuc, "row": lambda b: cvxpy.max(cvxpy.norm(b, 2, axis=1))}
        own["column"] = lambda b: cvxpy.max(cvxpy.norm(b, 2, axis=0))
        inside = [own[label](block) <= 1 for block in blocks]
    margin = cvxpy.Variable()
    gaps = [(w[c] - w[other]) @ point >= margin for point, c in zip(x, y, strict=True) for other in range(K) if other != c]
    return float(cvxpy.Problem(cvxpy.Maximize(margin), [*gaps, *inside]).solve(solver="CLARABEL"))


def check(found: Reference, x: NDArray[np.float64], y: NDArray[np.int64], label: str) -> None:
    assert found.gap < 1e-6
    assert found.lower == pytest.approx(by_cvxpy(x, y, label), rel=1e-6)
    norm = ColumnBlocks(make_norm(label), SIZES)
    again = found.recomputed(x, y, norm)
    assert (again.lower, again.upper) == pytest.approx((found.lower, found.upper), rel=1e-12)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("label", LABELS)
def test_optima_are_those_of_cvxpy(label: str) -> None:
    x, y = data(0)
    found = solve_exact(x, y, K, ColumnBlocks(make_norm(label), SIZES))
    check(found, x, y, label)
    assert found.solver == "clarabel"
    assert found.norm == f"{label}@3+4"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("zero", [(1, 5), (0, 1, 2)])
def test_features_that_are_zero_in_every_sample(zero: tuple[int, ...]) -> None:
    x, y = data(1, zero)
    found = solve_exact(x, y, K, ColumnBlocks(make_norm("hybrid5-l2-linf"), SIZES))
    check(found, x, y, "hybrid5-l2-linf")
    assert not found.separator[:, zero].any()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("label", ["hybrid5-l2-linf", "hybrid1"])
def test_first_order_steps_alone_get_there(label: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two data sets at once, one of them without one feature."""
    monkeypatch.setattr("implicit_bias.solvers.reference.CONIC_SIZE", 0)
    sets = [data(2), data(3, (4,))]
    x, y = (np.stack([one[part] for one in sets]) for part in (0, 1))
    for found, (points, labels) in zip(solve_certified(x, y, K, ColumnBlocks(make_norm(label), SIZES)), sets, strict=True):
        assert found.solver == "primal-dual"
        check(found, points, labels, label)
