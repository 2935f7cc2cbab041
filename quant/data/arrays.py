"""NumPy archives of images and labels."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from golden_model.files import InputError
from quant.data.image_set import ImageSet, checked_labels, image_set

#: Names under which an .npz file may hold its arrays: part -> (images, labels) alternatives.
NPZ_NAMES = {
    "train": (("train_images", "train_labels"), ("x_train", "y_train")),
    "test": (("test_images", "test_labels"), ("x_test", "y_test")),
    "one": (("images", "labels"), ("x", "y")),
}


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
                            raise InputError(f"{path} has {images} but no {labels}")
                        made = _maps(path, images, arrays[images])
                        parts[part] = made, checked_labels(path, arrays[labels], len(made))
            held = ", ".join(arrays.files)
    except InputError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} cannot be read as an .npz archive: {error}") from error
    if "test" in parts and "train" in parts:
        return image_set(path, parts["train"], parts["test"])
    if only := [part for part in ("one", "test", "train") if part in parts]:
        return image_set(path, parts[only[0]], parts[only[0]], one_part=True)
    raise InputError(f"{path} must hold images and labels (or train_images ... test_labels), it holds {held}")


def _maps(path: Path, name: str, images: np.ndarray) -> np.ndarray:
    if images.dtype != np.uint8:
        raise InputError(f"{path}: {name} must be uint8, 0..255, got {images.dtype}")
    if images.ndim == 3:
        images = images[:, None]
    if images.ndim == 4 and images.shape[1] not in (1, 3) and images.shape[3] in (1, 3):
        images = images.transpose(0, 3, 1, 2)
    if images.ndim != 4 or images.shape[1] not in (1, 3) or 0 in images.shape[2:]:
        raise InputError(f"{path}: {name} must have shape (N, C, H, W), (N, H, W, C) or (N, H, W), got {images.shape}")
    return np.ascontiguousarray(images)
