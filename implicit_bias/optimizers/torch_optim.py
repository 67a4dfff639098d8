"""Any torch.optim.Optimizer, by the name of its class."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch

from implicit_bias.cli.messages import warn
from implicit_bias.core.errors import BadInput
from implicit_bias.core.registry import hyper
from implicit_bias.core.words import shown, suggestion
from implicit_bias.norms import NORMS, make_norm
from implicit_bias.norms.labels import allowed_labels
from implicit_bias.optimizers.base import OPTIMIZERS
from implicit_bias.optimizers.foreign.base import FEEDS, Foreign, known_of
from implicit_bias.optimizers.foreign.callables import SESSION
from implicit_bias.optimizers.foreign.instance import Make, Named
from implicit_bias.optimizers.foreign.probe import ConstantSteps
from implicit_bias.optimizers.foreign.target import Target, checked_kwargs, find, in_a_line, line_in_user_file, named
from implicit_bias.schedules import Schedule

#: Classes that treat every entry by itself: one instance can hold all runs of a batch. A test of steps cannot prove that of
#: others: a global quantity may be at rest for the first steps.
ENTRYWISE = frozenset(
    {
        torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.NAdam, torch.optim.RAdam, torch.optim.Adamax,
        torch.optim.Adagrad, torch.optim.Adadelta, torch.optim.RMSprop, torch.optim.Rprop,
    }
)  # fmt: skip
# A class that has no default for its rate is made with this one; it is overwritten before the first step.
ANY_RATE = 1e-3
ADVICE = "give schedule.lr=<number>, or schedule=as_given for the class's own"

_constants: dict[str, ConstantSteps] = {}
_obstacles: dict[str, str | None] = {}
_warned: set[str] = set()


@OPTIMIZERS.register
@dataclass(frozen=True)
class Torch(Foreign):
    """Any torch.optim.Optimizer: a class of torch, of a package, or of a file of yours."""

    name: ClassVar[str] = "torch"

    target: str = hyper(
        "torch.optim.AdamW",
        help="a class, or a function of the parameters that returns an optimizer: a dotted path, or path/to/file.py:Class",
    )
    kwargs: Mapping[str, Any] = hyper({}, help="what the class is made with, optimizer.kwargs.weight_decay=0.01; no lr")
    feed: str = hyper(
        "loss", help="what is differentiated; loss: as in training, log_loss: gradients that do not shrink", choices=FEEDS
    )
    own: str | None = hyper(
        None, help="the norm to call its own, such as linf; null: what a constant gradient shows, if it is clear"
    )
    groups: str | None = hyper(None, help="path/to/file.py:function from named parameters to param_groups; null: one group")

    def __post_init__(self) -> None:
        if self.own is None:
            object.__setattr__(self, "own", self.constant.own)

    @classmethod
    def checked(cls, keys: Mapping[str, Any]) -> dict[str, Any]:
        target = find(keys["target"])
        kwargs, warnings = checked_kwargs(target, keys["kwargs"])
        for line in warnings:
            if line not in _warned:
                _warned.add(line)
                warn(line)
        optimizer = cls(**{**keys, "kwargs": kwargs})
        if keys["groups"] is not None:
            find(keys["groups"], "optimizer.groups")
        else:
            optimizer._check_made()
        return {**keys, "kwargs": kwargs, "own": _own_label(keys["own"])}

    def check_rate(self, schedule: Schedule) -> None:
        super().check_rate(schedule)
        lr, as_given = schedule.lr, schedule.as_given
        if "lr" in self.kwargs and not as_given:
            raise BadInput(
                "optimizer.kwargs.lr: the learning rate is schedule.lr; leave it out, or give it with schedule=as_given"
            )
        known = named(self._target.make)
        if as_given and known is not None and "lr" in known.required and "lr" not in self.kwargs:
            raise BadInput(f"optimizer.kwargs.lr: must be given with schedule=as_given, {self.target} has no default for it")
        if lr == "auto" and not as_given and (self.constant.failed is None or self.groups is not None):
            reason = self.constant.failed or self.constant.no_natural_rate
            if reason is not None:
                raise BadInput(f"schedule.lr=auto: means nothing for optimizer.target={self.target}, {reason}; {ADVICE}")

    def check_elsewhere(self) -> None:
        if self.target.startswith(f"{SESSION}."):
            raise BadInput(
                f"optimizer.target={self.target}: other processes do not know a class of this session; put it in a file"
                " (path/to/file.py:Class), or leave launcher.cluster=inline"
            )

    @property
    def label(self) -> str:
        return f"{self.name} {self.target}"

    @property
    def class_name(self) -> str:
        return re.split(r"[.:]", self.target)[-1]

    @property
    def make(self) -> Make:
        make, kwargs = self._target.make, _as_tuples(self.kwargs)
        known = named(make)
        if known is not None and "lr" in known.required:
            kwargs.setdefault("lr", ANY_RATE)
        split = None if self.groups is None else find(self.groups, "optimizer.groups").make

        def made(parameters: Named) -> torch.optim.Optimizer:
            given = [block for _, block in parameters] if split is None else split(parameters)
            if not isinstance(given, Iterable):
                raise TypeError(f"optimizer.groups={self.groups} gives a {type(given).__name__}, no list of param_groups")
            optimizer = make(given, **kwargs)
            if not isinstance(optimizer, torch.optim.Optimizer):
                raise TypeError(f"gives a {type(optimizer).__name__}, no torch.optim.Optimizer")
            return optimizer

        return made

    @property
    def title(self) -> str:
        return f"optimizer.target={self.target}"

    @property
    def fed(self) -> str:
        return self.feed

    @property
    def stackable(self) -> bool:
        return self.groups is None and self._target.make in ENTRYWISE

    @property
    def identity(self) -> str:
        groups = "" if self.groups is None else find(self.groups, "optimizer.groups").identity
        return f"{self._target.identity} {groups}".rstrip()

    @cached_property
    def constant(self) -> ConstantSteps:
        if self._key not in _constants:
            _constants[self._key] = known_of(self)
        return _constants[self._key]

    @cached_property
    def not_resumable(self) -> str | None:
        if self._key not in _obstacles:
            _obstacles[self._key] = super().not_resumable
        return _obstacles[self._key]

    @cached_property
    def _target(self) -> Target:
        return find(self.target)

    @cached_property
    def _key(self) -> str:
        return json.dumps([self.identity, dict(self.kwargs), self.feed], sort_keys=True)

    def _check_made(self) -> None:
        """Raises BadInput where the class refuses what it is to be made with."""
        try:
            self.make([("weight", torch.nn.Parameter(torch.zeros(3, 4, dtype=torch.float64)))])
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the class is not ours
            line = line_in_user_file(error)
            said = in_a_line(error) if line is None else f"{in_a_line(error)}, line {line}"
            if not self.kwargs:
                raise BadInput(
                    f"optimizer.target={self.target}: cannot be made ({said}); optimizer.kwargs are what it takes"
                ) from None
            raise BadInput(
                f"optimizer.kwargs={shown(dict(self.kwargs))}: {self.target} cannot be made with it ({said})"
            ) from None


def _as_tuples(value: Any) -> Any:
    """Lists as tuples, as which torch's classes have their defaults."""
    if isinstance(value, Mapping):
        return {key: _as_tuples(item) for key, item in value.items()}
    return tuple(map(_as_tuples, value)) if isinstance(value, list | tuple) else value


def _own_label(label: str | None) -> str | None:
    if label is None:
        return None
    try:
        return make_norm(label).label
    except (KeyError, ValueError):
        close = suggestion(label, NORMS) or ";"
        raise BadInput(f"optimizer.own={shown(label)}: no norm is called so{close} allowed: null, {allowed_labels()}") from None
