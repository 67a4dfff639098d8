"""Discovery of the things a user can choose: one file in a package's folder is one option.

A registered class is a frozen dataclass whose fields, declared with :func:`hyper`, are its hyper-parameters. The
command derives its typed keys from them, the help its text and the generic tests their cases.
"""

import dataclasses
import importlib
import os
import pkgutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import Any, TypeVar

from implicit_bias.core.errors import NameTaken
from implicit_bias.core.plugin_classes import load_into

C = TypeVar("C", bound=type)

#: Every integer up to here, and some that are made of it, are exact in a double and in 64 bits.
LARGEST_INTEGER = 10**15
#: numpy.random.RandomState takes seeds up to here.
MAX_SEED = 2**32 - 1


@dataclasses.dataclass(frozen=True)
class HyperSpec:
    """What a hyper-parameter may be: bounds (``ge <= value``, ``gt < value``, ...), or a list of choices.

    ``batch`` is False for a number that must be the same in all runs of a batch. ``most`` is a bound far beyond what makes sense,
    which is said only where it is passed: integers have one, :data:`LARGEST_INTEGER`, where no other is given.
    """

    help: str
    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None
    choices: tuple[Any, ...] | None = None
    allow_inf: bool = False
    batch: bool = True
    most: int | None = None


class OpenMapping(dict[str, Any]):
    """The default of a hyper-parameter that is a mapping, whose keys somebody else names; not to be changed."""

    __hash__ = object.__hash__  # type: ignore[assignment]  # a default that cannot be hashed is refused by dataclasses


def hyper(
    default: Any,
    *,
    help: str,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    choices: Sequence[Any] | None = None,
    allow_inf: bool = False,
    batch: bool = True,
    most: int | None = None,
) -> Any:
    """Declare a hyper-parameter of a registered dataclass: its default, its meaning and its range.

    A default that is a mapping makes it an open one: any keys may be set in it, and the class checks them itself.
    """
    default = OpenMapping(default) if isinstance(default, dict) else default
    spec = HyperSpec(help, ge, gt, le, lt, None if choices is None else tuple(choices), allow_inf, batch, most)
    return dataclasses.field(default=default, metadata={"hyper": spec})


def hyper_fields(cls: type) -> Mapping[str, dataclasses.Field[Any]]:
    """The fields of ``cls`` that were declared with :func:`hyper`, in their order."""
    key: Any = cls  # mypy takes no type for hashable
    return _declared(key)


@cache
def _declared(cls: Any) -> Mapping[str, dataclasses.Field[Any]]:
    # As the class takes them: those for keywords only come last, whichever base they are from.
    taken = sorted(dataclasses.fields(cls), key=lambda f: f.kw_only is True)
    return MappingProxyType({f.name: f for f in taken if "hyper" in f.metadata})


def hyper_values(option: Any) -> dict[str, Any]:
    """The hyper-parameters of an object of a registered class, in their order."""
    return {key: getattr(option, key) for key in hyper_fields(type(option))}


class Registry:
    """Name to class for one package: every module of the package, of its folders and of plugins is imported at first use.

    Attributes:
        package: Its full name.
        noun: What one of its classes is.
        classes: What is registered so far.
    """

    def __init__(self, package: str, noun: str) -> None:
        self.package = package
        self.noun = noun
        self.classes: dict[str, type] = {}
        self._added: dict[str, type] = {}
        self._loaded = False

    def register(self, cls: C) -> C:
        """Class decorator: make ``cls`` available under ``cls.name``.

        Raises:
            NameTaken: another class has that name.
            TypeError: it has no name.
        """
        name: str | None = getattr(cls, "name", None)
        if name is None:
            raise TypeError(f'class {cls.__name__} has no name; it needs name: ClassVar[str] = "..."')
        other = self.classes.get(name)
        if other is not None and (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
            raise NameTaken(f"two {self.noun}s are called {name!r}, the other in {_file_of(other)}; give this one another name")
        self.classes[name] = cls
        return cls

    def get(self, name: str) -> Any:
        """The class called ``name``. Raises KeyError that lists the names there are."""
        self._load()
        if name not in self.classes:
            raise KeyError(f"no {self.noun} is called {name!r}; there are: {', '.join(self.names())}")
        return self.classes[name]

    def names(self) -> list[str]:
        """All names, sorted."""
        self._load()
        return sorted(self.classes)

    def added(self) -> dict[str, type]:
        """The classes that come from outside the package (:mod:`implicit_bias.core.plugins`), by name."""
        self._load()
        return self._added

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __contains__(self, name: object) -> bool:
        self._load()
        return name in self.classes

    def _load(self) -> None:
        if not self._loaded:
            package = importlib.import_module(self.package)
            # Not all of its __path__, which may go on to the folders of plugins.
            for module in pkgutil.walk_packages([os.path.dirname(str(package.__file__))], f"{self.package}."):
                importlib.import_module(module.name)
            load_into(self, self._added)
            self._loaded = True


def _file_of(cls: type) -> str:
    return str(getattr(sys.modules.get(cls.__module__), "__file__", None) or cls.__module__)
