"""Which answers are kept for the same command: those that follow from its words alone."""

from __future__ import annotations

from collections.abc import Sequence

from implicit_bias.analysis.presented import as_finished
from implicit_bias.cli.show import Answer, as_data
from implicit_bias.config.spec import RunSpec
from implicit_bias.core import plugins
from implicit_bias.datasets import DatasetSource
from implicit_bias.datasets.prepared import Prepared
from implicit_bias.storage.answers import entry
from implicit_bias.storage.files import atomic_write_text
from implicit_bias.sweep.loading import proven_optima
from implicit_bias.sweep.outcome import Outcome


def remember(words: Sequence[str], spec: RunSpec, outcome: Outcome, answer: Answer) -> None:
    """Keep the answer of a run, so that the same words are answered at once; where it depends on more than them it is not kept.

    Args:
        words: What was typed, without flags.
        spec: What was computed.
        outcome: Its outcome.
        answer: What :func:`implicit_bias.analysis.presented.of_run` made of it.
    """
    if outcome.directory is None or outcome.trajectory is None or not _follows_from_words(spec):
        return
    try:
        if proven_optima(outcome.directory, outcome.trajectory) is None:  # else some are worth trying again
            kept = entry(words, spec.results_dir, outcome.directory, as_data(as_finished(answer)))
            if kept is not None:
                atomic_write_text(*kept)
    except (OSError, ValueError):  # a memory that cannot be written is none
        return


def _follows_from_words(spec: RunSpec) -> bool:
    """Whether a run is what its words and the package say: no files of anybody's, no plugins, no device that may not be there.

    Nor data of which something is told, and may be warned of, whenever they are loaded.
    """
    files = spec.start is not None or spec.optimizer.identity or type(spec.dataset).fingerprint is not DatasetSource.fingerprint
    here = spec.device != "cuda" and spec.launcher.cluster == "inline"
    return here and not (files or isinstance(spec.dataset, Prepared) or plugins.are_there() or spec.force)
