"""C sources of this package as shared libraries, compiled for this processor when first asked for and kept.

They are kept in ``$XDG_CACHE_HOME/implicit_bias`` (``~/.cache/implicit_bias``), by a digest of the source, the compiler and the
processor, and carry a digest of their own content: one that is damaged, or was made elsewhere, is never loaded.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

COMPILERS = ("cc", "gcc", "clang")
# No -ffast-math: infinities mean something. The second line is for compilers that do not know the first's processor option.
FLAGS = ("-std=gnu11", "-O3", "-fno-math-errno", "-fPIC", "-shared")
PROCESSOR_FLAGS = (("-march=native",), ("-mcpu=native",), ())
COMPILE_SECONDS = 120


@cache
def library(source: Path) -> ctypes.CDLL | None:
    """The library that a C source makes; None where there is no compiler, or it fails."""
    try:
        return _library(source)
    except (OSError, subprocess.SubprocessError):
        return None


def compiler() -> str | None:
    """The C compiler: $CC, or the first of cc, gcc, clang."""
    return next(filter(None, map(shutil.which, [*filter(None, [os.environ.get("CC")]), *COMPILERS])), None)


def _library(source: Path) -> ctypes.CDLL | None:
    command = compiler()
    if command is None:
        return None
    key = _digest(source.read_bytes(), repr(FLAGS).encode(), _version(command), _processor())
    for folder in _folders():
        kept = [path for path in folder.glob(f"{source.stem}-{key}-*.so") if path.stem.endswith(_digest(path.read_bytes()))]
        path = kept[0] if kept else _compile(command, source, folder, key)
        if path is not None:
            return ctypes.CDLL(str(path))
    return None


def _folders() -> list[Path]:
    """Where libraries may be kept, best first; the last is of this process alone."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    try:
        kept = Path(home) / "implicit_bias"
        kept.mkdir(parents=True, exist_ok=True)
        return [kept, _own_folder()] if os.access(kept, os.W_OK) else [_own_folder()]
    except OSError:
        return [_own_folder()]


@cache
def _own_folder() -> Path:
    holder = tempfile.TemporaryDirectory(prefix="implicit_bias-")
    _HOLDERS.append(holder)
    return Path(holder.name)


_HOLDERS: list[tempfile.TemporaryDirectory[str]] = []  # removed when the process ends


def _compile(command: str, source: Path, folder: Path, key: str) -> Path | None:
    """Compile into a temporary name, then rename: processes that do so at once each leave a whole file."""
    for processor in PROCESSOR_FLAGS:
        number, name = tempfile.mkstemp(suffix=".tmp", dir=folder)
        os.close(number)
        made = Path(name)
        try:
            done = subprocess.run(
                [command, *FLAGS, *processor, "-o", name, str(source), "-lm"], capture_output=True, timeout=COMPILE_SECONDS
            )
            if done.returncode == 0:
                path = folder / f"{source.stem}-{key}-{_digest(made.read_bytes())}.so"
                return made.replace(path)
        finally:
            made.unlink(missing_ok=True)
    return None


def _digest(*parts: bytes) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _version(command: str) -> bytes:
    return subprocess.run([command, "--version"], capture_output=True, timeout=COMPILE_SECONDS, check=True).stdout


def _processor() -> bytes:
    """What this processor can do: on a cluster, machines of several kinds may share a home."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        kinds = sorted({line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))})
    except OSError:
        kinds = [platform.processor()]
    return "\n".join([platform.machine(), *kinds]).encode()
