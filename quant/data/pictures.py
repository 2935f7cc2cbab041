"""Folders of pictures with labels. What is not 8 bits deep and opaque is scaled by a stated rule, or refused.

Sixteen bits of grey become round(v / 257), so that black, white and all between keep their places. Pictures with
transparent parts are refused: what lies behind them is not known. A rotation that a camera noted is applied.
"""

from __future__ import annotations

import csv
import re
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from golden_model.files import InputError
from quant.data.image_set import LABEL_TOP, ImageSet, image_set

PICTURES = (".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp")
LABEL_TABLE = "labels.csv"
#: Most pixels of a picture.
PIXELS_TOP = 1 << 26
#: Modes of pictures, as Pillow names them, that are 8 bits deep or less and opaque.
_GREY, _COLOUR, _DEEP = ("1", "L"), ("P", "RGB", "CMYK", "YCbCr"), ("I", "I;16", "I;16B", "I;16L")
_WITH_ALPHA = ("RGBA", "LA", "PA")
_ORIENTATION = 274  # EXIF tag; 5..8 exchange rows and columns
_SYSTEM = ("lost+found", "System Volume Information")


def load_folder(directory: Path | str, *, size: int | None = None, channels: int | None = None) -> ImageSet:
    """Pictures with labels, in one of two forms:

    * a folder per class; class numbers follow the sorted folder names, as numbers if all of them are numbers;
    * the pictures and labels.csv, one line `file name,label` each, labels being numbers or class names.

    With folders train/ and test/ (or val/), each of that form, there are two parts; otherwise one. A test/ without
    labels is passed over where there is val/. Hidden and system files and folders are not looked at.
    size, channels : as for `quant.data.sets.load`.
    """
    directory = Path(directory)
    tests = [directory / name for name in ("test", "val") if (directory / name).is_dir()]
    labelled = [part for part in tests if (part / LABEL_TABLE).is_file() or _class_folders(part)]
    two = (directory / "train").is_dir() and tests
    parts = [directory / "train", (labelled or tests)[0]] if two else [directory]
    listed = [_list_pictures(part) for part in parts]
    found = {label for part in listed for _, label in part if isinstance(label, str)}
    names = sorted(found, key=int) if all(map(str.isdecimal, found)) else sorted(found)
    if names and any(isinstance(label, int) for part in listed for _, label in part):
        raise InputError(f"{directory / LABEL_TABLE}: labels must be all numbers or all names")
    number = {name: index for index, name in enumerate(names)}
    made = []
    for part in listed:
        images = _read_pictures([file for file, _ in part], size, channels)
        labels = np.array([number[label] if isinstance(label, str) else label for _, label in part], dtype=np.int64)
        made.append((images, labels))
    return image_set(directory, made[0], made[-1], names=tuple(names), one_part=len(made) == 1)


def _ordinary(path: Path) -> bool:
    """Neither hidden (.ipynb_checkpoints, ._cat.png) nor a system's (__MACOSX, $RECYCLE.BIN, @eaDir)."""
    return not path.name.startswith((".", "__", "$", "@")) and path.name not in _SYSTEM


def _class_folders(directory: Path) -> list[tuple[str, list[Path]]]:
    """(name, pictures in order of their names) of every class folder; [] where no folder holds a picture."""
    folders = sorted(d for d in directory.iterdir() if d.is_dir() and _ordinary(d))
    listed = [
        (d.name, sorted(f for f in d.iterdir() if f.suffix.lower() in PICTURES and _ordinary(f))) for d in folders
    ]
    empty = [name for name, files in listed if not files]
    if empty and len(empty) < len(listed):
        raise InputError(
            f"{directory / empty[0]} holds no picture ({', '.join(PICTURES)}), so it is no class: fill or remove it"
        )
    return [] if empty else listed


def _list_pictures(directory: Path) -> list[tuple[Path, int | str]]:
    """(file, label) of every picture, in the order of the table or of the sorted names."""
    table = directory / LABEL_TABLE
    found: list[tuple[Path, int | str]]
    if table.is_file():
        found = list(_read_table(table))
    else:
        found = [(file, name) for name, files in _class_folders(directory) for file in files]
    if not found:
        raise InputError(
            f"{directory} holds no data set: neither idx files, nor CIFAR-10 batches, nor a folder of pictures per"
            f" class, nor pictures with {LABEL_TABLE}"
        )
    return found


def _read_table(table: Path) -> Iterable[tuple[Path, int | str]]:
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{table} cannot be read: {error}") from error
    seen: dict[Path, int] = {}
    for number, row in enumerate(rows, 1):
        where = f"{table}, line {number}"
        if len(row) != 2:
            raise InputError(f"{where}: it must be `file name,label`, got {','.join(row)!r}")
        file, label = table.parent / row[0].strip(), row[1].strip()
        if number == 1 and not file.exists() and file.suffix.lower() not in PICTURES:
            continue  # a line of headings
        if not file.exists():
            raise InputError(f"{where}: there is no picture {row[0].strip()}")
        if (first := seen.setdefault(file.resolve(), number)) != number:
            raise InputError(f"{where}: {row[0].strip()} has a label already, in line {first}")
        yield file, _label(where, row[0].strip(), label)


def _label(where: str, picture: str, text: str) -> int | str:
    """A label of a table: a number, or a name that does not look like one."""
    if not text:
        raise InputError(f"{where}: {picture} has no label")
    if text.isdecimal() and len(text) < 9 and int(text) <= LABEL_TOP:
        return int(text)
    if re.fullmatch(r"[-+]?[\d.,]+(e[-+]?\d+)?", text, re.IGNORECASE):
        raise InputError(f"{where}: a label must be a name or a whole number in 0..{LABEL_TOP}, got {text[:20]}")
    return text


def _read_pictures(files: list[Path], size: int | None, channels: int | None) -> np.ndarray:
    images: list[np.ndarray] = []
    for file in files:
        picture = _read_picture(file)
        if channels is not None:
            picture = picture.convert("L" if channels == 1 else "RGB")
        if size is not None:
            picture = _crop(picture, size)
        pixels = np.asarray(picture, dtype=np.uint8)
        images.append(pixels[None] if picture.mode == "L" else pixels.transpose(2, 0, 1))
        first, last = images[0].shape, images[-1].shape
        if first[0] != last[0]:
            grey, colour = (file, files[0]) if last[0] == 1 else (files[0], file)
            raise InputError(f"{grey} is grey but {colour} is in colour: choose with --channels 1 (grey) or 3 (colour)")
        if first != last:
            raise InputError(
                f"{file} is {_words(last)} but {files[0]} is {_words(first)}: all pictures must have one size; scale"
                f" and crop them with --size"
            )
    return np.stack(images)


def _read_picture(file: Path) -> Any:
    """A picture of mode L or RGB, upright."""
    try:
        from PIL import Image, ImageOps
    except ImportError as error:  # pragma: no cover - depends on the installation
        raise InputError("reading pictures needs the package pillow") from error
    if not file.is_file():
        raise InputError(f"{file} is not a plain file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its size is checked here
            picture = Image.open(file)
        with picture:
            width, height = picture.size
            if width * height > PIXELS_TOP:
                raise InputError(f"{file} has {width} x {height} pixels, more than {PIXELS_TOP}")
            deep = any(";16" in str(tile[-1]) for tile in picture.tile)
            if (
                picture.format == "TIFF" and getattr(picture, "tag_v2", {}).get(_ORIENTATION, 1) > 4
            ):  # Pillow scrambles some of them
                raise InputError(f"{file} is a TIFF whose rows are columns of the picture: save it upright")
            picture.load()
            return ImageOps.exif_transpose(_eight_bits(file, picture, deep=deep))
    except InputError:
        raise
    except Exception as error:  # a damaged picture raises almost anything
        raise InputError(f"{file} cannot be read as a picture: {' '.join(str(error).split())}") from error


def _eight_bits(file: Path, picture: Any, *, deep: bool) -> Any:
    """The picture in mode L or RGB. deep : the file has 16 bits per value."""
    from PIL import Image

    mode = picture.mode
    if mode in _WITH_ALPHA or "transparency" in picture.info:
        if picture.convert("RGBA").getchannel("A").getextrema() != (255, 255):
            raise InputError(f"{file} has transparent parts: put it on a ground first")
    elif mode not in (*_GREY, *_COLOUR, *_DEEP):
        raise InputError(f"{file} has pixels of kind {mode}: save it as 8-bit grey or colour")
    if mode == "I" and picture.format not in ("PNG", "PPM"):
        raise InputError(f"{file} has 32 bits per pixel: save it as 8-bit grey or colour")
    if mode in _DEEP:
        values = np.asarray(picture).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise InputError(f"{file} has more than 16 bits per pixel: save it as 8-bit grey or colour")
        made = Image.fromarray(((values + 128) // 257).astype(np.uint8))
        made.info["exif"] = picture.info.get("exif", b"")
        return made
    if deep:
        raise InputError(f"{file} has 16 bits per colour: save it with 8")
    return picture.convert("L" if mode in (*_GREY, "LA") else "RGB")


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


def _words(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
