"""MNIST: files of all kinds, choices of samples, damage, downloads from mirrors that are folders, and the real ones."""

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
from numpy.typing import NDArray

from implicit_bias.datasets import make_dataset, mnist
from implicit_bias.datasets.base import choose_samples
from tests.support.datasets import load, refused, rows

REAL_MNIST = os.environ.get("IMPLICIT_BIAS_DATA", "")


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
