"""Small random networks and images for whole-machine tests: seeded, every feature of the descriptor used."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from golden_model import trq
from golden_model.config import TINY, HardwareConfig
from golden_model.crossbar import mapping
from golden_model.crossbar.layer import DynamicPrecision, Layer
from golden_model.graph.layers import Network

#: TINY with room for every random network of this file.
SMALL = replace(TINY, crossbar_pairs=16)
#: 9 x 8 OUs and a 4-bit ADC as in the paper, on arrays small enough to simulate.
NINE = HardwareConfig(
    rows=27,
    cols=32,
    crossbar_pairs=8,
    max_k=128,
    max_n=16,
    max_layers=4,
    activation_bytes=512,
    width_entries=128,
    channel_entries=64,
    pad_entries=8,
)
#: 80 lanes of 5-bit ADCs: the ports of the analog macro are wider than any machine word.
WIDE = replace(SMALL, rows=20, cols=80, ou_rows=10, ou_cols=40, adc_bits=5, max_n=80)


def random_weights(
    rng: np.random.Generator, hardware: HardwareConfig, k: int, outputs: int, *, saturated: bool
) -> np.ndarray:
    """(K, N) weights whose blocks have random widths, 0 included; `saturated`: all at the largest magnitude."""
    top = (1 << hardware.weight_bits) - 1
    if saturated:
        return rng.choice([-top, top], size=(k, outputs))
    segments, columns = -(-k // hardware.ou_rows), -(-outputs // hardware.ou_cols)
    widths = rng.integers(0, hardware.weight_bits + 1, size=(segments, columns))
    limit = np.repeat(np.repeat((1 << widths) - 1, hardware.ou_rows, axis=0), hardware.ou_cols, axis=1)[:k, :outputs]
    return np.rint(rng.uniform(-1, 1, size=(k, outputs)) * limit).astype(np.int64)


def random_registers(rng: np.random.Generator, hardware: HardwareConfig) -> trq.AdcRegisters:
    """Any legal registers (system.md §4.1)."""
    n_r2 = int(rng.integers(1, hardware.adc_bits + 1))
    m = int(rng.integers(0, hardware.adc_bits - n_r2 + 1))
    if rng.random() < 0.3:
        return trq.AdcRegisters(mode="uniform", n_r2=n_r2, m=m)
    n_r1 = int(rng.integers(0, n_r2 + m))
    bias = int(rng.integers(0, (1 << (n_r2 + m - n_r1)) - 1))
    return trq.AdcRegisters(mode="twin", n_r2=n_r2, n_r1=n_r1, m=m, bias=bias)


def layer(
    rng: np.random.Generator, hardware: HardwareConfig, name: str, shape: tuple[int, int, int], **options
) -> Layer:
    """One random layer on an input of `shape`; options override fields of Layer, and `saturated`."""
    saturated = options.pop("saturated", False)
    channels, height, width = shape
    values = {
        "name": name,
        "kind": "conv",
        "channels": channels,
        "height": height,
        "width": width,
        "kernel_height": 3,
        "kernel_width": 3,
        "stride": 1,
        "pad": 0,
        "pool": 1,
        "input_bits": hardware.input_bits,
        "output_bits": hardware.input_bits,
        "counts_per_lsb": 1.0,
        **options,
    }
    k, outputs = channels * values["kernel_height"] * values["kernel_width"], values["outputs"]
    weights = random_weights(rng, hardware, k, outputs, saturated=saturated)
    registers = values.pop("registers", None) or random_registers(rng, hardware)
    # Chosen so that requantised values spread over the output range: the sums grow like sqrt(K).
    spread = np.sqrt(k) * (1 << hardware.input_bits) * (1 << hardware.weight_bits) / 3
    shift = 12
    multiplier = max(1, int((1 << shift) * (1 << values["output_bits"]) / spread))
    return Layer(
        weights=weights,
        bias=rng.integers(-50, 50, outputs),
        multipliers=np.minimum(65535, rng.integers(multiplier, 2 * multiplier + 1, outputs)),
        shift=shift,
        block_widths=mapping.block_widths(weights, hardware),
        registers=registers,
        min_count=trq.min_count(hardware.adc_bits, values["counts_per_lsb"]),
        **values,
    )


def random_network(seed: int, hardware: HardwareConfig = SMALL, *, saturated: bool = False) -> Network:
    """Convolution with border values and pooling, a strided convolution, a fully connected layer.

    K and N are not multiples of the OU; the layers differ in A/D registers, dynamic precision and
    zero-slice skipping.
    """
    rng = np.random.default_rng(seed)
    first = layer(
        rng,
        hardware,
        "conv1",
        (1, 6, 6),
        outputs=3,
        pad=1,
        pool=2,
        pad_values=rng.integers(0, 1 << hardware.input_bits, 1),
        dynamic=DynamicPrecision(l_max=2, tau_sq=int(rng.integers(0, 3000))),
        saturated=saturated,
    )
    second = layer(
        rng,
        hardware,
        "conv2",
        (3, 3, 3),
        kernel_height=2,
        kernel_width=2,
        outputs=5,
        skip_zero_slices=True,
        counts_per_lsb=float(rng.choice([0.5, 1.0, 1.3])),
        saturated=saturated,
    )
    third = layer(
        rng,
        hardware,
        "fc",
        (5, 2, 2),
        kind="linear",
        kernel_height=2,
        kernel_width=2,
        outputs=4,
        last=True,
        dynamic=DynamicPrecision(),
        saturated=saturated,
    )
    return Network(name=f"random {seed}", hardware=hardware, layers=(first, second, third))


def random_images(seed: int, network: Network, count: int) -> np.ndarray:
    """uint8 (count, C, H, W): random, and one each of all zeros and all maxima from the second on."""
    rng, first = np.random.default_rng([seed, 1]), network.layers[0]
    top = (1 << first.input_bits) - 1
    images = rng.integers(0, top + 1, (count, first.channels, first.height, first.width))
    for index, value in ((1, 0), (2, top)):
        if index < count:
            images[index] = value
    return images.astype(np.uint8)
