"""Data files in .npz and .csv: what is read to the bit, and every bad one in one line."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from implicit_bias.datasets import make_dataset
from tests.support.datasets import load, refused


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
        ("a,b,Target", "dataset.label=label:", "it has a, b, Target; did you mean dataset.label=Target?"),
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
        ("my.txt", "dataset.path=my.txt:", "must be an .npz, .csv or .parquet file"),
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
