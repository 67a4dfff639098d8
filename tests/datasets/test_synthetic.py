"""What datasets that are drawn share, further samples and a rotation, and the recipes of those that only this project has."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from implicit_bias.config.overrides import compose
from implicit_bias.datasets import DATASETS, Dataset, make_dataset
from implicit_bias.datasets.gaussian_clusters import GaussianClusters
from implicit_bias.datasets.rotation import ROWS, rotated
from implicit_bias.datasets.synthetic import Synthetic
from implicit_bias.sweep import execute
from tests.support.datasets import load, refused

SYNTHETIC = [name for name in DATASETS.names() if issubclass(DATASETS.get(name), Synthetic)]
SMALL: dict[str, dict[str, Any]] = {"teacher_student": {"dim": 9, "samples": 30}}


def small(name: str, **fields: Any) -> Dataset:
    return load(name, **{**SMALL.get(name, {}), **fields})


def held_out(data: Dataset) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    assert data.x_test is not None and data.y_test is not None
    return data.x_test, data.y_test


def test_there_are_those_that_are_known() -> None:
    assert {"gaussian_mixture", "gaussian_clusters", "random_labels", "teacher_student", "scaled_rademacher"} < set(SYNTHETIC)
    assert {"shifted_diagonal", "class_frequency"} < set(SYNTHETIC)


@pytest.mark.parametrize("name", SYNTHETIC)
def test_training_samples_do_not_depend_on_those_of_the_test(name: str) -> None:
    for rotate in (None, 4):
        alone, few, many = (small(name, test_samples=count, rotate=rotate) for count in (0, 7, 300))
        assert alone.x_test is None and alone.y_test is None
        for data, count in ((few, 7), (many, 300)):
            assert np.array_equal(data.x, alone.x) and np.array_equal(data.y, alone.y)
            assert [len(part) for part in held_out(data)] == [count, count]
    if name != "class_frequency":  # one-hot inputs are the same ones in the test
        assert not {row.tobytes() for row in few.x} & {row.tobytes() for row in held_out(few)[0]}


@pytest.mark.parametrize("name", SYNTHETIC)
def test_a_rotation_keeps_lengths_and_angles_and_turns_the_test_alike(name: str) -> None:
    straight, turned, other = (small(name, test_samples=20, rotate=rotate) for rotate in (None, 0, 1))
    before, after = (np.concatenate([data.x, held_out(data)[0]]) for data in (straight, turned))
    assert np.allclose(before @ before.T, after @ after.T, rtol=0, atol=1e-9 * np.abs(before @ before.T).max())
    assert not np.allclose(before, after) and not np.allclose(turned.x, other.x)
    assert np.array_equal(straight.y, turned.y) and np.array_equal(held_out(straight)[1], held_out(turned)[1])


def test_digits_are_rotated_too() -> None:
    straight, turned = (load("digits", samples_per_class=3, test_samples=5, rotate=rotate) for rotate in (None, 2))
    before, after = (np.concatenate([data.x, held_out(data)[0]]) for data in (straight, turned))
    assert np.allclose(before @ before.T, after @ after.T) and not np.allclose(before, after)


def test_a_sample_is_turned_to_the_same_bits_whatever_is_beside_it() -> None:
    x = np.random.default_rng(0).normal(size=(2 * ROWS + 3, 11))
    (whole,) = rotated([x], 7)
    for few in (slice(0, 1), slice(5, 40), slice(ROWS - 1, ROWS + 2)):
        assert np.array_equal(rotated([x[few]], 7)[0], whole[few])
    assert np.array_equal(rotated([x[:2], x[2:]], 7)[1], whole[2:])


def test_rotations_are_haar() -> None:
    """Orthogonal, half of them reflections; entries have the moments of a coordinate of a uniform unit vector."""
    matrices = np.array([rotated([np.eye(3)], seed)[0] for seed in range(1000)])
    assert np.allclose(matrices @ matrices.transpose(0, 2, 1), np.eye(3), atol=1e-14)
    # Five standard errors.
    assert np.abs(matrices.mean(axis=0)).max() < 5 * np.sqrt(1 / 3 / 1000)
    assert np.abs((matrices**2).mean(axis=0) - 1 / 3).max() < 5 * np.sqrt((1 / 5 - 1 / 9) / 1000)
    assert np.abs((matrices**4).mean(axis=0) - 1 / 5).max() < 5 * np.sqrt((1 / 9 - 1 / 25) / 1000)
    assert abs(np.linalg.det(matrices).mean()) < 5 / np.sqrt(1000)
    assert abs(float(rotated([np.ones((1, 1))], 1)[0][0, 0])) == 1


def test_memory_that_a_rotation_takes_is_counted() -> None:
    straight, turned = (make_dataset({"name": "random_labels", "dim": 1000, "rotate": rotate}) for rotate in (None, 1))
    assert straight.numbers() == 40 * 1000 and turned.numbers() == 40 * 1000 + 500_500
    assert make_dataset({"name": "gaussian_mixture", "test_samples": 9}).numbers() == 109 * 25


@pytest.mark.parametrize(
    ("name", "key", "value", "allowed"),
    [
        ("gaussian_mixture", "test_samples", -1, ">= 0"),
        ("random_labels", "rotate", -1, ">= 0"),
        ("digits", "rotate", 2**32, "<= 4294967295"),
        ("gaussian_clusters", "aligned", 1.5, "<= 1"),
        ("gaussian_clusters", "decay", -0.5, ">= 0"),
        ("gaussian_clusters", "test_noise", -1.0, ">= 0"),
        ("scaled_rademacher", "samples", 1, ">= 2"),
        ("scaled_rademacher", "num_classes", 11, ">= dataset.num_classes=11"),
        ("scaled_rademacher", "spread", 1e4, "<= 200"),
        ("shifted_diagonal", "dim", 1, ">= 2"),
        ("shifted_diagonal", "shift", -0.1, ">= 0"),
        ("class_frequency", "law", "zipf", "inverse or halving"),
        ("class_frequency", "rarest", 0, ">= 1"),
        ("class_frequency", "dim", 0, ">= 1"),
    ],
)
def test_value_out_of_range(name: str, key: str, value: Any, allowed: str) -> None:
    key_of_message = "samples" if "num_classes=" in allowed else key
    assert allowed in refused(lambda: make_dataset({"name": name, key: value}), f"dataset.{key_of_message}=")


def test_keys_that_do_not_go_together() -> None:
    refused(lambda: load("class_frequency", law="halving"), "dataset.num_classes=64: must be 2^m - 1")
    refused(lambda: load("class_frequency", dim=100, noise=0.5), "dataset.noise=0.5: must be 0 with dataset.dim")


def test_further_samples_of_a_mixture_have_its_means_and_its_noise() -> None:
    data = load("gaussian_mixture", num_classes=3, dim=4, noise=0.01, test_samples=3000, seed=5)
    means = np.random.RandomState(5).randn(3, 4)
    x, y = held_out(data)
    assert y.tolist() == [0, 1, 2] * 1000
    assert (x - means[y]).std() == pytest.approx(0.01, rel=0.05) and abs((x - means[y]).mean()) < 0.001


def test_clusters_recipe() -> None:
    """The formulas of the docstring, with other names."""
    source = GaussianClusters(num_classes=4, dim=5, samples_per_class=2, noise=0.1, test_noise=0.3, decay=1.0, aligned=0.25)
    a = np.array([1, 1 / 2, 1 / 3, 1 / 4, 1 / 5])
    a = 5 * a / a.sum()
    scale = np.sqrt((0.75 + 0.25 * a) / 5)
    rng = np.random.RandomState(1)
    means = np.sqrt(a / 5) * rng.randn(4, 5)
    y = np.array([0, 0, 1, 1, 2, 2, 3, 3])
    data = source.load()
    assert np.allclose(data.x, means[y] + 0.1 * scale * rng.randn(8, 5), rtol=1e-14) and np.array_equal(data.y, y)
    assert np.allclose(source.means(np.random.RandomState(1)), means, rtol=1e-14)
    for variances in source.variances():
        assert variances.mean() == pytest.approx(1)
    x, labels = held_out(
        GaussianClusters(num_classes=4, dim=5, test_noise=0.3, decay=1.0, aligned=0.25, test_samples=8000).load()
    )
    assert np.allclose(((x - means[labels]) / scale).std(axis=0), 0.3, rtol=0.05)


def test_isotropic_clusters_do_not_depend_on_the_alignment() -> None:
    one, other = (load("gaussian_clusters", aligned=aligned, test_samples=10) for aligned in (0.0, 1.0))
    assert np.array_equal(one.x, other.x) and np.array_equal(held_out(one)[0], held_out(other)[0])
    assert np.linalg.norm(load("gaussian_clusters", dim=5000, num_classes=2).x, axis=1) == pytest.approx(1.02, abs=0.05)


def test_rademacher_samples_are_signs_of_one_size() -> None:
    data = load("scaled_rademacher", samples=400, dim=30, spread=0.5, num_classes=3, test_samples=7)
    for x, y in ((data.x, data.y), held_out(data)):
        sizes = np.abs(x)
        assert np.array_equal(sizes, np.broadcast_to(sizes[:, :1], sizes.shape))
        assert np.exp(-0.5) <= sizes.min() and sizes.max() <= np.exp(0.5)
        assert y.tolist() == [i % 3 for i in range(len(y))]
    assert np.log(np.abs(data.x[:, 0])).std() == pytest.approx(0.5 / np.sqrt(3), rel=0.1)
    assert abs(np.sign(data.x).mean()) < 5 / np.sqrt(12_000)


def test_the_shifted_diagonal() -> None:
    data = load("shifted_diagonal", dim=4, shift=0.1, spread=0.5, test_samples=6)
    for x, y, n in ((data.x, data.y, 4), (*held_out(data), 6)):
        positive = x * (2 * y - 1)[:, None]
        places = np.arange(n) % 4
        assert y.tolist() == (places % 2).tolist()
        large = positive[np.arange(n), places]
        assert ((np.exp(-0.5) <= large) & (large <= np.exp(0.5))).all() and len(set(large)) == n
        positive[np.arange(n), places] = 0.1
        assert (positive == 0.1).all()


def test_frequencies_fall_as_one_over_the_class() -> None:
    data = load("class_frequency", num_classes=8, rarest=2)
    assert np.bincount(data.y).tolist() == [16, 8, 5, 4, 3, 3, 2, 2]
    assert np.array_equal(data.x, np.eye(8)[data.y])
    assert np.array_equal(data.x, load("class_frequency", num_classes=8, rarest=2, seed=9).x), "nothing is random"


def test_groups_of_halving_frequency_are_of_one_size() -> None:
    source = make_dataset({"name": "class_frequency", "law": "halving", "num_classes": 7, "rarest": 2, "dim": 50})
    data = source.load()
    assert np.bincount(data.y).tolist() == [8, 4, 4, 2, 2, 2, 2]
    assert data.x.shape == (24, 50) and source.numbers() == 24 * 50
    assert 0 <= data.x.min() < 0.01 and 0.99 < data.x.max() <= 1


def test_further_samples_have_the_frequencies_and_the_noise() -> None:
    x, y = held_out(load("class_frequency", num_classes=4, rarest=3, noise=0.1, test_samples=20_000))
    assert np.bincount(y) / 20_000 == pytest.approx(np.array([12, 6, 4, 3]) / 25, abs=0.02)
    assert (x - np.eye(4)[y]).std() == pytest.approx(0.1, rel=0.02)


@pytest.mark.parametrize("more", [[], ["compile=off"]])
def test_the_accuracy_on_further_samples_is_recorded_alone_as_in_a_batch(tmp_path: Path, more: list[str]) -> None:
    """Means that are far apart are told apart in the test; a batch of runs gives each its own numbers, to the bit."""
    keys = ["dataset=gaussian_clusters", "dataset.num_classes=3", "dataset.test_noise=0.1", "dataset.test_samples=40"]
    keys += ["steps=20", "reference=none", "log.points=3", "log.norms=[]", "optimizer=row_gd", "dataset.rotate=3", *more]

    def trajectories(folder: str, seeds: str) -> list[pd.DataFrame]:
        cells = compose([*keys, f"seed={seeds}", f"results_dir={tmp_path / folder}"], multirun=True)
        outcomes = execute([cell.spec for cell in cells], command="test")
        return [outcome.trajectory for outcome in outcomes if outcome.trajectory is not None]

    first, second = trajectories("batch", "1,2")
    (alone,) = trajectories("alone", "2")
    pd.testing.assert_frame_equal(second, alone, check_exact=True)
    assert not first["margin"].equals(second["margin"])
    assert alone["test_accuracy"].iloc[-1] >= 0.9


def test_new_keys_are_no_part_of_a_hash_at_their_defaults() -> None:
    known = {"random_labels": "c671d28d1fa0", "teacher_student": "14fde4499b63", "digits": "8a2befd26d46"}
    for name, digest in known.items():
        for keys, same in (([], True), (["dataset.rotate=null"], True), (["dataset.rotate=0"], False)):
            (cell,) = compose([f"dataset={name}", *keys])
            assert (cell.spec.hash() == digest) == same
    (cell,) = compose(["dataset=gaussian_mixture", "dataset.test_samples=1"])
    assert cell.spec.hash() != compose([])[0].spec.hash()
