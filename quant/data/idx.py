"""The idx files of MNIST: four files, plain or compressed."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from golden_model.files import InputError
from quant.data.image_set import ImageSet, image_set

#: Standard file names: (images, labels) of the training and of the test part.
IDX_NAMES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
#: Fewest images of each part.
FEWEST = {"train": 48, "test": 1}
#: Most bytes of images or labels that are read; a small compressed file can claim, and be, a thousand times its size.
BYTES_TOP = 1 << 32
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
        images, labels = read_idx(image_file, 3)[:, None], read_idx(label_file, 1).astype(np.int64)
        if len(images) != len(labels):
            raise InputError(f"{image_file} holds {len(images)} images but {label_file} holds {len(labels)} labels")
        if len(images) < FEWEST[part]:
            raise InputError(f"{image_file} must hold at least {FEWEST[part]} images, got {len(images)}")
        parts[part] = images, labels
    classes = int(parts["train"][1].max()) + 1
    if classes < 2:
        raise InputError(f"{directory}: the training labels name only one class")
    if (top := int(parts["test"][1].max())) >= classes:
        raise InputError(f"{directory}: a test image has label {top}, but training labels end at {classes - 1}")
    return image_set(directory, parts["train"], parts["test"])


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """One idx file of unsigned bytes with so many dimensions (header: 0, 0, 8, dimensions, then big-endian sizes).

    Of a compressed file no more is unpacked than the header says, and one byte to see that there is no more.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            header = file.read(4 + 4 * dimensions)
            shape = _shape(path, header, dimensions)
            data = file.read(math.prod(shape) + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    if len(data) != math.prod(shape):
        problem = "truncated" if len(data) < math.prod(shape) else "too long"
        raise InputError(f"{path} is {problem}: its header says {'x'.join(map(str, shape))} bytes")
    return np.frombuffer(data, np.uint8).reshape(shape)


def _shape(path: Path, header: bytes, dimensions: int) -> tuple[int, ...]:
    """Sizes of all dimensions, from the header; InputError if it is no such header."""
    if header[:2] != b"\0\0":
        raise InputError(f"{path} is not an idx file: it must start with two zero bytes")
    if len(header) < 4 + 4 * dimensions:
        raise InputError(f"{path} has a broken idx header of {len(header)} bytes")
    if header[2] != _IDX_UNSIGNED_BYTE:
        raise InputError(f"{path} must hold unsigned bytes (idx type 0x08), it has type 0x{header[2]:02x}")
    if header[3] != dimensions:
        raise InputError(f"{path} must have {dimensions} dimension{'s' * (dimensions > 1)}, it has {header[3]}")
    shape = tuple(np.frombuffer(header, ">u4", offset=4).tolist())
    if math.prod(shape) > BYTES_TOP:
        raise InputError(f"{path} claims to hold {math.prod(shape)} bytes, at most {BYTES_TOP} are read")
    return shape


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
