"""C sources of this package as shared libraries, compiled for this processor when first asked for and kept.

``$IMPLICIT_BIAS_MARCH`` names another instruction set than this processor's own, as gcc's -march does (x86-64-v2, say), so that
rounding can be compared; it is the user's word that the processor has it.

They are kept in ``$XDG_CACHE_HOME/implicit_bias`` (``~/.cache/implicit_bias``), by a digest of the source, the compiler and the
processor, and carry a digest of their own content: one that is damaged, or was made elsewhere, is never loaded. All of that is
public, so it keeps out damage and not people: what is loaded runs as this user, and is loaded only where nobody else (root aside)
can have written it. The folder and the file must be this user's own, and writable by no other; in folders above them nobody else
may be able to put something else in their place. Anywhere else libraries are made anew, for this process, in a folder of its own.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

from implicit_bias.cli.messages import warn

COMPILERS = ("cc", "gcc", "clang")
#: Names and numbers that a source is compiled with: what it shares with Python is written down there alone.
Definitions = tuple[tuple[str, float], ...]

# No -ffast-math: infinities mean something. The second line is for compilers that do not know the first's processor option.
FLAGS = ("-std=gnu11", "-O3", "-fno-math-errno", "-fPIC", "-shared")
PROCESSOR_FLAGS = (("-march=native",), ("-mcpu=native",), ())
# Where processors' multiply-adds have long latencies (AMD's Zen, Intel's hybrid ones), gcc rounds sums of products twice in some
# loops and once in others, as each is laid out. A run alone would have other bits than in a group. Unknown to other compilers.
FUSED_EVERYWHERE = "--param=avoid-fma-max-bits=0"
VARIABLE = "IMPLICIT_BIAS_MARCH"
COMPILE_SECONDS = 120

_warn_once = cache(warn)


@cache
def library(source: Path, symbols: tuple[str, ...] = (), definitions: Definitions = ()) -> ctypes.CDLL | None:
    """The library with these functions that a C source makes; None where no compiler here makes one.

    Args:
        source: The file. It finds the options that it is compiled with in the macro COMPILED_WITH, a text.
        symbols: Functions that have to be there.
        definitions: Its other macros, exact to the last bit.
    """
    macros = tuple(f"-D{name}={_exact(number)}" for name, number in definitions)
    for command in compilers():
        try:
            version = subprocess.run([command, "--version"], capture_output=True, timeout=COMPILE_SECONDS, check=True).stdout
        except (OSError, subprocess.SubprocessError):
            continue
        key = _digest(_text(source), repr((FLAGS, processor_flags(), macros)).encode(), version, _processor())
        for folder in _folders():
            loaded = _kept(source, folder, key, symbols) or _made([command, *macros], source, folder, key, symbols)
            if loaded is not None:
                return loaded
    return None


def _text(source: Path) -> bytes:
    """A source with the headers beside it, all of which it may include."""
    return b"\0".join(path.read_bytes() for path in (source, *sorted(source.parent.glob("*.h"))))


def compilers() -> list[str]:
    """The C compilers there are: $CC, cc, gcc, clang."""
    named = [*filter(None, [os.environ.get("CC")]), *COMPILERS]
    return [found for found in map(shutil.which, named) if found]


def processor_flags() -> tuple[tuple[str, ...], ...]:
    """The compiler's options for the processor, in the order in which they are tried."""
    named = os.environ.get(VARIABLE)
    tried = ((f"-march={named}",),) if named else PROCESSOR_FLAGS
    return tuple(flags for processor in tried for flags in ((*processor, FUSED_EVERYWHERE), processor))


def _kept(source: Path, folder: Path, key: str, symbols: tuple[str, ...]) -> ctypes.CDLL | None:
    try:
        for path in folder.glob(f"{source.stem}-{key}-*.so"):
            foreign = foreign_hand(path)
            if foreign is not None:
                _warn_once(f"{foreign}; it is not loaded, but removed and made anew")
                path.unlink()
            elif path.stem.endswith(_digest(path.read_bytes())):
                return _loaded(path, symbols)
    except OSError:  # no library at all
        pass
    return None


def _made(command: list[str], source: Path, folder: Path, key: str, symbols: tuple[str, ...]) -> ctypes.CDLL | None:
    try:
        path = _compile(command, source, folder, key)
        return None if path is None else _loaded(path, symbols)
    except (OSError, subprocess.SubprocessError):
        return None


def _loaded(path: Path, symbols: tuple[str, ...]) -> ctypes.CDLL | None:
    loaded = ctypes.CDLL(str(path))
    return loaded if all(hasattr(loaded, name) for name in symbols) else None


def _folders() -> Iterator[Path]:
    """Where libraries may be kept; the last is of this process alone."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    kept = Path(home if os.path.isabs(home) else os.path.join(os.path.expanduser("~"), ".cache")) / "implicit_bias"
    with suppress(OSError):
        kept.mkdir(mode=0o700, parents=True, exist_ok=True)
        kept = kept.resolve()
        foreign = foreign_hand(kept)
        if foreign is None:
            yield kept
        else:
            _warn_once(f"{foreign}; libraries in {kept} are not loaded, they are made anew for each process")
    yield _own_folder()


def foreign_hand(path: Path) -> str | None:
    """The users other than this one and root who could have written a file or folder, in words; None if there are none.

    Args:
        path: Without links in it.

    Raises:
        OSError: It cannot be looked at.
    """
    if not hasattr(os, "geteuid"):
        return None  # no owners and modes of this kind
    me, others = os.geteuid(), stat.S_IWGRP | stat.S_IWOTH
    status = path.lstat()
    if status.st_uid != me:
        return f"{path} belongs to another user"
    if status.st_mode & others or stat.S_ISLNK(status.st_mode):
        return f"{path} can be written by other users (must be this user's alone, mode 700)"
    for above in path.parents:
        status = above.stat()
        sticky = status.st_mode & stat.S_ISVTX  # there everybody can make files, but move or remove only their own
        if status.st_uid not in (me, 0) or (status.st_mode & others and not sticky):
            return f"{path} can be replaced by other users, who can write {above}"
    return None


@cache
def _own_folder() -> Path:
    holder = tempfile.TemporaryDirectory(prefix="implicit_bias-")
    _HOLDERS.append(holder)
    return Path(holder.name)


_HOLDERS: list[tempfile.TemporaryDirectory[str]] = []  # removed when the process ends


def _compile(command: list[str], source: Path, folder: Path, key: str) -> Path | None:
    """Compile into a temporary name, then rename: processes that do so at once each leave a whole file."""
    for processor in processor_flags():
        options = [*FLAGS, *processor]
        told = f'-DCOMPILED_WITH="{" ".join(options)}"'
        number, name = tempfile.mkstemp(suffix=".tmp", dir=folder)
        os.close(number)
        made = Path(name)
        try:
            done = subprocess.run(
                [*command, *options, told, "-o", name, str(source), "-lm"], capture_output=True, timeout=COMPILE_SECONDS
            )
            if done.returncode == 0:
                made.chmod(0o600)  # the compiler made it anew, under the umask
                return made.replace(folder / f"{source.stem}-{key}-{_digest(made.read_bytes())}.so")
        finally:
            made.unlink(missing_ok=True)
    return None


def _exact(number: float) -> str:
    """A number as C reads it; in hexadecimal where it is not whole."""
    return str(number) if isinstance(number, int) else f"({number.hex()})"


def _digest(*parts: bytes) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _processor() -> bytes:
    """What this processor can do: on a cluster, machines of several kinds may share a home."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        kinds = sorted({line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))})
    except OSError:
        kinds = [platform.processor()]
    return "\n".join([platform.machine(), *kinds]).encode()
