"""Datasets: exact recipes, published values, every bad input, MNIST files of all kinds, downloads."""

import dataclasses
import errno
import gzip
import hashlib
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import linprog
from sklearn.datasets import load_digits

from implicit_bias.core.errors import BadInput
from implicit_bias.core.registry import hyper_fields
from implicit_bias.datasets import DATASETS, Dataset, make_dataset, mnist
from implicit_bias.datasets.base import checked_dataset, choose_samples

CONFIGS = Path(__file__).parents[2] / "configs" / "dataset"
GENERATED = ("gaussian_mixture", "random_labels", "digits", "teacher_student")
REAL_MNIST = os.environ.get("IMPLICIT_BIAS_DATA", "")


def load(name: str, **fields: Any) -> Dataset:
    return make_dataset({"name": name, **fields}).load()


def refused(action: Callable[[], Any], key: str) -> str:
    """The message with which ``action`` is refused: one line that begins with the offending key."""
    with pytest.raises(BadInput) as caught:
        action()
    message = str(caught.value)
    assert message.startswith(key), message
    assert "\n" not in message
    return message


# Every dataset


@pytest.mark.parametrize("name", DATASETS.names())
def test_yaml_holds_the_defaults_and_the_help(name: str) -> None:
    text = (CONFIGS / f"{name}.yaml").read_text()
    cls = DATASETS.get(name)
    expected = {key: field.default for key, field in hyper_fields(cls).items()}
    if "seed" in expected:
        assert expected["seed"] == 1
        expected["seed"] = "${seed}"
    assert yaml.safe_load(text) == {"name": name, **expected}
    assert text.splitlines()[0] == f"# {cls.__doc__.splitlines()[0]}"


def test_each_yaml_is_a_dataset() -> None:
    assert sorted(path.stem for path in CONFIGS.glob("*.yaml")) == DATASETS.names()


@pytest.mark.parametrize("name", DATASETS.names())
def test_every_field_is_a_declared_key(name: str) -> None:
    cls = DATASETS.get(name)
    assert {field.name for field in dataclasses.fields(cls)} == set(hyper_fields(cls))
    assert all(field.metadata["hyper"].help for field in dataclasses.fields(cls))


@pytest.mark.parametrize("name", GENERATED)
def test_generated_data_keep_the_contract(name: str) -> None:
    source = make_dataset({"name": name})
    data, again = source.load(), source.load()
    assert data.x.dtype == np.float64 and data.x.flags["C_CONTIGUOUS"] and data.x.ndim == 2
    assert data.y.dtype == np.int64 and data.y.shape == data.x.shape[:1]
    assert np.array_equal(np.unique(data.y), np.arange(data.num_classes))
    assert np.array_equal(data.x, again.x) and np.array_equal(data.y, again.y)
    assert source.fingerprint() == ""


@pytest.mark.parametrize(
    ("name", "fields"),
    [("gaussian_mixture", {}), ("random_labels", {}), ("digits", {"samples_per_class": 20}), ("teacher_student", {"dim": 9})],
)
def test_another_seed_is_another_dataset(name: str, fields: dict[str, int]) -> None:
    assert not np.array_equal(load(name, seed=1, **fields).x, load(name, seed=2, **fields).x)


def test_unknown_name_and_key() -> None:
    assert "gaussian_mixture" in refused(lambda: make_dataset({"name": "gausian"}), "dataset=gausian:")
    assert "noise" in refused(lambda: load("gaussian_mixture", nois=1.0), "dataset.nois:")
    refused(lambda: load("file", path="a.npz", seed=3), "dataset.seed:")


@pytest.mark.parametrize(
    ("name", "key", "value", "allowed"),
    [
        ("gaussian_mixture", "num_classes", 1, ">= 2"),
        ("gaussian_mixture", "dim", 0, ">= 1"),
        ("gaussian_mixture", "samples_per_class", 0, ">= 1"),
        ("gaussian_mixture", "noise", -0.1, ">= 0"),
        ("gaussian_mixture", "noise", float("nan"), "finite"),
        ("gaussian_mixture", "noise", float("inf"), "finite"),
        ("gaussian_mixture", "seed", -1, ">= 0"),
        ("gaussian_mixture", "seed", 2**32, "<= 4294967295"),
        ("random_labels", "num_classes", 1, ">= 2"),
        ("random_labels", "samples", 3, ">= dataset.num_classes=4"),
        ("digits", "samples_per_class", 0, ">= 1"),
        ("digits", "classes", [3], "two or more"),
        ("digits", "classes", [3, 3], "different"),
        ("digits", "classes", [3, 10], "0 to 9"),
        ("digits", "classes", [3, True], "0 to 9"),
        ("digits", "classes", 3, "list"),
        ("digits", "classes", "35", "list"),
        ("mnist", "samples_per_class", 0, ">= 1"),
        ("mnist", "classes", [], "two or more"),
        ("mnist", "seed", -1, ">= 0"),
        ("mnist", "task", "thirds", "digits or parity"),
        ("mnist", "samples", 1, ">= 2"),
        ("mnist", "test_samples", -1, ">= 0"),
        ("mnist", "pixels", 8, "28, 14 or 7"),
        ("digits", "task", None, "digits or parity"),
        ("digits", "samples", 0, ">= 2"),
        ("digits", "test_samples", -5, ">= 0"),
        ("digits", "pixels", 7, "8 or 4"),
        ("teacher_student", "dim", 0, ">= 1"),
        ("teacher_student", "samples", 1, ">= 2"),
        ("teacher_student", "test_samples", -1, ">= 0"),
        ("teacher_student", "neurons", 0, ">= 1"),
        ("teacher_student", "active", 0, ">= 1"),
        ("teacher_student", "active", 2049, "<= dataset.dim=2048"),
        ("teacher_student", "seed", 2**32, "<= 4294967295"),
    ],
)
def test_value_out_of_range(name: str, key: str, value: Any, allowed: str) -> None:
    assert allowed in refused(lambda: make_dataset({"name": name, key: value}), f"dataset.{key}={value}:")


@pytest.mark.parametrize(
    ("x", "y", "num_classes", "part"),
    [
        (np.zeros(3), np.arange(3), 3, "shape (3,)"),
        (np.zeros((2, 1)), np.zeros((2, 2), int), 2, "shape (2, 2)"),
        (np.zeros((2, 1)), np.arange(3), 3, "2 samples but 3 labels"),
        (np.zeros((0, 4)), np.zeros(0, int), 0, "empty"),
        (np.zeros((4, 0)), np.arange(4), 4, "empty"),
        (np.array([["a"], ["b"]]), np.arange(2), 2, "real numbers"),
        (np.zeros((2, 2), complex), np.arange(2), 2, "real numbers"),
        (np.array([[0.0, 1.0], [2.0, np.nan]]), np.arange(2), 2, "nan in row 2, column 2;"),
        (np.array([[np.inf, 1.0], [2.0, np.nan]]), np.arange(2), 2, "inf in row 1, column 1 (and 1 more)"),
        (np.zeros((3, 1)), np.zeros(3, int), 1, "only one class"),
        (np.zeros((3, 1)), np.array([0, 2, 2]), 3, "0 to 2, each of them present"),
    ],
)
def test_the_shared_check(x: NDArray[Any], y: NDArray[Any], num_classes: int, part: str) -> None:
    assert part in refused(lambda: checked_dataset(x, y, num_classes, origin="dataset.path=a.npz"), "dataset.path=")


def test_test_samples_may_lack_a_class() -> None:
    x = np.arange(6.0).reshape(3, 2)
    data = checked_dataset(x, np.arange(3), 3, origin="dataset=a", test=(x[:1].astype(np.float32), np.array([2], np.int8)))
    assert data.x_test is not None and data.x_test.dtype == np.float64 and data.x_test.flags["C_CONTIGUOUS"]
    assert data.y_test is not None and data.y_test.dtype == np.int64 and data.y_test.tolist() == [2]


@pytest.mark.parametrize(
    ("x", "y", "part"),
    [
        (np.zeros(2), np.arange(2), "shape (2,)"),
        (np.zeros((2, 2)), np.zeros((2, 1), int), "shape (2, 1)"),
        (np.zeros((2, 2)), np.arange(3), "2 samples but 3 labels"),
        (np.zeros((0, 2)), np.zeros(0, int), "empty"),
        (np.zeros((2, 3)), np.arange(2), "3 features; must be 2"),
        (np.array([[0.0, 1.0], [np.nan, 2.0]]), np.arange(2), "nan in row 2, column 1;"),
        (np.full((2, 2), 1e200), np.arange(2), "rescale"),
        (np.zeros((2, 2)), np.array([0, 2]), "0 to 1"),
        (np.zeros((2, 2)), np.array([0, -1]), "0 to 1"),
    ],
)
def test_the_shared_check_of_test_samples(x: NDArray[Any], y: NDArray[Any], part: str) -> None:
    message = refused(
        lambda: checked_dataset(np.eye(2), np.arange(2), 2, origin="dataset=a", test=(x, y)), "dataset=a: test samples:"
    )
    assert part in message


# Generated data


@pytest.mark.parametrize(
    ("classes", "dim", "per_class", "noise", "seed"),
    [(10, 25, 50, 1.0, 1), (15, 7, 3, 0.1, 12344), (2, 1, 1, 0.0, 0)],
)
def test_mixture_is_the_published_recipe(classes: int, dim: int, per_class: int, noise: float, seed: int) -> None:
    """Number by number, from the legacy global generator that the paper's own code draws from."""
    state = np.random.get_state()
    try:
        np.random.seed(seed)
        means = [[np.random.standard_normal() for _ in range(dim)] for _ in range(classes)]
        rows = []
        for mean in means:
            draws = [[np.random.standard_normal() for _ in range(per_class)] for _ in range(dim)]
            rows += [[mean[j] + noise * draws[j][i] for j in range(dim)] for i in range(per_class)]
    finally:
        np.random.set_state(state)
    data = load("gaussian_mixture", num_classes=classes, dim=dim, samples_per_class=per_class, noise=noise, seed=seed)
    assert np.array_equal(data.x, np.array(rows))
    assert data.y.tolist() == [c for c in range(classes) for _ in range(per_class)]
    assert data.num_classes == classes


def test_mixture_has_the_published_values() -> None:
    """arXiv:2502.04664: the largest sum-norm of a sample, and the max-norm margin, by a linear program."""
    data = load("gaussian_mixture", samples_per_class=50, noise=1.0, seed=1)
    assert data.x.shape == (500, 25)
    assert np.abs(data.x).sum(axis=1).max() == pytest.approx(43.9, abs=0.05)
    assert max_norm_margin(data) == pytest.approx(4.00182, rel=1e-5)


def max_norm_margin(data: Dataset) -> float:
    """max t such that every gap of some W with entries in [-1, 1] is at least t."""
    k, d = data.num_classes, data.x.shape[1]
    rows = []
    for x, label in zip(data.x, data.y, strict=True):
        for c in range(k):
            if c != label:
                gap = np.zeros((k, d))
                gap[label], gap[c] = x, -x
                rows.append(np.append(-gap.ravel(), 1.0))
    objective = np.append(np.zeros(k * d), -1.0)
    bounds = [(-1, 1)] * (k * d) + [(None, None)]
    result = linprog(objective, A_ub=np.array(rows), b_ub=np.zeros(len(rows)), bounds=bounds)
    assert result.status == 0
    return float(-result.fun)


def test_random_labels_recipe() -> None:
    rng = np.random.RandomState(7)
    x = rng.randn(50, 3)
    y = np.concatenate([np.arange(5), rng.randint(5, size=45)])
    rng.shuffle(y)
    data = load("random_labels", num_classes=5, dim=3, samples=50, seed=7)
    assert np.array_equal(data.x, x) and np.array_equal(data.y, y)


def test_random_labels_of_as_many_classes_as_samples() -> None:
    assert sorted(load("random_labels", num_classes=6, samples=6).y.tolist()) == list(range(6))


def test_random_labels_are_uniform() -> None:
    counts = np.bincount(load("random_labels", num_classes=4, dim=1, samples=40_000).y)
    assert np.abs(counts - 10_000).max() < 450  # five standard deviations


def test_teacher_student_recipe() -> None:
    """Draw by draw as documented, with the teacher as one dense matrix."""
    rng = np.random.RandomState(4)
    w = np.zeros((7, 30))
    for row in w:
        positions = rng.choice(30, 5, replace=False)
        row[positions] = rng.randn(5)
    u = 2 * rng.randint(2, size=7) - 1
    x = rng.randn(60, 30)
    data = load("teacher_student", dim=30, samples=40, test_samples=20, neurons=7, active=5, seed=4)
    assert data.x_test is not None and data.y_test is not None and data.num_classes == 2
    assert np.array_equal(np.concatenate([data.x, data.x_test]), x) and data.x.shape == (40, 30)
    assert np.array_equal(np.concatenate([data.y, data.y_test]), np.maximum(x @ w.T, 0) @ u > 0)


@given(
    dim=st.integers(3, 20),
    samples=st.integers(10, 40),
    test_samples=st.integers(0, 30),
    neurons=st.integers(4, 20),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=30, deadline=None)
def test_teacher_student_trains_on_the_same_whatever_is_tested(
    dim: int, samples: int, test_samples: int, neurons: int, seed: int
) -> None:
    fields = {"dim": dim, "samples": samples, "neurons": neurons, "seed": seed}
    try:
        data = load("teacher_student", test_samples=test_samples, **fields)
    except BadInput as error:  # a class that nothing of the training data is in
        assert str(error).startswith(f"dataset.seed={seed}: all {samples} training samples are of class ")
        refused(lambda: load("teacher_student", test_samples=0, **fields), f"dataset.seed={seed}:")
        return
    alone = load("teacher_student", test_samples=0, **fields)
    assert alone.x_test is None and alone.y_test is None
    assert np.array_equal(data.x, alone.x) and np.array_equal(data.y, alone.y) and data.x.shape == (samples, dim)
    assert (0 if data.x_test is None else len(data.x_test)) == test_samples


def test_teacher_student_defaults() -> None:
    data = load("teacher_student")
    assert data.x.shape == (250, 2048) and data.x_test is not None and data.x_test.shape == (2000, 2048)
    assert data.y_test is not None and 0.1 < data.y_test.mean() < 0.9
    assert abs(data.x.mean()) < 0.01 and abs(data.x.std() - 1) < 0.01


def test_teacher_student_of_one_class() -> None:
    """One neuron: where its sign is -1, every label is 0."""
    seeds = range(20)
    messages = []
    for seed in seeds:
        try:
            load("teacher_student", dim=3, neurons=1, seed=seed)
        except BadInput as error:
            messages.append(str(error))
            assert messages[-1].startswith(f"dataset.seed={seed}: all 250 training samples are of class 0; must be ")
    assert 0 < len(messages) < len(seeds)


# Digits


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


def rows(x: NDArray[np.float64] | None) -> list[bytes]:
    """The samples as things that can be in a set. The 1,797 digits are all different, those of MNIST's t10k as well."""
    assert x is not None
    return [row.tobytes() for row in x]


@given(
    samples=st.one_of(st.none(), st.integers(150, 1000)),
    per_class=st.integers(1, 50),
    test_samples=st.integers(0, 60),
    classes=st.one_of(st.none(), st.permutations(range(10)).map(lambda digits: sorted(digits[:4]))),
    task=st.sampled_from(["digits", "parity"]),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=40, deadline=None)
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


# Files of the user


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


X = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.5], [-1.0, 1e-300]])


@pytest.mark.parametrize("features", ["X", "x", "data"])
@pytest.mark.parametrize("labels", ["y", "labels", "target"])
def test_npz(folder: Path, features: str, labels: str) -> None:
    arrays: dict[str, Any] = {features: X, labels: np.array([5, -3, 5, 10])}
    np.savez(folder / "my.npz", **arrays)
    data = load("file", path="my.npz")
    assert np.array_equal(data.x, X)
    assert data.y.tolist() == [1, 0, 1, 2] and data.num_classes == 3
    assert data.x.dtype == np.float64 and data.y.dtype == np.int64 and data.x.flags["C_CONTIGUOUS"]


def test_npz_of_other_types_and_layouts(folder: Path) -> None:
    x = np.asfortranarray(np.arange(8, dtype=np.int8).reshape(4, 2))
    np.savez_compressed(folder / "my.NPZ.npz", X=x, y=np.array([[True], [False], [True], [True]]))
    data = load("file", path="my.NPZ.npz")
    assert np.array_equal(data.x, x) and data.x.flags["C_CONTIGUOUS"]
    assert data.y.tolist() == [1, 0, 1, 1]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (np.array(["dog", "cat", "dog", "eel"]), [1, 0, 1, 2]),
        (np.array([b"dog", b"cat", b"dog", b"eel"]), [1, 0, 1, 2]),
        (np.array(["10", "9", "10", "1"]), [2, 1, 2, 0]),
        (np.array([0.5, -2.0, 0.5, 1e300]), [1, 0, 1, 2]),
        (np.array([2**62 + 1, 2**62, 2**62 + 2, 2**62]), [1, 0, 2, 0]),
    ],
)
def test_labels_of_any_kind(folder: Path, labels: NDArray[Any], expected: list[int]) -> None:
    np.savez(folder / "my.npz", X=X, y=labels)
    assert load("file", path="my.npz").y.tolist() == expected


def test_csv(folder: Path) -> None:
    # a byte order mark, spaces, quotes, a blank line, CRLF, and the label in the middle
    text = '\ufeffa, label ,"b"\r\n1, x,0.1\r\n2,y ,1e-5\r\n\r\n-3,"x", 7\r\n'
    (folder / "my.csv").write_bytes(text.encode())
    data = load("file", path="my.csv")
    assert data.x.tolist() == [[1.0, 0.1], [2.0, 1e-5], [-3.0, 7.0]]
    assert data.y.tolist() == [0, 1, 0]


def test_csv_with_a_byte_order_mark_before_the_label(folder: Path) -> None:
    (folder / "my.csv").write_bytes("\ufefflabel,a\n0,1\n1,2\n".encode())
    assert load("file", path="my.csv").x.tolist() == [[1.0], [2.0]]


def test_csv_with_another_label_column(folder: Path) -> None:
    (folder / "my.csv").write_text("kind,label\n10,1.5\n9,2.5\n10,3.5\n")
    data = load("file", path="my.csv", label="kind")
    assert data.x.tolist() == [[1.5], [2.5], [3.5]]
    assert data.y.tolist() == [1, 0, 1]


def test_csv_reads_back_every_bit(folder: Path) -> None:
    x = np.random.RandomState(0).randn(200, 3) * 10.0 ** np.random.RandomState(1).randint(-90, 90, (200, 3))
    lines = ["a,b,c,label"] + [",".join([*map(repr, row.tolist()), str(i % 2)]) for i, row in enumerate(x)]
    (folder / "my.csv").write_text("\n".join(lines))
    assert np.array_equal(load("file", path="my.csv").x, x)


@pytest.mark.parametrize(
    ("text", "key", "part"),
    [
        ("", "dataset.path=my.csv:", "empty"),
        ("a,label\n", "dataset.path=my.csv:", "empty (0 samples"),
        ("label\n0\n1\n", "dataset.path=my.csv:", "empty (2 samples of 0 features)"),
        ("a,kind\n1,0\n2,1\n", "dataset.label=label:", "it has a, kind"),
        ("a,label\n1,0\nred,1\n", "dataset.path=my.csv:", "line 3, column 'a': 'red' is not a number"),
        ("a,label\n1,0\n\n,1\n", "dataset.path=my.csv:", "line 4, column 'a': no value"),
        ("a,label\n1,0\nnan,1\n", "dataset.path=my.csv:", "line 3, column 'a': nan"),
        ("a,label\n1,0\n-inf,1\n", "dataset.path=my.csv:", "line 3, column 'a': -inf"),
        ("a,label\n1,0\n2,\n", "dataset.path=my.csv:", "label of sample 2 is missing"),
        ("a,label\n1,dog\n2,NaN\n", "dataset.path=my.csv:", "label of sample 2 is missing"),
        ("a,label\n1,dog\n2,dog\n", "dataset.path=my.csv:", "only one class"),
        ("a,label\n1,0\n2,1,5\n", "dataset.path=my.csv:", "line 3 has 3 cells; the header has 2"),
        ("a,b,label\n1,2,0\n2,1\n", "dataset.path=my.csv:", "line 3 has 2 cells; the header has 3"),
        (",a,label\n0,1,0\n1,2,1\n", "dataset.path=my.csv:", "column 1 has no name"),
        ("a,a,label\n0,1,0\n1,2,1\n", "dataset.path=my.csv:", "two columns are called 'a'"),
        (",".join(f"f{i}" for i in range(784)), "dataset.label=label:", "f9, ... (784 in all)"),
    ],
)
def test_bad_csv(folder: Path, text: str, key: str, part: str) -> None:
    (folder / "my.csv").write_text(text)
    assert part in refused(lambda: load("file", path="my.csv"), key)


@pytest.mark.parametrize(
    ("arrays", "part"),
    [
        ({"y": [0, 1]}, "no array called X or x or data; it has y"),
        ({"X": [[1.0], [2.0]]}, "no array called y or labels or target; it has X"),
        ({}, "it has none"),
        ({"X": [[1.0], [np.nan]], "y": [0, 1]}, "nan in row 2, column 1"),
        ({"X": [[1.0], [-np.inf]], "y": [0, 1]}, "-inf in row 2, column 1"),
        ({"X": [[1.0], [2.0]], "y": [3, 3]}, "only one class"),
        ({"X": [[1.0], [2.0]], "y": [0, 1, 1]}, "2 samples but 3 labels"),
        ({"X": np.zeros((0, 3)), "y": []}, "empty"),
        ({"X": np.zeros((2, 3, 3)), "y": [0, 1]}, "shape (2, 3, 3)"),
        ({"X": [["a"], ["b"]], "y": [0, 1]}, "real numbers"),
        ({"X": [[1.0], [2.0]], "y": [[1, 0], [0, 1]]}, "labels have shape (2, 2)"),
        ({"X": [[1.0], [2.0]], "y": [0.0, np.nan]}, "label of sample 2 is missing"),
        ({"X": [[1.0], [2.0]], "y": [0j, 1j]}, "labels have type complex128"),
    ],
)
def test_bad_npz(folder: Path, arrays: dict[str, Any], part: str) -> None:
    np.savez(folder / "my.npz", **arrays)
    assert part in refused(lambda: load("file", path="my.npz"), "dataset.path=my.npz:")


def test_pickled_objects_are_not_loaded(folder: Path) -> None:
    np.savez(folder / "my.npz", X=np.array([[object()], [object()]]), y=[0, 1])
    assert "Python objects" in refused(lambda: load("file", path="my.npz"), "dataset.path=my.npz:")


@pytest.mark.parametrize("content", [b"", b"not a zip archive", b"PK\x03\x04 half of one"])
def test_npz_that_is_none(folder: Path, content: bytes) -> None:
    (folder / "my.npz").write_bytes(content)
    assert "cannot be read" in refused(lambda: load("file", path="my.npz"), "dataset.path=my.npz:")


@pytest.mark.parametrize("filling", [0x00, 0x55, 0xFF])
def test_damaged_npz(folder: Path, filling: int) -> None:
    np.savez_compressed(folder / "my.npz", X=np.random.RandomState(0).randn(100, 10), y=np.arange(100) % 2)
    content = bytearray((folder / "my.npz").read_bytes())
    content[200:260] = bytes([filling] * 60)
    (folder / "my.npz").write_bytes(content)
    assert "the array X is damaged" in refused(lambda: load("file", path="my.npz"), "dataset.path=my.npz:")


@pytest.mark.parametrize(
    ("path", "key", "part"),
    [
        (None, "dataset.path:", "needs the path"),
        ("", "dataset.path:", "needs the path"),
        ("none.npz", "dataset.path=none.npz:", "no such file"),
        ("my.txt", "dataset.path=my.txt:", "must be an .npz or a .csv"),
        ("folder.csv", "dataset.path=folder.csv:", "not a file"),
    ],
)
def test_bad_path(folder: Path, path: str | None, key: str, part: str) -> None:
    (folder / "folder.csv").mkdir()
    source = make_dataset({"name": "file", "path": path})
    assert part in refused(source.load, key)
    assert part in refused(source.fingerprint, key)


def test_fingerprint_is_that_of_the_content(folder: Path) -> None:
    (folder / "my.csv").write_text("a,label\n1,0\n2,1\n")
    (folder / "other.csv").write_text("a,label\n1,0\n2,1\n")
    mine, other = (make_dataset({"name": "file", "path": name}) for name in ("my.csv", "other.csv"))
    expected = hashlib.sha256(b"a,label\n1,0\n2,1\n").hexdigest()
    assert mine.fingerprint() == other.fingerprint() == expected
    (folder / "my.csv").write_text("a,label\n1,0\n3,1\n")
    assert mine.fingerprint() != expected


# MNIST

IMAGES = np.random.RandomState(0).randint(256, size=(40, 4, 3), dtype=np.uint8)
LABELS = (np.arange(40) * 7 % 10).astype(np.uint8)


def idx(values: NDArray[np.uint8]) -> bytes:
    """An IDX file as its specification says, written apart from the loader."""
    return bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, Path]]:
    """An own folder and a cache folder, both empty, and mirrors that are not there."""
    own, cache = tmp_path / "own", tmp_path / "cache" / "implicit_bias" / "mnist"
    own.mkdir()
    monkeypatch.setenv("IMPLICIT_BIAS_DATA", str(own))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(mnist, "MIRRORS", ((tmp_path / "mirror1").as_uri(), (tmp_path / "mirror2").as_uri()))
    yield own, cache


def put(folder: Path, images: bytes, labels: bytes, split: str = "train", zipped: bool = True) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for content, name in ((images, f"{split}-images-idx3-ubyte"), (labels, f"{split}-labels-idx1-ubyte")):
        path = folder / (f"{name}.gz" if zipped else name)
        path.write_bytes(gzip.compress(content) if zipped else content)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("split", ["train", "t10k"])
@pytest.mark.parametrize("place", [0, 1])
def test_mnist_files(places: tuple[Path, Path], place: int, split: str, zipped: bool) -> None:
    put(places[place], idx(IMAGES), idx(LABELS), split, zipped)
    data = load("mnist", samples_per_class=None)
    order = np.argsort(LABELS, kind="stable")
    assert np.array_equal(data.x, IMAGES.reshape(40, 12)[order] / 255)
    assert np.array_equal(data.y, LABELS[order])
    assert data.x.dtype == np.float64 and data.x.flags["C_CONTIGUOUS"]


def test_mnist_choice_of_samples(places: tuple[Path, Path]) -> None:
    put(places[0], idx(IMAGES), idx(LABELS))
    data = load("mnist", samples_per_class=2, classes=[6, 1], seed=5)
    rng = np.random.RandomState(5)
    chosen = [np.sort(rng.permutation(np.flatnonzero(label == LABELS))[:2]) for label in (6, 1)]
    assert np.array_equal(data.x * 255, IMAGES.reshape(40, 12)[np.concatenate(chosen)])
    assert data.y.tolist() == [0, 0, 1, 1]
    others = [load("mnist", samples_per_class=2, classes=[6, 1], seed=seed).x for seed in range(10)]
    assert any(not np.array_equal(other, data.x) for other in others)


def test_mnist_of_a_class_that_is_not_there(places: tuple[Path, Path]) -> None:
    put(places[0], idx(IMAGES), idx(LABELS % 9))
    assert "class 9" in refused(lambda: load("mnist", samples_per_class=1), "dataset.classes:")
    assert "class 9" in refused(lambda: load("mnist", samples=30, task="parity"), "dataset.classes:")
    refused(lambda: load("mnist", samples_per_class=5, classes=[0, 1]), "dataset.samples_per_class=5:")


def test_mnist_prefers_the_own_folder_and_the_training_split(places: tuple[Path, Path]) -> None:
    own, cache = places
    put(cache, idx(IMAGES[:10]), idx(LABELS[:10]))
    assert len(load("mnist", samples_per_class=None).x) == 10
    put(own, idx(IMAGES[:20]), idx(LABELS[:20]), "t10k")
    assert len(load("mnist", samples_per_class=None).x) == 20
    put(own, idx(IMAGES[:30]), idx(LABELS[:30]), "train")
    assert len(load("mnist", samples_per_class=None).x) == 30


def test_mnist_fingerprint(places: tuple[Path, Path]) -> None:
    own, cache = places
    source = make_dataset({"name": "mnist"})
    put(cache, idx(IMAGES), idx(LABELS), zipped=True)
    zipped = source.fingerprint()
    put(own, idx(IMAGES), idx(LABELS), zipped=False)
    assert source.fingerprint() == zipped
    put(own, idx(255 - IMAGES), idx(LABELS), zipped=False)
    os.utime(own / "train-images-idx3-ubyte", ns=(0, 0))  # a clock may be coarser than this test is slow
    assert source.fingerprint() != zipped


def test_mnist_test_samples_from_the_other_split(places: tuple[Path, Path]) -> None:
    """Where only one split is there, from its other samples; what is trained on stays the same."""
    own, cache = places
    fields = {"samples_per_class": 2, "test_samples": 20}
    source = make_dataset({"name": "mnist", **fields})
    put(own, idx(IMAGES), idx(LABELS), "train")
    within, digest = source.load(), source.fingerprint()
    put(cache, idx(255 - IMAGES[:25]), idx(LABELS[:25]), "t10k")
    across = source.load()
    assert np.array_equal(within.x, across.x) and np.array_equal(within.y, across.y)
    assert len(set(rows(within.x) + rows(within.x_test))) == 40
    label_of = dict(zip(rows((255 - IMAGES[:25]).reshape(25, 12) / 255), LABELS.tolist(), strict=False))
    assert len(set(rows(across.x_test))) == 20
    assert across.y_test is not None and across.y_test.tolist() == [label_of[row] for row in rows(across.x_test)]
    assert source.fingerprint() != digest == make_dataset({"name": "mnist"}).fingerprint()
    refused(lambda: load("mnist", samples_per_class=2, test_samples=26), "dataset.test_samples=26: must be <= 25, the samples")
    put(own, idx(IMAGES[:22]), idx(LABELS[:22]), "t10k")  # the own folder comes first
    refused(lambda: load("mnist", samples_per_class=2, test_samples=23), "dataset.test_samples=23: must be <= 22, the samples")
    (own / "t10k-labels-idx1-ubyte.gz").unlink()
    assert "but no t10k-labels" in refused(source.load, "dataset=mnist:")
    assert len(load("mnist", samples_per_class=2).x) == 20  # nobody asked for the other split


def test_mnist_test_samples_of_another_size(places: tuple[Path, Path]) -> None:
    put(places[0], idx(IMAGES), idx(LABELS), "train")
    put(places[0], idx(IMAGES[:, :3]), idx(LABELS), "t10k")
    assert "9 features; must be 12" in refused(lambda: load("mnist", samples_per_class=2, test_samples=3), "dataset=mnist:")


@pytest.mark.parametrize("pixels", [28, 14, 7])
def test_mnist_pixels(places: tuple[Path, Path], pixels: int) -> None:
    images = np.random.RandomState(1).randint(256, size=(40, 28, 28), dtype=np.uint8)
    put(places[0], idx(images), idx(LABELS))
    data = load("mnist", samples=30, test_samples=10, pixels=pixels)
    order = np.random.RandomState(1).permutation(40)
    block = 28 // pixels
    expected = (images / 255).reshape(40, pixels, block, pixels, block).mean(axis=(2, 4)).reshape(40, -1)
    assert data.x_test is not None and data.y_test is not None and data.x.shape == (30, pixels**2)
    np.testing.assert_allclose(data.x, expected[np.sort(order[:30])], rtol=1e-14)
    np.testing.assert_allclose(data.x_test, expected[np.sort(order[30:])], rtol=1e-14)
    assert data.y.tolist() == LABELS[np.sort(order[:30])].tolist()


def test_mnist_pixels_of_other_images(places: tuple[Path, Path]) -> None:
    put(places[0], idx(IMAGES), idx(LABELS))
    message = refused(lambda: load("mnist", samples_per_class=2, pixels=14), "dataset.pixels=14: must be 28 ")
    assert "these are 4 x 3" in message


@pytest.mark.parametrize(
    ("images", "labels", "part"),
    [
        (b"", idx(LABELS), "not an IDX file"),
        (b"\x00\x00\x08", idx(LABELS), "not an IDX file"),
        (b"\x00\x00\x08\x03\x00\x00", idx(LABELS), "not an IDX file"),
        (b"\x00\x01" + idx(IMAGES)[2:], idx(LABELS), "first bytes are '00010803'"),
        (b"\x00\x00\x0d" + idx(IMAGES)[3:], idx(LABELS), "not an IDX file of bytes"),
        (idx(IMAGES), idx(IMAGES), "not an IDX file of bytes with 1 axes"),
        (idx(IMAGES)[:-1], idx(LABELS), "495 bytes, its header says 496"),
        (idx(IMAGES) + b"!", idx(LABELS), "497 bytes, its header says 496"),
        (b"\x00\x00\x08\x03" + b"\xff" * 12 + b"abc", idx(LABELS), "damaged"),
        (idx(IMAGES), idx(LABELS)[:-5], "damaged"),
        (idx(IMAGES), idx(LABELS[:-1]), "40 images but"),
        (idx(IMAGES), idx(LABELS + 1), "a label 10; must be 0 to 9"),
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_damaged_mnist(places: tuple[Path, Path], images: bytes, labels: bytes, part: str, zipped: bool) -> None:
    put(places[0], images, labels, zipped=zipped)
    assert part in refused(lambda: load("mnist"), "dataset=mnist:")


@pytest.mark.parametrize("keep", [slice(0, 15), slice(0, 200), slice(0, -4)])
def test_truncated_gzip(places: tuple[Path, Path], keep: slice) -> None:
    put(places[0], idx(IMAGES), idx(LABELS))
    path = places[0] / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[keep])
    assert "cannot read" in refused(lambda: load("mnist"), "dataset=mnist:")


def test_gzip_with_wrong_bits(places: tuple[Path, Path]) -> None:
    put(places[0], idx(IMAGES), idx(LABELS))
    path = places[0] / "train-images-idx3-ubyte.gz"
    content = bytearray(path.read_bytes())
    content[40] ^= 0xFF
    path.write_bytes(content)
    refused(lambda: load("mnist"), "dataset=mnist:")


@pytest.mark.parametrize(("gone", "left"), [("labels-idx1", "images-idx3"), ("images-idx3", "labels-idx1")])
def test_half_of_mnist(places: tuple[Path, Path], gone: str, left: str) -> None:
    put(places[0], idx(IMAGES), idx(LABELS))
    (places[0] / f"train-{gone}-ubyte.gz").unlink()
    message = refused(lambda: load("mnist"), "dataset=mnist:")
    assert f"train-{left}-ubyte.gz but no train-{gone}-ubyte" in message


# Downloads, from mirrors that are folders


@pytest.fixture
def pinned(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """The content of the files that the loader then takes for the original ones."""
    files = dict(
        zip(
            mnist.SHA256,
            (gzip.compress(idx(IMAGES), mtime=0), gzip.compress(idx(LABELS), mtime=0)),
            strict=True,
        )
    )
    monkeypatch.setattr(mnist, "SHA256", {name: hashlib.sha256(content).hexdigest() for name, content in files.items()})
    return files


def serve(mirror: int, files: dict[str, bytes]) -> None:
    folder = Path(mnist.MIRRORS[mirror].removeprefix("file://"))
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def test_the_checksums_are_those_of_the_published_files() -> None:
    assert all(len(bytes.fromhex(digest)) == 32 for digest in mnist.SHA256.values())
    assert list(mnist.SHA256) == ["train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"]


@pytest.mark.parametrize("mirror", [0, 1])
def test_download(places: tuple[Path, Path], pinned: dict[str, bytes], mirror: int, capsys: pytest.CaptureFixture[str]) -> None:
    serve(mirror, pinned)
    assert len(load("mnist", samples_per_class=None).x) == 40
    assert {path.name: path.read_bytes() for path in places[1].iterdir()} == pinned
    assert capsys.readouterr().err.count("downloading") == 2
    assert len(load("mnist", samples_per_class=None).x) == 40
    assert capsys.readouterr().err == ""


def test_download_goes_on_where_it_stopped(places: tuple[Path, Path], pinned: dict[str, bytes]) -> None:
    images, labels = pinned
    places[1].mkdir(parents=True)
    (places[1] / images).write_bytes(pinned[images])
    serve(0, {labels: pinned[labels]})
    assert len(load("mnist", samples_per_class=None).x) == 40


@pytest.mark.parametrize("damage", [lambda content: content[:-1], lambda content: content + b"!", lambda _: b""])
def test_wrong_checksum(places: tuple[Path, Path], pinned: dict[str, bytes], damage: Callable[[bytes], bytes]) -> None:
    serve(0, {name: damage(content) for name, content in pinned.items()})
    message = refused(lambda: load("mnist"), "dataset=mnist:")
    assert f"{mnist.MIRRORS[0]}: wrong checksum" in message
    assert not places[1].exists()
    serve(1, pinned)  # the second mirror is sound
    assert len(load("mnist", samples_per_class=None).x) == 40


def test_no_network(places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """One line: where was looked, why the download failed, which files to put where."""
    own, cache = places
    message = refused(lambda: load("mnist"), "dataset=mnist:")
    assert str(own) in message and str(cache) in message
    assert all(part in message for part in ("download failed", "IMPLICIT_BIAS_DATA", *mnist.SHA256, *mnist.MIRRORS))
    refused(make_dataset({"name": "mnist"}).fingerprint, "dataset=mnist:")
    monkeypatch.delenv("IMPLICIT_BIAS_DATA")
    assert f"no MNIST files in {cache}, and" in refused(lambda: load("mnist"), "dataset=mnist:")
    assert capsys.readouterr().err == ""
    assert not cache.exists()


def test_full_disk_leaves_nothing(places: tuple[Path, Path], pinned: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    serve(0, pinned)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        load("mnist")
    assert list(places[1].iterdir()) == []


needs_mnist = pytest.mark.skipif(
    not any(Path(REAL_MNIST).glob("t*-images-idx3-ubyte*")) if REAL_MNIST else True,
    reason="IMPLICIT_BIAS_DATA does not name a folder with the MNIST files",
)


@needs_mnist
def test_real_mnist() -> None:
    data = load("mnist")
    assert data.x.shape == (1000, 784) and data.x.min() == 0.0 and data.x.max() == 1.0
    assert np.bincount(data.y).tolist() == [100] * 10
    assert not np.array_equal(data.x, load("mnist", seed=2).x)
    everything = load("mnist", samples_per_class=None)
    counts = {
        10_000: [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009],
        60_000: [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
    }
    assert np.bincount(everything.y).tolist() == counts[len(everything.x)]
    # ones have less ink than zeros, so images and labels belong together
    assert everything.x[everything.y == 1].mean() < 0.5 * everything.x[everything.y == 0].mean()


@needs_mnist
@pytest.mark.parametrize("fields", [{}, {"classes": [3, 6], "samples_per_class": 20, "seed": 9}])
def test_real_mnist_is_what_it_was(fields: dict[str, Any]) -> None:
    images, labels = mnist.read_split(mnist.find_split())
    digits = fields.get("classes", list(range(10)))
    chosen = choose_samples(labels.values, digits, fields.get("samples_per_class", 100), fields.get("seed", 1))
    data = load("mnist", **fields)
    assert np.array_equal(data.x, images.values[chosen].reshape(len(chosen), -1) / 255) and data.x_test is None
    assert data.y.tolist() == [digits.index(label) for label in labels.values[chosen]]


@needs_mnist
@pytest.mark.parametrize("classes", [None, [3, 6, 7]])
def test_real_mnist_parity(classes: list[int] | None) -> None:
    """The same draw with its digits tells which of them are odd."""
    fields = {"samples": 250, "test_samples": 500, "classes": classes, "seed": 2}
    parity, named = load("mnist", task="parity", pixels=7, **fields), load("mnist", **fields)
    assert parity.num_classes == 2 and parity.x.shape == (250, 49) and named.x.shape == (250, 784)
    assert parity.y_test is not None and named.y_test is not None and parity.x_test is not None and named.x_test is not None
    odd = np.array(classes or range(10)) % 2
    assert np.array_equal(parity.y, odd[named.y]) and np.array_equal(parity.y_test, odd[named.y_test])
    assert len(set(rows(named.x) + rows(named.x_test))) == 750
    for small, large in ((parity.x, named.x), (parity.x_test, named.x_test)):
        np.testing.assert_allclose(small, large.reshape(-1, 7, 4, 7, 4).mean(axis=(2, 4)).reshape(-1, 49), rtol=1e-13)
