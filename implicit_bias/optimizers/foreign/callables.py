"""What ``optimizer.target`` and ``optimizer.groups`` may name. Nothing else is ever called: ``os.system`` could do anything."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch

from implicit_bias.core.errors import BadInput

#: The module of what was defined in this session.
SESSION = "__main__"
#: How the modules of users' files are called, before a digest of their content.
USER_FILE = "implicit_bias_user_file_"

_PLACES = "in a file of yours or a module that imports torch"
_ALLOWED = {
    "optimizer.target": "a class derived from torch.optim.Optimizer, or a Python function of the parameters that returns one,"
    f" {_PLACES}",
    "optimizer.groups": f"a Python function from named parameters to param_groups, {_PLACES}",
}


def allowed(key: str) -> str:
    """What a key may name, in words that follow "must be"."""
    return _ALLOWED[key]


def usable(found: Any, typed: str, key: str) -> Callable[..., Any]:
    """What was found, where the key may name such a thing.

    Raises:
        BadInput: it is neither an optimizer's class nor a function that may be called with parameters.
    """
    if isinstance(found, ModuleType):
        raise names_nothing(found, f"{typed}.", typed, key)
    if not (_is_function(found) or (is_optimizer(found) and key == "optimizer.target")):
        raise unusable(found, typed, key)
    make: Callable[..., Any] = found
    return make


def unusable(found: Any, typed: str, key: str) -> BadInput:
    """The error for something that the key may not name."""
    if inspect.isclass(found):
        kind = "another class"
    elif inspect.isfunction(found):
        kind = f"a function of {found.__module__}"
    elif inspect.isbuiltin(found):
        kind = "a built-in function"
    else:
        kind = f"of type {type(found).__name__}"
    return BadInput(f"{key}={typed}: must be {allowed(key)}; this is {kind}")


def is_optimizer(found: Any) -> bool:
    """Whether it is a class of an optimizer."""
    return inspect.isclass(found) and issubclass(found, torch.optim.Optimizer) and found is not torch.optim.Optimizer


def names_nothing(module: ModuleType, prefix: str, typed: str, key: str) -> BadInput:
    """The error for a file or a module where something in it should be named.

    Args:
        module: The file's module, or the one that was named.
        prefix: What stands before a name, ``mine.py:`` or ``torch.optim.``.
        typed: What was typed.
        key: For which key.
    """
    public = {name: value for name, value in vars(module).items() if not name.startswith("_")}
    classes = {name: value for name, value in public.items() if is_optimizer(value)}
    functions = {name: value for name, value in public.items() if _is_function(value)}
    found = (classes or functions) if key == "optimizer.target" else functions
    names = [name for name, value in found.items() if _is_inside(value, module)] or list(found)
    if not names:
        return BadInput(f"{key}={typed}: there is nothing of the kind in it; must be {allowed(key)}")
    what = "function" if found is functions else "class"
    form = f"{prefix}<{what}> with <{what}> one of {', '.join(names)}" if len(names) > 1 else f"{prefix}{names[0]}"
    return BadInput(f"{key}={typed}: names no {what}; must be {form}")


def _is_inside(value: Any, module: ModuleType) -> bool:
    """Whether it is defined in a module, or in one inside that."""
    return f"{getattr(value, '__module__', '')}.".startswith(f"{module.__name__}.")


def _is_function(found: Any) -> bool:
    """Whether it is a function written in Python, of a user's file, of this session, or of a module that works with torch.

    A partial object counts as what it calls, another object as its ``__call__``, a decorated function as the one inside.
    """
    while isinstance(found, functools.partial):
        found = found.func
        if is_optimizer(found):
            return True
    if inspect.isclass(found):
        return False
    called = found if inspect.isroutine(found) else type(found).__dict__.get("__call__")
    function = inspect.unwrap(getattr(called, "__func__", called)) if called is not None else None
    if not inspect.isfunction(function):
        return False
    home = function.__module__
    return home == SESSION or home.startswith(USER_FILE) or _works_with_torch(sys.modules.get(home))


def _works_with_torch(module: ModuleType | None) -> bool:
    """Whether a module holds torch, something of torch's, or a class that is derived from one of torch's."""
    return module is not None and any(map(_is_of_torch, list(vars(module).values())))


def _is_of_torch(value: Any) -> bool:
    if isinstance(value, ModuleType):
        homes = [value.__name__]
    elif inspect.isclass(value):
        homes = [base.__module__ for base in value.__mro__]
    else:  # of other objects nothing is asked: one that imports something when it is looked at is no rarity
        homes = [str(value.__module__)] if inspect.isroutine(value) else []
    return any(home.partition(".")[0] == "torch" for home in homes)
