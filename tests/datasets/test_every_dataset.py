"""What every dataset keeps: its yaml, its keys and their ranges, the shape and type of what it gives."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from implicit_bias.core.registry import hyper_fields
from implicit_bias.datasets import DATASETS, make_dataset
from implicit_bias.datasets.base import checked_dataset
from tests.support.datasets import load, refused

CONFIGS = Path(__file__).parents[2] / "configs" / "dataset"


GENERATED = (
    *("gaussian_mixture", "gaussian_clusters", "random_labels", "digits", "teacher_student", "linear_teacher"),
    *("scaled_rademacher", "shifted_diagonal", "class_frequency"),
)


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
    [
        *(
            (name, {})
            for name in ("gaussian_mixture", "gaussian_clusters", "random_labels", "scaled_rademacher", "shifted_diagonal")
        ),
        *(("digits", {"samples_per_class": 20}), ("teacher_student", {"dim": 9}), ("class_frequency", {"dim": 9})),
        ("linear_teacher", {}),
    ],
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
