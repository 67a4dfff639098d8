"""What network.c is given, with the fields of the structures in network.h, in their order; and its functions."""

from __future__ import annotations

import ctypes

from implicit_bias.engine.steppers.native.structures import declare_sizes

#: network.c has room for so many layers.
MOST_LAYERS = 16
#: Numbers of every run.
PER_RUN = ("lr", "power", "slope", "beta", "gain", "ahead_beta", "ahead_gain", "beta2", "log_eps", "decay")


class CLayer(ctypes.Structure):
    """A layer of all runs."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("inputs", "units", "kind")),
        ("weight", ctypes.c_double),
        *((name, ctypes.c_void_p) for name in ("w", "m", "m_log", "r", "r_log", "g")),
    ]


class CNetwork(ctypes.Structure):
    """A batch of networks."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("runs", "layers", "samples", "features", "x_run", "y_run")),
        *((name, ctypes.c_int64) for name in ("loss", "activation", "rule", "momentum", "bias_correction")),
        *((name, ctypes.c_int64) for name in ("kernel", "pool", "side")),
        *((name, ctypes.c_double) for name in ("log_n", "most")),
        *((name, ctypes.c_void_p) for name in ("x", "y")),
        ("layer", ctypes.POINTER(CLayer)),
        *((name, ctypes.c_void_p) for name in (*PER_RUN, "below", "seen", "seen_unit")),
    ]


class CAsked(ctypes.Structure):
    """What a call is to do, and where it writes what it has done."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("first", "steps", "seen")),
        *((name, ctypes.c_void_p) for name in ("active", "made", "why")),
    ]


class CLooked(ctypes.Structure):
    """Where network.c writes what a record says."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("scores", "total", "unit", "log_loss", "accuracy", "margin", "inner")),
        *((name, ctypes.c_void_p) for name in ("w_sizes", "c_sizes")),
        *((name, ctypes.c_void_p * MOST_LAYERS) for name in ("w", "g", "c")),
    ]


def declared(compiled: ctypes.CDLL) -> dict[str, str]:
    """Declare the functions of the library, and ask what it was compiled with."""
    compiled.network_lanes.restype = compiled.network_work_size.restype = compiled.network_advance.restype = ctypes.c_int64
    compiled.network_work_size.argtypes = [ctypes.c_void_p]
    compiled.network_advance.argtypes = compiled.network_look.argtypes = [ctypes.c_void_p] * 4
    compiled.network_look.restype = ctypes.c_int64
    declare_sizes(compiled)
    sets = ctypes.POINTER(ctypes.c_void_p)
    compiled.block_sizes.argtypes = [sets, ctypes.c_void_p, *[ctypes.c_int64] * 4, ctypes.c_void_p]
    compiled.block_products.argtypes = [sets, sets, ctypes.c_void_p, *[ctypes.c_int64] * 4, ctypes.c_void_p]
    compiled.block_cosines.argtypes = [sets, sets, ctypes.c_void_p, *[ctypes.c_int64] * 3, *[ctypes.c_void_p] * 2]
    compiled.block_sizes.restype = compiled.block_products.restype = compiled.block_cosines.restype = None
    compiled.network_made_with.restype = ctypes.c_char_p
    compiler, flags = compiled.network_made_with().decode(errors="replace").split("\n")
    return {"compiler": compiler, "flags": flags}
