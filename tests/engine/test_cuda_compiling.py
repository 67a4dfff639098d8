"""What a CUDA compiler and a driver say, as far as that goes without them."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest

from implicit_bias.engine.steppers.cuda_kernel import compiling
from implicit_bias.engine.steppers.cuda_kernel.compiling import OnGpu, literal
from tests.support.pretended_cuda import pretended_cuda


class Pretended:
    """NVRTC and a driver that write down what they are asked."""

    def __init__(self, log: str = "", code: int = 0) -> None:
        self._log, self._code, self.asked = log.encode() + b"\0", code, list[str]()
        self.options: list[bytes] = []
        self.launched: tuple[Any, ...] = ()

    def nvrtcVersion(self, major: Any, minor: Any) -> int:  # noqa: N802 - as they are called
        major._obj.value, minor._obj.value = 13, 1
        return 0

    def nvrtcCompileProgram(self, program: Any, count: int, options: Any) -> int:  # noqa: N802
        self.options = list(options)
        return int(len(self._log) > 1)

    def nvrtcGetProgramLogSize(self, program: Any, size: Any) -> int:  # noqa: N802
        size._obj.value = len(self._log)
        return 0

    def nvrtcGetProgramLog(self, program: Any, log: Any) -> int:  # noqa: N802
        ctypes.memmove(log, self._log, len(self._log))
        return 0

    def nvrtcGetCUBINSize(self, program: Any, size: Any) -> int:  # noqa: N802
        size._obj.value = 4
        return 0

    def cuLaunchKernel(self, *given: Any) -> int:  # noqa: N802
        self.launched = given
        return self._code

    def cuGetErrorString(self, code: int, told: Any) -> int:  # noqa: N802
        told._obj.value = b"an illegal address"
        return 0

    def __getattr__(self, name: str) -> Any:
        def done(*_: Any) -> int:
            self.asked.append(name)
            return 0

        return done


def made(found: Pretended, monkeypatch: pytest.MonkeyPatch) -> OnGpu:
    monkeypatch.setattr(compiling, "libraries", lambda: found)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda: (9, 0))
    return OnGpu("source", "advance", (("N", 3), ("LOG_N", 0.1), ("CLIP", float("inf"))), threads=64, shared=1000)


class Stream:
    """A stream that is waited for."""

    cuda_stream, waited = 7, False

    def synchronize(self) -> None:
        self.waited = True


def test_a_kernel_is_compiled_for_the_gpu_and_launched_on_its_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    found, stream = Pretended(), Stream()
    with pretended_cuda():
        monkeypatch.setattr("torch.cuda.current_stream", lambda device=None: stream)
        kernel = made(found, monkeypatch)
        kernel.launch(5, [ctypes.c_longlong(2)])
    assert found.options == [
        b"--std=c++17",
        b"--gpu-architecture=sm_90",
        b"-DN=3",
        f"-DLOG_N=({(0.1).hex()})".encode(),
        b"-DCLIP=INF",
    ]
    assert kernel.made_with == {"compiler": "NVRTC 13.1", "flags": "--std=c++17 --gpu-architecture=sm_90"}
    assert found.launched[1:8] == (5, 1, 1, 64, 1, 1, 1000) and found.launched[8].value == 7 and stream.waited
    assert "nvrtcDestroyProgram" in found.asked and "cuModuleLoadData" in found.asked


def test_what_fails_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pretended_cuda():
        monkeypatch.setattr("torch.cuda.current_stream", lambda device=None: Stream())
        with pytest.raises(RuntimeError, match=r"^nvrtcCompileProgram: linear.cu\(3\): no such name$"):
            made(Pretended("linear.cu(3): no such name\n"), monkeypatch)
        with pytest.raises(RuntimeError, match=r"^cuLaunchKernel: an illegal address$"):
            made(Pretended(code=700), monkeypatch).launch(1, [])
    monkeypatch.setattr(compiling, "libraries", lambda: None)
    with pytest.raises(RuntimeError, match="no CUDA compiler"):
        OnGpu("source", "advance", (), 64, 0)


def test_numbers_are_exact() -> None:
    assert [literal(number) for number in (3, 0.5, float("-inf"))] == ["3", "(0x1.0000000000000p-1)", "(-INF)"]
