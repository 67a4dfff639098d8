"""Closed-form gradients against autograd and mpmath, from a loss of 1 down to e^-10000."""

import math

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import one_hot

from implicit_bias.core.scaled import Scaled
from implicit_bias.losses import LOSSES
from implicit_bias.losses.base import log_log1p_exp
from implicit_bias.models import MODELS, Data
from implicit_bias.norms import NORMS

R, N, D, K = 3, 14, 5, 4


def problem(seed: int, size: float, zeros: bool = False) -> tuple[Data, Tensor]:
    rng = np.random.RandomState(seed)
    x, y = rng.randn(R, N, D), rng.randint(0, K, (R, N))
    y[:, :K] = np.arange(K)
    if zeros:
        x[rng.rand(R, N, D) < 0.6] = 0
    return Data(torch.tensor(x), torch.tensor(y), K), size * torch.tensor(rng.randn(R, K, D))


def gaps_by_autograd(data: Data, w: Tensor) -> tuple[Tensor, Tensor]:
    z = torch.einsum("rkd,rnd->rnk", w, data.x.expand(R, -1, -1))
    y = data.y.expand(R, -1)
    return z.gather(-1, y[..., None]) - z, one_hot(y, K).bool()


PLAIN = {
    "cross_entropy": lambda m, label: torch.log1p(torch.exp(-m).masked_fill(label, 0).sum(-1)),
    "exponential": lambda m, label: torch.exp(-m).masked_fill(label, 0).sum(-1),
    "pair_logistic": lambda m, label: torch.log1p(torch.exp(-m)).masked_fill(label, 0).sum(-1),
}


@pytest.mark.parametrize("loss", PLAIN)
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("zeros", [False, True])
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**31 - 1), size=st.floats(0.01, 30))
def test_gradient_equals_autograd(loss: str, shared: bool, zeros: bool, seed: int, size: float) -> None:
    data, w = problem(seed, size, zeros)
    if shared:
        data = Data(data.x[:1], data.y[:1], K)
    w.requires_grad_()
    plain = PLAIN[loss](*gaps_by_autograd(data, w)).mean(-1)
    (expected,) = torch.autograd.grad(plain.sum(), w)
    gradient = MODELS.get("linear")().objective(data, LOSSES.get(loss)()).gradient({"weight": w.detach()})
    block = gradient.blocks["weight"]
    unit = expected.abs().amax(dim=(-2, -1), keepdim=True)
    torch.testing.assert_close(block.relative_to(unit.log()), expected / unit, rtol=0, atol=1e-12)
    torch.testing.assert_close(gradient.log_loss, plain.detach().log(), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("loss", PLAIN)
def test_weights_reproduce_the_gradient(loss: str) -> None:
    data, w = problem(1, 2.0)
    objective = MODELS.get("linear")().objective(data, LOSSES.get(loss)())
    weights = objective.weights({"weight": w})
    assert weights.shape == (R, N, K)
    torch.testing.assert_close(weights.sum(dim=(-2, -1)), torch.ones(R, dtype=torch.float64))
    assert (weights[one_hot(data.y, K).bool()] == 0).all()
    pairs = torch.eye(K, dtype=torch.float64)[data.y][:, :, None, :] - torch.eye(K, dtype=torch.float64)
    c = torch.einsum("rnc,rnck,rnd->rkd", weights, pairs, data.x)
    torch.testing.assert_close(objective.gradient({"weight": w}).per_weight()["weight"], c, rtol=1e-11, atol=1e-13)


def mp_gradient(loss: str, x: np.ndarray, y: np.ndarray, w: np.ndarray) -> tuple[list[list[mpmath.mpf]], mpmath.mpf]:
    """Gradient and value of the mean loss at 400 digits."""
    z = [[mpmath.fdot(map(mpmath.mpf, w[c]), map(mpmath.mpf, xi)) for c in range(K)] for xi in x]
    total, g = mpmath.mpf(0), [[mpmath.mpf(0)] * D for _ in range(K)]
    for xi, yi, zi in zip(x, y, z, strict=True):
        e = {c: mpmath.e ** (zi[c] - zi[yi]) for c in range(K) if c != yi}
        if loss == "cross_entropy":
            total += mpmath.log1p(sum(e.values()))
            pull = {c: v / (1 + sum(e.values())) for c, v in e.items()}
        elif loss == "exponential":
            total += sum(e.values())
            pull = e
        else:
            total += sum(mpmath.log1p(v) for v in e.values())
            pull = {c: v / (1 + v) for c, v in e.items()}
        for c, v in pull.items():
            for j in range(D):
                g[c][j] += v * mpmath.mpf(xi[j]) / N
                g[yi][j] -= v * mpmath.mpf(xi[j]) / N
    return g, total / N


@pytest.mark.parametrize("loss", PLAIN)
@pytest.mark.parametrize("size", [1.0, 100.0, 5e3, 5e4])
@pytest.mark.parametrize("zeros", [False, True])
def test_gradient_equals_mpmath_at_any_depth(loss: str, size: float, zeros: bool) -> None:
    """A separating W scaled up: log losses down to tens of thousands below zero, entries e^-1000s apart."""
    rng = np.random.RandomState(5)
    means = 3 * rng.randn(K, D)
    y = np.arange(N) % K
    x = means[y] + 0.3 * rng.randn(N, D)
    if zeros:
        x[rng.rand(N, D) < 0.4] = 0
        x[:, -1] = 0
        x[3, -1] = 0.5
    w = size * (means + 0.1 * rng.randn(K, D))
    data = Data(torch.tensor(x)[None], torch.tensor(y)[None], K)
    gradient = MODELS.get("linear")().objective(data, LOSSES.get(loss)()).gradient({"weight": torch.tensor(w)[None]})
    with mpmath.workdps(400):
        exact, value = mp_gradient(loss, x, y, w)
        log_value = float(mpmath.log(value))
        signs = np.array([[int(mpmath.sign(v)) for v in row] for row in exact])
        logs = np.array([[float(mpmath.log(abs(v))) if v else -math.inf for v in row] for row in exact])
    assert gradient.log_loss.item() == pytest.approx(log_value, rel=1e-13, abs=1e-10)
    block = gradient.blocks["weight"]
    np.testing.assert_array_equal(block.mantissa[0].sign().numpy(), signs)
    # Gaps of size 1e5 carry an absolute error of about 1e-11 into the exponents.
    np.testing.assert_allclose(block.log_abs()[0].numpy(), logs, rtol=1e-13, atol=1e-9)


def test_log_loss_reaches_ten_thousand_below_zero_in_that_test() -> None:
    deep = torch.full((1, 1, 3), -12345.0, dtype=torch.float64)
    for loss in PLAIN:
        chosen = LOSSES.get(loss)()
        terms = chosen.terms(deep.clone())
        assert chosen.log_losses(terms).tolist() == [[-12345.0] * 3]
        assert chosen.log_totals(terms).tolist() == [[-12345.0] * 3]


def test_log_log1p_exp_is_smooth_across_its_branches() -> None:
    a = torch.tensor([-1e4, -40.0, -37.0001, -36.9999, -20.0, 0.0, 30.0, 800.0], dtype=torch.float64)
    with mpmath.workdps(60):
        expected = [float(mpmath.log(mpmath.log1p(mpmath.e ** mpmath.mpf(v)))) for v in a.tolist()]
    np.testing.assert_allclose(log_log1p_exp(a).numpy(), expected, rtol=1e-15, atol=2e-16)


def test_shared_data_equals_repeated_data() -> None:
    data, w = problem(3, 1.0)
    one = Data(data.x[:1], data.y[:1], K)
    many = Data(data.x[:1].expand(R, -1, -1), data.y[:1].expand(R, -1), K)
    for loss in PLAIN:
        a, b = (MODELS.get("linear")().objective(d, LOSSES.get(loss)()).gradient({"weight": w}) for d in (one, many))
        torch.testing.assert_close(a.blocks["weight"].mantissa, b.blocks["weight"].mantissa, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(a.log_loss, b.log_loss, rtol=1e-13, atol=1e-14)


def test_gaussian_initial_points_depend_on_the_seed_alone() -> None:
    data, _ = problem(3, 1.0)
    model = MODELS.get("linear")(init="gaussian", init_scale=0.5)
    together, alone = model.initial(data, [4, 5, 4])["weight"], model.initial(data, [5])["weight"]
    assert torch.equal(together[0], together[2])
    assert torch.equal(together[1], alone[0])
    assert not torch.equal(together[0], together[1])
    assert MODELS.get("linear")().initial(data, [1, 2])["weight"].abs().max() == 0


@pytest.mark.parametrize("norm", sorted(NORMS))
def test_unit_step_bounds_every_gap_change(norm: str) -> None:
    data, _ = problem(8, 1.0)
    geometry = NORMS.get(norm)()
    bound = MODELS.get("linear")().unit_step(data, geometry)
    pairs = torch.eye(K, dtype=torch.float64)[data.y][:, :, None, :] - torch.eye(K, dtype=torch.float64)
    full = geometry.dual(pairs[..., None] * data.x[:, :, None, None, :])
    torch.testing.assert_close(bound, full.amax(dim=(-2, -1)), rtol=1e-12, atol=0)


def test_homogeneity_of_degree_one() -> None:
    data, w = problem(2, 1.0)
    model = MODELS.get("linear")()
    objective = model.objective(data, LOSSES.get("cross_entropy")())
    u, scaled = objective.negative_gaps({"weight": w}), objective.negative_gaps({"weight": 3.5 * w})
    finite = torch.isfinite(u)
    torch.testing.assert_close(scaled[finite], 3.5 ** model.degree() * u[finite])


def test_scaled_zero_is_exact() -> None:
    zero = Scaled.zeros(torch.ones(2, 3, 4))
    assert zero.collapse().abs().max() == 0
    assert zero.top().tolist() == [[[0.0]], [[0.0]]]


def test_float32_rows_far_apart_keep_their_signs() -> None:
    """Class rows e^-200 apart are zero in float32 unless each has a scale of its own."""
    rng = np.random.RandomState(5)
    means, y = 3 * rng.randn(K, D), np.arange(N) % K
    data = Data(torch.tensor(means[y] + 0.3 * rng.randn(N, D))[None], torch.tensor(y)[None], K)
    single = Data(data.x.float(), data.y, K)
    far = torch.tensor(10 * means)[None]
    exact, low = (
        MODELS.get("linear")().objective(d, LOSSES.get("cross_entropy")()).gradient({"weight": p}).blocks["weight"]
        for d, p in ((data, far), (single, far.float()))
    )
    spread = exact.log_abs().amax(dim=-1)
    assert (spread.amax(dim=-1) - spread.amin(dim=-1)).max() > 120
    assert low.mantissa.dtype == torch.float32
    assert (low.mantissa != 0).all()
    agree = low.mantissa.sign() == exact.mantissa.sign()
    assert agree.float().mean() > 0.95  # an entry may cancel to within float32's round-off
