"""The files of plugins that a run depends on: part of its hash, and of its provenance."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from implicit_bias.config.schema import REGISTRIES
from implicit_bias.core.plugin_classes import plugin_files
from implicit_bias.norms import make_norm
from implicit_bias.sweep.plan import Config, logged_labels


def plugins_in(config: Config) -> dict[str, dict[str, str]]:
    """The options of a configuration that come from plugins, each with its class's file and that file's SHA-256.

    Norms that are only measured, and the optimizer's own, count too. An option whose name another kind has as well is called
    ``norm=name``.
    """
    found: dict[str, dict[str, str]] = {}
    for group, name, files in _used(config):
        file, digest = next(iter(files.items()))
        found[f"{group}={name}" if name in found else name] = {"file": str(file), "sha256": digest}
    return found


def plugin_fingerprint(config: Config) -> str:
    """Digest of the content of all plugin files that a configuration's options depend on; empty where no option is a plugin's."""
    parts = [f"{group}={name} {' '.join(sorted(files.values()))}" for group, name, files in _used(config)]
    return hashlib.sha256("\n".join(sorted(parts)).encode()).hexdigest() if parts else ""


def _used(config: Config) -> Iterator[tuple[str, str, dict[Path, str]]]:
    if not any(registry.added() for registry in REGISTRIES.values()):
        return
    chosen = [(group, config[group]["name"]) for group in REGISTRIES if config[group] is not None]
    measured = [("norm", make_norm(label).name) for label in logged_labels(config)]
    for group, name in dict.fromkeys([*chosen, *measured]):
        if name in REGISTRIES[group].added():
            yield group, name, plugin_files(REGISTRIES[group].added()[name])
