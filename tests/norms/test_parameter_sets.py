"""Norms of several blocks: directions attain the dual, by numpy block by block."""

import math

import cvxpy
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from implicit_bias.core.scaled import Scaled
from implicit_bias.models import Parameters
from implicit_bias.norms import ParameterNorm, make_norm, over_blocks
from tests.support.networks import F64, inner
from tests.support.quick import quick_of

HYBRIDS = ["hybrid", "hybrid0.5", "hybrid3", "hybrid0.5-l2-linf", "hybrid2-l2-l2", "hybrid2-max-l2"]
HYBRIDS += ["hybrid0.5-rms", "hybrid2-l2-l2-rms"]


SETS = [*HYBRIDS, "spectral", "spectral-rms", "nuclear", "l1", "l2", "linf", "lp3", "schatten1.5", "row", "column"]
SETS += ["neuron1", "neuron3"]


def block_set(seed: int, kind: str, size: float) -> Parameters:
    """Three blocks for two runs, one of them a single row: four units, which are rows of the first and columns of the others."""
    rng = np.random.RandomState(seed)
    blocks = {"a": rng.randn(2, 4, 6), "b": rng.randn(2, 3, 4), "c": rng.randn(2, 1, 4)}
    if kind == "low rank":
        blocks["a"] = rng.randn(2, 4, 1) @ rng.randn(2, 1, 6)
    elif kind == "a zero block":
        blocks["b"] = 0 * blocks["b"]
    elif kind == "far apart":
        blocks["a"], blocks["c"] = 1e-30 * blocks["a"], 1e30 * blocks["c"]
    return {name: size * torch.tensor(block) for name, block in blocks.items()}


def geometry(label: str) -> ParameterNorm:
    return over_blocks(make_norm(label), ["a", "b", "c"], None, ["a"] if label.startswith("neuron") else ["a", "b"])


def nuclear_by_numpy(block: Tensor) -> np.ndarray:
    total: np.ndarray = np.linalg.svd(block.numpy(), compute_uv=False).sum(axis=-1)
    return total


def numpy_value_and_dual(label: str, g: Parameters) -> tuple[np.ndarray, np.ndarray]:
    """By numpy, block by block."""
    s = {n: np.linalg.svd(b.numpy(), compute_uv=False) for n, b in g.items()}
    weights = {n: (b.shape[2] / b.shape[1]) ** 0.5 if label.endswith("-rms") else 1.0 for n, b in g.items()}
    label = label.removesuffix("-rms")
    vector = np.concatenate([b.numpy().reshape(2, -1) for b in g.values()], axis=1)
    if label.startswith("hybrid"):
        ratio, outer, rest = [*label.removeprefix("hybrid").split("-"), "max", "linf"][:3]
        r, entries = float(ratio or 0.1), g["c"].numpy().reshape(2, -1)
        of_rest, of_parts = {"linf": (math.inf, 1), "l2": (2, 2)}[rest], {"max": (math.inf, 1), "l2": (2, 2)}[outer]
        matrices = [(r * weights[n], s[n]) for n in ("a", "b")]
        parts = [*(weight * v[:, 0] for weight, v in matrices), np.linalg.norm(entries, of_rest[0], axis=1)]
        duals = [*(v.sum(axis=1) / weight for weight, v in matrices), np.linalg.norm(entries, of_rest[1], axis=1)]
        return np.linalg.norm(parts, of_parts[0], axis=0), np.linalg.norm(duals, of_parts[1], axis=0)
    if label in ("l1", "l2", "linf", "lp3"):
        p = {"l1": 1.0, "l2": 2.0, "linf": math.inf, "lp3": 3.0}[label]
        q = {"l1": math.inf, "l2": 2.0, "linf": 1.0, "lp3": 1.5}[label]
        return np.linalg.norm(vector, p, axis=1), np.linalg.norm(vector, q, axis=1)
    if label == "row":  # the largest row in l2; its dual sums the rows' lengths
        rows = {n: np.linalg.norm(b.numpy(), axis=2) for n, b in g.items()}
        return np.max([v.max(axis=1) for v in rows.values()], axis=0), np.sum([v.sum(axis=1) for v in rows.values()], axis=0)
    if label == "column":
        lengths = [np.linalg.norm(b.numpy(), axis=1) for b in g.values()]
        return np.max([v.max(axis=1) for v in lengths], axis=0), np.sum([v.sum(axis=1) for v in lengths], axis=0)
    if label.startswith("neuron"):  # all weights of a unit in l2, then units in l_p
        lengths = np.linalg.norm(np.concatenate([g["a"].numpy(), *(g[n].mT.numpy() for n in ("b", "c"))], axis=2), axis=2)
        p, q = {"neuron1": (1.0, math.inf), "neuron3": (3.0, 1.5)}[label]
        return np.linalg.norm(lengths, p, axis=1), np.linalg.norm(lengths, q, axis=1)
    p = {"spectral": math.inf, "nuclear": 1.0, "schatten1.5": 1.5}[label]
    q = {"spectral": 1.0, "nuclear": math.inf, "schatten1.5": 3.0}[label]
    values = [weights[n] * np.linalg.norm(v, p, axis=1) for n, v in s.items()]
    return np.max(values, axis=0), np.sum([np.linalg.norm(v, q, axis=1) / weights[n] for n, v in s.items()], axis=0)


@pytest.mark.parametrize("label", SETS)
@pytest.mark.parametrize("kind", quick_of(["random", "low rank", "a zero block", "far apart"], "random", "a zero block"))
@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 2**31), exponent=st.integers(-150, 150))
def test_direction_of_a_parameter_set_attains_the_dual(label: str, kind: str, seed: int, exponent: int) -> None:
    whole, unit = geometry(label), block_set(seed, kind, 1.0)
    g = {name: 10.0**exponent * block for name, block in unit.items()}
    value, dual = numpy_value_and_dual(label, unit)
    np.testing.assert_allclose(whole.value(g).numpy(), 10.0**exponent * value, rtol=1e-10)
    np.testing.assert_allclose(whole.dual(g).numpy(), 10.0**exponent * dual, rtol=1e-10)
    d = whole.direction(g)
    torch.testing.assert_close(inner(g, d), whole.dual(g), rtol=1e-9, atol=0)
    torch.testing.assert_close(whole.value(d), torch.ones(2, dtype=F64), rtol=1e-10, atol=0)


@pytest.mark.parametrize("label", SETS)
@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 2**31), size=st.floats(0.01, 1e6))
def test_projection_of_a_parameter_set_satisfies_its_optimality_conditions(label: str, seed: int, size: float) -> None:
    """p projects theta onto the ball iff p is in it and <theta - p, z - p> <= 0 for all z of the ball."""
    whole, theta = geometry(label), block_set(seed, "random", size)
    p = whole.project(theta)
    assert (whole.value(p) <= 1 + 1e-9).all()
    residual = {name: block - p[name] for name, block in theta.items()}
    worst = whole.direction(residual)
    assert (inner(residual, {name: worst[name] - p[name] for name in p}) <= 1e-8 * size).all()
    inside = {name: 0.5 * block / whole.value(theta)[:, None, None] for name, block in theta.items()}
    for name, block in whole.project(inside).items():
        torch.testing.assert_close(block, inside[name], rtol=1e-12, atol=1e-14)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "label", [label for label in SETS if label != "schatten1.5"]
)  # three of which the solver gets to 4 digits
def test_the_expression_of_a_parameter_set_is_the_same_norm(label: str) -> None:
    """min N(V) s.t. <G, V> = 1 is 1 / N_*(G)."""
    whole = geometry(label)
    g = {name: block[:1] for name, block in block_set(5, "random", 1.0).items()}
    v = {name: cvxpy.Variable(block.shape[1:]) for name, block in g.items()}
    product = sum(cvxpy.sum(cvxpy.multiply(v[name], block[0].numpy())) for name, block in g.items())
    problem = cvxpy.Problem(cvxpy.Minimize(whole.expression(v)), [product == 1])
    assert problem.solve(solver="CLARABEL") == pytest.approx(1 / whole.dual(g).item(), rel=1e-5)


@pytest.mark.parametrize("label", SETS)
@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 2**31), depth=st.floats(-1e5, 1e5), spread=st.floats(0, 5000))
def test_direction_of_scaled_blocks_has_unit_value(label: str, seed: int, depth: float, spread: float) -> None:
    """One scale a run, a row or an entry, blocks and entries up to e^5000 apart."""
    whole, unit = geometry(label), block_set(seed, "random", 1.0)
    rng = torch.Generator().manual_seed(seed % 1000)
    scales = {"a": (2, 1, 1), "b": (2, 3, 1), "c": (2, 1, 4)}
    g = {n: Scaled(b, depth + spread * torch.rand(scales[n], generator=rng, dtype=F64)) for n, b in unit.items()}
    torch.testing.assert_close(whole.value(whole.scaled_direction(g)), torch.ones(2, dtype=F64), rtol=1e-10, atol=0)
    # At one scale for all it is the plain direction.
    even = {n: Scaled(b, torch.full(scales[n], depth, dtype=F64)) for n, b in unit.items()}
    for name, block in whole.direction(unit).items():
        torch.testing.assert_close(whole.scaled_direction(even)[name], block, rtol=1e-9, atol=1e-10)


def test_a_nuclear_set_norm_has_the_sum_of_spectral_norms_as_its_dual() -> None:
    g = block_set(3, "random", 1.0)
    expected = sum(np.linalg.norm(block.numpy(), 2, axis=(1, 2)) for block in g.values())
    np.testing.assert_allclose(geometry("nuclear").dual(g).numpy(), expected, rtol=1e-12)
