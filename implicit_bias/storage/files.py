"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import gzip
import io
import os
import re
import shutil
import socket
import time
import uuid
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd

from implicit_bias.storage.integrity import PARTIAL

# Of a message that somebody else wrote.
MOST_LETTERS = 200

# From 3.1 on pandas always reads floats to the last bit, and complains when it is asked to.
_PANDAS = tuple(int(part) for part in pd.__version__.split(".")[:2])
_EXACT_FLOATS: dict[str, Any] = {} if _PANDAS >= (3, 1) else {"float_precision": "round_trip"}


def read_table(path: Path | IO[bytes]) -> pd.DataFrame:
    """A CSV file of this package, compressed where it ends in .gz, or one that is open; floats read back to the last bit."""
    table: pd.DataFrame = pd.read_csv(path, **_EXACT_FLOATS)
    return table


def why_no_table(error: Exception) -> str:
    """Why :func:`read_table` does not read a file, in words for whoever named it."""
    said = " ".join(str(error).split())
    if isinstance(error, pd.errors.EmptyDataError):
        return "it is empty"
    if isinstance(error, UnicodeDecodeError):
        return "it is no text"
    uneven = re.search(r"Expected (\d+) fields in line (\d+), saw (\d+)", said)
    if uneven:
        return f"line {uneven[2]} has {uneven[3]} values, lines above have {uneven[1]}"
    unclosed = re.search(r"EOF inside string starting at row (\d+)", said)
    if unclosed:
        return f"a quote in line {int(unclosed[1]) + 1} is not closed"
    return getattr(error, "strerror", None) or said[:MOST_LETTERS] or type(error).__name__


def csv_bytes(table: pd.DataFrame) -> bytes:
    """A table as CSV: shortest representations that round-trip, empty where there is no value."""
    return table.to_csv(index=False, lineterminator="\n").encode()


def table_bytes(table: pd.DataFrame, path: Path) -> bytes:
    """A table as the file of this name holds it: as CSV, compressed where that ends in .gz; equal tables give equal bytes."""
    plain = csv_bytes(table)
    return gzip.compress(plain, mtime=0) if path.suffix == ".gz" else plain


def npz_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Arrays as an .npz archive without pickles."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **dict(arrays))
    return buffer.getvalue()


def write_folder(directory: Path, files: Mapping[str, bytes]) -> None:
    """Write a folder of files whole or not at all; one that is there already is replaced.

    Raises:
        OSError: the disk is full or not writable. The temporary folder is gone then, and a former one is still there.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(directory.parent)
    with _temporary_sibling(directory) as partial:
        for name, content in files.items():
            write_flushed(partial / name, content)
        _flush_folder(partial)
        _move_into_place(partial, directory)
    _flush_folder(directory.parent)


def atomic_write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, its folder made if need be. Raises OSError, leaving what was there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _partial_name(path)
    try:
        write_flushed(temporary, content)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def atomic_write_text(path: Path, text: str) -> None:
    """:func:`atomic_write_bytes` for text, in UTF-8."""
    atomic_write_bytes(path, text.encode())


def remove_leftovers_of(folder: Path) -> None:
    """Remove what processes of this machine left there when they were killed in the middle of writing."""
    mine = f"{PARTIAL}{socket.gethostname()}-"
    for leftover in folder.glob(f"{mine}*"):
        pid = leftover.name.removeprefix(mine).split("-")[0]
        if pid.isdigit() and not process_is_alive(int(pid)):
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):
                    leftover.unlink()


@cache
def remove_leftovers(folder: Path) -> None:
    """:func:`remove_leftovers_of`, once a process: a folder of many runs takes long to list."""
    remove_leftovers_of(folder)


@contextlib.contextmanager
def _temporary_sibling(directory: Path) -> Iterator[Path]:
    """An empty folder beside ``directory`` that is gone afterwards, unless it was moved away."""
    partial = _partial_name(directory)
    partial.mkdir()
    try:
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _partial_name(path: Path) -> Path:
    """A name beside ``path`` that no other process or thread uses, and that contains its owner's process id."""
    return path.with_name(f"{PARTIAL}{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex}")


def _move_into_place(partial: Path, directory: Path) -> None:
    """Rename ``partial`` to ``directory``, where another process may be about to do the same."""
    for _ in range(100):
        try:
            os.rename(partial, directory)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        # A folder that is not empty cannot be renamed over: the former run steps aside, and comes back if the new one
        # cannot take its place.
        with _temporary_sibling(directory) as aside, contextlib.suppress(FileNotFoundError):
            os.rename(directory, aside)
            try:
                os.rename(partial, directory)
                return
            except OSError:
                with contextlib.suppress(OSError):
                    os.rename(aside, directory)
        time.sleep(0.01)
    os.rename(partial, directory)


def process_is_alive(pid: int) -> bool:
    """Whether there is a process of this number on this machine."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def write_flushed(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _flush_folder(directory: Path) -> None:
    """Make renames in a folder durable, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
