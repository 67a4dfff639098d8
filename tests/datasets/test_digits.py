"""Handwritten digits of scikit-learn: which are drawn, with what labels, and what cannot be had."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from implicit_bias.datasets.base import choose_samples
from tests.support.datasets import load, refused, rows


def test_digits_are_those_of_scikit_learn() -> None:
    images, labels = load_digits(return_X_y=True)
    data = load("digits")
    assert data.num_classes == 10 and data.x.shape == (1797, 64)
    assert data.x.min() == 0.0 and data.x.max() == 1.0
    assert np.array_equal(np.bincount(data.y), np.bincount(labels))
    for c in range(10):  # class by class, each in its own order
        assert np.array_equal(data.x[data.y == c] * 16, images[labels == c])
    assert np.all(np.diff(data.y) >= 0)


def test_digits_of_some_classes() -> None:
    images, labels = load_digits(return_X_y=True)
    data = load("digits", classes=[7, 2], samples_per_class=30, seed=3)
    rng = np.random.RandomState(3)
    sevens = np.sort(rng.permutation(np.flatnonzero(labels == 7))[:30])
    twos = np.sort(rng.permutation(np.flatnonzero(labels == 2))[:30])
    assert np.array_equal(data.x * 16, images[np.concatenate([sevens, twos])])
    assert data.y.tolist() == [0] * 30 + [1] * 30
    assert data.num_classes == 2


def test_more_digits_than_there_are() -> None:
    message = refused(lambda: load("digits", samples_per_class=175), "dataset.samples_per_class=175:")
    assert "class 8 has 174" in message and "<= 174" in message


@given(
    samples=st.one_of(st.none(), st.integers(150, 1000)),
    per_class=st.integers(1, 50),
    test_samples=st.integers(0, 60),
    classes=st.one_of(st.none(), st.permutations(range(10)).map(lambda digits: sorted(digits[:4]))),
    task=st.sampled_from(["digits", "parity"]),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=8, deadline=None)
def test_training_and_test_digits(
    samples: int | None, per_class: int, test_samples: int, classes: list[int] | None, task: str, seed: int
) -> None:
    """As many as asked for, disjoint, the same at every call, each with the label of its image."""
    digits = list(range(10)) if classes is None else classes
    if task == "parity" and len({digit % 2 for digit in digits}) == 1:
        refused(lambda: load("digits", classes=classes, task=task), f"dataset.classes={classes}: must have an even and an odd")
        return
    if samples is not None and classes is not None:
        samples = min(samples, 600)
    fields = {"samples": samples, "samples_per_class": per_class, "classes": classes, "task": task, "seed": seed}
    data, again = (load("digits", test_samples=test_samples, **fields) for _ in range(2))
    alone = load("digits", **fields)
    images, labels = load_digits(return_X_y=True)
    if samples is None:
        chosen = choose_samples(labels, digits, per_class, seed)
    else:
        chosen = np.sort(np.random.RandomState(seed).permutation(np.flatnonzero(np.isin(labels, digits)))[:samples])
    assert np.array_equal(data.x, images[chosen] / 16) and np.array_equal(data.x, alone.x)
    assert data.num_classes == (2 if task == "parity" else len(digits))
    label_of = {
        image.tobytes(): label % 2 if task == "parity" else digits.index(label)
        for image, label in zip(images / 16, labels, strict=True)
        if label in digits
    }
    assert data.y.tolist() == [label_of[row] for row in rows(data.x)]
    assert alone.x_test is None and alone.y_test is None
    if test_samples:
        assert data.y_test is not None and data.y_test.tolist() == [label_of[row] for row in rows(data.x_test)]
        assert len(set(rows(data.x) + rows(data.x_test))) == len(data.x) + test_samples
        assert rows(again.x_test) == rows(data.x_test)


@pytest.mark.parametrize("fields", [{}, {"samples_per_class": 30, "classes": [7, 2], "seed": 3}])
def test_digits_are_what_they_were(fields: dict[str, Any]) -> None:
    images, labels = load_digits(return_X_y=True)
    digits = fields.get("classes", list(range(10)))
    chosen = choose_samples(labels, digits, fields.get("samples_per_class"), fields.get("seed", 1))
    data = load("digits", **fields)
    assert np.array_equal(data.x, images[chosen] / 16) and data.x_test is None
    assert data.y.tolist() == [digits.index(label) for label in labels[chosen]]


def test_digits_of_four_pixels() -> None:
    data, whole = (load("digits", pixels=pixels, samples=90, test_samples=40) for pixels in (4, 8))
    for small, large in ((data.x, whole.x), (data.x_test, whole.x_test)):
        assert small is not None and large is not None
        assert np.array_equal(small, large.reshape(-1, 4, 2, 4, 2).mean(axis=(2, 4)).reshape(-1, 16))
    assert np.array_equal(data.y, whole.y)


def test_other_seeds_are_other_digits() -> None:
    one, two = (load("digits", samples=100, test_samples=100, seed=seed) for seed in (1, 2))
    assert rows(one.x) != rows(two.x) and rows(one.x_test) != rows(two.x_test)


@pytest.mark.parametrize(
    ("fields", "key", "part"),
    [
        ({"samples": 1798}, "dataset.samples=1798:", "must be <= 1797, the samples of these digits, or null"),
        ({"samples": 366, "classes": [3, 6]}, "dataset.samples=366:", "must be <= 364"),
        ({"samples": 9}, "dataset.samples=9:", "was drawn; must be more"),
        ({"samples": 2, "task": "parity", "seed": 3}, "dataset.samples=2:", "digit was drawn; must be more"),
        ({"test_samples": 1}, "dataset.test_samples=1:", "must be <= 0, the samples of these digits that training leaves"),
        ({"samples": 1700, "test_samples": 98}, "dataset.test_samples=98:", "must be <= 97"),
        ({"samples_per_class": 174, "test_samples": 58}, "dataset.test_samples=58:", "must be <= 57"),
        ({"classes": [1, 3, 5], "task": "parity"}, "dataset.classes=[1, 3, 5]:", "an even and an odd digit"),
    ],
)
def test_digits_that_cannot_be_had(fields: dict[str, Any], key: str, part: str) -> None:
    assert part in refused(lambda: load("digits", **fields), key)
