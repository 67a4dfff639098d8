"""What a command tells about data that somebody brought: what is in them, what may be wrong, what separates their classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from weakref import WeakKeyDictionary

import numpy as np

from implicit_bias.cli.messages import note, warn
from implicit_bias.core.errors import NotSeparable
from implicit_bias.datasets import Dataset, DatasetSource
from implicit_bias.datasets.prepared import Prepared
from implicit_bias.datasets.words import shortened
from implicit_bias.solvers.blocking import blocking_samples, separates
from implicit_bias.solvers.reference import COLUMN_OF_ONES, NO_BIAS

# Classes that the line about a dataset names.
MOST_CLASSES = 10
# Samples that a message names one by one; a key that long can still be typed.
MOST_SAMPLES = 50
# Seconds for the line about a dataset, and for the samples that stand in the way.
SECONDS, LONGER = 2.0, 10.0

_remedies: WeakKeyDictionary[Dataset, list[str]] = WeakKeyDictionary()


def tell_content(dataset: Dataset) -> None:
    """Print the contents of data that have names in one line on stderr, and what may be wrong with them as warnings."""
    if dataset.names is not None:
        note(content_line(dataset) + _separable(dataset))
    for caution in dataset.cautions:
        warn(caution)


def content_line(dataset: Dataset) -> str:
    """``dataset.path=wine.csv: 178 samples, 13 features, 3 classes: 1 (59), 2 (71), 3 (48)``; of many classes the first."""
    content = dataset.content()
    shown = [f"{shortened(name)} ({count})" for name, count in list(content["classes"].items())[:MOST_CLASSES]]
    more = [f"... ({content['num_classes']} in all)"] if content["num_classes"] > MOST_CLASSES else []
    features = f"{content['features']} {'feature' if content['features'] == 1 else 'features'}"
    size = f"{content['samples']} samples, {features}, {content['num_classes']} classes"
    return f"{dataset.origin}: {size}: {', '.join([*shown, *more])}"


def _separable(dataset: Dataset) -> str:
    found = separates(dataset.x, dataset.y, dataset.num_classes, SECONDS)
    return "" if found is None else f"; separable by a linear model: {'yes' if found else 'no'}"


def told(error: NotSeparable, dataset: Dataset, source: DatasetSource) -> str:
    """The error about classes that cannot be separated, and for data that can be prepared how they could be."""
    if not isinstance(source, Prepared) or not error.proven:
        return str(error)
    if dataset not in _remedies:  # other cells of a sweep fail on the same data
        _remedies[dataset] = remedies(dataset, source)
    found = _remedies[dataset]
    # Where it is known what helps, what only often does is not advised; a column of ones may be there, or change nothing.
    refusal = str(error).removesuffix(COLUMN_OF_ONES) if found or source.bias else str(error)
    refusal = refusal.replace(NO_BIAS, ", even with a bias") if source.bias else refusal
    return "; ".join([refusal, *found])


def remedies(dataset: Dataset, source: Prepared) -> list[str]:
    """What would make the classes separable: a constant feature, or fewer samples, as keys to type.

    Features that are standardised are others once samples are left out, shifted and scaled anew. With a constant feature that
    changes nothing of what can be separated; without one it may, so there both are advised.
    """
    considered, keys = dataset, ""
    if not source.bias:
        constant = replace(dataset, x=np.hstack([dataset.x, np.ones((len(dataset.x), 1))]))
        if separates(constant.x, constant.y, constant.num_classes, SECONDS):
            return ["with dataset.bias=true they can be separated"]
        if source.standardize:
            considered, keys = constant, "dataset.bias=true "
    blocking = blocking_samples(considered.x, considered.y, considered.num_classes, LONGER)
    if blocking is None or not blocking.samples:
        return []
    rows = [dataset.rows[place] if dataset.rows else place + 1 for place in blocking.samples]
    if len(rows) > MOST_SAMPLES:
        return [f"{len(rows)} of {len(dataset.y)} samples stand in the way"]
    others = "the others can be separated" if blocking.irreducible else "the others can be separated, perhaps with some of them"
    key = f"{keys}dataset.leave_out=[{','.join(map(str, sorted({*rows, *(source.leave_out or ())})))}]"
    return [f"{standing(rows)} stand{'s' if len(rows) == 1 else ''} in the way, {others}: {key}"]


def standing(rows: Sequence[int]) -> str:
    """``sample 134``, or ``samples 73 and 84``."""
    numbers = [str(row) for row in rows]
    return f"sample {numbers[0]}" if len(rows) == 1 else f"samples {', '.join(numbers[:-1])} and {numbers[-1]}"
