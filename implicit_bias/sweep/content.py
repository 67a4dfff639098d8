"""The summary and the warnings that a command prints about the data files it has loaded."""

from __future__ import annotations

from implicit_bias.cli.messages import note, warn
from implicit_bias.datasets import Dataset
from implicit_bias.datasets.words import shortened

# Classes that the line about a dataset names.
MOST_CLASSES = 10


def tell_content(dataset: Dataset) -> None:
    """Print the contents of a data file in one line on stderr, and what may be wrong with it as warnings."""
    if dataset.names is not None:
        note(content_line(dataset))
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
