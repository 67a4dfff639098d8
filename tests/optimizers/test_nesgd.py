"""Scion, MuonMax, PolarGrad, Muon-Adam as published: their steps minimise what they are said to; Lion and MVN-Grad."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from implicit_bias.core.scaled import Scaled
from implicit_bias.engine import simulate
from implicit_bias.optimizers import OPTIMIZERS
from tests.engine.test_engine import mixtures, problem
from tests.optimizers.test_hybrids import HIDDEN, SHAPES, plain_gradient
from tests.support.networks import F64
from tests.support.optimizer_steps import step_with

ETA = 0.3
ONE = torch.zeros((), dtype=F64)


class Averages:
    """m and sqrt(v) of the gradients so far, in plain numbers, from zero or from the first gradient."""

    def __init__(self, beta: float, beta2: float, first: bool) -> None:
        self.beta, self.beta2, self.first = beta, beta2, first
        self.m: dict[str, Tensor] = {}
        self.v: dict[str, Tensor] = {}

    def take(self, gradient: Mapping[str, Tensor]) -> None:
        for name, g in gradient.items():
            m, v = (g, g**2) if self.first else (torch.zeros_like(g), torch.zeros_like(g))
            self.m[name] = self.beta * self.m.get(name, m) + (1 - self.beta) * g
            self.v[name] = self.beta2 * self.v.get(name, v) + (1 - self.beta2) * g**2


def stepped(name: str, steps: int = 4, **keys: Any) -> tuple[Averages, dict[str, Tensor]]:
    """The averages after some gradients, and the last step at the rate ETA."""
    optimizer = OPTIMIZERS.get(name)(**keys)
    norm = optimizer.geometry(list(SHAPES), None, None, HIDDEN)
    state = optimizer.init(plain_gradient(0, SHAPES))
    first = keys.get("first") == "gradient" or keys.get("published", False)
    averages = Averages(optimizer.beta, getattr(optimizer, "beta2", 0.9), first)
    for t in range(1, steps + 1):
        gradient = plain_gradient(t, SHAPES)
        averages.take({n: g.relative_to(ONE) for n, g in gradient.items()})
        state, step = step_with(optimizer, state, gradient, t, norm)
    size = ETA * (1 if step.log_size is None else step.log_size.exp())
    return averages, {n: -size * d for n, d in step.direction.items()}


def spectral(w: Tensor) -> Tensor:
    size: Tensor = torch.linalg.matrix_norm(w, 2)
    return size


def nuclear(w: Tensor) -> Tensor:
    size: Tensor = torch.linalg.svdvals(w).sum(dim=-1)
    return size


def squared_norm(name: str, change: Mapping[str, Tensor], averages: Averages, scale: float, eps: float) -> Tensor:
    """The square of the norm of a change in which MuonMax and PolarGrad descend."""
    sizes = torch.stack([spectral(change[n]) for n in HIDDEN]) ** 2 / scale
    matrices = sizes.amax(dim=0) if name == "muon_max" else sizes.sum(dim=0)
    rest = [((eps + averages.v[n].sqrt()) * change[n] ** 2).sum(dim=(-2, -1)) for n in SHAPES if n not in HIDDEN]
    return matrices + torch.stack(rest).sum(dim=0)


def inner(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Tensor:
    return torch.stack([(a[n] * b[n]).sum(dim=(-2, -1)) for n in a]).sum(dim=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["muon_max", "polar_grad"])
@pytest.mark.parametrize("first", ["zero", "gradient"])
@pytest.mark.parametrize(("scale", "eps"), [(10.0, 0.0), (0.3, 0.2)])
def test_the_step_minimises_the_regularised_model(name: str, first: str, scale: float, eps: float) -> None:
    """<m, D> + |D|^2 / (2 eta) is least at the step, where it is -eta |m|_*^2 / 2; others near it are no better."""
    averages, change = stepped(name, scale=scale, eps=eps, first=first)

    def model(d: Mapping[str, Tensor]) -> Tensor:
        return inner(averages.m, d) + squared_norm(name, d, averages, scale, eps) / (2 * ETA)

    nuclears = torch.stack([nuclear(averages.m[n]) for n in HIDDEN])
    matrices = nuclears.sum(dim=0) ** 2 if name == "muon_max" else (nuclears**2).sum(dim=0)
    rest = [(averages.m[n] ** 2 / (eps + averages.v[n].sqrt())).sum(dim=(-2, -1)) for n in SHAPES if n not in HIDDEN]
    least = -ETA / 2 * (scale * matrices + torch.stack(rest).sum(dim=0))
    torch.testing.assert_close(model(change), least, rtol=1e-10, atol=0)
    rng = torch.Generator().manual_seed(0)
    for size in (1e-3, 1e-1, 1.0):
        for _ in range(60):
            other = {n: d + size * d.std() * torch.randn(d.shape, generator=rng, dtype=F64) for n, d in change.items()}
            assert (model(other) >= least * (1 + 1e-12)).all()


@pytest.mark.parametrize("ratio", [0.1, 2.5])
@pytest.mark.parametrize("first", ["zero", "gradient"])
def test_scions_step_is_the_best_of_its_length(ratio: float, first: str) -> None:
    """<m, D> is least over |D| <= eta, where it is -eta |m|_*."""
    averages, change = stepped("scion", ratio=ratio, first=first)
    sizes = [ratio * spectral(d) if n in HIDDEN else d.abs().amax(dim=(-2, -1)) for n, d in change.items()]
    assert torch.stack(sizes).amax(dim=0).tolist() == pytest.approx([ETA, ETA], rel=1e-12)
    duals = [nuclear(m) / ratio if n in HIDDEN else m.abs().sum(dim=(-2, -1)) for n, m in averages.m.items()]
    torch.testing.assert_close(inner(averages.m, change), -ETA * torch.stack(duals).sum(dim=0), rtol=1e-11, atol=0)


def test_muon_adam_as_published_is_the_best_step_in_its_norm() -> None:
    """max(max_l |W_l| / s, max_i |u_i| (eps + sqrt v_i) / |m_i|), of dual norm s sum |M_l|_* + sum m^2 / (eps + sqrt v)."""
    eps, s = 1e-3, 4.0
    averages, change = stepped("muon_adam", ratio=1 / s, beta=0.95, beta1=0.95, eps=eps, published=True)
    roots = {n: eps + v.sqrt() for n, v in averages.v.items()}
    for n, d in change.items():
        size = spectral(d) / s if n in HIDDEN else (d.abs() * roots[n] / averages.m[n].abs()).amax(dim=(-2, -1))
        assert size.tolist() == pytest.approx([ETA, ETA], rel=1e-11)
    duals = [s * nuclear(m) if n in HIDDEN else (m**2 / roots[n]).sum(dim=(-2, -1)) for n, m in averages.m.items()]
    torch.testing.assert_close(inner(averages.m, change), -ETA * torch.stack(duals).sum(dim=0), rtol=1e-11, atol=0)


@pytest.mark.parametrize("name", ["scion", "muon_max", "polar_grad", "muon_adam"])
@pytest.mark.parametrize("stale", [False, True])
def test_a_truncated_step_ends_where_the_model_is_zero(name: str, stale: bool) -> None:
    """The tangents' average at the point arrived at; with stale nuclear norms those of the step before are reckoned with."""
    equal = {"beta1": 0.95, "published": True} if name == "muon_adam" else {"first": "gradient"}
    optimizer = OPTIMIZERS.get(name)(truncate=True, stale=stale, beta=0.95, **equal)
    norm = optimizer.geometry(list(SHAPES), None, None, HIDDEN)
    state, averages = optimizer.init(plain_gradient(0, SHAPES)), Averages(0.95, 0.95, first=True)
    theta = {n: g.relative_to(ONE) for n, g in plain_gradient(9, SHAPES).items()}
    tangent, before = None, dict[str, Tensor]()
    for t in range(1, 5):
        gradient = plain_gradient(t, SHAPES)
        plain = {n: g.relative_to(ONE) for n, g in gradient.items()}
        averages.take(plain)
        new = 1 - inner(plain, theta)  # the losses are all 1
        tangent = new if tangent is None else 0.95 * tangent + 0.05 * new
        state, step = step_with(optimizer, state, gradient, t, norm, parameters=theta, lr=math.inf)
        assert step.whole and step.log_size is not None
        moved = {n: theta[n] - step.log_size.exp() * d for n, d in step.direction.items()}
        reached = tangent + inner(averages.m, moved)
        start, fell = tangent + inner(averages.m, theta), inner(averages.m, theta) - inner(averages.m, moved)
        nuclears = {n: nuclear(averages.m[n]) for n in HIDDEN}
        stale_ones = before if stale and before else nuclears
        # What a step at rate one is reckoned to gain and gains: with the factors that its matrices have.
        scale, rest = 10.0, {n: averages.m[n] ** 2 / averages.v[n].sqrt() for n in SHAPES if n not in HIDDEN}
        if name == "scion":
            rest = {n: averages.m[n].abs() for n in rest}
        total = torch.stack([r.sum(dim=(-2, -1)) for r in rest.values()]).sum(dim=0)
        factors: Mapping[str, Any] = dict.fromkeys(HIDDEN, 1.0)
        if name == "muon_max":
            factors = dict.fromkeys(HIDDEN, torch.stack(list(stale_ones.values())).sum(dim=0))
        elif name == "polar_grad":
            factors = stale_ones
        reckoned = total + scale * sum(factors[n] * stale_ones[n] for n in HIDDEN)
        gained = total + scale * sum(factors[n] * nuclears[n] for n in HIDDEN)
        torch.testing.assert_close(fell, start.clamp(min=0) * gained / reckoned, rtol=1e-9, atol=1e-11)
        if not stale:
            torch.testing.assert_close(reached.clamp(min=0), torch.zeros_like(reached), rtol=0, atol=1e-9)
        theta, before = moved, nuclears


def test_matrices_that_are_far_below_the_rest_do_not_vanish() -> None:
    """Sizes of MuonMax's parts: e^-2000 of the matrices, of order one of the rest; with the matrices alone e^-1000 is a size."""
    gradient = {n: Scaled(g.mantissa, g.log_scale - 1000) for n, g in plain_gradient(0, SHAPES).items()}
    both, alone = OPTIMIZERS.get("muon_max")(), OPTIMIZERS.get("muon_max")(matrices=list(SHAPES))
    for rule, size in ((both, 0.0), (alone, -1000.0)):
        _, step = step_with(rule, rule.init(gradient), gradient, 1, rule.geometry(list(SHAPES), None, None, HIDDEN))
        assert step.log_size is not None
        assert step.log_size.flatten().tolist() == pytest.approx([size, size], abs=10)
        assert all(bool(d.isfinite().all()) for d in step.direction.values())


def test_lion_is_lion_pytorch_step_by_step() -> None:
    lion = pytest.importorskip("lion_pytorch")
    data = mixtures([1], k=3, d=4)
    given = problem("lion", data, 1, 60, 0.01, power=0.0, points=1000, weights="all", compile="off", hyper={"beta2": 0.97})
    given = replace(given, measured={})
    ours = simulate(given).parameters
    w = ours[0]["weight"][0].clone().requires_grad_()
    theirs = lion.Lion([w], lr=0.01, betas=(0.9, 0.97))
    for t in range(1, 61):
        theirs.zero_grad()
        functional.cross_entropy(data.x[0] @ w.T, data.y[0]).backward()
        theirs.step()
        torch.testing.assert_close(ours[t]["weight"][0], w.detach(), rtol=0, atol=1e-13)


def test_lion_with_one_memory_is_signum_to_the_bit() -> None:
    data = mixtures([1, 2])
    paths = [
        simulate(problem(name, data, 2, 100, 0.1, weights="all", compile="off", hyper=keys)).parameters
        for name, keys in (("lion", {"beta1": 0.9, "beta2": 0.9}), ("signum", {"beta": 0.9}))
    ]
    for t, blocks in paths[0].items():
        assert torch.equal(blocks["weight"], paths[1][t]["weight"])


@pytest.mark.parametrize(("eps", "log_scale"), [(0.0, 0.0), (0.05, 0.0), (0.0, -5000.0)])
def test_mvn_grad_is_its_formula(eps: float, log_scale: float) -> None:
    """In plain numbers; and, without eps, for gradients that are no doubles."""
    optimizer = OPTIMIZERS.get("mvn_grad")(beta1=0.8, beta2=0.9, eps=eps)
    norm, gradients = optimizer.geometry(["a"], None), [plain_gradient(t, {"a": (3, 4)})["a"].mantissa.numpy() for t in range(6)]
    state = optimizer.init({"a": Scaled(torch.tensor(gradients[0]), torch.zeros(2, 3, 1, dtype=F64))})
    m, v, u = (np.zeros_like(gradients[0]) for _ in range(3))
    for t, g in enumerate(gradients, 1):
        m = 0.8 * m + 0.2 * g
        v = 0.9 * v + 0.1 * (g - m) ** 2
        u = 0.8 * u + 0.2 * g / (np.sqrt(v / (1 - 0.9**t)) + eps)
        scaled = {"a": Scaled(torch.tensor(g), torch.full((2, 3, 1), log_scale, dtype=F64))}
        state, step = step_with(optimizer, state, scaled, t, norm)
        np.testing.assert_allclose(step.direction["a"].numpy(), u / (1 - 0.8**t), rtol=1e-11)
