"""What commands read: the network of a deployment image or of a graph's file, and pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from golden_model.graph.network import Graph
from golden_model.image import archive as graph_file
from golden_model.image import image as deployment

#: Names under which an archive of arrays may hold images, the first that is there is taken.
IMAGE_KEYS = ("test_images", "images", "x_test")


def load_network(path: Path) -> tuple[Graph, np.ndarray | None]:
    """The network and, of a deployment image, its test pictures; ValueError if it is neither kind."""
    if path.is_dir():
        image = deployment.read(path)
        return image.network, image.vectors.images
    return graph_file.load(path), None


def load_images(path: Path, count: int) -> np.ndarray:
    """The first `count` pictures of an .npz file, uint8 (B, C, H, W); ValueError with one sentence otherwise."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            names = [name for name in IMAGE_KEYS if name in archive]
            if not names:
                raise ValueError(f"--images {path}: it has no array called {' or '.join(IMAGE_KEYS)}")
            images = archive[names[0]][:count]
    except (OSError, EOFError, AttributeError) as error:
        raise ValueError(f"--images {path}: not an .npz file of arrays ({error})") from None
    if images.ndim != 4 or images.dtype != np.uint8 or not len(images):
        raise ValueError(f"--images {path}: must be uint8 (B, C, H, W), got {images.dtype} {images.shape}")
    return images
