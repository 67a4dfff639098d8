"""What a value typed on a command line may be, in words; read from a dataclass's :func:`~implicit_bias.core.registry.hyper`.

The standard library alone: ``--help`` shows these words without importing what checks the values.
"""

from __future__ import annotations

import types
import typing
from dataclasses import dataclass
from typing import Any

from implicit_bias.core.registry import LARGEST_INTEGER, HyperSpec, OpenMapping, hyper_fields
from implicit_bias.core.words import either

SCALARS: tuple[type, ...] = (bool, int, float, str)


@dataclass(frozen=True)
class Kind:
    """The values that a key takes.

    Attributes:
        scalar: bool, int, float or str: the value's type, or that of a list's items.
        spec: Its bounds and its meaning.
        choices: The only values there are, where they are few.
        word: A word that may stand in place of a number (``schedule.lr=auto``).
        is_list: Whether it is a list of such values.
        optional: Whether it may be null.
        is_open: Whether it is a mapping of such keys and values as somebody else names.
    """

    scalar: type
    spec: HyperSpec
    choices: tuple[Any, ...] | None = None
    word: str | None = None
    is_list: bool = False
    optional: bool = False
    is_open: bool = False

    @property
    def allowed(self) -> str:
        """What is allowed, in words that follow "must be"."""
        if self.is_open:
            words = "a mapping {key:value,...}, or one key of it"
        elif self.choices is not None:
            words = either([str(choice) for choice in self.choices])
        elif self.is_list:
            words = f"a list [a,b,...] of {_noun(self.scalar, HyperSpec('')).split()[-1]}s"
        elif self.word is not None:
            words = f"'{self.word}' or {_noun(float, self.spec)}"
        else:
            words = _noun(self.scalar, self.spec)
        return f"null or {words}" if self.optional else words

    @property
    def most(self) -> int | None:
        """A bound far beyond what makes sense, said only where it is passed: of integers that have no other."""
        plain = self.choices is None and not self.is_list and not self.is_open
        return self.spec.most or LARGEST_INTEGER if plain and self.scalar is int and self.spec.le is None else None


def kinds(cls: type) -> dict[str, Kind]:
    """The kinds of the keys that ``cls`` declares with ``hyper``, in their order."""
    hints = typing.get_type_hints(cls)
    return {name: kind_of(hints[name], field.default, field.metadata["hyper"]) for name, field in hyper_fields(cls).items()}


def kind_of(hint: Any, default: Any, spec: HyperSpec) -> Kind:
    """The kind of a field, from its annotation where that says something, else from its default.

    Numeric fields are annotated loosely where a batch may hold a tensor in them; then the default tells the type. A default
    that is a word, in a field with numeric bounds, is a word that may stand for a number (``schedule.lr=auto``).
    """
    is_union = typing.get_origin(hint) in (types.UnionType, typing.Union)
    members = set(typing.get_args(hint)) if is_union else {hint}
    optional = types.NoneType in members
    if isinstance(default, OpenMapping):
        return Kind(str, spec, is_open=True)
    choices = spec.choices or next((typing.get_args(m) for m in members if typing.get_origin(m) is typing.Literal), None)
    lists = [m for m in members if typing.get_origin(m) in (list, tuple)]
    if choices is not None:
        return Kind(type(choices[0]), spec, choices=choices, is_list=bool(lists), optional=optional)
    if lists:
        return Kind(typing.get_args(lists[0])[0], spec, is_list=True, optional=optional)
    if isinstance(default, str) and _bounded(spec):
        return Kind(float, spec, word=default, optional=optional)
    return Kind(next((kind for kind in SCALARS if kind in members), type(default)), spec, optional=optional)


def _noun(scalar: type, spec: HyperSpec) -> str:
    if scalar is bool:
        return "true or false"
    if scalar is int:
        return f"an integer{_range(spec)}"
    return f"a number{_range(spec)}" if scalar is float else "a text"


def _bounded(spec: HyperSpec) -> bool:
    return any(bound is not None for bound in (spec.ge, spec.gt, spec.le, spec.lt))


def _range(spec: HyperSpec) -> str:
    """`` in [0, 1)`` or `` >= 1``; `` > 0`` may include inf."""
    low = spec.ge if spec.ge is not None else spec.gt
    high = spec.le if spec.le is not None else spec.lt
    if low is not None and (high is not None or (spec.allow_inf and spec.ge is not None)):
        closed = spec.le is not None or (high is None and spec.allow_inf)
        upper = "inf" if high is None else f"{high}"
        return f" in {'[' if spec.ge is not None else '('}{low}, {upper}{']' if closed else ')'}"
    if low is not None:
        return f" {'>=' if spec.ge is not None else '>'} {low}"
    if high is not None:
        return f" {'<=' if spec.le is not None else '<'} {high}"
    return ""
