"""Values and duals of many norms at one point: the bits of each norm alone, every decomposition made once."""

import pytest
import torch

from implicit_bias.models.linear import zero_sum_basis
from implicit_bias.norms import make_norm, over_blocks, sizes
from implicit_bias.norms.base import Norm
from implicit_bias.norms.singular import singular_values
from implicit_bias.norms.sizes import Sizes
from implicit_bias.norms.spectral import Spectral

LABELS = ("linf", "l1", "l2", "row", "spectral", "nuclear", "schatten3", "spectral-rms", "hybrid0.1", "lp3")


@pytest.mark.parametrize("names", [("weight",), ("weight1", "weight2")])
def test_sizes_are_those_of_each_norm_alone_and_share_singular_values(
    names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(0)
    blocks = {name: torch.randn(3, 4, 5, generator=generator, dtype=torch.float64) for name in names}
    bases = dict.fromkeys(names, zero_sum_basis(4))
    norms = [over_blocks(make_norm(label), names, bases) for label in LABELS]
    alone = [(norm.value(blocks), norm.dual(blocks)) for norm in norms]
    made: list[tuple[int, ...]] = []

    def counted(w: torch.Tensor) -> torch.Tensor:
        made.append(tuple(w.shape))
        return singular_values(w)

    monkeypatch.setattr(sizes, "singular_values", counted)
    together = Sizes(blocks)
    for norm, (value, dual) in zip(norms, alone, strict=True):
        assert torch.equal(together.value(norm), value) and torch.equal(together.dual(norm), dual)
        assert together.dual(norm) is together.dual(norm)
    # Of a matrix itself for values, of what the basis leaves of it for duals: for all norms together, also composed of blocks.
    assert made == [shape for shape in ((3, 4, 5), (3, 3, 5)) for _ in names]


def test_a_subclass_of_a_known_norm_is_asked_itself() -> None:
    class Doubled(Spectral):
        def value(self, w: torch.Tensor) -> torch.Tensor:
            return 2 * super().value(w)

    norm: Norm = Doubled()
    w = {"weight": torch.eye(3, dtype=torch.float64)[None]}
    assert Sizes(w).value(over_blocks(norm, ["weight"])).tolist() == [2.0]
