"""Norms on matrices and on parameter sets: value, dual, steepest direction, projection, cvxpy expression."""

import math

from implicit_bias.core.registry import hyper_fields
from implicit_bias.norms.base import NORMS, Norm, format_number
from implicit_bias.norms.blocks import ParameterNorm, ProductNorm, over_blocks

__all__ = ["NORMS", "Norm", "ParameterNorm", "ProductNorm", "format_number", "make_norm", "over_blocks"]


def make_norm(name: str, **parameters: float | str | None) -> Norm:
    """The norm called ``name``, or the one that a label such as ``lp3`` or ``schatten1.5`` stands for.

    Args:
        name: A norm's name (``lp``), or a label with its parameter (``lp3``).
        **parameters: Its parameters by key, such as ``p=3``; a label has them in itself.

    Returns:
        The norm.

    Raises:
        KeyError: there is no such norm; the message lists those there are.
        ValueError: a parameter is out of range.
    """
    if name in NORMS:
        words = {key for key, field in hyper_fields(NORMS.get(name)).items() if field.metadata["hyper"].choices is not None}
        numbers = {key: float(value) for key, value in parameters.items() if key not in words and value is not None}
        norm: Norm = NORMS.get(name)(**{**parameters, **numbers})
        return _checked(norm)
    for stem in NORMS:
        keys = NORMS.get(stem).keys_of(name[len(stem) :]) if name.startswith(stem) else None
        if keys is not None:
            return _checked(NORMS.get(stem)(**keys))
    unknown: Norm = NORMS.get(name)()  # raises, naming what there is
    return unknown


def _checked(norm: Norm) -> Norm:
    for key, field in hyper_fields(type(norm)).items():
        value, spec = getattr(norm, key), field.metadata["hyper"]
        if spec.choices is not None:
            if value not in spec.choices and value != field.default:
                raise ValueError(f"{norm.name}: {key}={value} must be {' or '.join(spec.choices)}")
            continue
        if math.isnan(value):
            raise ValueError(f"{norm.name}: {key}=nan must be a number")
        if spec.ge is not None and value < spec.ge:
            raise ValueError(f"{norm.name}: {key}={format_number(value)} must be >= {format_number(spec.ge)}")
        if spec.gt is not None and not spec.gt < value < math.inf:
            raise ValueError(f"{norm.name}: {key}={format_number(value)} must be > {format_number(spec.gt)}")
        if spec.le is not None and value > spec.le:
            raise ValueError(f"{norm.name}: {key}={format_number(value)} must be <= {format_number(spec.le)}")
        if spec.lt is not None and value >= spec.lt:
            raise ValueError(f"{norm.name}: {key}={format_number(value)} must be < {format_number(spec.lt)}")
    return norm
