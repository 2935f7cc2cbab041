"""Events of the machines to compare with, on the same network (system.md §11).

All follow from the geometry of the network; the SRE-like machine, which does not, is in machines.py.

* `uniform_events` of `baseline_planes`: ISAAC-like under the OU limit. The one baseline: every OU of every plane and
  polarity, all input bits, uniform conversion with R_ideal decisions, nothing skipped, lanes in lock step.
* `idealised`: the same on a machine that switches 128 rows on at once and converts 8 bits, for reference only; real
  arrays cannot (system.md §5).
* `uniform_events` of `layer_wise_widths`: one width per layer, that of its widest block, as a network trained layer by
  layer has; of the layers' own widths: a width per block (BWQ). Otherwise as the baseline.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from golden_model import timing
from golden_model.config import HardwareConfig
from golden_model.cost.work import Widths, stages
from golden_model.crossbar.layer import Layer
from golden_model.events import Events
from golden_model.graph.network import Graph

#: Magnitude planes of the baseline: 8-bit symmetric weights are a sign and 7 bits.
BASELINE_PLANES = 7
#: Rows switched on at once, and bits of the converter, of the over-idealised machine.
IDEALISED_ROWS, IDEALISED_BITS = 128, 8


def baseline_planes(hardware: HardwareConfig) -> int:
    """Planes of the baseline: 7, or weight_bits if that is less."""
    return min(BASELINE_PLANES, hardware.weight_bits)


def layer_widths(network: Graph, widths: Widths | None) -> list[np.ndarray]:
    """`widths` as one int64 array (segments, block columns) per layer, all groups of the nodes in order.

    None takes the layers' own.

    Raises ValueError for a wrong number of arrays, a wrong shape or planes outside 0..weight_bits.
    """
    hardware, layers = network.hardware, network.layers
    widths = [layer.block_widths for layer in layers] if widths is None else widths
    if not isinstance(widths, int) and len(widths) != len(layers):
        raise ValueError(f"block widths must be given for all {len(layers)} layers, got {len(widths)}")
    made = []
    for i, layer in enumerate(layers):
        shape = (layer.segments(hardware), layer.block_cols(hardware))
        planes = np.full(shape, widths, dtype=np.int64) if isinstance(widths, int) else np.asarray(widths[i])
        if planes.shape != shape or (planes < 0).any() or (planes > hardware.weight_bits).any():
            raise ValueError(
                f"layer {layer.name}: block widths must be {shape} integers in 0..{hardware.weight_bits}, "
                f"got shape {planes.shape}"
            )
        made.append(planes.astype(np.int64))
    return made


# ---- from the geometry --------------------------------------------------------------------------
def uniform_events(
    network: Graph,
    widths: Widths | None = None,
    operations: int | None = None,
    *,
    own_input_bits: bool = False,
    of_pairs: bool = False,
) -> Events:
    """Events of one image on a machine that skips nothing it stores, leading shape (stages,).

    Every stored plane of every block meets every input bit of every window; both polarities of every column < N
    are converted with `operations` comparator decisions (default: uniform conversion with R_ideal bits,
    system.md §4.4); lock step (system.md §5).

    Parameters
    ----------
    widths : planes of every block; None takes the layers' own.
    own_input_bits : stream only as many bits as the layer's activations have, not `hardware.input_bits`; the rest
        counts as skipped bits.
    of_pairs : convert the difference of both polarities once, with R_ideal + 1 bits: the converters serve two OUs of a
        segment at a time.
    """
    hardware = network.hardware
    decisions = hardware.ideal_bits + of_pairs if operations is None else operations
    planes = iter(layer_widths(network, widths))
    return Events(
        [
            sum(
                _uniform(layer, hardware, next(planes), decisions, own_input_bits, of_pairs).counts
                for layer in stage.layers
            )
            for stage in stages(network)
        ]
    )


def _uniform(
    layer: Layer, hardware: HardwareConfig, planes: np.ndarray, decisions: int, own_bits: bool, of_pairs: bool
) -> Events:
    bits = layer.input_bits if own_bits else hardware.input_bits
    slices = layer.windows * bits
    at_once = 2 if of_pairs else 1
    conversions = slices * 2 * int((planes @ layer.block_columns(hardware)).sum()) // at_once
    clocks = -(-planes.sum(axis=1) * bits // at_once) * max(1, hardware.sample_interval, decisions)
    window = int(timing.window_cycles(hardware, layer.k, layer.outputs, clocks))
    return Events.of(
        ou_activations=slices * int(planes.sum()),
        skipped_planes=layer.windows * hardware.input_bits * int((hardware.weight_bits - planes).sum()),
        skipped_bits=layer.windows * (hardware.input_bits - bits) * int(planes.sum()),
        conversions_r2=conversions,
        ad_operations=conversions * decisions,
        input_bits_streamed=slices * len(planes),
        cycles=timing.c_layer(hardware) + layer.windows * window,
    )


def layer_wise_widths(network: Graph) -> list[np.ndarray]:
    """Every block as wide as the widest of its layer; the groups of a node are one layer."""
    made = []
    for stage in stages(network):
        widest = max(int(layer.block_widths.max(initial=0)) for layer in stage.layers)
        made += [np.full(layer.block_widths.shape, widest, dtype=np.int64) for layer in stage.layers]
    return made


def idealised(hardware: HardwareConfig) -> HardwareConfig:
    """The over-idealised machine: all 128 rows at once (or all there are), an 8-bit converter per column."""
    rows = min(IDEALISED_ROWS, hardware.rows)
    return replace(hardware, ou_rows=rows, adc_bits=IDEALISED_BITS, group_segments=None)
