"""Discovery of the things a user can choose: one file in a package's folder is one option.

A registered class is a frozen dataclass whose fields, declared with :func:`hyper`, are its hyper-parameters. The
command derives its typed keys from them, the help its text and the generic tests their cases.
"""

import dataclasses
import importlib
import pkgutil
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

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


def hyper_fields(cls: type) -> dict[str, dataclasses.Field[Any]]:
    """The fields of ``cls`` that were declared with :func:`hyper`, in their order."""
    return {f.name: f for f in dataclasses.fields(cls) if "hyper" in f.metadata}


class Registry:
    """Name to class for one package; every module of the package and of its folders is imported at first use."""

    def __init__(self, package: str, noun: str) -> None:
        self.package = package
        self.noun = noun
        self._classes: dict[str, type] = {}
        self._loaded = False

    def register(self, cls: C) -> C:
        """Class decorator: make ``cls`` available under ``cls.name``."""
        name: str = getattr(cls, "name")  # noqa: B009 - declared by every subclass that is registered
        if name in self._classes and self._classes[name].__module__ != cls.__module__:
            raise ValueError(f"two {self.noun}s are called {name!r}")
        self._classes[name] = cls
        return cls

    def get(self, name: str) -> Any:
        """The class called ``name``. Raises KeyError that lists the names there are."""
        self._load()
        if name not in self._classes:
            raise KeyError(f"no {self.noun} is called {name!r}; there are: {', '.join(self.names())}")
        return self._classes[name]

    def names(self) -> list[str]:
        """All names, sorted."""
        self._load()
        return sorted(self._classes)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __contains__(self, name: object) -> bool:
        self._load()
        return name in self._classes

    def _load(self) -> None:
        if not self._loaded:
            package = importlib.import_module(self.package)
            for module in pkgutil.walk_packages(package.__path__, f"{self.package}."):
                importlib.import_module(module.name)
            self._loaded = True


class Table(Registry):
    """A registry whose classes all live in one module that fills it by itself (nothing to discover)."""

    def __init__(self, noun: str) -> None:
        super().__init__("", noun)
        self._loaded = True
