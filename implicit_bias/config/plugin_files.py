"""The files of plugins that a run depends on: part of its hash, and of its provenance."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from implicit_bias.config.spec import RunSpec
from implicit_bias.core.plugin_classes import plugin_files
from implicit_bias.core.registry import Registry
from implicit_bias.datasets import DATASETS
from implicit_bias.losses import LOSSES
from implicit_bias.models import MODELS
from implicit_bias.norms import NORMS
from implicit_bias.optimizers import OPTIMIZERS
from implicit_bias.probes import PROBES
from implicit_bias.schedules import SCHEDULES


def plugins_in(spec: RunSpec) -> dict[str, dict[str, str]]:
    """The options of a run that come from plugins, each with its class's file and that file's SHA-256.

    Norms that are only measured, and the optimizer's own, count too. An option whose name another kind has as well is called
    ``norm=name``.
    """
    found: dict[str, dict[str, str]] = {}
    for noun, name, files in _used(spec):
        file, digest = next(iter(files.items()))
        found[f"{noun}={name}" if name in found else name] = {"file": str(file), "sha256": digest}
    return found


def plugin_fingerprint(spec: RunSpec) -> str:
    """Digest of the content of all plugin files that a run's options depend on; empty where no option is a plugin's."""
    parts = [f"{noun}={name} {' '.join(sorted(files.values()))}" for noun, name, files in _used(spec)]
    return hashlib.sha256("\n".join(sorted(parts)).encode()).hexdigest() if parts else ""


def _used(spec: RunSpec) -> Iterator[tuple[str, str, dict[Path, str]]]:
    registries = (DATASETS, MODELS, LOSSES, OPTIMIZERS, NORMS, SCHEDULES, PROBES)
    if not any(registry.added() for registry in registries):
        return
    norms = [*([] if spec.norm is None else [spec.norm]), *spec.measured.values()]
    used: list[tuple[Registry, str]] = [
        (DATASETS, spec.dataset_name),
        (MODELS, spec.model.name),
        (LOSSES, spec.loss.name),
        (OPTIMIZERS, spec.optimizer.name),
        (SCHEDULES, spec.schedule.name),
        *((NORMS, norm.name) for norm in norms),
        *((PROBES, name) for name in spec.log.probes),
    ]
    for registry, name in dict.fromkeys(used):
        if name in registry.added():
            yield registry.noun, name, plugin_files(registry.added()[name])
