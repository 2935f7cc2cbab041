"""Checks a layer descriptor against the hardware configuration before the layer runs (system.md §4.1, §5a)."""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from golden_model.config import HardwareConfig, bits_for
from golden_model.registers import ErrorCode
from rtl import layouts
from rtl import tile_layouts as tile


class DescriptorCheck(wiring.Component):
    """Refuses a layer that does not fit, and computes the two products that the window walk needs.

    A serial multiplier forms one product after the other; each is compared with what the descriptor
    says it is. Checked: every size is at least 1 and fits; H·W = in_plane; C·in_plane and
    N·out_plane fit a buffer; K = C·kh·kw = (segments - 1)·ou_rows + last_rows; out_height·out_width =
    out_plane; N = (block_cols - 1)·ou_cols + last_cols; the tables reach far enough; the last layer has
    one output position. Where the windows lie needs no check: outside the map is border.

    Latency: `done` comes `latency(config)` clocks after `start`, error or not. Throughput: one check per
    that many clocks.

    Parameters
    ----------
    config : sizes.

    Members
    -------
    settings : the descriptor, stable from `start` on.
    start, done : strobes.
    error : ErrorCode.NONE, LAYER_GEOMETRY or UNSUPPORTED; valid with `done`.
    row_step, pad_rows : stride·W and pad·W modulo the buffer's address range; valid from `done` on.
    """

    def __init__(self, config: HardwareConfig):
        self.config = config
        super().__init__(
            {
                "settings": In(layouts.layer_settings(config)),
                "start": In(1),
                "done": Out(1),
                "error": Out(4),
                "row_step": Out(tile.activation_address(config)),
                "pad_rows": Out(tile.activation_address(config)),
            }
        )

    #: Products that are formed.
    _STEPS = 9

    @staticmethod
    def operand_bits(config: HardwareConfig) -> int:
        """Bits of every size of a legal descriptor."""
        return bits_for(max(config.activation_bytes, config.max_k, config.max_n, 255))

    @classmethod
    def latency(cls, config: HardwareConfig) -> int:
        """Clocks from `start` to `done`."""
        return cls._STEPS * (cls.operand_bits(config) + 2) + 1

    def elaborate(self, platform):
        m = Module()
        config, s = self.config, self.settings
        bits = self.operand_bits(config)
        largest = config.activation_bytes

        # ---- serial multiplier: multiplier from the least significant bit up
        step, bit = Signal(range(self._STEPS)), Signal(range(bits))
        multiplicand, multiplier, product = Signal(2 * bits), Signal(bits), Signal(2 * bits)

        # Operands, and what must hold for the product, or where it goes. Step 3 goes on with step 2's product.
        block_columns = (s.block_cols - 1) * config.ou_cols + s.last_cols
        k = (s.segments - 1) * config.ou_rows + s.last_rows
        products = [
            (s.height, s.width, product == s.in_plane),
            (s.channels, s.in_plane, product <= largest),
            (s.kernel_height, s.kernel_width, product <= config.max_k),
            (product, s.channels, (product <= config.max_k) & (product == k)),
            (s.out_height, s.out_width, product == s.out_plane),
            (s.outputs, s.out_plane, (product <= largest) | s.last),
            (s.segments, s.block_cols, product + s.width_base <= config.width_entries),
            (s.stride, s.width, self.row_step),
            (s.pad, s.width, self.pad_rows),
        ]
        limits = [
            (s.channels, 1, config.max_k),
            (s.height, 1, largest),
            (s.width, 1, largest),
            (s.in_plane, 1, largest),
            (s.kernel_height, 1, config.max_k),
            (s.kernel_width, 1, config.max_k),
            (s.out_height, 1, largest),
            (s.out_width, 1, largest),
            (s.out_plane, 1, largest),
            (s.outputs, 1, config.max_n),
            (s.segments, 1, config.max_segments),
            (s.last_rows, 1, config.ou_rows),
            (s.block_cols, 1, config.max_block_cols),
            (s.last_cols, 1, config.ou_cols),
            (s.stream_bits, 1, config.input_bits),
            (s.out_bits, 1, config.input_bits),
        ]
        fits = Signal()
        # A layer without planes needs no crossbar, so its base may be just beyond the last one.
        in_range = (s.crossbar_base <= config.crossbar_pairs) & (block_columns == s.outputs)
        in_range &= s.channel_base + s.outputs <= config.channel_entries
        in_range &= ~s.pad_enable | (s.pad_base + s.channels <= config.pad_entries)
        in_range &= ~s.last | (s.out_plane == 1) & (s.pool == 1)
        in_range &= s.stride.any() & s.pool.any()
        for value, low, high in limits:
            in_range &= (value >= low) & (value <= high)

        with m.FSM():
            with m.State("IDLE"), m.If(self.start):
                m.d.sync += [step.eq(0), fits.eq(in_range)]
                m.next = "LOAD"
            with m.State("LOAD"):
                m.d.sync += [product.eq(0), bit.eq(0)]
                with m.Switch(step):
                    for index, (left, right, _) in enumerate(products):
                        with m.Case(index):
                            m.d.sync += [multiplicand.eq(left[:bits]), multiplier.eq(right[:bits])]
                m.next = "MULTIPLY"
            with m.State("MULTIPLY"):
                with m.If(multiplier[0]):
                    m.d.sync += product.eq(product + multiplicand)
                m.d.sync += [multiplicand.eq(multiplicand << 1), multiplier.eq(multiplier >> 1), bit.eq(bit + 1)]
                with m.If(bit == bits - 1):
                    m.next = "COMPARE"
            with m.State("COMPARE"):
                with m.Switch(step):
                    for index, (_, _, outcome) in enumerate(products):
                        with m.Case(index):
                            if outcome is self.row_step or outcome is self.pad_rows:
                                m.d.sync += outcome.eq(product)
                            else:
                                m.d.sync += fits.eq(fits & outcome)
                m.d.sync += step.eq(step + 1)
                m.next = "LOAD"
                with m.If(step == self._STEPS - 1):
                    m.next = "DONE"
            with m.State("DONE"):
                m.d.comb += self.done.eq(1)
                with m.If(s.residual | s.average):
                    m.d.comb += self.error.eq(ErrorCode.UNSUPPORTED)
                with m.Elif(~fits):
                    m.d.comb += self.error.eq(ErrorCode.LAYER_GEOMETRY)
                m.next = "IDLE"
        return m
