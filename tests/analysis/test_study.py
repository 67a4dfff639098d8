"""The static study: the norm, the symmetries and the responses of methods of our own and of classes of torch's, without data."""

from __future__ import annotations

import importlib.util
import math
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from implicit_bias.analysis.study import ROUNDING, Study, study
from implicit_bias.norms import make_norm
from implicit_bias.optimizers import OPTIMIZERS
from tests.support.foreign_runs import mine, torch_class
from tests.support.quick import quick_of

there = importlib.util.find_spec("pytorch_optimizer") is not None
needs_packages = pytest.mark.skipif(
    not there, reason="pytorch_optimizer is not installed (pip install 'implicit-bias[optimizers]')"
)

OURS = [
    "adam",
    "signgd",
    "signum",
    "ngd",
    "gd",
    "momentum_gd",
    "spectral_gd",
    "muon",
    "shampoo",
    "nucgd",
    "coordinate_descent",
    "row_gd",
]
#: Own norm, and the families that the symmetries rule out.
TORCH = {
    "SGD": ("l2", ()),
    "Adam": ("linf", ("schatten",)),
    "AdamW": ("linf", ("schatten",)),
    "RMSprop": ("linf", ("schatten",)),
    "Adagrad": ("linf", ("schatten",)),
    "Rprop": ("linf", ("schatten",)),
    "Adafactor": (None, ("lp", "schatten")),
}
OTHERS = {
    "Lion": ("linf", ("schatten",)),
    "MADGRAD": ("lp4", ("schatten",)),
    "Shampoo": ("spectral", ("lp",)),
    "SOAP": (None, ("lp", "schatten")),
    "SM3": (None, ("lp", "schatten")),
    "CAME": (None, ("lp", "schatten")),
}


@cache
def of_torch(name: str) -> Study:
    """A class of torch's, studied once."""
    return study(torch_class(f"torch.optim.{name}"))


@pytest.mark.parametrize("name", quick_of(OURS, "signgd", "muon", "adam"))
def test_the_own_norm_of_our_methods_is_found(name: str) -> None:
    optimizer = OPTIMIZERS.get(name)()
    found = study(optimizer)
    assert found.own == optimizer.own
    assert found.constant.alignment == pytest.approx(1, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "p", "method"),
    [
        ("lp", 1.25, "nmd"),
        ("lp", 3.0, "sd"),
        ("lp", 3.3, "nsd"),
        ("lp", 8.0, "sd"),
        ("schatten", 1.5, "sd"),
        ("schatten", 2.7, "nmd"),
        ("schatten", 4.0, "nsd"),
    ],
)
def test_the_exponent_of_steepest_descent_is_found(family: str, p: float, method: str) -> None:
    """Off any grid, too; early steps of momentum do not hide it."""
    found = study(OPTIMIZERS.get(method)(), make_norm(family, p=p))
    assert found.constant.exponents is not None
    exponent = found.constant.exponents[family]
    assert 1 / exponent.p == pytest.approx(1 / p, abs=1e-3) and exponent.alignment > 1 - 1e-9
    assert found.own == f"{family}{p:g}"
    assert family not in found.ruled_out


@pytest.mark.slow
@pytest.mark.parametrize("name", TORCH)
def test_what_classes_of_torch_are(name: str) -> None:
    own, ruled_out = TORCH[name]
    found = of_torch(name)
    assert (found.own, found.ruled_out) == (own, ruled_out)
    assert found.constant.alignment >= 0.9999 if own else found.constant.alignment < 0.98


@pytest.mark.slow
@needs_packages
@pytest.mark.parametrize("name", OTHERS)
def test_what_classes_of_others_are(name: str) -> None:
    own, ruled_out = OTHERS[name]
    found = study(torch_class(f"pytorch_optimizer.{name}"))
    assert (found.own, found.ruled_out) == (own, ruled_out)
    assert found.constant.alignment >= 0.9999 if own else found.constant.alignment < 0.98


@pytest.mark.slow
def test_symmetries_are_exact_or_far() -> None:
    adam, spectral = of_torch("Adam").symmetries, study(OPTIMIZERS.get("spectral_gd")()).symmetries
    assert adam["entries"] < 1e-12 and min(adam[key] for key in ("left", "right", "all")) > 0.1
    assert max(spectral[key] for key in ("left", "right", "both")) < 1e-10 and spectral["entries"] > 0.1
    sgd = of_torch("SGD").symmetries
    assert max(sgd.values()) < ROUNDING


@pytest.mark.slow
def test_the_response_shows_absolute_constants() -> None:
    found = of_torch("Adam").response
    assert found[-27][0] == pytest.approx(0.42, abs=0.02)
    assert found[-50][0] == pytest.approx(1e-7, rel=0.2)
    bare = study(torch_class("torch.optim.Adam", kwargs={"eps": 0.0}))
    assert bare.scale_free_to == -500
    assert of_torch("SGD").constant.degree == pytest.approx(1)


@pytest.mark.slow
def test_it_is_said_in_words(tmp_path: Path) -> None:
    path = mine(tmp_path)
    assert study(torch_class(path, "SignDescent")).lines() == [
        "steps at a constant gradient are steepest descent in linf (alignment 1.0000)",
        "it does not change under signed permutations of entries: no Schatten norm can be its own",
        "steps do not change when gradients shrink, down to factors of 2^-500",
    ]
    assert of_torch("Adafactor").lines()[1] == (
        "it changes under signed permutations of entries and under rotations from the left and the right: no l_p and no Schatten"
        " norm can be its own"
    )
    assert of_torch("SGD").lines()[1:] == [
        "it does not change under rotations of all entries: of the l_p and Schatten norms only l2 can be its own",
        "steps grow with gradients like their power 1.00",
    ]


def test_a_class_without_a_learning_rate_is_studied_at_its_own(tmp_path: Path) -> None:
    optimizer = torch_class(mine(tmp_path), "Rateless")
    found = study(optimizer)
    assert found.constant.rateless and found.own == "linf" and found.ruled_out == ("schatten",)
    assert found.lines() == study(torch_class(mine(tmp_path), "SignDescent")).lines()
    assert found.constant.no_natural_rate == "it has no learning rate"
    assert optimizer.halving_scale is None and optimizer.not_resumable is None


@pytest.mark.parametrize(
    ("name", "line"), [("Still", "it does not move at a constant gradient"), ("Raises", "ValueError in step 1, line ")]
)
def test_a_class_of_which_nothing_is_known_is_said_to_be(name: str, line: str, tmp_path: Path) -> None:
    (said,) = study(torch_class(mine(tmp_path), name)).lines()
    assert line in said and "nan" not in said and (name != "Raises" or "no step today" in said)


def test_an_exponent_at_an_end_is_that_end() -> None:
    found: Any = of_torch("Adam").constant.exponents
    assert found["lp"].p == math.inf
    found = study(OPTIMIZERS.get("coordinate_descent")()).constant.exponents
    assert found["lp"].p == 1
