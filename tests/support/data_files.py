"""Small data files for tests, and the command on them."""

from collections.abc import Sequence
from typing import Any

from implicit_bias.datasets import Dataset, make_dataset

QUICK = ("dataset=file", "optimizer=signgd", "steps=5", "reference=none", "log.norms=[]", "compile=off", "progress=off")
#: Two features that are no index, whatever the labels.
FEATURES = ("1.5,0.2", "-1,0.5", "2.25,-3", "0.125,7", "-2,-1", "8,0.3")


def load(path: str, **keys: Any) -> Dataset:
    """The dataset in a file."""
    return make_dataset({"name": "file", "path": path, **keys}).load()


def labelled(labels: Sequence[str]) -> str:
    """A table of samples with these labels, quoted as they are."""
    rows = (FEATURES[i % len(FEATURES)] + f',"{label}"' for i, label in enumerate(labels))
    return "\n".join(["a,b,label", *rows]) + "\n"
