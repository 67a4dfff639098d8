"""What a results folder has beside its runs: pieces of processes that were killed; and runs that it has no more."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from implicit_bias.config.spec import RunSpec
from implicit_bias.storage.checkpoints import remove_overtaken
from implicit_bias.storage.files import remove_leftovers_of
from implicit_bias.storage.integrity import PROVENANCE, REQUIRED, WRITTEN_TO
from implicit_bias.sweep.outcome import Outcome


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
    return [outcome if outcome.directory is None or _whole(outcome.directory) else _gone(outcome) for outcome in outcomes]


def _results(specs: Sequence[RunSpec]) -> list[Path]:
    return [Path(name) for name in dict.fromkeys(spec.results_dir for spec in specs)]


def _whole(directory: Path) -> bool:
    """Whether its files are there; what is in them was checked when they were written or found."""
    return all((directory / name).is_file() for name in (*REQUIRED, PROVENANCE))


def _gone(outcome: Outcome) -> Outcome:
    error = f"results_dir={outcome.spec.results_dir}: {outcome.directory} is gone, it was deleted while this ran"
    return replace(outcome, directory=None, status="failed", error=error, error_kind="gone", trajectory=None, summary=None)
