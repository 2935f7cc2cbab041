"""Image data sets from local files: idx, CIFAR-10, folders of pictures, NumPy archives. Nothing is downloaded.

`load` finds out by itself what a path holds:

    a directory with idx files           MNIST's format, plain or .gz (quant.data.load_idx)
    a directory with CIFAR-10 batches    the original python or binary version
    a directory of pictures              one folder per class, or a table labels.csv beside the pictures;
                                         train/ and test/ inside if there are two parts
    a file .npz                          arrays of images and labels (see `load_npz`)

Images become uint8 (N, C, H, W), labels int64 (N,).
"""

from __future__ import annotations

import csv
import io
import pickle
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from quant.data.digits import CALIBRATION_IMAGES, IDX_NAMES, DataError, Dataset, load_idx

#: Names of the CIFAR-10 files in their original order; the binary version adds .bin.
CIFAR_TRAIN = tuple(f"data_batch_{i}" for i in range(1, 6))
CIFAR_TEST = "test_batch"
CIFAR_SHAPE = (3, 32, 32)
_CIFAR_RECORD = 1 + 3 * 32 * 32

#: Names under which an .npz file may hold its arrays: part -> (images, labels) alternatives.
NPZ_NAMES = {
    "train": (("train_images", "train_labels"), ("x_train", "y_train")),
    "test": (("test_images", "test_labels"), ("x_test", "y_test")),
    "one": (("images", "labels"), ("x", "y")),
}
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp")
LABEL_TABLE = "labels.csv"
#: Largest label: as many outputs as the hardware counts.
_LABEL_TOP = 65534


@dataclass(frozen=True, eq=False)
class ImageSet(Dataset):
    """A `Dataset` that also knows its class names, and whether it has one part only.

    one_part : training and test part are the same images, so that calibration images are among those that an
        accuracy is measured on.
    """

    names: tuple[str, ...] = ()
    one_part: bool = False


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
    and the rest measures; otherwise checks come from the training part (`Dataset.validation`).

    DataError for a set with one part of fewer than 36 images.
    """
    if not found.one_part:
        images, labels = found.validation(check_images + CALIBRATION_IMAGES)
        # Not the calibration images: of the validation images, the first 32 training images hold two.
        kept = slice(CALIBRATION_IMAGES, None) if len(images) > CALIBRATION_IMAGES else slice(None)
        return Parts(found.calibration(), images[kept], labels[kept], found.test_images, found.test_labels)
    others = np.arange(CALIBRATION_IMAGES, len(found.test_images))
    if len(others) < 4:
        raise DataError(
            f"{found.source} must hold at least {CALIBRATION_IMAGES + 4} images, {CALIBRATION_IMAGES} of them to "
            f"calibrate, got {len(found.test_images)}"
        )
    count = max(1, min(check_images, len(others) // 4))
    check = others[np.arange(count) * len(others) // count]
    rest = np.setdiff1d(others, check)
    images, labels = found.test_images, found.test_labels
    return Parts(found.calibration(), images[check], labels[check], images[rest], labels[rest])


def load(path: Path | str, *, size: int | None = None, channels: int | None = None) -> ImageSet:
    """The data set at `path`.

    size, channels : for pictures only: they are scaled so that their shorter side is size * 256 / 224 and the middle
    size x size pixels are taken (None: all pictures have one size already); 1 makes them grey, 3 colour.

    DataError says in one sentence what is wrong with which file.
    """
    path = Path(path)
    if path.is_file():
        if path.suffix != ".npz":
            raise DataError(f"{path} is not a data set: a file must be an .npz archive")
        return load_npz(path)
    if not path.is_dir():
        raise DataError(f"{path}: there is no such file or directory")
    if any((path / f"{name}{end}").is_file() for names in IDX_NAMES.values() for name in names for end in ("", ".gz")):
        found = load_idx(path)
        return _image_set(path, (found.train_images, found.train_labels), (found.test_images, found.test_labels))
    if any((path / f"{name}{end}").is_file() for name in (*CIFAR_TRAIN, CIFAR_TEST) for end in ("", ".bin")):
        return load_cifar10(path)
    return load_folder(path, size=size, channels=channels)


def _image_set(
    source: Path,
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    *,
    names: tuple[str, ...] = (),
    one_part: bool = False,
) -> ImageSet:
    for (images, labels), part in ((train, "training"), (test, "test")):
        if len(images) == 0:
            raise DataError(f"{source}: it holds no {part} image")
        if len(images) != len(labels):
            raise DataError(f"{source}: {len(images)} {part} images but {len(labels)} labels")
    if train[0].shape[1:] != test[0].shape[1:]:
        raise DataError(f"{source}: training images are {train[0].shape[1:]}, test images {test[0].shape[1:]}")
    classes = len(names) or int(max(train[1].max(), test[1].max())) + 1
    return ImageSet(str(source), *train, *test, classes, names=names, one_part=one_part)


def check_labels(found: Dataset, outputs: int) -> None:
    """DataError unless every label is one of a network's outputs, 0..outputs - 1."""
    for part, labels in (("training", found.train_labels), ("test", found.test_labels)):
        if (wrong := labels[(labels < 0) | (labels >= outputs)]).size:
            raise DataError(
                f"{found.source}: a {part} image has label {int(wrong[0])}, but the network has {outputs} outputs, for"
                f" labels 0..{outputs - 1}"
            )


# ---- CIFAR-10 -----------------------------------------------------------------------------------
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
            raise DataError(f"{directory} has no file {file.name}")
        images, labels = read(file)
        if labels.size and labels.max() > 9:
            raise DataError(f"{file} holds label {int(labels.max())}, CIFAR-10 has 0..9")
        parts.append((images, labels))
    train = tuple(np.concatenate(arrays) for arrays in zip(*parts[:-1], strict=True))
    names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    return _image_set(directory, (train[0], train[1]), parts[-1], names=names)


def _read_cifar_binary(file: Path) -> tuple[np.ndarray, np.ndarray]:
    raw = _bytes_of(file)
    if not raw or len(raw) % _CIFAR_RECORD:
        raise DataError(f"{file} must be a multiple of {_CIFAR_RECORD} bytes, label and pixels, it has {len(raw)}")
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
        raise DataError(f"{file} is not a CIFAR-10 python batch: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{file} is not a CIFAR-10 python batch: it must hold a dictionary")
    content = {k.decode() if isinstance(k, bytes) else k: v for k, v in content.items()}
    data, labels = content.get("data"), content.get("labels")
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.shape[1:] != (_CIFAR_RECORD - 1,):
        raise DataError(f"{file}: 'data' must be uint8 rows of {_CIFAR_RECORD - 1} pixels")
    return data.reshape(-1, *CIFAR_SHAPE), _labels(file, labels, len(data))


def _bytes_of(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror or error}") from error


# ---- NumPy archives -----------------------------------------------------------------------------
def load_npz(path: Path | str) -> ImageSet:
    """An .npz archive with train_images, train_labels, test_images, test_labels (or x_train ... y_test), or with one
    part: images, labels (or x, y).

    Images: uint8 (N, C, H, W), (N, H, W, C) or grey (N, H, W); C is 1 or 3. Labels: integers (N,) or (N, 1).
    """
    path = Path(path)
    parts: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    try:
        with np.load(path, allow_pickle=False) as arrays:
            for part, alternatives in NPZ_NAMES.items():
                for images, labels in alternatives:
                    if images in arrays and part not in parts:
                        if labels not in arrays:
                            raise DataError(f"{path} has {images} but no {labels}")
                        made = _maps(path, images, arrays[images])
                        parts[part] = made, _labels(path, arrays[labels], len(made))
            held = ", ".join(arrays.files)
    except DataError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read as an .npz archive: {error}") from error
    if "test" in parts and "train" in parts:
        return _image_set(path, parts["train"], parts["test"])
    if only := [part for part in ("one", "test", "train") if part in parts]:
        return _image_set(path, parts[only[0]], parts[only[0]], one_part=True)
    raise DataError(f"{path} must hold images and labels (or train_images ... test_labels), it holds {held}")


def _maps(path: Path, name: str, images: np.ndarray) -> np.ndarray:
    if images.dtype != np.uint8:
        raise DataError(f"{path}: {name} must be uint8, 0..255, got {images.dtype}")
    if images.ndim == 3:
        images = images[:, None]
    if images.ndim == 4 and images.shape[1] not in (1, 3) and images.shape[3] in (1, 3):
        images = images.transpose(0, 3, 1, 2)
    if images.ndim != 4 or images.shape[1] not in (1, 3) or 0 in images.shape[2:]:
        raise DataError(f"{path}: {name} must have shape (N, C, H, W), (N, H, W, C) or (N, H, W), got {images.shape}")
    return np.ascontiguousarray(images)


def _labels(path: Path, labels: Any, count: int) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise DataError(f"{path}: labels must be integers (N,), got {labels.dtype} {labels.shape}")
    if len(labels) != count:
        raise DataError(f"{path}: {count} images but {len(labels)} labels")
    if labels.size and not (labels.min() >= 0 and labels.max() <= _LABEL_TOP):
        raise DataError(f"{path}: labels must be in 0..{_LABEL_TOP}, got {labels.min()}..{labels.max()}")
    return labels.astype(np.int64)


# ---- pictures -----------------------------------------------------------------------------------
def load_folder(directory: Path | str, *, size: int | None = None, channels: int | None = None) -> ImageSet:
    """Pictures with labels, in one of two forms:

    * a folder per class; class numbers follow the sorted folder names;
    * the pictures and labels.csv, one line `file name,label` each, labels being numbers or class names.

    With folders train/ and test/ (or val/), each of that form, there are two parts; otherwise one.
    size, channels : as for `load`.
    """
    directory = Path(directory)
    tests = [directory / name for name in ("test", "val") if (directory / name).is_dir()]
    parts = [directory / "train", tests[0]] if (directory / "train").is_dir() and tests else [directory]
    listed = [_list_pictures(part) for part in parts]
    names = sorted({label for part in listed for _, label in part if isinstance(label, str)})
    if names and any(isinstance(label, int) for part in listed for _, label in part):
        raise DataError(f"{directory / LABEL_TABLE}: labels must be all numbers or all names")
    number = {name: index for index, name in enumerate(names)}
    made = []
    for part in listed:
        images = _read_pictures([file for file, _ in part], size, channels)
        labels = np.array([number[label] if isinstance(label, str) else label for _, label in part], dtype=np.int64)
        made.append((images, labels))
    return _image_set(directory, made[0], made[-1], names=tuple(names), one_part=len(made) == 1)


def _list_pictures(directory: Path) -> list[tuple[Path, int | str]]:
    """(file, label) of every picture, in the order of the table or of the sorted names."""
    table = directory / LABEL_TABLE
    found: list[tuple[Path, int | str]]
    if table.is_file():
        found = list(_read_table(table))
    else:
        folders = sorted(d for d in directory.iterdir() if d.is_dir())
        found = [(f, d.name) for d in folders for f in sorted(d.iterdir()) if f.suffix.lower() in PICTURES]
    if not found:
        raise DataError(
            f"{directory} holds no data set: neither idx files, nor CIFAR-10 batches, nor a folder of pictures per"
            f" class, nor pictures with {LABEL_TABLE}"
        )
    return found


def _read_table(table: Path) -> Iterable[tuple[Path, int | str]]:
    try:
        with table.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.reader(file) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{table} cannot be read: {error}") from error
    for number, row in enumerate(rows, 1):
        if len(row) != 2:
            raise DataError(f"{table}, line {number}: it must be `file name,label`, got {','.join(row)!r}")
        file, label = table.parent / row[0].strip(), row[1].strip()
        if number == 1 and not file.exists() and file.suffix.lower() not in PICTURES:
            continue  # a line of headings
        if not file.is_file():
            raise DataError(f"{table}, line {number}: there is no picture {row[0].strip()}")
        if label.isdecimal() and int(label) > _LABEL_TOP:
            raise DataError(f"{table}, line {number}: a label must be at most {_LABEL_TOP}, got {label}")
        yield file, int(label) if label.isdecimal() else label


def _read_pictures(files: list[Path], size: int | None, channels: int | None) -> np.ndarray:
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:  # pragma: no cover - depends on the installation
        raise DataError("reading pictures needs the package pillow") from error
    images: list[np.ndarray] = []
    for file in files:
        try:
            with Image.open(file) as picture:
                grey = picture.mode in ("1", "L", "I", "I;16") if channels is None else channels == 1
                loaded = picture.convert("L" if grey else "RGB")
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            raise DataError(f"{file} cannot be read as a picture: {error}") from error
        if size is not None:
            loaded = _crop(loaded, size)
        pixels = np.asarray(loaded, dtype=np.uint8)
        images.append(pixels[None] if grey else pixels.transpose(2, 0, 1))
        if images[-1].shape != images[0].shape:
            raise DataError(
                f"{file} is {_words(images[-1])} but {files[0]} is {_words(images[0])}: all pictures must have one"
                f" size and number of channels; ask for them (size, channels)"
            )
    return np.stack(images)


def _crop(picture: Any, size: int) -> Any:
    """The middle size x size pixels of the picture scaled so that its shorter side is size * 256 / 224."""
    from PIL import Image

    shorter = round(size * 256 / 224)
    width, height = picture.size
    scale = shorter / min(width, height)
    scaled = (max(size, round(width * scale)), max(size, round(height * scale)))
    picture = picture.resize(scaled, Image.Resampling.BILINEAR)
    left, top = (scaled[0] - size) // 2, (scaled[1] - size) // 2
    return picture.crop((left, top, left + size, top + size))


def _words(image: np.ndarray) -> str:
    return "x".join(map(str, image.shape))
