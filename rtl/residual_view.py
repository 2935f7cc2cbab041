"""The residual view: where the second input of every output lies (system.md §5a)."""

from __future__ import annotations

from amaranth.hdl import Array, Module, Mux, Signal, unsigned

from golden_model.config import bits_for
from rtl import layouts
from rtl import tile_layouts as tile
from rtl.block import Block, In, Out
from rtl.interfaces import activation_read


class ResidualView(Block):
    """Reads the residual r of output channel n at output position (oy, ox).

    With m = n - residual_first: r = mem[residual_base + m·residual_plane + oy·residual_row +
    ox·residual_column] where 0 <= m < residual_channels, residual_value elsewhere; 0 without `residual`.
    Positions are in raster order, channels ascending: only running sums, no products. Of a round of several macros,
    the residuals of neighbouring positions are read at once.

    Throughput: a channel of a round a clock. Latency: one clock.

    Members
    -------
    settings : the step's descriptor, stable while the step runs.
    layer_start : strobe, the next position is the first one of the step.
    start : strobe, the next output position, or round of them, begins, with channel 0.
    next : strobe, the present channel's residuals are wanted; goes on to the next channel.
    read : the activation memory.
    values : the residuals asked for in the clock before, one per macro.
    """

    settings: In(layouts.layer_settings)
    layer_start: In(1)
    start: In(1)
    next: In(1)
    read: Out(activation_read)
    values: Out(tile.of_macros(tile.BYTE))

    def elaborate(self, platform):
        m = Module()
        config, settings = self.config, self.settings
        address_shape = layouts.activation_address(config)
        abreast = tile.abreast(settings, config)

        # ---- position: address of channel 0 of the residual at the next position and at the start of its row
        position, row, next_row = (Signal(address_shape, name=n) for n in ("position", "row", "next_row"))
        column = Signal.like(settings.out_width, name="column")
        together = Mux(abreast, config.macros, 1)
        m.d.comb += next_row.eq(row + settings.residual_row)
        with m.If(self.layer_start):
            m.d.sync += [position.eq(settings.residual_base), row.eq(settings.residual_base), column.eq(0)]
        with m.Elif(self.start):
            with m.If(column + together >= settings.out_width):
                m.d.sync += [position.eq(next_row), row.eq(next_row), column.eq(0)]
            with m.Else():
                step = settings.residual_column << Mux(abreast, config.macros.bit_length() - 1, 0)
                m.d.sync += [position.eq(position + step), column.eq(column + together)]

        # ---- channel: m, where a negative one is a large unsigned number
        channel = Signal(unsigned(len(settings.residual_first) + 1))
        address = Signal(address_shape)
        inside = Signal()
        m.d.comb += [
            inside.eq(settings.residual & (channel < settings.residual_channels)),
            self.read.enable.eq(self.next & inside),
            self.read.address.eq(address),
        ]
        with m.If(self.start):
            m.d.sync += [address.eq(position), channel.eq(-settings.residual_first)]
        with m.Elif(self.next):
            m.d.sync += channel.eq(channel + 1)
            with m.If(inside):
                m.d.sync += address.eq(address + settings.residual_plane)

        # ---- the residuals, one clock after their address
        from_memory, apart = Signal(), Signal(bits_for(tile.distances(config) - 1))
        m.d.sync += from_memory.eq(inside)
        m.d.comb += apart.eq(Mux(abreast, settings.residual_column, 0))
        outside = Mux(settings.residual, settings.residual_value, 0)
        for macro, value in enumerate(self.values):
            near = Array(self.read.data[macro * distance] for distance in range(tile.distances(config)))
            m.d.comb += value.eq(Mux(from_memory, near[apart], outside))
        return m
