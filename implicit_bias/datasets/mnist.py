"""MNIST in its original IDX files: found in a folder of yours or a cache, else downloaded and checked."""

import functools
import gzip
import hashlib
import http.client
import os
import struct
import tempfile
import urllib.request
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from implicit_bias.cli.messages import note
from implicit_bias.core.errors import BadInput, NoData
from implicit_bias.core.registry import hyper
from implicit_bias.datasets.base import DATASETS, Dataset
from implicit_bias.datasets.handwritten import NUM_DIGITS, HandwrittenDigits, Images, block_means

LARGEST_PIXEL = 255.0
#: Rows and columns of an image.
SIDE = 28
#: Tried in this order, in every folder: the 60,000 training images, else the 10,000 test images.
SPLITS = ("train", "t10k")
#: Public copies of the original files, under the same names.
MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist",
    "https://storage.googleapis.com/cvdf-datasets/mnist",
)
#: SHA-256 of the original gzip files. Only downloads are held to them: files of yours may be compressed anew.
SHA256 = {
    "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
}
#: No original file is larger; a server that sends more is cut off there.
MAX_DOWNLOAD_BYTES = 16 << 20
TIMEOUT_SECONDS = 20.0


@dataclass(frozen=True)
class Split:
    """The two files of one split, ``train`` or ``t10k``."""

    name: str
    images: Path
    labels: Path


@dataclass(frozen=True, eq=False)
class IdxFile:
    """The bytes of an IDX file as an array, and the SHA-256 of the uncompressed file."""

    values: NDArray[np.uint8]
    sha256: str


@DATASETS.register
@dataclass(frozen=True)
class Mnist(HandwrittenDigits):
    """MNIST, 28 x 28 pixels in [0, 1], some samples of each digit; downloaded once if need be.

    The files, gzipped or not, are looked for in ``$IMPLICIT_BIAS_DATA`` and then in the cache,
    ``$XDG_CACHE_HOME/implicit_bias/mnist`` (by default ``~/.cache/implicit_bias/mnist``); the training split
    is taken where it is there, else the test split. Where neither is, the training split is downloaded into
    the cache. ``test_samples`` are drawn from the other split where its files are found as well (both are looked
    for, nothing more is downloaded), else from those samples of the same split that training leaves.
    """

    name: ClassVar[str] = "mnist"
    samples_per_class: int | None = hyper(100, help="samples of each digit; null for all", ge=1)
    pixels: int = hyper(SIDE, help="pixels along a side, means over square blocks of the image", choices=(28, 14, 7))

    def load(self) -> Dataset:
        """The chosen samples, (n, pixels * pixels)."""
        sources = [Images(images.values, labels.values) for images, labels in self._splits()]
        return self.dataset_of(*sources)

    def features(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Images (n, rows, columns) of bytes as features (n, pixels * pixels) in [0, 1]."""
        return block_means(images, SIDE, self.pixels).reshape(len(images), -1) / LARGEST_PIXEL

    def fingerprint(self) -> str:
        """SHA-256 over the digests of the uncompressed files that are read: the same however they are compressed."""
        digests = [file.sha256 for files in self._splits() for file in files]
        return hashlib.sha256("".join(digests).encode()).hexdigest()

    def _splits(self) -> list[tuple[IdxFile, IdxFile]]:
        """Images and labels of the split to train on and, where test samples are to come from it, of the other one."""
        split = find_split()
        other = find_other_split(split) if self.test_samples else None
        return [read_split(found) for found in (split, other) if found is not None]


def cache_folder() -> Path:
    """Where downloads are kept."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "implicit_bias" / "mnist"


def find_split() -> Split:
    """The files to read: from ``$IMPLICIT_BIAS_DATA``, else from the cache, else downloaded into the cache.

    Raises:
        BadInput: ``$IMPLICIT_BIAS_DATA`` has images without labels or the reverse; or nothing was found, and
            nothing could be downloaded.
    """
    return split_at_hand(SPLITS) or download_split(cache_folder())


def find_other_split(split: Split) -> Split | None:
    """The files of the split that ``split`` is not, from the same places; None where there are none."""
    return split_at_hand([name for name in SPLITS if name != split.name])


def split_at_hand(names: Sequence[str]) -> Split | None:
    """The first split called one of ``names`` in ``$IMPLICIT_BIAS_DATA``, else in the cache."""
    own = os.environ.get("IMPLICIT_BIAS_DATA")
    if own and (split := split_in(Path(own), names, complain=True)):
        return split
    return split_in(cache_folder(), names, complain=False)


def split_in(folder: Path, splits: Sequence[str], complain: bool) -> Split | None:
    """The first of ``splits`` whose two files are in ``folder``; ``complain``: BadInput where only one of them is."""
    for split in splits:
        names = (f"{split}-images-idx3-ubyte", f"{split}-labels-idx1-ubyte")
        images, labels = (first_file(folder / name, folder / f"{name}.gz") for name in names)
        if images and labels:
            return Split(split, images, labels)
        if complain and (present := images or labels):
            missing = names[1] if images else names[0]
            raise BadInput(f"dataset=mnist: {folder} has {present.name} but no {missing}, gzipped or not")
    return None


def first_file(*candidates: Path) -> Path | None:
    """The first of ``candidates`` that is a file."""
    return next((path for path in candidates if path.is_file()), None)


def read_split(split: Split) -> tuple[IdxFile, IdxFile]:
    """Images (n, rows, columns) and labels (n,). Raises BadInput where they are damaged or do not match."""
    images, labels = read_idx(split.images, dimensions=3), read_idx(split.labels, dimensions=1)
    if len(images.values) != len(labels.values):
        raise BadInput(
            f"dataset=mnist: {split.images} has {len(images.values)} images but {split.labels.name} {len(labels.values)} labels"
        )
    if labels.values.size and labels.values.max() >= NUM_DIGITS:
        raise BadInput(f"dataset=mnist: {split.labels} has a label {labels.values.max()}; must be 0 to 9")
    return images, labels


def read_idx(path: Path, dimensions: int) -> IdxFile:
    """The IDX file of unsigned bytes at ``path``, gzipped or not, with ``dimensions`` axes.

    An IDX file is two zero bytes, the type (8: unsigned byte), the number of axes, the length of each axis as
    a big-endian 32-bit number, and the values, last axis fastest.

    Raises:
        BadInput: it cannot be read, or is not such a file, whole and with nothing after it.
    """
    try:
        status = path.stat()
        return _read_idx(path, dimensions, status.st_mtime_ns, status.st_size)
    except (OSError, EOFError, zlib.error) as error:
        raise BadInput(f"dataset=mnist: cannot read {path}: {one_line(error)}") from error


# A sweep asks for the same two files at every run; time and size tell a file that has changed since.
@functools.lru_cache(maxsize=4)
def _read_idx(path: Path, dimensions: int, _modified: int, _size: int) -> IdxFile:
    content = path.read_bytes()
    if content.startswith(b"\x1f\x8b"):
        content = gzip.decompress(content)
    start = 4 + 4 * dimensions
    if content[:4] != bytes([0, 0, 8, dimensions]) or len(content) < start:
        raise BadInput(
            f"dataset=mnist: {path} is not an IDX file of bytes with {dimensions} axes; its first bytes are '{content[:4].hex()}'"
        )
    shape = struct.unpack(f">{dimensions}I", content[4:start])
    expected = start + int(np.prod(shape, dtype=object))
    if len(content) != expected:
        raise BadInput(f"dataset=mnist: {path} is damaged: {len(content)} bytes, its header says {expected}")
    values = np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)
    return IdxFile(values, hashlib.sha256(content).hexdigest())


def download_split(folder: Path) -> Split:
    """Download the training split into ``folder``. Raises BadInput, saying what to put where."""
    paths = []
    for name in SHA256:
        path = folder / name
        if not path.is_file():
            store(fetch(name, folder), path)
        paths.append(path)
    return Split(SPLITS[0], *paths)


def fetch(name: str, folder: Path) -> bytes:
    """The file ``name`` from the first mirror whose copy is right (``folder`` is for the message)."""
    failures = []
    for mirror in MIRRORS:
        try:
            with urllib.request.urlopen(f"{mirror}/{name}", timeout=TIMEOUT_SECONDS) as response:
                note(f"downloading {mirror}/{name}")
                content: bytes = response.read(MAX_DOWNLOAD_BYTES)
        except (OSError, http.client.HTTPException) as error:
            failures.append(f"{mirror}: {reason(error)}")
            continue
        if hashlib.sha256(content).hexdigest() == SHA256[name]:
            return content
        failures.append(f"{mirror}: wrong checksum")
    own = os.environ.get("IMPLICIT_BIAS_DATA")
    searched = f"{own} or {folder}" if own else str(folder)
    raise NoData(
        f"dataset=mnist: no MNIST files in {searched}, and the download failed ({'; '.join(failures)}); put"
        f" {' and '.join(SHA256)} from {MIRRORS[0]} into {folder},"
        " or set IMPLICIT_BIAS_DATA to a folder that has them"
    )


def reason(error: Exception) -> str:
    """Why a download failed, in the system's words rather than urllib's."""
    cause = getattr(error, "reason", error)
    return getattr(cause, "strerror", None) or one_line(cause if isinstance(cause, Exception) else error)


def store(content: bytes, path: Path) -> None:
    """Write ``content`` to ``path`` whole or not at all, whatever other processes do at the same time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def one_line(error: Exception) -> str:
    """The message of ``error`` without line breaks; its type where it has none."""
    return " ".join(str(error).split()) or type(error).__name__
