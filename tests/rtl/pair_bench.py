"""Random layers for the blocks of the pair machine, and what they do by the definition (golden_model/pairs)."""

from __future__ import annotations

import random

import numpy as np

from golden_model.config import HardwareConfig
from golden_model.crossbar.layer import DynamicPrecision, Layer
from golden_model.pairs.packs import Packing, pack_layer
from golden_model.registers import descriptor_fields
from tests.rtl.macro_bench import random_weights
from tests.strategies import make_layer


def random_hardware(rng: random.Random) -> HardwareConfig:
    """A small machine of any shape that converts without loss."""
    ou_rows, ou_cols = rng.randint(1, 5), rng.randint(1, 3)
    return HardwareConfig(
        ou_rows=ou_rows,
        ou_cols=ou_cols,
        rows=ou_rows * rng.randint(1, 4) + rng.randint(0, ou_rows - 1),
        cols=ou_cols * rng.randint(1, 5),
        adc_bits=ou_rows.bit_length() + rng.randint(0, 1),
        input_bits=rng.randint(1, 5),
        weight_bits=rng.randint(1, 5),
        crossbar_pairs=150,
        max_k=ou_rows * 6,
        max_n=ou_cols * rng.randint(1, 4),
        width_entries=64,
        sample_interval=rng.choice([1, 2, 3]),
        group_segments=rng.choice([None, 1, 2]),
    )


def random_layer(seed: int, hardware: HardwareConfig, *, windows: int = 3) -> tuple[Packing, Layer, np.ndarray]:
    """A layer of mixed block widths, some of them 0, its packs, and windows (P, K) of any density."""
    rng, numbers = random.Random(seed), np.random.default_rng(seed)
    k, n = rng.randint(1, hardware.max_k), rng.randint(1, hardware.max_n)
    shape = (-(-k // hardware.ou_rows), -(-n // hardware.ou_cols))
    widths = numbers.integers(0, hardware.weight_bits + 1, shape)
    if rng.random() < 0.4:
        widths[:] = widths[:1]  # few masks with many groups
    widths[numbers.random(shape) < rng.choice([0.0, 0.3, 0.8])] = 0
    bits = rng.randint(1, hardware.input_bits)
    layer = make_layer(
        numbers, hardware, kind="linear", channels=k, height=1, width=1, outputs=n, input_bits=bits,
        weights=random_weights(numbers, hardware, k, n, widths), block_widths=widths,
        dynamic=rng.choice([None, DynamicPrecision(l_max=3, tau_sq=rng.randint(0, 3000))]),
    )  # fmt: skip
    density = rng.choice([0.1, 0.5, 1.0])
    values = numbers.integers(0, 1 << bits, (windows, k)) * (numbers.random((windows, k)) < density)
    if rng.random() < 0.2:
        values[:] = (1 << bits) - 1
    return pack_layer(layer, hardware), layer, values.astype(np.uint8)


def layer_settings(packing: Packing, *, crossbar_base: int = 0, width_base: int = 0) -> dict[str, int]:
    """Descriptor fields that the macro reads; the others hold ones, to show that they do not matter."""
    hardware, prepared = packing.hardware, packing.prepared
    segments, block_cols = prepared.widths.shape
    values = {field.name: (1 << field.bits) - 1 for field in descriptor_fields(hardware)}
    return values | {
        "segments": segments,
        "block_cols": block_cols,
        "last_cols": prepared.outputs - (block_cols - 1) * hardware.ou_cols,
        "crossbar_base": crossbar_base,
        "width_base": width_base,
    }
