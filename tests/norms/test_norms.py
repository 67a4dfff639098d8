"""Identities of every norm, on random, rank-deficient and extreme inputs; oracles: numpy, cvxpy, brute-force maximisation."""

from collections.abc import Callable
from typing import Any

import cvxpy
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from implicit_bias.core.registry import hyper_fields
from implicit_bias.core.scaled import Scaled
from implicit_bias.models.linear import zero_sum_basis
from implicit_bias.norms import NORMS, Norm, make_norm, singular
from implicit_bias.norms.blocks import InRowSpace, Part, ProductNorm, WholeVector, over_blocks
from implicit_bias.norms.identities import SHAPES, flaw
from implicit_bias.norms.labels import allowed_labels

LABELS = [
    "l1", "l2", "linf", "lp1", "lp1.1", "lp3", "lp40", "lpinf", "nuclear", "spectral", "schatten1", "schatten1.5", "schatten2",
    "schatten7", "schatteninf", "row", "hybrid0.1", "hybrid3", "hybrid0.1-l2-linf", "hybrid2-max-l2", "spectral-rms",
    "hybrid3-rms", "hybrid0.5-l2-l2-rms", "neuron1", "neuron3", "neuroninf",
]  # fmt: skip
#: Norms without numbers of their own that were added since: the identities are asked of them, too.
LABELS += [name for name in NORMS if not hyper_fields(NORMS.get(name)) and name not in LABELS]
KINDS = ["random", "low rank", "zero rows", "one entry", "zero column sums", "huge", "tiny", "one row", "tall"]


def matrices(kind: str, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """A batch of three matrices of the kind."""
    rng = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(3, *shape, generator=rng, dtype=torch.float64)

    g = draw(4, 6)
    if kind == "low rank":
        g = draw(4, 2) @ draw(2, 6)
    elif kind == "zero rows":
        g[:, 1:3] = 0
    elif kind == "one entry":
        g = torch.zeros_like(g)
        g[:, 2, 3] = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    elif kind == "zero column sums":
        g = g - g.mean(dim=-2, keepdim=True)
    elif kind == "huge":
        g = g * (1e300 if dtype == torch.float64 else 1e35)
    elif kind == "tiny":
        g = g * (1e-300 if dtype == torch.float64 else 1e-35)
    elif kind == "one row":
        g = g[:, :1]
    elif kind == "tall":
        g = draw(7, 3)
    return g.to(dtype)


@pytest.mark.parametrize("label", LABELS)
@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_direction_attains_the_dual_and_has_unit_value(label: str, seed: int) -> None:
    norm = make_norm(label)
    for kind in KINDS:
        g = matrices(kind, seed)
        u = norm.direction(g)
        # Divide first: <g, u> itself can overflow.
        unit = g.abs().amax()
        dual = norm.dual(g / unit)
        torch.testing.assert_close((g / unit * u).sum(dim=(-2, -1)), dual, rtol=1e-10, atol=0, msg=kind)
        torch.testing.assert_close(norm.dual(g) / unit, dual, rtol=1e-12, atol=0, msg=kind)
        torch.testing.assert_close(norm.value(u), torch.ones(3, dtype=torch.float64), rtol=1e-10, atol=0, msg=kind)


@pytest.mark.parametrize("label", LABELS)
def test_float32_keeps_the_identities_to_its_own_precision(label: str) -> None:
    norm = make_norm(label)
    for kind in KINDS:
        g = matrices(kind, 7, torch.float32)
        u, unit = norm.direction(g), g.abs().amax()
        assert u.dtype == torch.float32
        torch.testing.assert_close((g / unit * u).sum(dim=(-2, -1)), norm.dual(g / unit), rtol=3e-4, atol=0)
        torch.testing.assert_close(norm.value(u), torch.ones(3), rtol=3e-4, atol=0)


@pytest.mark.parametrize("label", LABELS)
def test_zero_has_zero_dual_and_zero_direction(label: str) -> None:
    norm, g = make_norm(label), torch.zeros(2, 3, 5, dtype=torch.float64)
    g[1] = 1.0
    assert norm.dual(g)[0] == 0
    assert torch.equal(norm.direction(g)[0], g[0])
    assert norm.value(norm.direction(g))[1] == pytest.approx(1)


@pytest.mark.parametrize("label", LABELS)
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_dual_is_the_supremum_over_the_ball(label: str, seed: int) -> None:
    norm, g = make_norm(label), matrices("random", seed)
    others = torch.randn(200, 1, 4, 6, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    attained = (g * others).sum(dim=(-2, -1)) / norm.value(others)
    assert (attained <= norm.dual(g) * (1 + 1e-12)).all()


@pytest.mark.parametrize("label", LABELS)
def test_a_batch_is_the_loop_over_its_members(label: str) -> None:
    norm, g = make_norm(label), matrices("random", 3)
    for function in (norm.value, norm.dual, norm.direction, norm.project):
        torch.testing.assert_close(function(g), torch.stack([function(one) for one in g]), rtol=1e-12, atol=1e-14)
    nested = g.reshape(1, 3, 4, 6)
    torch.testing.assert_close(norm.direction(nested)[0], norm.direction(g), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("label", LABELS)
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**31), size=st.floats(0.01, 100))
def test_projection_satisfies_its_optimality_conditions(label: str, seed: int, size: float) -> None:
    """p projects w onto the ball iff p is in it and <w - p, z - p> <= 0 for all z of the ball: z = direction(w - p) is
    the worst."""
    norm, w = make_norm(label), size * matrices("random", seed)
    p = norm.project(w)
    assert (norm.value(p) <= 1 + 1e-9).all()
    residual = w - p
    slack = (residual * (norm.direction(residual) - p)).sum(dim=(-2, -1))
    assert (slack <= 1e-8 * size).all()
    inside = 0.5 * w / norm.value(w)[:, None, None]
    torch.testing.assert_close(norm.project(inside), inside, rtol=1e-12, atol=1e-14)


NUMPY_ORACLES = {
    "l1": lambda w: np.abs(w).sum(),
    "l2": lambda w: np.linalg.norm(w),
    "linf": lambda w: np.abs(w).max(),
    "lp3": lambda w: np.linalg.norm(w.ravel(), 3),
    "nuclear": lambda w: np.linalg.norm(w, "nuc"),
    "spectral": lambda w: np.linalg.norm(w, 2),
    "schatten1.5": lambda w: np.linalg.norm(np.linalg.svd(w, compute_uv=False), 1.5),
    "row": lambda w: np.linalg.norm(w, axis=1).max(),
    "column": lambda w: np.linalg.norm(w, axis=0).max(),
    "neuron3": lambda w: np.linalg.norm(np.linalg.norm(w, axis=1), 3),
}


@pytest.mark.parametrize("label", NUMPY_ORACLES)
def test_value_equals_numpy(label: str) -> None:
    w = matrices("random", 11)
    expected = [NUMPY_ORACLES[label](one.numpy()) for one in w]
    np.testing.assert_allclose(make_norm(label).value(w).numpy(), expected, rtol=1e-12)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("label", LABELS)
def test_expression_is_the_same_norm(label: str) -> None:
    """min N(V) s.t. <G, V> = 1 is 1 / N_*(G): ties cvxpy's expression to our dual."""
    norm, g = make_norm(label), matrices("random", 5)[:1]
    v = cvxpy.Variable((4, 6))
    problem = cvxpy.Problem(cvxpy.Minimize(norm.expression(v)), [cvxpy.sum(cvxpy.multiply(v, g[0].numpy())) == 1])
    assert problem.solve(solver="CLARABEL") == pytest.approx(1 / norm.dual(g).item(), rel=1e-5)


@pytest.mark.parametrize("name", ["lp", "schatten", "neuron"])
def test_one_exponent_a_run_equals_one_norm_a_run(name: str) -> None:
    g, exponents = matrices("random", 2), [1.3, 2.0, 9.0]
    together: Norm = NORMS.get(name)(p=torch.tensor(exponents, dtype=torch.float64))
    for function in ("value", "dual", "direction", "project"):
        apart = [getattr(make_norm(name, p=p), function)(g[i]) for i, p in enumerate(exponents)]
        torch.testing.assert_close(getattr(together, function)(g), torch.stack(apart), rtol=1e-12, atol=1e-13)


def test_labels_round_trip_and_bad_ones_are_refused() -> None:
    for label in LABELS:
        assert make_norm(label).label == label
    assert make_norm("hybrid1e-05-l2-l2").label == "hybrid1e-05-l2-l2"
    assert make_norm("hybrid0.1-max-linf").label == make_norm("hybrid").label == "hybrid0.1"
    for label in ("l7x", "hybrid0.1-l2", "hybrid-l2-linf", "hybrid0.1-l1-linf", "hybrid0.1-l2-linf-l2"):
        with pytest.raises(KeyError, match=r"there are: .*hybrid, l1"):
            make_norm(label)
    with pytest.raises(ValueError, match="hybrid: outer=l3 must be max or l2"):
        make_norm("hybrid", outer="l3")
    with pytest.raises(ValueError, match=r"p=0\.5 must be >= 1"):
        make_norm("lp", p=0.5)


def test_truncation_ignores_the_null_direction_of_class_gradients() -> None:
    """Columns that sum to zero: an untruncated U V^T would add an arbitrary unit vector along the ones direction."""
    g = matrices("zero column sums", 4)
    u = make_norm("spectral").direction(g)
    assert u.sum(dim=-2).abs().max() < 1e-12
    torch.testing.assert_close(torch.linalg.svdvals(u)[:, :3], torch.ones(3, 3, dtype=torch.float64))
    in_basis = InRowSpace(make_norm("spectral"), zero_sum_basis(4))
    torch.testing.assert_close(in_basis.direction(g), u, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(in_basis.dual(g), make_norm("spectral").dual(g), rtol=1e-12, atol=0)


@pytest.mark.parametrize("condition", [3.0, 150.0, 300.0, 1e6, 1e10])
def test_polar_factor_agrees_with_the_svd_at_any_condition(condition: float) -> None:
    rng = torch.Generator().manual_seed(0)
    u, _, vh = torch.linalg.svd(torch.randn(5, 6, 9, generator=rng, dtype=torch.float64), full_matrices=False)
    g = (u * torch.logspace(0, -np.log10(condition), 6, dtype=torch.float64)) @ vh
    # The factor itself is only determined to eps * condition by its input.
    torch.testing.assert_close(make_norm("spectral").direction(g), u @ vh, rtol=0, atol=max(1e-11, 4e-16 * condition))


@pytest.mark.parametrize("shape", [(32, 40), (40, 32), (64, 64)], ids=str)
def test_polar_factors_of_large_matrices_are_corrected_where_a_correction_is_exact(
    shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of a Gram matrix alone are off by 1e-10 and 1e-8 at conditions of 1e4 and 9e4; of 1e7 no correction is tried."""
    decomposed = []

    def seen(g: Tensor) -> Tensor:
        decomposed.append(len(g))
        return svd(g)

    svd = singular._polar_svd
    monkeypatch.setattr(singular, "_polar_svd", seen)
    conditions = torch.tensor([3.0, 300.0, 1e4, 9e4, 1e7], dtype=torch.float64)
    rng, rank = torch.Generator().manual_seed(0), min(shape)
    u, _, vh = torch.linalg.svd(torch.randn(5, *shape, generator=rng, dtype=torch.float64), full_matrices=False)
    g = (u * (conditions[:, None] ** -torch.linspace(0, 1, rank, dtype=torch.float64)).mul(1e-30).unsqueeze(-2)) @ vh
    found = make_norm("spectral").direction(g)
    assert decomposed == [1]
    off = (found - u @ vh).abs().amax(dim=(-2, -1))
    assert (off <= 1e-13 + 4e-16 * conditions).all(), off
    # What others in the batch need changes no bit.
    assert all(torch.equal(make_norm("spectral").direction(g[r : r + 1])[0], found[r]) for r in range(5))


def test_zero_sum_basis_is_orthonormal_and_complete() -> None:
    for k in (2, 3, 10):
        basis = zero_sum_basis(k)
        torch.testing.assert_close(basis.mT @ basis, torch.eye(k - 1, dtype=torch.float64), rtol=0, atol=1e-14)
        assert basis.sum(dim=0).abs().max() < 1e-14


# Norms on parameter sets.


def parameter_norms() -> dict[str, tuple[tuple[str, ...], object]]:
    names = ("a", "b", "c")
    # Blocks of units fit together: test_parameter_sets has some.
    sets = {label: over_blocks(make_norm(label), names) for label in LABELS if not make_norm(label).of_units}
    hybrid = ProductNorm(
        "hybrid0.1",
        (
            Part(("a", "b"), over_blocks(make_norm("spectral"), ("a", "b")), 0.1),
            Part(("c",), over_blocks(make_norm("linf"), ("c",))),
        ),
    )
    in_l2 = ProductNorm(
        "l2-product",
        (Part(("a",), over_blocks(make_norm("spectral"), ("a",)), 2.0), Part(("b", "c"), WholeVector(make_norm("l2")), 0.5)),
        "l2",
    )
    return {**sets, "hybrid0.1": hybrid, "l2-product": in_l2}  # type: ignore[dict-item]


@pytest.mark.parametrize("label", parameter_norms())
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**31), vanishing=st.sampled_from(["", "a", "b", "c"]))
def test_parameter_norms_keep_the_identities(label: str, seed: int, vanishing: str) -> None:
    norm = parameter_norms()[label]
    g = {"a": matrices("random", seed), "b": matrices("tall", seed + 1), "c": matrices("one row", seed + 2)}
    if vanishing:
        g[vanishing] = torch.zeros_like(g[vanishing])
    u = norm.direction(g)  # type: ignore[attr-defined]
    attained = sum((g[n] * u[n]).sum(dim=(-2, -1)) for n in g)
    torch.testing.assert_close(attained, norm.dual(g), rtol=1e-10, atol=0)  # type: ignore[attr-defined]
    torch.testing.assert_close(norm.value(u), torch.ones(3, dtype=torch.float64), rtol=1e-10, atol=0)  # type: ignore[attr-defined]
    others = {n: torch.randn(b.shape, generator=torch.Generator().manual_seed(seed), dtype=b.dtype) for n, b in g.items()}
    bound = norm.value(others) * norm.dual(g)  # type: ignore[attr-defined]
    assert (sum((g[n] * others[n]).sum(dim=(-2, -1)) for n in g) <= bound * (1 + 1e-12)).all()
    scaled = {n: Scaled(b * 1e-200, torch.full_like(b[..., :1], 200 * np.log(10.0))) for n, b in g.items()}
    for name, block in norm.scaled_direction(scaled).items():  # type: ignore[attr-defined]
        torch.testing.assert_close(block, u[name], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("label", LABELS)
def test_no_shipped_norm_has_a_flaw(label: str) -> None:
    for shape in (*SHAPES, (1, 1), (2, 2), (2, 7), (7, 2), (10, 25)):
        assert flaw(make_norm(label).of_shape(*shape), shape) is None


def altered(like: str = "linf", *, kind: dict[str, bool] | None = None, **methods: Callable[[Any, Tensor], Tensor]) -> Norm:
    """A norm with other methods in the place of some of its own; ``kind`` is what it calls itself."""
    base = make_norm(like)
    made: Norm = type("Altered", (type(base),), {**methods, **(kind or {})})()
    return made


L1, L2, LINF = map(make_norm, ("l1", "l2", "linf"))
#: A norm with a mistake, and what is said of it.
MISTAKES: dict[str, tuple[Norm, str]] = {
    "dual too small": (altered(dual=lambda _, g: 0.97 * LINF.dual(g)), "<G, direction(G)> is not dual(G)"),
    "dual of another": (altered("l2", dual=lambda _, g: LINF.dual(g)), "<G, direction(G)> is not dual(G)"),
    "long direction": (altered(direction=lambda _, g: 2 * g.sign()), "value(direction(G)) is not 1"),
    "square": (altered(value=lambda _, w: LINF.value(w) ** 2), "value(-2 G) is not 2 value(G)"),
    # A gauge whose ball is not symmetric: everything is consistent but N(-W) = N(W).
    "one side": (
        altered(
            value=lambda _, w: torch.maximum(w, -w / 2).amax(dim=(-2, -1)),
            direction=lambda _, g: torch.where(g > 0, 1, -2) * (g != 0),
            dual=lambda _, g: torch.where(g > 0, g, -2 * g).sum(dim=(-2, -1)),
        ),
        "value(-2 G) is not 2 value(G)",
    ),
    # Attained and of unit value, and yet no maximum: only Hoelder's inequality tells.
    "no maximiser": (
        altered(
            direction=lambda _, g: g / LINF.value(g)[..., None, None],
            dual=lambda _, g: g.square().sum(dim=(-2, -1)) / LINF.value(g),
        ),
        "<G, U> is above dual(G) value(U)",
    ),
    # The l_1/2 quasi-norm, whose unit ball has the same dual as that of l1.
    "not convex": (
        altered("l1", value=lambda _, w: w.abs().sqrt().sum(dim=(-2, -1)) ** 2),
        "value(G + H) is above value(G) + value(H)",
    ),
    "nan at zero": (altered("l2", direction=lambda _, g: g / L2.value(g)[..., None, None]), "direction(0) is not 0"),
    "of the batch": (
        altered(
            value=lambda _, w: w.abs().amax().expand(w.shape[:-2]),
            direction=lambda _, g: g.sign(),
        ),
        "value or dual of a batch is not that of its matrices",
    ),
    "of the size": (
        altered(
            "l2",
            value=lambda _, w: L2.value(w) / w[0].numel(),
            direction=lambda _, g: L2.direction(g) * g[0].numel(),
            dual=lambda _, g: L2.dual(g) * g[0].numel(),
        ),
        "value or dual changes with a row and a column of zeros",
    ),
    "of the first row": (
        altered(
            value=lambda _, w: torch.maximum(2 * LINF.value(w[..., :1, :]), LINF.value(w)),
            direction=lambda _, g: torch.cat([g[..., :1, :].sign() / 2, g[..., 1:, :].sign()], dim=-2),
            dual=lambda _, g: L1.value(g) - L1.value(g[..., :1, :]) / 2,
        ),
        "value or dual changes with the order of rows",
    ),
    "not entrywise": (
        altered("row", kind={"entrywise": True}),
        "value or dual changes where the entries stand in one row, but it is called entrywise",
    ),
    "not invariant": (
        altered("l1", kind={"unitarily_invariant": True}),
        "value or dual changes to that of Q G, Q with orthonormal columns, but it is called unitarily invariant",
    ),
    "raises": (altered(direction=lambda _, g: g[..., 7, :]), "it raises IndexError: index 7 is out of bounds for dimension"),
    "shape": (altered(direction=lambda _, g: g.mT), "direction(G) has the shape (5, 3)"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_a_norm_is_found(mistake: str) -> None:
    norm, said = MISTAKES[mistake]
    assert (flaw(norm) or "").startswith(said)


def test_a_mistake_that_shows_on_a_single_row_alone_is_found() -> None:
    squeezed = altered("row", value=lambda _, w: w.squeeze(-2).square().sum(-1).sqrt().reshape(len(w), -1).amax(-1))
    assert flaw(squeezed) is None
    assert flaw(squeezed, (1, 4)) is None
    averaged = altered("row", dual=lambda _, g: make_norm("row").dual(g) if g.shape[-2] > 1 else L2.dual(g) * 0.5)
    assert flaw(averaged) is None
    assert flaw(averaged, (1, 4)) == "<G, direction(G)> is not dual(G)"


def test_the_labels_that_are_allowed_are_those_that_make_norms() -> None:
    words = allowed_labels()
    assert words.startswith("column, l1, l2, linf, nuclear, row, spectral")
    assert "; lp<p>, neuron<p> or schatten<p> with p a number in [1, inf]" in words
    assert "hybrid<ratio>[-<outer>-<rest>][-rms] with ratio a number > 0, outer max or l2, rest linf or l2" in words
    for form, label in (
        ("lp<p>", "lp3"),
        ("schatten<p>", "schatteninf"),
        ("hybrid<ratio>[-<outer>-<rest>][-rms]", "hybrid2-l2-l2"),
    ):
        assert make_norm(label).label_form() == form


@pytest.mark.parametrize("label", ["l2", "lp1.1", "lp1.5", "lp2", "schatten1.3", "schatten2"])
def test_half_squares_are_as_convex_as_is_said(label: str) -> None:
    """N(u + v)^2 / 2 >= N(u)^2 / 2 + <d, v> + c N(v)^2 / 2, with d = N(u) dual_norm.direction(u); and no larger c would do."""
    norm, rng = make_norm(label), torch.Generator().manual_seed(1)
    u = torch.randn(400, 3, 4, generator=rng, dtype=torch.float64)
    v = (
        torch.randn(400, 3, 4, generator=rng, dtype=torch.float64)
        * torch.logspace(-2, 1, 400, dtype=torch.float64)[:, None, None]
    )
    u[200:], v[200:] = 0, 0
    u[200:, 0, 0], u[200:, 1, 1] = 1, 1  # where p-norms are least curved
    size = torch.logspace(-2, 0, 200, dtype=torch.float64)
    v[200:, 0, 0], v[200:, 1, 1] = size, -size
    dual, c = norm.dual_norm, norm.strong_convexity
    assert dual is not None and isinstance(c, float) and c > 0
    inner = (norm.value(u)[:, None, None] * dual.direction(u) * v).sum(dim=(-2, -1))
    left, right = norm.value(u + v) ** 2 / 2, norm.value(u) ** 2 / 2 + inner
    share = (left - right) / (norm.value(v) ** 2 / 2)
    assert share.min() >= c - 1e-6 and share.min() <= 1.01 * c
    torch.testing.assert_close(dual.value(u), norm.dual(u), rtol=1e-12, atol=0)
