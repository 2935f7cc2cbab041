"""CIFAR-10 as its authors published it: python (pickle) or binary batches."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from golden_model.files import InputError
from quant.data.image_set import ImageSet, checked_labels, image_set

#: Names of the files in their original order; the binary version adds .bin.
CIFAR_TRAIN = tuple(f"data_batch_{i}" for i in range(1, 6))
CIFAR_TEST = "test_batch"
CIFAR_SHAPE = (3, 32, 32)
_CIFAR_RECORD = 1 + 3 * 32 * 32


def holds_cifar10(directory: Path) -> bool:
    """Whether any of the batches is there."""
    return any((directory / f"{name}{end}").is_file() for name in (*CIFAR_TRAIN, CIFAR_TEST) for end in ("", ".bin"))


def load_cifar10(directory: Path | str) -> ImageSet:
    """The original CIFAR-10 files: data_batch_1..5 and test_batch, python (pickle) or binary version.

    Pickles are read with an unpickler that makes nothing but NumPy arrays and plain values.
    """
    directory = Path(directory)
    binary = (directory / f"{CIFAR_TEST}.bin").is_file() or (directory / f"{CIFAR_TRAIN[0]}.bin").is_file()
    end, read = (".bin", _read_cifar_binary) if binary else ("", _read_cifar_pickle)
    parts = []
    for name in (*CIFAR_TRAIN, CIFAR_TEST):
        file = directory / f"{name}{end}"
        if not file.is_file():
            raise InputError(f"{directory} has no file {file.name}")
        images, labels = read(file)
        if labels.size and labels.max() > 9:
            raise InputError(f"{file} holds label {int(labels.max())}, CIFAR-10 has 0..9")
        parts.append((images, labels))
    train = tuple(np.concatenate(arrays) for arrays in zip(*parts[:-1], strict=True))
    names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    return image_set(directory, (train[0], train[1]), parts[-1], names=names)


def _read_cifar_binary(file: Path) -> tuple[np.ndarray, np.ndarray]:
    raw = _bytes_of(file)
    if not raw or len(raw) % _CIFAR_RECORD:
        raise InputError(f"{file} must be a multiple of {_CIFAR_RECORD} bytes, label and pixels, it has {len(raw)}")
    records = np.frombuffer(raw, np.uint8).reshape(-1, _CIFAR_RECORD)
    return np.ascontiguousarray(records[:, 1:]).reshape(-1, *CIFAR_SHAPE), records[:, 0].astype(np.int64)


#: (last part of the module, name) that a pickled array needs.
_UNPICKLED = {
    ("multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
    ("numeric", "_frombuffer"),
}


class _ArraysOnly(pickle.Unpickler):
    """Unpickles arrays and plain values; anything that could run code is an error."""

    def find_class(self, module: str, name: str) -> Any:
        package, last = module.split(".")[0], module.split(".")[-1]
        if (last, name) in _UNPICKLED and package in ("numpy", "_codecs"):
            return super().find_class(module.replace("numpy.core", "numpy._core"), name)
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed in a data file")


def _read_cifar_pickle(file: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        content = _ArraysOnly(io.BytesIO(_bytes_of(file)), encoding="bytes").load()
    except Exception as error:  # a broken pickle raises almost anything
        raise InputError(f"{file} is not a CIFAR-10 python batch: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{file} is not a CIFAR-10 python batch: it must hold a dictionary")
    content = {k.decode() if isinstance(k, bytes) else k: v for k, v in content.items()}
    data, labels = content.get("data"), content.get("labels")
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.shape[1:] != (_CIFAR_RECORD - 1,):
        raise InputError(f"{file}: 'data' must be uint8 rows of {_CIFAR_RECORD - 1} pixels")
    return data.reshape(-1, *CIFAR_SHAPE), checked_labels(file, labels, len(data))


def _bytes_of(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror or error}") from error
