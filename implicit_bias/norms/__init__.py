"""Norms on matrices and on parameter sets: value, dual, steepest direction, projection, cvxpy expression."""

import math

from implicit_bias.norms.base import NORMS, Norm, format_number
from implicit_bias.norms.blocks import ParameterNorm, ProductNorm, over_blocks
from implicit_bias.registry import hyper_fields

__all__ = ["NORMS", "Norm", "ParameterNorm", "ProductNorm", "format_number", "make_norm", "over_blocks"]


def make_norm(name: str, **parameters: float) -> Norm:
    """The norm called ``name``, or the one that a label such as ``lp3`` or ``schatten1.5`` stands for.

    Raises:
        KeyError: there is no such norm; the message lists those there are.
        ValueError: a parameter is out of range.
    """
    if name in NORMS:
        norm: Norm = NORMS.get(name)(**{key: float(value) for key, value in parameters.items()})
        return _checked(norm)
    for stem in NORMS:
        keys = list(hyper_fields(NORMS.get(stem)))
        if len(keys) == 1 and name.startswith(stem):
            try:
                value = float(name[len(stem) :])
            except ValueError:
                continue
            return _checked(NORMS.get(stem)(**{keys[0]: value}))
    return NORMS.get(name)()  # raises, naming what there is


def _checked(norm: Norm) -> Norm:
    for key, field in hyper_fields(type(norm)).items():
        value, spec = getattr(norm, key), field.metadata["hyper"]
        if math.isnan(value):
            raise ValueError(f"{norm.name}: {key}=nan must be a number")
        if spec.ge is not None and value < spec.ge:
            raise ValueError(f"{norm.name}: {key}={format_number(value)} must be >= {format_number(spec.ge)}")
        if spec.gt is not None and not spec.gt < value < math.inf:
            raise ValueError(f"{norm.name}: {key}={format_number(value)} must be > {format_number(spec.gt)}")
    return norm
