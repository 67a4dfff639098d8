"""Arrays out of .npz files: whole ones as they are, everything else a refusal in one line that begins with the origin."""

import io
import random
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.lib import format as npy

from implicit_bias.core.arrays import array_names, read_arrays
from implicit_bias.core.errors import BadInput

STORED, DEFLATED = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED
ORIGIN = "dataset.path=my.npz"


def member(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def header(shape: tuple[int, ...], descr: str = "<f8") -> bytes:
    buffer = io.BytesIO()
    npy.write_array_header_1_0(buffer, {"descr": descr, "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def archive(path: Path, members: Mapping[str, bytes], method: int = STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


TABLE = np.arange(6.0).reshape(2, 3)
GOOD = member(TABLE)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_whole_arrays_are_read_as_numpy_reads_them(tmp_path: Path, save: object) -> None:
    arrays = {
        "X": TABLE,
        "fortran": np.asfortranarray(TABLE),
        "empty": np.zeros((0, 3)),
        "number": np.array(3),
        "text": np.array(["a", "bc"]),
    }
    arrays["zeros"] = np.zeros((300, 400))  # 1 : 1000, as far as deflate goes
    save(tmp_path / "a.npz", **arrays)  # type: ignore[operator]
    found = read_arrays(tmp_path / "a.npz", ORIGIN)
    assert list(found) == array_names(tmp_path / "a.npz", ORIGIN) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype
        assert found[name].flags.writeable
    assert list(read_arrays(tmp_path / "a.npz", ORIGIN, ["text", "none", "X"])) == ["text", "X"]


DAMAGED = {
    "no array": b"a text",
    "length zero": b"",
    "header cut": GOOD[:40],
    "header cut in its length": GOOD[:9],
    "header without an end": b"\x93NUMPY\x01\x00\x76\x00{'descr': '<f8', 'shape': ((((((" + b" " * 90,
    "header of brackets": b"\x93NUMPY\x02\x00" + struct.pack("<I", 9000) + b"(" * 9000,
    "unknown version": b"\x93NUMPY\x09\x00\x76\x00" + b" " * 200,
    "data cut": GOOD[:-3],
    "data too long": GOOD + b"1",
    "10^12 rows": header((10**12, 3)) + b"12345678",
    "10^40 rows": header((10**40, 3)) + b"12345678",
    "negative rows": header((-1, 3)),
    "objects": member(np.array([{}, 1], dtype=object)),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("method", [STORED, DEFLATED])
@pytest.mark.parametrize("damage", DAMAGED)
def test_a_member_that_is_no_whole_array_is_refused_only_where_it_is_read(tmp_path: Path, damage: str, method: int) -> None:
    path = archive(tmp_path / "a.npz", {"good.npy": GOOD, "X.npy": DAMAGED[damage]}, method)
    np.testing.assert_array_equal(read_arrays(path, ORIGIN, ["good"])["good"], TABLE)
    with pytest.raises(BadInput, match=f"^{ORIGIN}: the array X .*; must "):
        read_arrays(path, ORIGIN)


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_a_compression_that_numpy_does_not_write_is_refused(tmp_path: Path, method: int) -> None:
    path = archive(tmp_path / "a.npz", {"X.npy": GOOD}, method)
    with pytest.raises(BadInput, match=f"^{ORIGIN}: the array X is compressed by another method"):
        read_arrays(path, ORIGIN)


def test_an_encrypted_member_is_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.npz", {"X.npy": GOOD})
    content = bytearray(path.read_bytes())
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(mark) + place] |= 1
    path.write_bytes(content)
    with pytest.raises(BadInput, match=f"^{ORIGIN}: the array X is encrypted"):
        read_arrays(path, ORIGIN)


def test_a_file_that_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("not a zip")
    (tmp_path / "empty.npz").write_bytes(b"")
    for path in (tmp_path / "text.npz", tmp_path / "empty.npz", tmp_path / "none.npz", tmp_path, tmp_path / "nul\0.npz"):
        for read in (array_names, read_arrays):
            with pytest.raises(BadInput, match=f"^{ORIGIN}: cannot be read: "):
                read(path, ORIGIN)


@pytest.mark.filterwarnings("error")
def test_random_damage_is_noticed_or_harmless(tmp_path: Path) -> None:
    rng = random.Random(1)
    whole = archive(tmp_path / "whole.npz", {"X.npy": GOOD, "y.npy": member(np.arange(3))}, DEFLATED).read_bytes()
    path, refused = tmp_path / "a.npz", 0
    for cut in range(0, len(whole), 5):
        path.write_bytes(whole[:cut])
        with pytest.raises(BadInput):
            read_arrays(path, ORIGIN)
    for _ in range(500):
        content = bytearray(whole)
        for _ in range(rng.randint(1, 3)):
            content[rng.randrange(len(content))] = rng.randrange(256)
        path.write_bytes(content)
        try:
            found = read_arrays(path, ORIGIN)
        except BadInput:
            refused += 1
            continue
        if "X" in found:  # a name may be damaged, or something that does not matter, such as a date
            np.testing.assert_array_equal(found["X"], TABLE)
    assert refused > 100
