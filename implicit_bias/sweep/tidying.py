"""What a results folder has beside its runs: pieces of processes that were killed; and runs that it has no more."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from implicit_bias.config.spec import RunSpec
from implicit_bias.storage.checkpoints import remove_overtaken
from implicit_bias.storage.files import remove_leftovers_of
from implicit_bias.storage.integrity import PROVENANCE, REQUIRED, WRITTEN_TO
from implicit_bias.sweep.outcome import Outcome

#: So long run folders may be missing altogether: renaming a new one into the place of an old one takes a moment.
REPLACEMENT_SECONDS = 1.0


def tidy_before(specs: Sequence[RunSpec]) -> None:
    """Remove what processes of this machine left in the results folders when they were killed in the middle of writing."""
    for results in _results(specs):
        for pattern in WRITTEN_TO:
            for folder in results.glob(pattern):
                remove_leftovers_of(folder)


def tidy_after(specs: Sequence[RunSpec]) -> None:
    """Remove the checkpoints whose runs have been finished since in other batches than the one that wrote them."""
    for results in _results(specs):
        remove_overtaken(results)


def still_there(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """The outcomes; those whose run folders have been removed meanwhile count as failed."""
    deadline = time.monotonic() + REPLACEMENT_SECONDS
    return [o if o.directory is None or _there(o.directory, deadline) else _gone(o) for o in outcomes]


def _there(directory: Path, deadline: float) -> bool:
    """Whether a run folder is whole, if need be after a moment: a process that computed the same run may be replacing it."""
    while not _whole(directory):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def _results(specs: Sequence[RunSpec]) -> list[Path]:
    return [Path(name) for name in dict.fromkeys(spec.results_dir for spec in specs)]


def _whole(directory: Path) -> bool:
    """Whether its files are there; what is in them was checked when they were written or found."""
    return all((directory / name).is_file() for name in (*REQUIRED, PROVENANCE))


def _gone(outcome: Outcome) -> Outcome:
    error = f"results_dir={outcome.spec.results_dir}: {outcome.directory} is gone, it was deleted while this ran"
    return replace(outcome, directory=None, status="failed", error=error, error_kind="gone", trajectory=None, summary=None)
