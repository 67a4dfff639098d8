"""Where and with what a result was computed: versions, git, machine, threads."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("implicit-bias", "torch", "numpy", "pandas", "cvxpy", "clarabel", "highspy", "hydra-core", "omegaconf")


def surroundings() -> dict[str, Any]:
    """Where and with what a run is computed: git state of the checkout, versions, machine, threads, date."""
    return {
        **_git_state(),
        "versions": _versions(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "threads": _threads(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


@cache
def _git_state() -> dict[str, Any]:
    """``git_sha`` and ``git_dirty`` of the checkout that the package runs from; both null outside of one."""
    root = Path(__file__).resolve().parents[2]
    nothing: dict[str, Any] = {"git_sha": None, "git_dirty": None}
    if not (root / ".git").exists():
        return nothing  # installed: the repository around a virtual environment is not ours
    try:
        return {
            "git_sha": _git(root, "rev-parse", "HEAD").strip(),
            "git_dirty": bool(_git(root, "status", "--porcelain").strip()),
        }
    except (OSError, subprocess.SubprocessError):
        return nothing


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout


@cache
def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def _threads() -> int | None:
    """Threads that torch computes with; null where torch was never needed."""
    torch = sys.modules.get("torch")
    return None if torch is None else int(torch.get_num_threads())
