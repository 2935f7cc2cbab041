"""The idx files of MNIST: four files, plain or compressed."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np

from golden_model.files import InputError
from quant.data.image_set import ImageSet

#: Standard file names: (images, labels) of the training and of the test part.
IDX_NAMES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
#: Fewest images of each part.
FEWEST = {"train": 48, "test": 1}
_IDX_UNSIGNED_BYTE = 0x08


def load_idx(directory: Path) -> ImageSet:
    """The four standard idx files of `directory`, plain or with the suffix .gz.

    train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte; or with .idx.
    InputError names the first file that is missing or unusable.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise InputError(f"{directory} is not a directory; it must hold the four idx files")
    parts = {}
    for part, (image_name, label_name) in IDX_NAMES.items():
        image_file, label_file = _find(directory, image_name), _find(directory, label_name)
        images, labels = read_idx(image_file), read_idx(label_file)
        if images.ndim != 3:
            raise InputError(f"{image_file} must hold images (3 dimensions), it has {images.ndim}")
        if labels.ndim != 1:
            raise InputError(f"{label_file} must hold labels (1 dimension), it has {labels.ndim}")
        if len(images) != len(labels):
            raise InputError(f"{image_file} holds {len(images)} images but {label_file} holds {len(labels)} labels")
        if len(images) < FEWEST[part]:
            raise InputError(f"{image_file} must hold at least {FEWEST[part]} images, got {len(images)}")
        parts[part] = images[:, None], labels.astype(np.int64), label_file
    (train_images, train_labels, _), (test_images, test_labels, test_label_file) = parts["train"], parts["test"]
    if train_images.shape[1:] != test_images.shape[1:]:
        train_size, test_size = ("x".join(map(str, a.shape[2:])) for a in (train_images, test_images))
        raise InputError(f"{directory}: training images are {train_size} pixels but test images are {test_size}")
    classes = int(train_labels.max()) + 1
    if classes < 2:
        raise InputError(f"{directory}: the training labels name only one class")
    if test_labels.max() >= classes:
        raise InputError(
            f"{test_label_file} holds label {int(test_labels.max())}, but training labels end at {classes - 1}"
        )
    return ImageSet(str(directory), train_images, train_labels, test_images, test_labels, classes)


def read_idx(path: Path) -> np.ndarray:
    """One idx file of unsigned bytes (big-endian header: 0, 0, 8, dimensions, then their sizes)."""
    try:
        raw = path.read_bytes()
        if path.suffix == ".gz":
            raw = gzip.decompress(raw)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    if len(raw) < 4 or raw[0] != 0 or raw[1] != 0:
        raise InputError(f"{path} is not an idx file: it must start with two zero bytes")
    if raw[2] != _IDX_UNSIGNED_BYTE:
        raise InputError(f"{path} must hold unsigned bytes (idx type 0x08), it has type 0x{raw[2]:02x}")
    dimensions = raw[3]
    header = 4 + 4 * dimensions
    if not 1 <= dimensions <= 4 or len(raw) < header:
        raise InputError(f"{path} has a broken idx header: {dimensions} dimensions in {len(raw)} bytes")
    shape = tuple(int(n) for n in np.frombuffer(raw, ">u4", count=dimensions, offset=4))
    expected = header + int(np.prod(shape, dtype=object))
    if len(raw) != expected:
        problem = "truncated" if len(raw) < expected else "too long"
        raise InputError(
            f"{path} is {problem}: {expected} bytes expected for shape {'x'.join(map(str, shape))}, got {len(raw)}"
        )
    return np.frombuffer(raw, np.uint8, offset=header).reshape(shape)


def holds_idx(directory: Path) -> bool:
    """Whether any of the four files is there."""
    return any(file.is_file() for names in IDX_NAMES.values() for name in names for file in _spellings(directory, name))


def _spellings(directory: Path, name: str) -> list[Path]:
    """The file, also with a dot before idx as some sources write it, plain or compressed."""
    names = (name, f"{name}.gz", dotted := name.replace("-idx", ".idx"), f"{dotted}.gz")
    return [directory / spelled for spelled in names]


def _find(directory: Path, name: str) -> Path:
    for candidate in _spellings(directory, name):
        if candidate.is_file():
            return candidate
    raise InputError(f"{directory} has no file {name} or {name}.gz")
