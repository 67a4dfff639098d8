"""Norms of hidden units: what they are on a network's blocks, and where they are refused."""

import pytest
import torch

from implicit_bias.config.overrides import compose
from implicit_bias.core.errors import BadInput
from implicit_bias.models import MODELS
from implicit_bias.norms import make_norm, over_blocks
from tests.support.networks import F64


def test_on_one_hidden_layer_it_is_the_l3_norm_of_the_lengths_of_units() -> None:
    rng = torch.Generator().manual_seed(0)
    shapes = {"layer1": (2, 5, 3), "bias1": (2, 1, 5), "layer2": (2, 4, 5)}
    theta = {name: torch.randn(shape, generator=rng, dtype=F64) for name, shape in shapes.items()}
    model = MODELS.get("mlp")(activation="quadratic", width=5, bias="first")
    whole = over_blocks(make_norm("neuron3"), list(theta), None, model.hidden_matrices(list(theta)))
    squares = theta["layer1"].square().sum(dim=2) + theta["bias1"][:, 0].square() + theta["layer2"].square().sum(dim=1)
    torch.testing.assert_close(whole.value(theta), (squares.sqrt() ** 3).sum(dim=1) ** (1 / 3))
    # With the others zero, of the rows of one block or of the columns of another.
    for name, lengths in (("layer1", theta["layer1"].norm(dim=2)), ("layer2", theta["layer2"].norm(dim=1))):
        torch.testing.assert_close(whole.of_block(name).value({name: theta[name]}), (lengths**3).sum(dim=1) ** (1 / 3))


@pytest.mark.parametrize(
    "overrides",
    [
        ("model=mlp", "model.depth=3", "optimizer=nsd", "norm=neuron"),
        ("model=diagonal", "optimizer=nsd", "norm=neuron"),
        ("model=cnn", "log.norms=[l2,neuron3]"),
        ("model=mlp", "model.bias=all", "model.allow_inhomogeneous=true", "log.norms=[neuron1.5]"),
        ("model.blocks=[12,13]", "log.norms=[neuron3]"),
    ],
)
def test_models_whose_weights_are_not_those_of_one_layer_of_units_are_refused(overrides: tuple[str, ...]) -> None:
    with pytest.raises(BadInput, match=r"neuron.* is of the weights of the units of one layer, which model="):
        compose(list(overrides))
