"""The class that ``optimizer.target`` names: found, checked against what it is to be made with, and what identifies it."""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import inspect
import linecache
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from implicit_bias.core.errors import BadInput, line_of
from implicit_bias.core.words import shown, suggestion
from implicit_bias.optimizers.foreign.callables import SESSION, USER_FILE, allowed, is_optimizer, names_nothing, unusable, usable

#: Modules of the packages that ``pip install 'implicit-bias[optimizers]'`` brings.
EXTRA = ("pytorch_optimizer", "schedulefree", "prodigyopt", "lion_pytorch")
FORMS = "a dotted path such as torch.optim.AdamW, or path/to/file.py:Class"
_DIGITS = 16


@dataclass(frozen=True)
class Target:
    """What makes the optimizer.

    Attributes:
        typed: As it was typed.
        make: The class, or a function of the parameters that returns an optimizer.
        identity: What tells it from any other: its name, and the version of its package or a digest of its file.
    """

    typed: str
    make: Callable[..., Any]
    identity: str


@dataclass(frozen=True)
class Named:
    """The keywords that a target names.

    Attributes:
        required: Those without a default.
        optional: The others, with their defaults.
        any: Whether it takes keywords that it does not name.
    """

    required: tuple[str, ...]
    optional: Mapping[str, Any]
    any: bool

    @property
    def all(self) -> tuple[str, ...]:
        """Every name."""
        return (*self.required, *self.optional)


def find(typed: str, key: str = "optimizer.target") -> Target:
    """The class or function that a dotted path or ``path/to/file.py:Name`` names; it is not called here.

    Args:
        typed: What was typed.
        key: The key that it was typed for, ``optimizer.target`` or ``optimizer.groups``.

    Raises:
        BadInput: there is none such, it cannot be imported, or it is not what the key may name.
    """
    path, colon, name = typed.rpartition(":")
    if not colon and typed.endswith(".py"):
        path, name = typed, ""
    if path:
        module, file = _module_of_file(path, typed, key)
        if not name:
            raise names_nothing(module, f"{path}:", typed, key)
        found = _attribute(module, name, typed, key)
        return Target(typed, usable(found, typed, key), f"{name} {file}")
    found = _dotted(typed, key)
    make = usable(found, typed, key)
    if not hasattr(found, "__qualname__"):  # a functools.partial, say: nothing tells it from another one
        raise unusable(found, typed, key)
    return Target(typed, make, f"{_full_name(found)} {_version(found)}")


def named(make: Callable[..., Any]) -> Named | None:
    """The keywords that a class or function names, the first parameter left out; None where Python cannot tell."""
    try:
        parameters = list(inspect.signature(make).parameters.values())[1:]
    except (TypeError, ValueError):
        return None
    keywords = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return Named(
        tuple(p.name for p in keywords if p.default is p.empty),
        {p.name: p.default for p in keywords if p.default is not p.empty},
        any(p.kind is p.VAR_KEYWORD for p in parameters),
    )


def checked_kwargs(target: Target, kwargs: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The keywords in their one spelling, and warnings of those that the class may swallow.

    Raises:
        BadInput: the class knows no such keyword, needs one that is missing, or has a value that is none.
    """
    known, warnings = named(target.make), list[str]()
    plain = {key: _plain(f"optimizer.kwargs.{key}", value) for key, value in kwargs.items()}
    if known is None:
        return plain, warnings
    allowed = [name for name in known.all if name != "lr"]
    listed = ", ".join(allowed) or "no keywords"
    for key in plain:
        close = suggestion(key, allowed)
        if key in known.all:
            continue
        if known.any:
            warnings.append(
                f"optimizer.kwargs.{key}: {target.typed} does not name it; it takes any keyword, and may ignore this one"
                f"{close or ';'} it names: {listed}"
            )
        else:
            raise BadInput(f"optimizer.kwargs.{key}: unknown key for {target.typed}{close or ';'} allowed: {listed}")
    for key in known.required:
        if key not in plain and key != "lr":
            raise BadInput(f"optimizer.kwargs.{key}: must be given, {target.typed} has no default for it")
    return {key: _like(known.optional.get(key), value) for key, value in plain.items()}, warnings


def _plain(key: str, value: Any) -> Any:
    """A value as a file can hold it."""
    if isinstance(value, Mapping):
        return {str(name): _plain(f"{key}.{name}", item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(key, item) for item in value]
    if value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and value == value):
        return value
    raise BadInput(f"{key}={shown(value)}: must be a number, a text, true, false, null, a list or a mapping of these")


def _like(default: Any, value: Any) -> Any:
    """1 and 1.0 are one value where a number with a point is the default, and [0,0.9] where two such numbers are."""
    if isinstance(default, tuple | list) and isinstance(value, list) and len(default) == len(value):
        return [_like(one, item) for one, item in zip(default, value, strict=True)]
    whole = isinstance(value, int) and not isinstance(value, bool)
    return float(value) if whole and isinstance(default, float) else value


def _dotted(typed: str, key: str) -> Any:
    parts = typed.split(".")
    if len(parts) < 2 or not all(part.isidentifier() for part in parts):
        close = suggestion(typed, [name for name, value in vars(torch.optim).items() if is_optimizer(value)])
        known = close.replace("did you mean ", "did you mean torch.optim.") or ";"
        raise BadInput(f"{key}={shown(typed)}: must name a class{known} allowed: {FORMS}")
    for count in range(len(parts) - 1, 0, -1):
        module = _imported(".".join(parts[:count]), typed, key)
        if module is not None:
            found: Any = module
            for part in parts[count:]:
                found = _attribute(found, part, typed, key)
            return found
    hint = " (pip install 'implicit-bias[optimizers]' brings it)" if parts[0] in EXTRA else ""
    raise BadInput(f"{key}={typed}: there is no module {parts[0]} here{hint}; allowed: {FORMS}")


def _imported(name: str, typed: str, key: str) -> ModuleType | None:
    """The module; None where there is none of this name."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            return None
        raise _not_importable(error, typed, key) from None
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a module may do anything when it is imported
        raise _not_importable(error, typed, key) from None


def _attribute(owner: Any, name: str, typed: str, key: str) -> Any:
    if not hasattr(owner, name):
        names = [n for n, value in vars(owner).items() if callable(value) and not n.startswith("_")]
        where = "the file" if ":" in typed else getattr(owner, "__name__", "it")
        raise BadInput(f"{key}={typed}: {where} has no {name}{suggestion(name, names) or ';'} allowed: {allowed(key)}")
    return getattr(owner, name)


def _module_of_file(path: str, typed: str, key: str) -> tuple[ModuleType, str]:
    """A user's file as a module, and the digest of its content. A file that is changed is another module."""
    try:
        content = Path(path).read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "no file can have this name"
        raise BadInput(f"{key}={typed}: {path} cannot be read ({reason}); allowed: {FORMS}") from None
    digest = hashlib.sha256(content).hexdigest()[:_DIGITS]
    name = f"{USER_FILE}{digest}"
    if name in sys.modules:
        return sys.modules[name], digest
    spec = importlib.util.spec_from_loader(name, loader=None, origin=path)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    module.__file__ = path
    sys.modules[name] = module  # dataclasses and pickle look a class's module up there
    try:
        exec(compile(content, path, "exec"), module.__dict__)
    except BaseException as error:
        del sys.modules[name]
        if not isinstance(error, Exception | SystemExit):
            raise
        raise _not_importable(error, typed, key, path) from None
    return module, digest


def _not_importable(error: Exception | SystemExit, typed: str, key: str, file: str | None = None) -> BadInput:
    line = line_of(error, lambda name, _: name == file)
    said = f"{in_a_line(error)}, line {line}" if line is not None and not isinstance(error, SyntaxError) else in_a_line(error)
    must = 'what it does as a script must stand under if __name__ == "__main__":'
    return BadInput(
        f"{key}={typed}: cannot be imported ({said}); {must if isinstance(error, SystemExit) else 'must be importable here'}"
    )


def line_in_user_file(error: BaseException) -> int | None:
    """The line of a user's file in which an error arose; None: it did in no such file."""
    return line_of(error, lambda _, module: module.startswith(USER_FILE))


def in_a_line(error: BaseException) -> str:
    """The kind of an error, and what it says, in one line."""
    said = " ".join(str(error).split())
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def _full_name(found: Any) -> str:
    return f"{getattr(found, '__module__', '')}.{getattr(found, '__qualname__', '')}"


def _version(found: Any) -> str:
    """The version of the package that a class is of; without one a digest of its source."""
    module = str(getattr(found, "__module__", ""))
    package = module.partition(".")[0]
    for distribution in _distributions().get(package, []):
        return f"{distribution} {_installed(distribution)}"
    try:
        source = _source_here(found) if package == SESSION else inspect.getsource(sys.modules[module])
    except (OSError, TypeError, KeyError):
        if package == SESSION:
            raise BadInput(
                f"optimizer.target={_full_name(found)}: its source cannot be found, and a changed class could not be told from"
                " this one; put it in a file, optimizer.target=path/to/file.py:Class"
            ) from None
        return "without source"
    return hashlib.sha256(source.encode()).hexdigest()[:_DIGITS]


@cache
def _installed(distribution: str) -> str:
    """The version of a distribution, without what tells its builds apart; kept, since reading it takes milliseconds."""
    return metadata.version(distribution).partition("+")[0]


def _source_here(found: Any) -> str:
    """The source of a class or function of this session. Raises OSError or TypeError: there is none.

    A notebook, which has no file, keeps the text of its cells beside the functions in them: a class is found by its methods.
    """
    try:
        return inspect.getsource(found)
    except (OSError, TypeError):
        functions = [inspect.unwrap(value) for value in vars(found).values() if inspect.isfunction(value)]
        for code in (function.__code__ for function in functions):
            cell = "".join(linecache.getlines(code.co_filename))
            for node in ast.walk(ast.parse(cell)):
                if isinstance(node, ast.ClassDef) and node.lineno <= code.co_firstlineno <= (node.end_lineno or 0):
                    return ast.get_source_segment(cell, node) or cell
        raise


@cache
def _distributions() -> Mapping[str, list[str]]:
    return metadata.packages_distributions()
