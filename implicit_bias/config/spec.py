"""What one run is: every object that its configuration names, made once, and its settings, with their types.

A :class:`RunSpec` goes from the command to the engine. The dictionary that it was made from stays inside. It leaves as a copy,
to be written down (``config.yaml``, a worker's task), as text, which tells equal runs, and as the run's hash.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from operator import attrgetter
from types import MappingProxyType
from typing import Any

import torch

from implicit_bias.config.run_settings import BatchSettings, LauncherSettings, LogSettings, RunSettings
from implicit_bias.core.registry import Registry
from implicit_bias.core.runtime_keys import RUNTIME_KEYS, UNUSED, used
from implicit_bias.datasets import DATASETS, DatasetSource
from implicit_bias.losses import LOSSES, Loss
from implicit_bias.models import MODELS, Model
from implicit_bias.norms import NORMS, Norm, make_norm
from implicit_bias.norms.identities import check_added
from implicit_bias.optimizers import OPTIMIZERS, Optimizer
from implicit_bias.schedules import SCHEDULES, Schedule

_HASH_DIGITS = 12
_SETTINGS = tuple(field.name for field in fields(RunSettings))


class Parts:
    """The objects that sections of configurations name. Equal sections of the runs of a sweep share one object, made once."""

    def __init__(self) -> None:
        self._options: dict[tuple[str, str], Any] = {}
        self._norms: dict[str, Norm] = {}
        self._measured: dict[tuple[str, ...], Mapping[str, Norm]] = {}

    def option(self, registry: Registry, section: Mapping[str, Any]) -> Any:
        """The object of a section: the option that its ``name`` says, with its other keys.

        Raises:
            BadInput: The option itself refuses its keys.
        """
        key = registry.noun, _text(section)
        if key not in self._options:
            self._options[key] = constructed(registry, section)
        return self._options[key]

    def norm(self, label: str) -> Norm:
        """The norm that a label stands for. Raises KeyError or ValueError as :func:`implicit_bias.norms.make_norm` does."""
        if label not in self._norms:
            self._norms[label] = self._known(make_norm(label))
        return self._norms[label]

    def named_norm(self, section: Mapping[str, Any]) -> Norm:
        """The norm of a section ``norm``; asked for before the one of its label, it is that one, too."""
        if len(section) == 1:
            return self.norm(section["name"])
        key = NORMS.noun, _text(section)
        if key not in self._options:
            self._options[key] = self._known(make_norm(**section))
        norm: Norm = self._options[key]
        return norm

    def spec(self, canonical: Mapping[str, Any]) -> RunSpec:
        """The run of a configuration that :func:`implicit_bias.config.schema.checked` gave; it is kept, and not to be changed.

        Raises:
            BadInput: An option refuses its keys.
        """
        optimizer: Optimizer = self.option(OPTIMIZERS, canonical["optimizer"])
        named = None if canonical["norm"] is None else self.named_norm(canonical["norm"])
        own = self._own_norm(optimizer, named)
        working = own or self.norm(optimizer.working_norm or "l2")
        return RunSpec(
            **{key: canonical[key] for key in _SETTINGS},
            model=self.option(MODELS, canonical["model"]),
            loss=self.option(LOSSES, canonical["loss"]),
            optimizer=optimizer,
            schedule=self.option(SCHEDULES, canonical["schedule"]),
            norm=named,
            own_norm=own,
            working_norm=working,
            measured=self._norms_by_label(canonical["log"]["norms"], working),
            batch=BatchSettings(**canonical["batch"]),
            log=LogSettings(**canonical["log"]),
            launcher=LauncherSettings(**canonical["launcher"]),
            _canonical=canonical,
            _parts=self,
        )

    def _own_norm(self, optimizer: Optimizer, named: Norm | None) -> Norm | None:
        if optimizer.own is not None:
            return self.norm(optimizer.own)
        return named or self.norm("l2") if optimizer.reads_norm() else None

    def _norms_by_label(self, labels: Sequence[str], working: Norm) -> Mapping[str, Norm]:
        key = *labels, working.label
        if key not in self._measured:
            norms = (*map(self.norm, labels), working)
            self._measured[key] = MappingProxyType({norm.label: norm for norm in norms})
        return self._measured[key]

    def _known(self, norm: Norm) -> Norm:
        """The norm that has this one's label already, else this one from now on.

        Raises:
            BadInput: it is none of the package's own, and breaks an identity that proofs rest on.
        """
        if norm.label not in self._norms:
            check_added(norm)
        return self._norms.setdefault(norm.label, norm)


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class RunSpec(RunSettings):
    """One run: its settings (the fields of :class:`implicit_bias.config.run_settings.RunSettings`) and its objects.

    Two are equal when their configurations are.

    Attributes:
        model, loss, optimizer, schedule: As configured; ``schedule.lr`` may still be ``auto``, which the data decide.
        norm: The norm that ``norm`` names; None where the optimizer works in one of its own.
        own_norm: The norm whose margin the optimizer maximises, named or its own; None where it has none.
        working_norm: The norm that the optimizer's steps have a size in: its own, or where it has none the nearest.
        measured: By label, the norms to measure: those of ``log.norms``, then ``working_norm`` if it is not among them.
        batch, log, launcher: The sections of these names.
    """

    model: Model
    loss: Loss
    optimizer: Optimizer
    schedule: Schedule
    norm: Norm | None
    own_norm: Norm | None
    working_norm: Norm
    measured: Mapping[str, Norm]
    batch: BatchSettings
    log: LogSettings
    launcher: LauncherSettings
    _canonical: Mapping[str, Any]
    _parts: Parts

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RunSpec) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __repr__(self) -> str:
        return f"RunSpec({self.text})"

    @cached_property
    def dataset(self) -> DatasetSource:
        """Where the data come from; made when it is first asked for, so that keys which do not go together cost this run alone.

        Raises:
            BadInput: The dataset refuses its keys.
        """
        source: DatasetSource = self._parts.option(DATASETS, self._canonical["dataset"])
        return source

    @cached_property
    def dataset_text(self) -> str:
        """The section ``dataset`` as text: equal for two runs exactly when their data are loaded in the same way."""
        return _text(self._canonical["dataset"])

    @property
    def dataset_name(self) -> str:
        """The option of ``dataset``, whether or not it takes its keys."""
        return str(self._canonical["dataset"]["name"])

    @property
    def data_file(self) -> str | None:
        """``dataset.path``, where the dataset has one."""
        path: str | None = self._canonical["dataset"].get("path")
        return path

    @property
    def dtype(self) -> torch.dtype:
        """The type of every floating-point tensor of the run."""
        return torch.float64 if self.precision == "float64" else torch.float32

    @property
    def torch_device(self) -> torch.device:
        """Where the run is computed: ``device=auto`` is a GPU where there is one."""
        return torch_device(self.device)

    @property
    def own_label(self) -> str | None:
        """The label of :attr:`own_norm`."""
        return None if self.own_norm is None else self.own_norm.label

    @property
    def method(self) -> str:
        """The optimizer in a word or two, with the norm where it is chosen."""
        return self.optimizer.label if self.norm is None else f"{self.optimizer.label} {self.norm.label}"

    @property
    def canonical(self) -> dict[str, Any]:
        """A copy of the configuration: resolved, types exact. For files and other processes; here nobody needs to open it."""
        return copy.deepcopy(dict(self._canonical))

    @property
    def config_yaml(self) -> dict[str, Any]:
        """What the run's ``config.yaml`` holds: :attr:`canonical`, but for where the run was computed, no part of what it is."""
        return {key: value for key, value in self.canonical.items() if key != "launcher"}

    @cached_property
    def text(self) -> str:
        """The configuration as text."""
        return _text(self._canonical)

    def hash(
        self,
        data_fingerprint: str = "",
        start_fingerprint: str = "",
        plugin_fingerprint: str = "",
        optimizer_identity: str = "",
    ) -> str:
        """:func:`config_hash` of this run."""
        return config_hash(self._canonical, data_fingerprint, start_fingerprint, plugin_fingerprint, optimizer_identity)

    def value(self, key: str) -> Any:
        """The value of a dotted key, such as ``optimizer.beta``, as the objects hold it. Raises AttributeError: there is none."""
        return attrgetter(key)(self)

    def altered(self, keys: Mapping[str, Any]) -> RunSpec:
        """The run with other values of some keys, which are dotted as one types them and not checked; the rest is shared."""
        config = self.canonical
        for key, value in keys.items():
            group, _, last = key.rpartition(".")
            (config[group] if group else config)[last] = value
        return self._parts.spec(config)


def constructed(registry: Registry, section: Mapping[str, Any]) -> Any:
    """The option that the ``name`` of a section says, with the section's other keys. Raises BadInput: it refuses them."""
    keys = dict(section)
    return registry.get(keys.pop("name"))(**keys)


def torch_device(device: str) -> torch.device:
    """The device that ``device=auto|cpu|cuda`` stands for: ``auto`` is a GPU where there is one."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)


def config_hash(
    config: Mapping[str, Any],
    data_fingerprint: str = "",
    start_fingerprint: str = "",
    plugin_fingerprint: str = "",
    optimizer_identity: str = "",
) -> str:
    """Content hash of a resolved configuration: equal exactly when two runs compute the same thing.

    Args:
        config: Canonical types (see :func:`implicit_bias.config.schema.checked`).
        data_fingerprint: Digest of a data file's content, which then stands for its path.
        start_fingerprint: Digest of the parameters that the run starts from, likewise.
        plugin_fingerprint: Digest of the files of its options that are none of the package's own.
        optimizer_identity: What a class that was written elsewhere is, its name with a version or digest, which then stands for
            where it was found.
    """
    kept = {key: value for key, value in config.items() if key not in RUNTIME_KEYS and (key, value) not in UNUSED}
    for group, keys in kept.items():
        if isinstance(keys, Mapping):
            kept[group] = used(group, keys)
    if start_fingerprint:
        kept["start"] = start_fingerprint
    if optimizer_identity:
        named = {key: value for key, value in kept["optimizer"].items() if key not in ("target", "groups")}
        kept["optimizer"] = {**named, "identity": optimizer_identity}
    if data_fingerprint:
        kept["dataset"] = {key: value for key, value in kept["dataset"].items() if key != "path"}
    plugins = {"plugins": plugin_fingerprint} if plugin_fingerprint else {}
    text = json.dumps({"config": kept, "data": data_fingerprint, **plugins}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:_HASH_DIGITS]


def _text(config: Mapping[str, Any]) -> str:
    return json.dumps(config, sort_keys=True)
