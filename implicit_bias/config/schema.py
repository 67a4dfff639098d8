"""The typed check of one resolved configuration: what each key may be, and which keys go together.

The rules come from the registries: every field that a registered class declares with ``hyper`` is a key with a type, a
range and a default, so a new optimizer or dataset is checked without a line here. Plain dictionaries in, canonical ones
out: 1e4 and 10000 steps are the same run, and have the same hash.
"""

import errno
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, create_model

from implicit_bias.config.compatibility import check_together
from implicit_bias.config.run_settings import SECTIONS, RunSettings
from implicit_bias.config.spec import Parts
from implicit_bias.core.errors import BadInput
from implicit_bias.core.kinds import Kind, kinds
from implicit_bias.core.plugins import problem_of
from implicit_bias.core.registry import LARGEST_INTEGER, HyperSpec, Registry, hyper_fields
from implicit_bias.core.words import either, no_such_option, shown, suggestion
from implicit_bias.datasets import DATASETS
from implicit_bias.losses import LOSSES
from implicit_bias.models import MODELS, Model
from implicit_bias.norms import NORMS, Norm
from implicit_bias.norms.labels import allowed_labels
from implicit_bias.optimizers import OPTIMIZERS, Optimizer
from implicit_bias.probes import PROBES
from implicit_bias.schedules import SCHEDULES, Schedule, auto_power

Config = dict[str, Any]

REGISTRIES: dict[str, Registry] = {
    "dataset": DATASETS,
    "model": MODELS,
    "loss": LOSSES,
    "optimizer": OPTIMIZERS,
    "norm": NORMS,
    "schedule": SCHEDULES,
}
#: What is asked, beside the model and the norm, whether it goes with the others. Data are asked where they are: Model.check.
TOGETHER = ("loss", "optimizer", "schedule")
_FOLDER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
LONGEST_FOLDER_NAME = "x" * 255
#: Of the decay that an automatic power makes up for: the last digits of a measured one depend on the machine.
DECAY_DIGITS = 3

#: What a sweep may have a column of in its table: groups and keys without one.
_GROUPS_AND_KEYS = frozenset((*REGISTRIES, "experiment", *hyper_fields(RunSettings)))

#: The cluster that reads a key of the launcher, where it is not Slurm.
LAUNCHER_READERS = {"workers": "local"}


@dataclass(frozen=True)
class Rule:
    """What a key may be: as a pydantic type, and in words that follow "must be"; ``most`` is said where it is passed."""

    type: Any
    allowed: str
    is_list: bool = False
    most: int | None = None


def checked(config: Mapping[str, Any], made: Parts | None = None) -> Config:
    """The canonical form of a resolved configuration: types exact, labels of norms normalised, ``norm`` filled in.

    Args:
        config: Resolved, of whatever types.
        made: Where what is made to be checked is kept, and looked for first.

    Raises:
        BadInput: one line that begins with the key and says what is allowed.
    """
    made = made or Parts()
    rest = {key: value for key, value in config.items() if key not in REGISTRIES and key not in SECTIONS}
    run = _fields("", rest, others=[*REGISTRIES, *SECTIONS])
    batch = _fields("batch", _section(config, "batch"))
    log = _fields("log", _section(config, "log"))
    launcher = _fields("launcher", _section(config, "launcher"))
    _check_launcher(launcher)
    parts = {group: None if config.get(group) is None else _part(group, config) for group in REGISTRIES}
    for group in REGISTRIES:
        if parts[group] is None and group != "norm":
            raise BadInput(f"{group}: missing; allowed: {_options(group)}")
    _check_device(run["device"])
    _check_name(run["name"])
    _check_results_dir(run["results_dir"])
    if parts["norm"] is not None:
        made.named_norm(parts["norm"])  # before it is asked for by its label
    log["norms"] = _norm_labels(log["norms"], made)
    log["probes"] = _probe_names(log["probes"])
    model = made.option(MODELS, parts["model"] or {})  # which refuses keys that do not go together
    _check_start(run, parts["model"] or {})
    linear = MODELS.get(_named(parts["model"])).linear
    run["reference"] = _reference(run["reference"], linear, _named(parts["model"]))
    if run["reference"] == "certified" and model.perturbed is not None:
        raise BadInput(
            f"reference=certified: with {model.perturbed} optima are solved as cone programs; must be exact, none or auto"
        )
    parts["optimizer"] = spelled = _spelled(parts["optimizer"] or {})
    optimizer: Optimizer = made.option(OPTIMIZERS, spelled)
    parts["schedule"] = _schedule_of(parts["schedule"], linear, optimizer)
    parts["norm"] = _checked_norm(parts["norm"], optimizer)
    others = {group: made.option(REGISTRIES[group], parts[group] or {}) for group in TOGETHER}
    if parts["norm"] is not None:
        others["norm"] = made.named_norm(parts["norm"])
    _check_own_norm(optimizer, made)
    check_together({"model": model, **others}, REGISTRIES)
    _check_measured(log["norms"], optimizer.own, model, made)
    optimizer.check_rate(others["schedule"])
    _check_batch(batch, others["schedule"], optimizer)
    if launcher["cluster"] != "inline":
        optimizer.check_elsewhere()
    return {**parts, "seed": run.pop("seed"), "steps": run.pop("steps"), **run, "batch": batch, "log": log, "launcher": launcher}


def checked_method(config: Mapping[str, Any], made: Parts) -> tuple[Optimizer, Norm | None]:
    """The optimizer of a resolved configuration, and the norm that it is to step in, if it reads one; whatever the data.

    Raises:
        BadInput: as :func:`checked`, of the groups ``optimizer`` and ``norm`` alone.
    """
    if config.get("optimizer") is None:
        raise BadInput(f"optimizer: missing; allowed: {_options('optimizer')}")
    optimizer: Optimizer = made.option(OPTIMIZERS, _spelled(_part("optimizer", config)))
    norm = _checked_norm(None if config.get("norm") is None else _part("norm", config), optimizer)
    _check_own_norm(optimizer, made)
    return optimizer, None if norm is None else made.named_norm(norm)


@cache
def rules(group: str, option: str | None = None) -> dict[str, Rule]:
    """The rules of the keys of an option (``optimizer``, ``muon``), of ``log``, or of the run itself (``""``)."""
    return {name: _rule(kind) for name, kind in kinds(declared_in(group, option)).items()}


def declared_in(group: str, option: str | None = None) -> type:
    """The class whose ``hyper`` fields are the keys of an option, of a section such as ``log``, or of the run itself (``""``)."""
    cls: type = {"": RunSettings, **SECTIONS}.get(group) or REGISTRIES[group].get(str(option))
    return cls


@cache
def list_keys() -> frozenset[str]:
    """The dotted keys whose value is a list, so that a list given to one of them is one value and no sweep."""
    options = [("log", None), *((group, name) for group, registry in REGISTRIES.items() for name in registry)]
    return frozenset(f"{group}.{key}" for group, option in options for key, rule in rules(group, option).items() if rule.is_list)


def _check_start(run: Config, model: Config) -> None:
    """Refuse a start that is no run folder, and a factor of the point zero."""
    start = run["start"]
    if start is not None and not _is_file(Path(start) / "final.npz"):
        raise BadInput(f"start={start}: must be the folder of a finished run with final.npz (log.weights=last or all)")
    if start is None and run["start_scale"] != 1 and model.get("init") == "zero":
        raise BadInput(
            f"start_scale={run['start_scale']:g}: has no effect on model.init=zero; needs start=<run folder> or another init"
        )


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # no such name can be, or a folder that is not ours
        return False


def _section(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = config.get(key, {})
    if not isinstance(value, Mapping):
        raise BadInput(f"{key}={shown(value)}: is a group of keys, not a value")
    return value


def _part(group: str, config: Mapping[str, Any]) -> Config:
    """One group of the configuration: its option's name, and the option's fields."""
    keys = dict(_section(config, group))
    name = keys.pop("name", None)
    if name not in REGISTRIES[group]:
        raise no_such_option(group, name, REGISTRIES[group].names())
    return {"name": name, **_fields(group, keys, option=name)}


def _fields(prefix: str, values: Mapping[str, Any], *, option: str | None = None, others: Sequence[str] = ()) -> Config:
    """``values`` validated against the declared keys, missing ones filled with defaults, in the order of declaration."""
    try:
        model: BaseModel = _model(prefix, option).model_validate(dict(values))
    except ValidationError as error:
        key = str(error.errors(include_url=False)[0]["loc"][0])
        dotted = f"{prefix}.{key}" if prefix else key
        known = rules(prefix, option)
        if key not in known:
            allowed = ", ".join([*known, *others]) or "no keys"
            where = f" for {prefix}={option}" if option else ""
            raise BadInput(f"{dotted}: unknown key{where}; allowed: {allowed}") from None
        most, value = known[key].most, values[key]
        too_large = most is not None and isinstance(value, int | float) and value > most
        allowed = f"{known[key].allowed}, at most {most}" if too_large else known[key].allowed
        raise BadInput(f"{dotted}={shown(value)}: must be {allowed}") from None
    return {name: _plain(getattr(model, name)) for name in rules(prefix, option)}


@cache
def _model(group: str, option: str | None) -> type[BaseModel]:
    known = rules(group, option)
    declared = hyper_fields(declared_in(group, option))
    fields: dict[str, Any] = {name: (known[name].type, _plain(field.default)) for name, field in declared.items()}
    return create_model(f"{group or 'run'}_{option}", __config__=ConfigDict(extra="forbid"), **fields)


def _plain(default: Any) -> Any:
    if isinstance(default, dict):
        return dict(default)
    return list(default) if isinstance(default, tuple) else default


def _rule(kind: Kind) -> Rule:
    """The rule of a kind of values."""
    most = None
    if kind.is_open:
        typed: Any = dict[str, Any]
    elif kind.choices is not None:
        typed = Literal[kind.choices]
    elif kind.is_list:
        typed = list[_scalar(kind.scalar, HyperSpec(""))]  # type: ignore[misc]
    elif kind.word is not None:
        typed = Literal[kind.word] | _scalar(float, kind.spec)
    else:
        typed, most = _scalar(kind.scalar, kind.spec), kind.most
    return Rule(typed | None if kind.optional else typed, kind.allowed, kind.is_list, most)


def _scalar(kind: type, spec: HyperSpec) -> Any:
    """The pydantic type of one boolean, integer, number or text."""
    bounds: dict[str, Any] = {k: b for k in ("ge", "gt", "le", "lt") if (b := getattr(spec, k)) is not None}
    if kind is bool:
        return Annotated[bool, Field(strict=True)]
    if kind is int:
        most = spec.most or LARGEST_INTEGER
        return Annotated[int, BeforeValidator(_integral), Field(strict=True, **{"le": most, "ge": -most, **bounds})]
    if kind is float:
        return Annotated[float, BeforeValidator(_number if spec.allow_inf else _finite), Field(strict=True, **bounds)]
    return Annotated[str, BeforeValidator(_text), Field(strict=True)]


def _integral(value: Any) -> Any:
    """1e4 is an integer; 1.5, true and "1" are left for the strict check to refuse."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _number(value: Any) -> Any:
    """An integer is a number, nan is none, and -0.0 is 0.0 (so that equal configurations hash equal)."""
    if isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise ValueError("too large") from None
    if isinstance(value, float):
        if math.isnan(value):
            raise ValueError("not a number")
        return value + 0.0
    return value


def _finite(value: Any) -> Any:
    """As :func:`_number`, without infinities."""
    if isinstance(value, float) and math.isinf(value):
        raise ValueError("infinite")
    return _number(value)


def _text(value: Any) -> Any:
    """``dataset.label=3`` names a column: a bare integer is a text where a text is asked for."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _options(group: str) -> str:
    return ", ".join(REGISTRIES[group].names())


def _named(part: Config | None) -> str:
    return "" if part is None else str(part["name"])


def _reference(asked: str, linear: bool, model: str) -> str:
    """``auto``: exact for a linear model; for others there is no optimum to solve for."""
    if asked in ("exact", "certified") and not linear:
        raise BadInput(
            f"reference={asked}: maximum margins are solved for model=linear only; model={model} needs none or auto, or formula"
            " where there is one"
        )
    if asked == "formula" and linear:
        raise BadInput(f"reference=formula: is for networks; model={model} has exact, certified, none or auto")
    return asked if asked != "auto" else "exact" if linear else "none"


def _spelled(optimizer: Mapping[str, Any]) -> Config:
    """The section ``optimizer`` with its keys in the spelling that the class gives them. Raises BadInput."""
    keys = dict(optimizer)
    name = keys.pop("name")
    return {"name": name, **OPTIMIZERS.get(name).checked(keys)}


def _schedule_of(schedule: Config | None, linear: bool, optimizer: Optimizer) -> Config | None:
    """The schedule with ``power=auto`` resolved."""
    if schedule is None or schedule.get("power") != "auto":
        return schedule
    shrinks = optimizer.shrinks_with_gradient
    return {**schedule, "power": auto_power(linear, not shrinks, round(optimizer.decay, DECAY_DIGITS))}


def _check_device(device: str) -> None:
    if device == "cuda" and not has_cuda():
        raise BadInput("device=cuda: no CUDA GPU is available here; allowed: auto, cpu")


@cache
def has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def _check_name(name: str | None) -> None:
    if name is not None and not _FOLDER_NAME.fullmatch(name):
        raise BadInput(f"name={shown(name)}: must be null, or letters, digits, '.', '_' and '-' (at most 100, no sign first)")


def _check_results_dir(name: str) -> None:
    if not name:
        raise BadInput("results_dir=: must be the path of a folder")
    try:
        os.lstat(Path(name) / "runs" / LONGEST_FOLDER_NAME / "provenance.json")
    except ValueError:
        raise BadInput(f"results_dir={shown(name)}: must be the path of a folder") from None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise BadInput(f"results_dir={shown(name)}: too long a path for the files below it; must be shorter") from None


def _check_launcher(launcher: Config) -> None:
    """Raises BadInput where a key means nothing on the chosen cluster."""
    chosen = launcher["cluster"]
    for key, value in launcher.items():
        reader = LAUNCHER_READERS.get(key, "slurm")
        if key != "cluster" and value is not None and reader != chosen:
            raise BadInput(
                f"launcher.{key}={shown(value)}: is read by launcher.cluster={reader} only; launcher.cluster={chosen} has no use"
                f" for it, leave it out"
            )
    if launcher["partition"] == "":
        raise BadInput("launcher.partition=: must be null or the name of a partition")


def _check_batch(batch: Config, schedule: Schedule, optimizer: Optimizer) -> None:
    """Raises BadInput: an order without mini-batches, or what reads a loss that they do not give."""
    size, order = batch["size"], batch["order"]
    _check_variance_reduction(batch, schedule, optimizer)
    if size is None and order != "reshuffle":
        raise BadInput(f"batch.order={order}: is the order of mini-batches, and batch.size=null has none; give batch.size")
    if size is not None and (schedule.backs_off or schedule.searches):
        does = "takes steps back by the loss of" if schedule.backs_off else "looks along a step at"
        others = [SCHEDULES.get(name)() for name in SCHEDULES]
        fitting = [
            other.name for other in others if not (other.backs_off or other.searches) and optimizer.incompatible(other) is None
        ]
        raise BadInput(
            f"batch.size={size}: schedule={schedule.name} {does} all samples, which mini-batches do not evaluate;"
            f" allowed: batch.size=null, or schedule={either(fitting)}"
        )


def _check_variance_reduction(batch: Config, schedule: Schedule, optimizer: Optimizer) -> None:
    """Raises BadInput: none to be reduced, or a loss is read, of which a corrected gradient is none."""
    given = f"batch.variance_reduction={batch['variance_reduction']}"
    if batch["variance_reduction"] == "none":
        return
    if batch["size"] is None:
        raise BadInput(f"{given}: corrects gradients of mini-batches, and batch.size=null has none; give batch.size")
    if schedule.per_loss or optimizer.reads_loss:
        reads = f"schedule={schedule.name}" if schedule.per_loss else f"optimizer={optimizer.label} as it is set"
        raise BadInput(f"{given}: {reads} reads the loss, which a corrected gradient has none of; allowed here: none")


def _norm_labels(labels: Sequence[str], made: Parts) -> list[str]:
    """The labels in their one spelling (``lp3`` for ``lp3.0``), each once, in the order given."""
    return list(dict.fromkeys(_norm_label(label, labels, made) for label in labels))


def _norm_label(label: str, labels: Sequence[str], made: Parts) -> str:
    try:
        return made.norm(label).label
    except (KeyError, ValueError):
        broken = problem_of("norm", label, "log.norms")
        if broken is not None:
            raise broken from None
        close = suggestion(label, NORMS) or ";"
        raise BadInput(
            f"log.norms={shown(labels)}: no norm is called {shown(label)}{close} allowed: {allowed_labels()}"
        ) from None


def _check_measured(labels: Sequence[str], own: str | None, model: Model, made: Parts) -> None:
    """Raises BadInput: a norm that is to be measured cannot be taken of the model's parameters."""
    keys = {**{label: f"log.norms={shown(labels)}" for label in labels}, **({} if own is None else {own: f"optimizer.own={own}"})}
    for label, key in keys.items():
        reason = model.incompatible(made.norm(label))
        if reason is not None:
            raise BadInput(f"{key}: {label} {reason}; allowed: such a model, or other norms")


def _probe_names(names: Sequence[str]) -> list[str]:
    """The probes, each once, in the order given. Raises BadInput where there is no such probe, or two write one column."""
    writers: dict[str, str] = {}
    for name in dict.fromkeys(names):
        if name not in PROBES:
            broken = problem_of("probe", name, "log.probes")
            if broken is not None:
                raise broken
            close = suggestion(name, PROBES)
            raise BadInput(f"log.probes={shown(names)}: no probe is called {name!r}{close or ';'} allowed: {', '.join(PROBES)}")
        for column in PROBES.get(name).writes():
            if column in _GROUPS_AND_KEYS:
                raise BadInput(
                    f"log.probes={shown(names)}: {name} writes a column {column}, as a swept key is called in a sweep's table;"
                    " its column needs another name"
                )
            if column in writers:
                raise BadInput(
                    f"log.probes={shown(names)}: {writers[column]} and {name} both write the column {column}; name one of them"
                )
            writers[column] = name
    return list(dict.fromkeys(names))


def _checked_norm(norm: Config | None, optimizer: Optimizer) -> Config | None:
    """``norm`` as the optimizer reads it: named or l2 for those that take one, null for those with a norm of their own.

    Naming the default makes ``optimizer=nsd`` and ``optimizer=nsd norm=l2`` one run.
    """
    if optimizer.reads_norm():
        return norm if norm is not None else {"name": "l2"}
    if norm is not None:
        readers = [name for name in OPTIMIZERS if OPTIMIZERS.get(name).reads_norm()]
        raise BadInput(
            f"norm={norm['name']}: norm is read by optimizer={either(readers)} only;"
            f" optimizer={optimizer.name} works in its own ({optimizer.own or 'none is known'}), leave norm out"
        )
    return None


def _check_own_norm(optimizer: Optimizer, made: Parts) -> None:
    """Raises BadInput where the norm that an optimizer's class names is none."""
    try:
        if optimizer.own is not None:
            made.norm(optimizer.own)
    except (KeyError, ValueError) as error:
        raise BadInput(f"optimizer={optimizer.name}: its class names a norm that cannot be: {error.args[0]}") from None
