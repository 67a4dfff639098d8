"""The linear model and diagonal networks under perturbations: gaps, gradients at any depth, kinks, and where steps end."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import torch
from torch import Tensor

from implicit_bias.core.errors import BadInput
from implicit_bias.losses import LOSSES
from implicit_bias.models import MODELS, Data, Objective
from implicit_bias.models.perturbations import BALLS, pairs_of
from implicit_bias.models.robust import disjoint

D, N, RUNS = 5, 9, 2
EPS = torch.tensor([0.1, 0.3], dtype=torch.float64).reshape(RUNS, 1, 1)
CONJUGATE = {"linf": 1.0, "l2": 2.0, "l1": math.inf}


def made(perturbation: str, k: int, *, eps: object = EPS, loss: str = "cross_entropy", runs: int = RUNS) -> Objective:
    rng = np.random.RandomState(k)
    data = Data(torch.tensor(rng.randn(runs, N, D)), torch.tensor(np.stack([rng.permutation(N) % k for _ in range(runs)])), k)
    objective: Objective = MODELS.get("linear")(perturbation=perturbation, eps=eps).objective(data, LOSSES.get(loss)())
    return objective


def weights(k: int, scale: float = 1.0) -> Tensor:
    return scale * torch.tensor(np.random.RandomState(7).randn(RUNS, k, D))


@pytest.mark.parametrize("perturbation", BALLS)
@pytest.mark.parametrize("k", [2, 3])
def test_gaps_are_those_of_the_worst_perturbation_and_gradients_their_derivatives(k: int, perturbation: str) -> None:
    objective, w = made(perturbation, k), weights(k).requires_grad_()
    x, y = objective.data.x, objective.data.y
    scores = w @ x.mT
    own = w.gather(1, y.unsqueeze(-1).expand(-1, -1, D))  # w_y of every sample
    taken = torch.linalg.vector_norm(own.unsqueeze(1) - w.unsqueeze(2), CONJUGATE[perturbation], dim=-1)
    u = scores - scores.gather(1, y.unsqueeze(1)) + EPS * taken
    u = u.masked_fill(objective.data.is_label(), -math.inf)
    assert torch.allclose(objective.negative_gaps({"weight": w.detach()}), u, rtol=0, atol=1e-13)
    loss = torch.cat([torch.zeros_like(u[:, :1]), u], dim=1).logsumexp(dim=1).mean(dim=1)
    (wanted,) = torch.autograd.grad(loss.sum(), w)
    found = objective.gradient({"weight": w.detach()})
    assert torch.allclose(found.log_loss, loss.log(), rtol=1e-13)
    assert torch.allclose(found.blocks["weight"].relative_to(torch.zeros(1, dtype=torch.float64)), wanted, rtol=0, atol=1e-14)


@pytest.mark.parametrize("perturbation", BALLS)
def test_gradients_are_exact_where_the_loss_is_below_every_double(perturbation: str) -> None:
    objective, w = made(perturbation, 3, eps=EPS / 5, loss="exponential"), weights(3, 4000.0)
    found = objective.gradient({"weight": w}).blocks["weight"]
    with mpmath.workdps(60):
        for r in range(RUNS):
            x, y, v = objective.data.x[r].tolist(), objective.data.y[r].tolist(), w[r].tolist()
            eps = float((EPS / 5)[r])
            wanted = [[mpmath.mpf(0)] * D for _ in range(3)]
            for xi, yi in zip(x, y, strict=True):
                for c in {0, 1, 2} - {yi}:
                    difference = [mpmath.mpf(a) - b for a, b in zip(v[yi], v[c], strict=True)]
                    size = mpmath.norm(difference, CONJUGATE[perturbation])
                    weight = mpmath.exp(eps * size - sum(a * b for a, b in zip(difference, xi, strict=True))) / N
                    for j, moved in enumerate(_worst(perturbation, difference, size)):
                        wanted[yi][j] -= weight * (xi[j] - eps * moved)
                        wanted[c][j] += weight * (xi[j] - eps * moved)
            for c in range(3):
                for j in range(D):
                    log_size = float(mpmath.log(abs(wanted[c][j])))
                    assert abs(log_size) > 1000
                    assert float(found.log_abs()[r, c, j]) == pytest.approx(log_size, rel=1e-12)
                    assert float(found.mantissa[r, c, j].sign()) == mpmath.sign(wanted[c][j])


def _worst(perturbation: str, v: list[mpmath.mpf], size: mpmath.mpf) -> list[mpmath.mpf]:
    if perturbation == "linf":
        return [mpmath.sign(entry) for entry in v]
    if perturbation == "l2":
        return [entry / size for entry in v]
    return [mpmath.sign(entry) if abs(entry) == size else mpmath.mpf(0) for entry in v]


def test_at_zeros_the_smallest_subgradient_is_taken() -> None:
    objective, w = made("linf", 2, loss="exponential"), weights(2)
    w[:, :, 1:] = 0
    c = objective.gradient({"weight": w}).per_weight()["weight"][:, 1]
    plain = objective.weights({"weight": w}).sum(dim=-1)  # q_i; z_i = y_i x_i
    z = ((2 * objective.data.y - 1) * plain).unsqueeze(1) @ objective.data.x
    z = z.squeeze(1)[:, 1:]
    soft = z.sign() * (z.abs() - EPS.squeeze(-1)).clamp(min=0)
    assert (soft == 0).any() and (soft != 0).any()
    assert torch.allclose(c[:, 1:], soft, rtol=0, atol=1e-15)
    assert torch.equal(c[:, 1:] == 0, soft == 0)


@pytest.mark.parametrize("perturbation", BALLS)
def test_no_other_subgradient_is_smaller_where_classes_agree(perturbation: str) -> None:
    objective, w = made(perturbation, 3, eps=EPS * 3, loss="exponential"), weights(3)
    w[:, :, 2:] = w[:, :1, 2:]  # features with one weight in all classes
    w[1] = 0
    size = objective.gradient({"weight": w}).per_weight()["weight"].square().sum(dim=(1, 2))
    rng = np.random.RandomState(0)
    for _ in range(50):  # a gradient at a point nearby is, but for rounding, a subgradient here
        near = w + 1e-9 * torch.tensor(rng.randn(*w.shape))
        other = objective.gradient({"weight": near}).per_weight()["weight"].square().sum(dim=(1, 2))
        assert (size <= other + 1e-7).all()


def test_steps_end_where_the_weights_of_two_classes_meet() -> None:
    objective = made("linf", 3)
    before = torch.tensor([[[1.0, 0, 3, 0, 0], [0, 0, 0, 0, 0], [-1, 0, 1, 0, 0]]], dtype=torch.float64).expand(2, -1, -1)
    after = torch.tensor([[[0.5, 1, 0, 0, 0], [0, 0, 0, 0, 0], [-0.5, 0, 1, 0, 0]]], dtype=torch.float64).expand(2, -1, -1)
    landed = objective.landed({"weight": before}, {"weight": after})["weight"]
    assert torch.equal(landed[:, :, :2], after[:, :, :2])  # nobody passes another
    assert torch.equal(landed[0, :, 2], torch.tensor([1.0, 0, 1], dtype=torch.float64))
    smooth = made("l2", 3)
    assert not smooth.kinks
    assert torch.equal(smooth.landed({"weight": before}, {"weight": after})["weight"], after)


@pytest.mark.parametrize("perturbation", BALLS)
@pytest.mark.parametrize("k", [2, 3])
def test_a_diagonal_network_is_the_linear_model_of_its_map(k: int, perturbation: str) -> None:
    linear = made(perturbation, k)
    model = MODELS.get("diagonal")(perturbation=perturbation, eps=EPS, init_scale=1.0)
    network = model.objective(linear.data, LOSSES.get("cross_entropy")())
    blocks = model.initial(linear.data, [1, 2])
    product = model.product(blocks)
    w = torch.cat([torch.zeros_like(product), product], dim=1) if k == 2 else product
    gaps, wanted = network.negative_gaps(blocks), linear.negative_gaps({"weight": w})
    assert torch.allclose(gaps, wanted.amax(dim=1, keepdim=True) if k == 2 else wanted, rtol=0, atol=1e-13)
    unit = torch.zeros(1, dtype=torch.float64)
    through = linear.gradient({"weight": w}).blocks["weight"].relative_to(unit)[:, 1 if k == 2 else 0 :]
    found = network.gradient(blocks).blocks
    for name, other in (("layer1", "layer2"), ("layer2", "layer1")):
        assert torch.allclose(found[name].relative_to(unit), through * blocks[other], rtol=0, atol=1e-13)


def test_keys_that_do_not_go_together() -> None:
    with pytest.raises(BadInput, match=r"model\.eps=0\.1: .*needs model\.perturbation=linf"):
        MODELS.get("linear")(eps=0.1)
    with pytest.raises(BadInput, match=r"model\.blocks=\[2,3\]: must be null with model\.perturbation=l2"):
        MODELS.get("linear")(blocks=[2, 3], perturbation="l2", eps=0.1)


@pytest.mark.parametrize("perturbation", BALLS)
def test_a_single_feature_leaves_zero_where_the_samples_outweigh_the_ball(perturbation: str) -> None:
    """All balls are one interval there, with a kink at zero: the gradient is that of the samples less eps, not zero."""
    data = Data(torch.tensor([[[1.0], [2.0], [-1.0], [-2.0]]], dtype=torch.float64), torch.tensor([[1, 1, 0, 0]]), 2)
    objective = MODELS.get("linear")(perturbation=perturbation, eps=0.1).objective(data, LOSSES.get("cross_entropy")())
    gradient = objective.gradient({"weight": torch.zeros(1, 2, 1, dtype=torch.float64)}).blocks["weight"]
    found = gradient.relative_to(torch.zeros(1, dtype=torch.float64)).flatten().tolist()
    assert found == pytest.approx([(1.5 - 0.1) / 2, -(1.5 - 0.1) / 2], rel=1e-14)


@pytest.mark.parametrize("perturbation", BALLS)
@pytest.mark.parametrize("k", [2, 3, 8])
def test_at_zero_the_gradient_is_the_steepest_descent_that_there_is(k: int, perturbation: str) -> None:
    """W = 0 is a kink of every pair. Along the smallest subgradient g the loss falls by |g|^2, and no rounding of a perturbation
    of full length, which is then none inside of the ball, holds classes together that the samples part."""
    for seed in range(2):
        rng = np.random.RandomState(seed)
        y = np.arange(4 * k) % k
        x = 2.0 * np.eye(k, 11)[y] + 0.3 * rng.randn(4 * k, 11)
        data = Data(torch.tensor(x)[None], torch.tensor(y)[None], k)
        objective = MODELS.get("linear")(perturbation=perturbation, eps=0.05).objective(data, LOSSES.get("cross_entropy")())
        zero, h = torch.zeros(1, k, 11, dtype=torch.float64), 1e-6
        at_zero = objective.gradient({"weight": zero})
        g = at_zero.blocks["weight"].relative_to(torch.zeros(1, dtype=torch.float64))
        after = objective.gradient({"weight": -h * g}).log_loss.exp()
        assert float(at_zero.log_loss.exp() - after) / h == pytest.approx(float((g**2).sum()), rel=1e-4)
        assert float(g.abs().amax()) > 0.1


def test_pairs_without_a_class_in_common_are_taken_together_in_their_turn() -> None:
    first, second = pairs_of(10)
    parts = disjoint(tuple(range(45)), 10)
    assert len(parts) == 17 and sorted(pair for part in parts for pair in part) == list(range(45))
    for part in parts:
        assert len({*(first[pair] for pair in part), *(second[pair] for pair in part)}) == 2 * len(part)
    turn = {pair: place for place, part in enumerate(parts) for pair in part}
    for pair in range(45):
        for later in range(pair + 1, 45):
            if {first[pair], second[pair]} & {first[later], second[later]}:
                assert turn[pair] < turn[later]
