"""Loading the classes of plugins into a registry.

A plugin that cannot be loaded is left out, and its problem recorded. One whose name is taken is an error whatever is asked for:
which of the two is meant cannot be known.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import importlib.util
import inspect
import re
import sys
import typing
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from implicit_bias.core import plugins
from implicit_bias.core.errors import NameTaken, line_of

ROOT = Path(__file__).resolve().parents[1]
_WORD = re.compile(r"[A-Za-z_]\w*")


class Register(Protocol):
    """What is needed of a :class:`implicit_bias.core.registry.Registry`."""

    package: str
    noun: str
    classes: dict[str, type]

    def register(self, cls: type) -> type:
        """Make a class available under its name."""


class Unusable(Exception):
    """A plugin that cannot be used; the message says why."""


def load_into(registry: Register, found: dict[str, type]) -> None:
    """Register the classes of every plugin of the registry's kind.

    Args:
        found: Gets them too.

    Raises:
        BadInput: a plugin folder does not exist.
        NameTaken: an option, or a file, has the name of another one.
    """
    folder = registry.package.rpartition(".")[2]
    plugins.extend_packages(folder)
    for file, module in plugins.class_files(folder):
        if file.is_relative_to(ROOT):  # a checkout that is named as a plugin folder
            continue
        _check_not_hidden(module, file)
        found |= _attempt(registry, file, module, file.stem, partial(importlib.import_module, module))
    for point in plugins.entry_points():
        if point.group == registry.package:
            place = plugins.file_of(point.module) or f"entry point {point.name} = {point.value}"
            found |= _attempt(registry, place, point.module, point.name, partial(_import_point, registry, point))


def _attempt(registry: Register, place: Path | str, module: str, name: str, load: Callable[[], object]) -> dict[str, type]:
    """Load one file or entry point, and return its classes; where that fails nothing of its module is in the registry.

    Raises:
        NameTaken: another class has the name of one of them.
    """
    # Another plugin may have imported the module, and registered its classes, already.
    others = {option: cls for option, cls in registry.classes.items() if cls.__module__ != module}
    try:
        load()
        added = {option: cls for option, cls in registry.classes.items() if option not in others}
        for cls in added.values():
            _check(cls)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a file does where it is imported
        registry.classes.clear()
        registry.classes.update(others)
        if isinstance(error, NameTaken):
            raise NameTaken(f"{place}: {error}") from None
        found = plugins.names_in(place) if isinstance(place, Path) else frozenset()
        plugins.add_problem(registry.noun, found | {name}, place, _reason(error, place))
        return {}
    if not added:  # a file that others import from, or one without the decorator: reported to those who ask for it
        decorator = f"@{registry.package.rpartition('.')[2].upper()}.register"
        reason = f"registers no {registry.noun}; put {decorator} above its class"
        plugins.add_problem(registry.noun, frozenset({name}), place, reason, is_warned_of=False)
    return added


def _check_not_hidden(module: str, file: Path) -> None:
    """Raises NameTaken where the name of a plugin's module stands for another file, or its folder for one of the package's."""
    try:
        spec = importlib.util.find_spec(module)
    except (Exception, SystemExit):  # noqa: BLE001 - of a package around it; importing the module says what it was
        spec = None
    if spec is not None and spec.origin is not None:
        if not Path(spec.origin).samefile(file):
            raise NameTaken(f"{file}: there is a file of that name already, {spec.origin}; give this one another name")
        return
    folder = plugins.file_of(module.rpartition(".")[0])
    if folder is not None and folder.resolve().is_relative_to(ROOT):
        raise NameTaken(f"{file}: there is a folder of that name already, {folder}; give this one another name")


def _import_point(registry: Register, point: Any) -> None:
    loaded = point.load()
    if inspect.isclass(loaded):
        registry.register(loaded)
    elif not isinstance(loaded, ModuleType):
        raise Unusable(f"entry point {point.name} = {point.value} is neither a module nor a class")


def _check(cls: type) -> None:
    """Raises Unusable where a class is registered, but cannot be an option."""
    name, here = cls.__name__, vars(cls)
    option = getattr(cls, "name", None)
    if not isinstance(option, str) or not _WORD.fullmatch(option):
        raise Unusable(f"class {name}: name={option!r}; must be a word of letters, digits and _")
    if any(isinstance(value, dataclasses.Field) for value in here.values()):
        raise Unusable(f"class {name} has keys but is no dataclass; it needs @dataclass(frozen=True)")
    if inspect.isabstract(cls):
        raise Unusable(f"class {name} lacks {', '.join(sorted(cls.__abstractmethods__))}")  # type: ignore[attr-defined]
    lacking = [key for base in cls.__mro__ for key, hint in _class_variables(base) if not hasattr(cls, key)]
    if lacking:
        raise Unusable(f"class {name} lacks {', '.join(dict.fromkeys(lacking))}")
    for field in dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ():
        if field.init and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise Unusable(f"class {name}: {field.name} has no default; declare it as a key, hyper(default, help=...)")


def _class_variables(cls: type) -> Iterator[tuple[str, Any]]:
    for key, hint in vars(cls).get("__annotations__", {}).items():
        if (isinstance(hint, str) and hint.split("[")[0].endswith("ClassVar")) or typing.get_origin(hint) is typing.ClassVar:
            yield key, hint


def _reason(error: BaseException, place: Path | str) -> str:
    """What went wrong where a file was imported, and in which of its lines."""
    if isinstance(error, Unusable):
        return str(error)
    line = line_of(error, lambda file, _: file == str(place))
    where = f"line {line}: " if line else ""
    said = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"cannot be imported: {where}{type(error).__name__}{f': {said}' if said else ''}"


@cache
def plugin_files(cls: type) -> dict[Path, str]:
    """The files of a plugin that a class depends on, with the SHA-256 of their content: its own first, then those which that
    takes a class, a function or a module from, and so on. Nothing where the class is the package's own.

    They are read once: a process goes on with the code that it has imported.
    """
    module = sys.modules.get(cls.__module__)
    found: dict[Path, str] = {}
    waiting = [module] if module is not None else []
    while waiting:
        module = waiting.pop(0)
        file = _outside(module, cls)
        if file is not None and file not in found:
            found[file] = hashlib.sha256(file.read_bytes()).hexdigest()
            waiting += list(_used_by(module))
    return found


def _outside(module: ModuleType, cls: type) -> Path | None:
    """The file of a module of the same plugin as a class; None for the package's own and for other libraries'."""
    file = getattr(module, "__file__", None)
    if file is None or module.__name__.partition(".")[0] != cls.__module__.partition(".")[0]:
        return None
    path = Path(file).resolve()
    return None if path.is_relative_to(ROOT) else path


def _used_by(module: ModuleType) -> Iterator[ModuleType]:
    """The modules that a module holds, or holds classes and functions of; not those inside it, which anyone puts there."""
    for value in list(vars(module).values()):
        if isinstance(value, ModuleType):
            if not value.__name__.startswith(f"{module.__name__}."):
                yield value
        elif inspect.isclass(value) or inspect.isfunction(value):
            home = sys.modules.get(value.__module__)
            if home is not None:
                yield home
