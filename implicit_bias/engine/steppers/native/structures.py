"""What linear.c is given, with the fields of the structures in group.h and records.h, in their order; and its functions."""

from __future__ import annotations

import ctypes


class CPart(ctypes.Structure):
    """A block of columns, and the norm in which it descends."""

    _fields_ = [*((name, ctypes.c_int64) for name in ("first", "end", "kind")), ("weight", ctypes.c_double)]


class CSamples(ctypes.Structure):
    """Training samples."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("count", "n")),
        ("log_n", ctypes.c_double),
        *((name, ctypes.c_void_p) for name in ("x", "columns", "y")),
    ]


class CGroup(ctypes.Structure):
    """One group of runs, or one run of it alone."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("alone", "lane", "features")),
        *((name, ctypes.c_int64) for name in ("k", "d", "loss", "rule", "momentum", "bias_correction", "iterations")),
        *((name, ctypes.c_int64) for name in ("parts", "outer", "by_dual")),
        ("clip", ctypes.c_double),
        ("samples", CSamples),
        ("log_batch", ctypes.c_double),
        ("batch", ctypes.c_int64),
        *((name, ctypes.c_int64) for name in ("anchored", "asks_loss", "per_loss", "from_first", "entries", "watched")),
        ("part", ctypes.POINTER(CPart)),
        *((name, ctypes.c_void_p) for name in ("below", "smallest_row", "doubtful", "w", "m", "m_log", "r", "r_log")),
        *((name, ctypes.c_void_p) for name in ("anchor", "certificate")),
        *((name, ctypes.c_void_p) for name in ("beta", "gain", "ahead_beta", "ahead_gain")),
        *((name, ctypes.c_void_p) for name in ("beta2", "log_eps", "decay", "dual_exponent", "coefficients", "work")),
    ]


class CTask(ctypes.Structure):
    """A group of runs, or a run alone, that makes updates by itself."""

    _fields_ = [
        ("group", CGroup),
        *((name, ctypes.c_void_p) for name in ("lr", "power")),
        *((name, ctypes.c_int64) for name in ("place", "first", "runs")),
    ]


class CCall(ctypes.Structure):
    """What a call is to do."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("tasks", "first", "steps", "seen", "watched")),
        *((name, ctypes.c_void_p) for name in ("share", "index")),
        ("index_size", ctypes.c_int64),
        ("look", ctypes.c_void_p),
        ("look_share", ctypes.c_double),
    ]


class CSeen(ctypes.Structure):
    """Where linear.c writes what a record says."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("w", "gradient", "gradient_log", "per_weight", "total", "log_unit")),
        *((name, ctypes.c_void_p) for name in ("log_loss", "accuracy", "margin", "largest", "parameter", "average")),
    ]


def declare_sizes(compiled: ctypes.CDLL) -> None:
    """Declare what norms are computed by (sizes_of_many.h)."""
    compiled.singular_values_size.argtypes, compiled.singular_values_size.restype = [ctypes.c_int64] * 2, ctypes.c_int64
    compiled.singular_values.argtypes = [ctypes.c_void_p, *[ctypes.c_int64] * 3, *[ctypes.c_void_p] * 2]
    compiled.entry_sizes.argtypes = [ctypes.c_void_p, *[ctypes.c_int64] * 3, ctypes.c_void_p]
    compiled.singular_values.restype = compiled.entry_sizes.restype = None


def declared(compiled: ctypes.CDLL) -> dict[str, str]:
    """Declare the functions of the library, and ask what it was compiled with."""
    compiled.lanes.restype = compiled.work_size.restype = compiled.advance_all.restype = ctypes.c_int64
    compiled.work_size.argtypes = [ctypes.c_int64] * 7
    compiled.advance_all.argtypes = [ctypes.c_void_p] * 5
    declare_sizes(compiled)
    compiled.made_with.restype = ctypes.c_char_p
    compiler, flags = compiled.made_with().decode(errors="replace").split("\n")
    return {"compiler": compiler, "flags": flags}
