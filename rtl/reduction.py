"""Reduction of element steps: the maximum or the sum of every channel's kernel (system.md §5a)."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal

from golden_model.registers import StepKind
from rtl import layouts
from rtl import tile_layouts as tile
from rtl.block import Block, In, Out


class Reduction(Block):
    """Turns the bytes of an element step's window into one value per channel: their maximum or their sum.

    The sum has room for the largest kernel. A channel's residual is taken in the clock of its
    `channel_last` and comes out beside its value.

    Throughput: a byte a clock. Latency: `latency` clocks from a channel's last clock to `reduced`.
    Reset: no channel has begun.

    Members
    -------
    settings : the step's descriptor, stable while the step runs.
    bytes : the window; no ready. residual : the channel's residual, in the clock of `channel_last`.
    reduced : one channel, for one clock; no ready. Without meaning in crossbar steps.
    """

    settings: In(layouts.layer_settings)
    bytes: In(tile.window_bytes)
    residual: In(tile.BYTE)
    reduced: Out(tile.reduced_channel)

    #: Clocks from `channel_last` to `reduced`.
    latency = 1

    def elaborate(self, platform):
        m = Module()
        first = Signal(init=1)  # the next byte is the first of its channel
        value, so_far = self.bytes.values[0], self.reduced.value
        largest = Mux(value > so_far, value, so_far)
        with m.If(self.bytes.used[0]):
            m.d.sync += first.eq(0)
            with m.If(first):
                m.d.sync += so_far.eq(value)
            with m.Elif(self.settings.step == StepKind.MAXIMUM):
                m.d.sync += so_far.eq(largest)
            with m.Else():
                m.d.sync += so_far.eq(so_far + value)
        with m.If(self.bytes.channel_last):
            m.d.sync += first.eq(1)
        m.d.sync += [
            self.reduced.valid.eq(self.bytes.channel_last),
            self.reduced.last.eq(self.bytes.last),
            self.reduced.residual.eq(self.residual),
        ]
        return m
