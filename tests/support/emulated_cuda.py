"""linear.cu without a GPU: its source compiled by the host's C++ compiler, with a block's threads as coroutines of one thread."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from implicit_bias.engine.steppers.cuda_kernel.compiling import Macros, literal
from implicit_bias.engine.steppers.cuda_kernel.kernel import SOURCE

HEADER = Path(__file__).with_name("emulated_cuda.h")
COMPILER = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
CALL = """
static Arrays given; static long long from, count;
static void called() { advance(given, from, count); }
extern "C" int launch(int blocks, const Arrays *of, long long first, long long steps, int backwards, long long shared)
{
    int within = 1;
    given = *of, from = first, count = steps, body = called;
    for (int block = 0; block < blocks; block++) within &= run_block(block, backwards, shared);
    return within;
}
"""


class Emulated:
    """The kernel on this processor."""

    def __init__(self, library: ctypes.CDLL, shared: int, backwards: bool) -> None:
        self._library, self._shared, self._backwards = library, shared, backwards
        self.made_with = {"compiler": "emulated", "flags": ""}

    def launch(self, blocks: int, arguments: list[Any]) -> None:
        arrays, first, steps = arguments
        within = self._library.launch(blocks, ctypes.byref(arrays), first, steps, self._backwards, self._shared)
        assert within, f"a thread waits for ever, or more than {self._shared} bytes of shared memory are written"


@cache
def _library(macros: Macros) -> ctypes.CDLL:
    assert COMPILER is not None
    text = "\n".join([f"#define {name} {literal(number)}" for name, number in macros])
    text = f'{text}\n#include "{HEADER}"\n#include "{SOURCE}"\n{CALL}'
    digest = hashlib.sha256(text.encode() + HEADER.read_bytes() + SOURCE.read_bytes()).hexdigest()[:16]
    made = Path(tempfile.gettempdir()) / f"implicit_bias-emulated-{os.getuid()}-{digest}.so"  # by whichever worker is first
    if not made.exists():
        with tempfile.TemporaryDirectory() as folder:
            source, mine = Path(folder) / "kernel.cpp", Path(folder) / "kernel.so"
            source.write_text(text)
            options = ["-std=c++17", "-O1", "-w", "-fPIC", "-shared", "-Wl,-Bsymbolic"]
            subprocess.run([COMPILER, *options, "-o", str(mine), str(source)], check=True)
            shutil.copy(mine, made.with_suffix(f".{os.getpid()}"))
            made.with_suffix(f".{os.getpid()}").replace(made)
    found = ctypes.CDLL(str(made))
    found.launch.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_longlong, ctypes.c_longlong, ctypes.c_int, ctypes.c_longlong]
    found.launch.restype = ctypes.c_int
    return found


def emulated(macros: Macros, threads: int, shared: int, backwards: bool = False) -> Emulated:
    """What :func:`implicit_bias.engine.steppers.cuda_kernel.kernel.compiled` gives on a GPU."""
    return Emulated(_library(macros), shared, backwards)
