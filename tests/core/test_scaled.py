"""Sizes of large tensors are those of small ones."""

import math

import torch

from implicit_bias.core.scaled import LARGE, largest_size


def test_the_largest_size_does_not_depend_on_how_it_is_found() -> None:
    """Of large tensors it is found without a copy: negative entries, zeros of both signs, numbers that are none."""
    x = torch.randn(4, 8, LARGE // 32 + 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[0, 0], x[0, 1], x[1, 0, 3], x[2, 1, 5], x[3] = 0.0, -0.0, -math.inf, math.nan, -1.0
    assert x.numel() >= LARGE
    for dim in (-1, (-2, -1)):
        found, expected = largest_size(x, dim), x.abs().amax(dim=dim, keepdim=True)
        torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
        assert not found.signbit()[~found.isnan()].any()
        assert torch.equal(largest_size(x[:1], dim), expected[:1])
