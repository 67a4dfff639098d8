"""Real handwritten digits that need no download: the 8 x 8 images that come with scikit-learn."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from implicit_bias.core.registry import hyper
from implicit_bias.datasets.base import DATASETS, Dataset
from implicit_bias.datasets.handwritten import HandwrittenDigits, Images, block_means

#: Rows and columns of an image.
SIDE = 8
#: Pixels of this dataset are whole numbers from 0 to 16.
LARGEST_PIXEL = 16.0


@DATASETS.register
@dataclass(frozen=True)
class Digits(HandwrittenDigits):
    """The 1,797 digits of scikit-learn, 8 x 8 pixels in [0, 1], no download.

    ``test_samples`` are drawn from those that training leaves.
    """

    name: ClassVar[str] = "digits"
    pixels: int = hyper(SIDE, help="pixels along a side, means over square blocks of the image", choices=(8, 4))

    def load(self) -> Dataset:
        """The chosen samples, (n, pixels * pixels)."""
        from sklearn.datasets import load_digits  # takes half a second, and no other dataset needs it

        images, labels = load_digits(return_X_y=True)
        return self.dataset_of(Images(images.reshape(-1, SIDE, SIDE), labels))

    def features(self, images: NDArray[np.float64]) -> NDArray[np.float64]:
        """Images (n, 8, 8) with values from 0 to 16 as features (n, pixels * pixels) in [0, 1]."""
        return block_means(images, SIDE, self.pixels).reshape(len(images), -1) / LARGEST_PIXEL
