"""What linear.c is given, with the fields of the structures in group.h and records.h, in their order."""

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


class CSeen(ctypes.Structure):
    """Where linear.c writes what a record says."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("w", "gradient", "gradient_log", "per_weight", "total", "log_unit")),
        *((name, ctypes.c_void_p) for name in ("log_loss", "accuracy", "margin", "largest", "average")),
    ]
