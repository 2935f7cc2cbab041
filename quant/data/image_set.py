"""One data set in memory: what every command trains on, calibrates with and measures.

Images are uint8 (N, C, H, W) levels 0..255, labels int64 (N,) in 0..classes - 1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from golden_model.files import InputError, printable

#: One training image in this many is held out from training.
HELD_OUT = 12
#: Images used by every calibration (system.md §7, §8).
CALIBRATION_IMAGES = 32
#: Largest label: as many outputs as the hardware counts.
LABEL_TOP = 65534


@dataclass(frozen=True, eq=False)
class ImageSet:
    """A labelled image data set with a training and a test part.

    train_images, test_images : uint8 (N, C, H, W). train_labels, test_labels : int64 (N,).
    source : where it came from, as text. classes : number of classes. names : of the classes, may be empty.
    one_part : training and test part are the same images, so that calibration images are among those that an
        accuracy is measured on. pictures : the `size` and `channels` that pictures were loaded with, {} for others.
    """

    source: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    classes: int
    names: tuple[str, ...] = ()
    one_part: bool = False
    pictures: dict[str, int | None] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        c, h, w = self.train_images.shape[1:]
        return int(c), int(h), int(w)

    @cached_property
    def sha256(self) -> str:
        """Hash of all images and labels, 64 hexadecimal digits."""
        digest = hashlib.sha256()
        for array in (self.train_images, self.train_labels, self.test_images, self.test_labels):
            digest.update(str(array.shape).encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def calibration(self) -> np.ndarray:
        """The first 32 training images, uint8 (32, C, H, W)."""
        return self.train_images[:CALIBRATION_IMAGES]

    def learning(self) -> tuple[np.ndarray, np.ndarray]:
        """Images and labels to train on: all but every twelfth."""
        kept = np.arange(len(self.train_images)) % HELD_OUT != HELD_OUT - 1
        return self.train_images[kept], self.train_labels[kept]

    def validation(self, count: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The first `count` (default all) of the training images that `learning` leaves out, with labels.

        Choices (activation widths, converters, dynamic precision) are made on these: never on the test
        part, and not on images that the network has learned by heart, where accuracy hardly falls. They
        are spread over the whole set because some sets (MNIST) are ordered by difficulty.
        """
        if len(self.train_images) < HELD_OUT:
            raise InputError(
                f"{self.source}: it must hold at least {HELD_OUT} training images, one to check choices on, got"
                f" {len(self.train_images)}"
            )
        held = slice(HELD_OUT - 1, None, HELD_OUT)
        return self.train_images[held][:count], self.train_labels[held][:count]


def image_set(
    source: Path,
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    *,
    names: tuple[str, ...] = (),
    one_part: bool = False,
) -> ImageSet:
    """A checked set from (images, labels) of its parts; `classes` is counted where there are no names."""
    for (images, labels), part in ((train, "training"), (test, "test")):
        if len(images) == 0:
            raise InputError(f"{source}: it holds no {part} image")
        if len(images) != len(labels):
            raise InputError(f"{source}: {len(images)} {part} images but {len(labels)} labels")
    if train[0].shape[1:] != test[0].shape[1:]:
        raise InputError(f"{source}: training images are {train[0].shape[1:]}, test images {test[0].shape[1:]}")
    classes = len(names) or int(max(train[1].max(), test[1].max())) + 1
    return ImageSet(str(source), *train, *test, classes, names=names, one_part=one_part)


def checked_labels(path: Path, labels: Any, count: int) -> np.ndarray:
    """Labels as int64 (N,); InputError unless they are `count` integers from 0."""
    labels = np.asarray(labels)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise InputError(f"{path}: labels must be integers (N,), got {labels.dtype} {labels.shape}")
    if len(labels) != count:
        raise InputError(f"{path}: {count} images but {len(labels)} labels")
    if labels.size and not (labels.min() >= 0 and labels.max() <= LABEL_TOP):
        raise InputError(f"{path}: labels must be in 0..{LABEL_TOP}, got {labels.min()}..{labels.max()}")
    return labels.astype(np.int64)


def label_words(names: Sequence[str]) -> str:
    """Numbers and names of the first classes, for people."""
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return ", ".join(f"{i} {printable(name)}" for i, name in enumerate(names[:20])) + more
