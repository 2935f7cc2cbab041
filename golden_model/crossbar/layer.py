"""One layer as data: weights, tables and settings of a convolution or fully connected layer (system.md §3, §5a)."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from golden_model.config import HardwareConfig
from golden_model.trq import AdcRegisters


@dataclass(frozen=True, kw_only=True)
class DynamicPrecision:
    """Run-time registers of the dynamic-precision unit of one layer (system.md §6).

    l_max : most low bits that may be dropped, 0..7.
    tau_sq : squared tolerance, unsigned Q4.12 (0..65535); 0 switches the lossy part off.
    """

    l_max: int = 0
    tau_sq: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Geometry:
    """Shape of a convolution or fully connected layer on a map of channels x height x width.

    A fully connected layer on C x H x W is a convolution with kernel H x W, stride 1, no border (system.md §5a).
    K = channels * kernel_height * kernel_width, C outermost; N = outputs. pool : side of the maximum pooling after it.
    """

    name: str
    kind: str  # "conv" or "linear"
    channels: int
    height: int
    width: int
    kernel_height: int
    kernel_width: int
    stride: int
    pad: int
    pool: int
    outputs: int

    @property
    def k(self) -> int:
        return self.channels * self.kernel_height * self.kernel_width

    @property
    def conv_height(self) -> int:
        """Rows of window positions before pooling."""
        return (self.height + 2 * self.pad - self.kernel_height) // self.stride + 1

    @property
    def conv_width(self) -> int:
        return (self.width + 2 * self.pad - self.kernel_width) // self.stride + 1

    @property
    def out_height(self) -> int:
        """Rows after pooling; positions that do not fill a pooling window are dropped."""
        return self.conv_height // self.pool

    @property
    def out_width(self) -> int:
        return self.conv_width // self.pool

    @property
    def windows(self) -> int:
        """Windows that the hardware computes."""
        return self.out_height * self.out_width * self.pool * self.pool

    @property
    def products(self) -> int:
        """Multiplications of an activation with a weight per image."""
        return self.windows * self.k * self.outputs


@dataclass(frozen=True, kw_only=True, eq=False)
class Layer(Geometry):
    """One convolution or fully connected layer with everything the hardware needs.

    weights : (K, N) int64, |w| < 2**weight_bits.
    bias : (N,) int64, in units of Delta_R1 (acc + bias).
    multipliers : (N,) int64 in 0..65535; ignored by the last layer.
    shift : S, 0..63.
    pad_values : (C,) int64 border byte per channel, or None for a border of 0.
    block_widths : (segments, block_cols) int64, bit planes per block, 0..weight_bits.
    registers : A/D registers. min_count : (2**R - 1,) int64, min_count[t - 1] = ceil(lambda (t - 1/2)),
        the smallest count that answers 1 to threshold t (system.md §4.4). counts_per_lsb : lambda, for
        the record.
    dynamic : dynamic-precision registers, or None to stream all of input_bits.
    input_bits / output_bits : width of this layer's and the next layer's activations. output_ones : most ones of one of
        the next layer's (golden_model/few_ones.py), 0 for any.
    stop_bits : input bits after which outputs that are certainly 0 stop (golden_model/pairs/early_stop.py), bit j for
        input bit j; None for none.
    table : (2**output_bits,) int64, the activation that each requantised value stands for, looked up before pooling;
        None where it is the activation itself. With a table, output_bits is the width of what indexes it.
    """

    weights: np.ndarray
    bias: np.ndarray
    multipliers: np.ndarray
    shift: int
    block_widths: np.ndarray
    registers: AdcRegisters
    min_count: np.ndarray
    counts_per_lsb: float = 1.0
    pad_values: np.ndarray | None = None
    dynamic: DynamicPrecision | None = None
    skip_zero_slices: bool = False
    input_bits: int = 8
    output_bits: int = 8
    output_ones: int = 0
    stop_bits: int | None = field(default=None, metadata={"optional": True})
    table: np.ndarray | None = field(default=None, metadata={"optional": True})
    last: bool = False
    #: For people and reports only: real scales (e.g. {"weight": ..., "input": ..., "output": ...}).
    scales: dict[str, float] = field(default_factory=dict)

    def segments(self, hardware: HardwareConfig) -> int:
        return hardware.segments(self.k)

    def block_cols(self, hardware: HardwareConfig) -> int:
        return hardware.block_cols(self.outputs)

    def segment_rows(self, hardware: HardwareConfig) -> np.ndarray:
        """Rows of every segment, (segments,): ou_rows, in the last one those that are left."""
        return np.minimum(hardware.ou_rows, self.k - np.arange(self.segments(hardware)) * hardware.ou_rows)

    def block_columns(self, hardware: HardwareConfig) -> np.ndarray:
        """Columns of every block column, (block_cols,): ou_cols, in the last one those that are left."""
        return np.minimum(hardware.ou_cols, self.outputs - np.arange(self.block_cols(hardware)) * hardware.ou_cols)
