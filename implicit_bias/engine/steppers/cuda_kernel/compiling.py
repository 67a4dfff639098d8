"""CUDA sources compiled for the GPU that is there, by the compiler that comes with a PyTorch built for CUDA (NVRTC), and launched
on PyTorch's current stream.

No other compiler and no file is needed: what is compiled is kept in the process, by its macros. PyTorch has both libraries that
this takes loaded, NVRTC and the driver's, behind one of its own.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import torch

#: Names and numbers that a source is compiled with.
Macros = tuple[tuple[str, float], ...]

STUB = "libcaffe2_nvrtc.so"
STANDARD = "--std=c++17"
DYNAMIC_SHARED_MEMORY = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES


class Kernel(Protocol):
    """A compiled function."""

    #: The compiler and its options, for the provenance.
    made_with: dict[str, str]

    def launch(self, blocks: int, arguments: list[Any]) -> None:
        """Run so many blocks, and wait until they are done.

        Args:
            blocks: How many.
            arguments: The function's, as ctypes objects.

        Raises:
            RuntimeError: the GPU cannot run it.
        """


@cache
def libraries() -> ctypes.CDLL | None:
    """NVRTC and the driver behind PyTorch's library; None where PyTorch is not built for CUDA."""
    try:
        found = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / STUB))
    except OSError:
        return None
    needed = ("nvrtcCreateProgram", "nvrtcCompileProgram", "cuModuleLoadData", "cuLaunchKernel", "cuFuncSetAttribute")
    return found if all(hasattr(found, name) for name in needed) else None


class OnGpu:
    """A function of a CUDA source, compiled for the current device.

    Args:
        source: The text.
        name: The function's.
        macros: What the source is compiled with, exact to the last bit.
        threads: Of a block.
        shared: Bytes of shared memory of a block.

    Raises:
        RuntimeError: it does not compile, or cannot be loaded.
    """

    def __init__(self, source: str, name: str, macros: Macros, threads: int, shared: int) -> None:
        found = libraries()
        if found is None:
            raise RuntimeError("PyTorch has no CUDA compiler here")
        self._libraries, self._threads, self._shared = found, threads, shared
        major, minor = torch.cuda.get_device_capability()
        version = ctypes.c_int(), ctypes.c_int()
        found.nvrtcVersion(*(ctypes.byref(part) for part in version))
        options = [STANDARD, f"--gpu-architecture=sm_{major}{minor}"]
        self.made_with = {"compiler": f"NVRTC {version[0].value}.{version[1].value}", "flags": " ".join(options)}
        binary = _compiled(found, source, [*options, *(f"-D{name}={literal(number)}" for name, number in macros)])
        torch.cuda.current_stream()  # makes the device's context the current one
        self._module, self._function = ctypes.c_void_p(), ctypes.c_void_p()
        self._check(found.cuModuleLoadData(ctypes.byref(self._module), binary), "cuModuleLoadData")
        self._check(found.cuModuleGetFunction(ctypes.byref(self._function), self._module, name.encode()), "cuModuleGetFunction")
        self._check(found.cuFuncSetAttribute(self._function, DYNAMIC_SHARED_MEMORY, shared), "cuFuncSetAttribute")

    def launch(self, blocks: int, arguments: list[Any]) -> None:
        """See :meth:`Kernel.launch`."""
        stream = torch.cuda.current_stream()
        pointers = (ctypes.c_void_p * len(arguments))(*(ctypes.addressof(argument) for argument in arguments))
        shape = (blocks, 1, 1, self._threads, 1, 1, self._shared)
        code = self._libraries.cuLaunchKernel(self._function, *shape, ctypes.c_void_p(stream.cuda_stream), pointers, None)
        self._check(code, "cuLaunchKernel")
        stream.synchronize()

    def _check(self, code: int, call: str) -> None:
        if code:
            told = ctypes.c_char_p()
            self._libraries.cuGetErrorString(code, ctypes.byref(told))
            raise RuntimeError(f"{call}: {(told.value or b'unknown error').decode()}")


def _compiled(found: ctypes.CDLL, source: str, options: list[str]) -> bytes:
    """The binary of a source.

    Raises:
        RuntimeError: it does not compile.
    """
    program = ctypes.c_void_p()
    code = found.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"linear.cu", 0, None, None)
    if code:
        raise RuntimeError(f"nvrtcCreateProgram: error {code}")
    try:
        given = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        failed, size = found.nvrtcCompileProgram(program, len(options), given), ctypes.c_size_t()
        if failed:
            found.nvrtcGetProgramLogSize(program, ctypes.byref(size))
            log = ctypes.create_string_buffer(size.value)
            found.nvrtcGetProgramLog(program, log)
            raise RuntimeError(f"nvrtcCompileProgram: {log.value.decode(errors='replace').strip()}")
        found.nvrtcGetCUBINSize(program, ctypes.byref(size))
        binary = ctypes.create_string_buffer(size.value)
        found.nvrtcGetCUBIN(program, binary)
        return binary.raw
    finally:
        found.nvrtcDestroyProgram(ctypes.byref(program))


def literal(number: float) -> str:
    """A number as C++ reads it; in hexadecimal where it is not whole."""
    if number in (float("inf"), float("-inf")):
        return "INF" if number > 0 else "(-INF)"
    return str(number) if isinstance(number, int) else f"({number.hex()})"
