"""Where a layer's cells lie, by machine."""

from __future__ import annotations

import numpy as np

from golden_model.config import HardwareConfig
from golden_model.crossbar import mapping
from golden_model.pairs import packs


def place_layer(widths: np.ndarray, hardware: HardwareConfig, *, crossbar_base: int = 0) -> mapping.LayerPlacement:
    """The placement of a layer by its block widths (segments, block_cols): BWQ-H's, or in aligned packs."""
    place = packs.place_layer if hardware.pairs else mapping.place_layer
    return place(widths, hardware, crossbar_base=crossbar_base)
