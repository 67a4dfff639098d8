"""Arrays from .npz files of any origin: plain arrays are read, everything else is refused in one line.

``numpy.load`` trusts a file: it makes room for what a header claims before it looks for the data, hands out bytes for a member
that is no array, and meets damage with whatever its parts raise. Here a header's claim is held against the bytes that are
there, before any room is made, and the checksum of every member that is read is verified.
"""

from __future__ import annotations

import math
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from implicit_bias.core.errors import BadInput

#: A byte of a deflated stream stands for at most so many bytes of content (zlib's technical notes give 1032 : 1).
LARGEST_INFLATION = 1032
ARRAY_SUFFIX = ".npy"
LONGEST_NAME = 60


def array_names(path: Path, origin: str) -> list[str]:
    """The names of the members of an .npz file, in its order; whether they are arrays is found out when they are read.

    Args:
        path: The file.
        origin: What a message begins with, such as ``dataset.path=my.npz``.

    Raises:
        BadInput: It cannot be read, or is no zip archive.
    """
    with _opened(path, origin) as archive:
        return list(_members(archive))


def read_arrays(path: Path, origin: str, names: Sequence[str] | None = None) -> dict[str, NDArray[np.generic]]:
    """Arrays of an .npz file by name.

    Args:
        path: The file.
        origin: What a message begins with, such as ``dataset.path=my.npz``.
        names: Those to read, where they are there; None: all.

    Raises:
        BadInput: The file cannot be read, is no zip archive or damaged; or one of these members is no array, damaged, encrypted,
            compressed in a way that numpy does not write, of Python objects, or claims another size than it has.
    """
    with _opened(path, origin) as archive:
        members = _members(archive)
        wanted = list(members) if names is None else [name for name in names if name in members]
        return {name: _read(archive, members[name], f"{origin}: the array {_shown(name)}") for name in wanted}


def _opened(path: Path, origin: str) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except OSError as error:
        raise BadInput(f"{origin}: cannot be read: {error.strerror or error}") from None
    except Exception:  # noqa: BLE001 - damaged bytes surface as almost anything
        raise BadInput(f"{origin}: cannot be read: not an .npz archive, or a damaged one") from None


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    return {info.filename.removesuffix(ARRAY_SUFFIX): info for info in archive.infolist() if not info.filename.endswith("/")}


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo, subject: str) -> NDArray[np.generic]:
    """One array. Raises BadInput that begins with ``subject``."""
    if info.flag_bits & 0x1:
        raise BadInput(f"{subject} is encrypted; must be as numpy.savez writes it")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise BadInput(f"{subject} is compressed by another method than deflate; must be as numpy.savez_compressed writes it")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy's about old or strange headers: what matters of them is said below
            with archive.open(info) as stream:
                _check_header(stream, info, subject)
            with archive.open(info) as stream:
                found: NDArray[np.generic] = npy.read_array(stream, allow_pickle=False)
                stream.read()  # nothing, but the checksum is compared at the end of the member only
                return found
    except BadInput:
        raise
    except MemoryError:
        raise BadInput(f"{subject} is too large for the memory there is; must be smaller") from None
    except Exception:  # noqa: BLE001 - damaged bytes surface as almost anything
        raise BadInput(f"{subject} is damaged; must be as numpy.savez writes it") from None


def _check_header(stream: IO[bytes], info: zipfile.ZipInfo, subject: str) -> None:
    """Refuse a member that is no array of plain values, or claims another size than the archive has of it."""
    if stream.read(len(npy.MAGIC_PREFIX)) != npy.MAGIC_PREFIX:
        raise BadInput(f"{subject} is no array; must be as numpy.savez writes it")
    stream.seek(0)
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    shape, _, dtype = readers[npy.read_magic(stream)](stream)  # format 3 is for named fields, which no caller takes
    if dtype.hasobject:
        raise BadInput(f"{subject} holds Python objects; must hold numbers or text")
    claimed = math.prod(shape) * dtype.itemsize
    held = info.file_size - stream.tell()
    largest = info.compress_size * (1 if info.compress_type == zipfile.ZIP_STORED else LARGEST_INFLATION)
    if any(length < 0 for length in shape) or claimed != held or info.file_size > largest:
        raise BadInput(f"{subject} has the shape {_shown(str(shape))} in its header, but not so much data; must be whole")


def _shown(text: str) -> str:
    """A text out of a file for a message: in one line, printable, and not without end."""
    plain = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return plain if len(plain) <= LONGEST_NAME else f"{plain[:LONGEST_NAME]}..."
