"""Real handwritten digits that need no download: the 8 x 8 images that come with scikit-learn."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from implicit_bias.datasets.base import (
    DATASETS,
    MAX_SEED,
    Dataset,
    DatasetSource,
    checked_classes,
    checked_dataset,
    choose_samples,
)
from implicit_bias.registry import hyper

NUM_DIGITS = 10
#: Pixels of this dataset are whole numbers from 0 to 16.
LARGEST_PIXEL = 16.0


@DATASETS.register
@dataclass(frozen=True)
class Digits(DatasetSource):
    """The 1,797 digits of scikit-learn, 8 x 8 pixels in [0, 1], no download.

    The chosen samples come class by class, in the order of ``classes``; class c is labelled by its place in
    that list.
    """

    name: ClassVar[str] = "digits"
    samples_per_class: int | None = hyper(None, help="samples of each digit; null for all (174 to 183)", ge=1)
    classes: list[int] | None = hyper(None, help="digits to keep, such as [3,5]; null for all ten")
    seed: int = hyper(1, help="seed of the choice of samples", ge=0, le=MAX_SEED)

    def __post_init__(self) -> None:
        super().__post_init__()
        checked_classes(self.classes, NUM_DIGITS)

    def load(self) -> Dataset:
        """The chosen samples, (n, 64)."""
        from sklearn.datasets import load_digits  # takes half a second, and no other dataset needs it

        images, labels = load_digits(return_X_y=True)
        classes = checked_classes(self.classes, NUM_DIGITS)
        chosen = choose_samples(labels, classes, self.samples_per_class, self.seed)
        y = np.array([classes.index(label) for label in labels[chosen]])
        return checked_dataset(images[chosen] / LARGEST_PIXEL, y, len(classes), origin="dataset=digits")
