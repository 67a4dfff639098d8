"""Hybrid optimizers: one rule for the matrices, another for the rest; Shampoo by fractional powers."""

from collections.abc import Mapping

import numpy as np
import pytest
import scipy.linalg
import torch

from implicit_bias.core.errors import BadInput
from implicit_bias.core.scaled import Scaled
from implicit_bias.optimizers import OPTIMIZERS
from tests.support.networks import F64
from tests.support.optimizer_steps import step_with


def plain_gradient(seed: int, shapes: Mapping[str, tuple[int, int]], runs: int = 2) -> dict[str, Scaled]:
    rng = np.random.RandomState(seed)
    return {n: Scaled(torch.tensor(rng.randn(runs, *s)), torch.zeros(runs, 1, 1, dtype=F64)) for n, s in shapes.items()}


SHAPES = {"layer1": (4, 6), "bias1": (1, 4), "layer2": (4, 4), "layer3": (3, 4)}


HIDDEN = ["layer1", "layer2"]


@pytest.mark.parametrize("optimizer", ["muon_signum", "muon_adam"])
@pytest.mark.parametrize("ratio", [0.1, 2.5])
@pytest.mark.parametrize("matrices", [None, ["layer3"], ["layer1", "layer2", "layer3"], []])
def test_hybrid_steps_have_their_lengths(optimizer: str, ratio: float, matrices: list[str] | None) -> None:
    rule = OPTIMIZERS.get(optimizer)(ratio=ratio, matrices=matrices)
    whole = rule.geometry(list(SHAPES), None, None, HIDDEN)
    assert whole.label == rule.own == f"hybrid{ratio}"
    gradient = plain_gradient(0, SHAPES)
    _, step = step_with(rule, rule.init(gradient), gradient, 1, whole)
    assert step.log_size is None
    assert set(step.direction) == set(SHAPES)
    for name, block in step.direction.items():
        if name in (HIDDEN if matrices is None else matrices):
            assert torch.linalg.matrix_norm(block, 2).tolist() == pytest.approx([1, 1], rel=1e-12)
            u, _, vh = torch.linalg.svd(gradient[name].mantissa, full_matrices=False)
            torch.testing.assert_close(block, u @ vh, rtol=0, atol=1e-10)
        else:  # the first step of Adam is the sign
            torch.testing.assert_close(block, ratio * gradient[name].mantissa.sign(), rtol=1e-12, atol=0)
    torch.testing.assert_close(whole.value(step.direction), torch.full((2,), ratio, dtype=F64), rtol=1e-12, atol=0)


@pytest.mark.parametrize("optimizer", ["muon_signum", "muon_adam"])
def test_hybrids_refuse_unknown_blocks(optimizer: str) -> None:
    with pytest.raises(BadInput, match=r"^optimizer.matrices=\['layer1', 'nope'\]: no block nope; allowed: layer1, bias1"):
        OPTIMIZERS.get(optimizer)(matrices=["layer1", "nope"]).geometry(list(SHAPES), None, None, HIDDEN)


@pytest.mark.parametrize("bias_correction", [False, True])
@pytest.mark.parametrize("eps", [0.0, 0.1])
def test_muon_adam_without_matrices_is_adam_and_without_a_rest_is_muon(bias_correction: bool, eps: float) -> None:
    hyper = {"beta1": 0.7, "beta2": 0.9, "eps": eps, "bias_correction": bias_correction}
    rules = {
        "adam": OPTIMIZERS.get("adam")(**hyper),
        "muon": OPTIMIZERS.get("muon")(beta=0.8),
        "no matrices": OPTIMIZERS.get("muon_adam")(ratio=0.3, matrices=[], **hyper),
        "no rest": OPTIMIZERS.get("muon_adam")(ratio=0.3, matrices=list(SHAPES), beta=0.8, **hyper),
    }
    states = {name: rule.init(plain_gradient(0, SHAPES)) for name, rule in rules.items()}
    for t in range(1, 6):
        steps = {}
        for name, rule in rules.items():
            whole = rule.geometry(list(SHAPES), None, None, HIDDEN)
            states[name], steps[name] = step_with(rule, states[name], plain_gradient(t, SHAPES), t, whole)
        for block in SHAPES:
            adam, muon = steps["adam"].direction[block], steps["muon"].direction[block]
            torch.testing.assert_close(steps["no matrices"].direction[block], 0.3 * adam, rtol=1e-12, atol=0)
            torch.testing.assert_close(steps["no rest"].direction[block], muon, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("shape", [(4, 4), (3, 3), (1, 1)])
def test_shampoo_is_the_product_of_fractional_powers(shape: tuple[int, int]) -> None:
    rule = OPTIMIZERS.get("shampoo")()
    gradient = plain_gradient(5, {"a": shape, "b": (2, 2)})
    _, step = step_with(rule, rule.init(gradient), gradient, 1, rule.geometry(["a", "b"], None))
    for name, block in gradient.items():
        for r in range(2):
            g = block.mantissa[r].numpy()
            left, right = (scipy.linalg.fractional_matrix_power(s, -0.25) for s in (g @ g.T, g.T @ g))
            np.testing.assert_allclose(step.direction[name][r].numpy(), left @ g @ right, rtol=0, atol=1e-9)
