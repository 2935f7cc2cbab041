"""The window (im2col) address generator: which activation, or border value, is the next one of a window."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Shape, Signal, Value, signed, unsigned
from amaranth.lib import memory

from golden_model.config import bits_for
from rtl import layouts
from rtl import tile_layouts as tile
from rtl.bit_count import bit_count
from rtl.block import Block, In, Out
from rtl.interfaces import connect_write, window_read


class WindowGenerator(Block):
    """Walks the windows of a step and the activations of each window (system.md §5a).

    A clock has one activation, or of a crossbar step of the pair machine up to `values_together` neighbours: of one
    row of the kernel, and of one segment.

    Inside a window the channel is outermost, then the kernel row, then the kernel column. Windows are in
    pooled raster order, raster inside a pooling window, so that pooled values are complete one after the
    other. A crossbar step walks the C input channels. An element step walks the N output channels n;
    channel n reads input channel n - first_channel, and nothing but border where there is none. With a
    residual, every kernel of an element step is followed by one clock in which the map is not read and
    `residual_request` is given. What lies outside the map is the channel's pad byte, or pad_value. Only
    counters and adders: the two products that depend on the step alone, stride_y * W and pad_top * W,
    come from outside.

    Throughput: `bytes` every clock. Latency: the first byte is on `bytes` `latency` clocks after `start`;
    `start` may be given again in the clock of the last one.

    Members
    -------
    settings : the step's descriptor, stable while the step runs.
    row_step, pad_rows : stride_y * W and pad_top * W, modulo the memory's address range.
    layer_start : strobe, the next window is the first one of the step.
    start : strobe, generate the next window.
    read : the activation memory.
    bytes : the window's activations; there is no ready.
    residual_request : strobe, the residual of the present channel is to be read in this clock.
    place : where the window lies; of the window started last.
    pad_write : write port of the pad table; between runs.
    """

    settings: In(layouts.layer_settings)
    row_step: In(layouts.activation_address)
    pad_rows: In(layouts.activation_address)
    layer_start: In(1)
    start: In(1)
    read: Out(window_read)
    bytes: Out(tile.window_bytes)
    residual_request: Out(1)
    place: Out(tile.window_place)
    pad_write: In(tile.pad_write)

    #: Clocks from `start` to the first byte.
    latency = 2

    def elaborate(self, platform):
        m = Module()
        origin_y, origin_x, origin_row = self._origin(m)
        self._walk(m, origin_y, origin_x, origin_row)
        return m

    def _coordinate(self) -> Shape:
        """A row or column of the map or around it. It never wraps: there are at most that many positions after
        pooling, pool * stride < 2**16 rows apart, and a kernel of less than 2**16 rows."""
        positions = min(max(self.config.activation_bytes, self.config.max_n), (1 << 16) - 1)
        return signed(bits_for(positions) + 18)

    def _origin(self, m: Module) -> tuple[Signal, Signal, Signal]:
        """First row and column of the next window, and address of that row in channel 0, modulo the address range."""
        settings = self.settings
        coordinate, address_shape = self._coordinate(), layouts.activation_address(self.config)
        pool_y, pool_x = Signal.like(settings.pool, name="pool_y"), Signal.like(settings.pool, name="pool_x")
        out_y, out_x = Signal.like(settings.out_height, name="out_y"), Signal.like(settings.out_width, name="out_x")
        origin_y, origin_x, origin_row = Signal(coordinate), Signal(coordinate), Signal(address_shape)
        pooled_y, pooled_x, pooled_row = Signal(coordinate), Signal(coordinate), Signal(address_shape)
        next_x, next_y, next_row = Signal(coordinate), Signal(coordinate), Signal(address_shape)
        top, left, first_row = Signal(coordinate), Signal(coordinate), Signal(address_shape)
        pool_x_last, pool_y_last, out_x_last, out_y_last = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            top.eq(-settings.pad_top),
            left.eq(-settings.pad_left),
            first_row.eq(settings.source - self.pad_rows),
            next_x.eq(origin_x + settings.stride_x),
            next_y.eq(origin_y + settings.stride_y),
            next_row.eq(origin_row + self.row_step),
            pool_x_last.eq(pool_x + 1 == settings.pool),
            pool_y_last.eq(pool_y + 1 == settings.pool),
            out_x_last.eq(out_x + 1 == settings.out_width),
            out_y_last.eq(out_y + 1 == settings.out_height),
        ]
        with m.If(self.layer_start):
            m.d.sync += [pool_y.eq(0), pool_x.eq(0), out_y.eq(0), out_x.eq(0)]
            m.d.sync += [origin_y.eq(top), origin_x.eq(left), origin_row.eq(first_row)]
            m.d.sync += [pooled_y.eq(top), pooled_x.eq(left), pooled_row.eq(first_row)]
        with m.Elif(self.start):
            m.d.sync += [
                self.place.pool_first.eq((pool_x == 0) & (pool_y == 0)),
                self.place.pool_last.eq(pool_x_last & pool_y_last),
                self.place.last.eq(pool_x_last & pool_y_last & out_x_last & out_y_last),
            ]
            m.d.sync += [pool_x.eq(pool_x + 1), origin_x.eq(next_x)]
            with m.If(pool_x_last):
                m.d.sync += [pool_x.eq(0), origin_x.eq(pooled_x)]
                m.d.sync += [pool_y.eq(pool_y + 1), origin_y.eq(next_y), origin_row.eq(next_row)]
                with m.If(pool_y_last):
                    m.d.sync += [pool_y.eq(0), origin_y.eq(pooled_y), origin_row.eq(pooled_row)]
                    m.d.sync += [out_x.eq(out_x + 1), origin_x.eq(next_x), pooled_x.eq(next_x)]
                    with m.If(out_x_last):
                        m.d.sync += [out_x.eq(0), origin_x.eq(left), pooled_x.eq(left)]
                        m.d.sync += [out_y.eq(out_y + 1), origin_y.eq(next_y), pooled_y.eq(next_y)]
                        m.d.sync += [origin_row.eq(next_row), pooled_row.eq(next_row)]
        return origin_y, origin_x, origin_row

    def _walk(self, m: Module, origin_y: Signal, origin_x: Signal, origin_row: Signal) -> None:
        """The bytes of one window; its channels, and the clocks left for the residual."""
        config, settings = self.config, self.settings
        element = layouts.is_element(settings)
        coordinate, address_shape = self._coordinate(), layouts.activation_address(config)
        m.submodules.pads = pads = memory.Memory(shape=unsigned(tile.BYTE), depth=config.pad_entries, init=[])
        connect_write(m, pads, self.pad_write)
        pad_port = pads.read_port()

        # ---- where the walk is
        active, leaves_out = Signal(), Signal()  # leaves_out : this clock belongs to the residual
        kernel_x = Signal.like(settings.kernel_width, name="kernel_x")
        kernel_y = Signal.like(settings.kernel_height, name="kernel_y")
        channel = Signal.like(settings.outputs, name="channel")
        map_channel = Signal(len(settings.first_channel) + 1)  # a negative one is a large unsigned number
        x, y, row = Signal(coordinate), Signal(coordinate), Signal(address_shape)
        together, used = self._together(m, active & ~leaves_out, kernel_x, element)
        window_x, window_y = Signal(coordinate), Signal(coordinate)
        map_row, next_map_row = Signal(address_shape), Signal(address_shape)  # the window's first row in its channel
        pad_address = Signal(layouts.pad_entry(config))
        in_map, kernel_x_last, kernel_last, channel_end, last = (
            Signal(name=n) for n in ("in_map", "kernel_x_last", "kernel_last", "channel_end", "last")
        )
        inside = Signal(config.values_together)
        m.d.comb += [
            kernel_x_last.eq(kernel_x + together == settings.kernel_width),
            kernel_last.eq(kernel_x_last & (kernel_y + 1 == settings.kernel_height) & ~leaves_out),
            channel_end.eq(active & Mux(element & settings.residual, leaves_out, kernel_last)),
            last.eq(channel_end & (channel + 1 == Mux(element, settings.outputs, settings.channels))),
            in_map.eq(map_channel < settings.channels),
            # A negative coordinate is a large unsigned number, so one comparison a side is enough.
            *(
                here.eq(in_map & ((x + i)[: len(x)] < settings.width) & (y.as_unsigned() < settings.height))
                for i, here in enumerate(inside)
            ),
            next_map_row.eq(map_row + Mux(in_map, settings.in_plane, 0)),
            self.residual_request.eq(active & leaves_out),
        ]

        # ---- the next clock
        with m.If(self.start):
            m.d.sync += [
                active.eq(1),
                kernel_x.eq(0),
                kernel_y.eq(0),
                channel.eq(0),
                map_channel.eq(-settings.first_channel),
                pad_address.eq(settings.pad_base),
                x.eq(origin_x),
                y.eq(origin_y),
                row.eq(origin_row),
                window_x.eq(origin_x),
                window_y.eq(origin_y),
                map_row.eq(origin_row),
            ]
        with m.Elif(active):
            with m.If(channel_end):
                m.d.sync += [leaves_out.eq(0), active.eq(~last)]
                m.d.sync += [channel.eq(channel + 1), map_channel.eq(map_channel + 1), pad_address.eq(pad_address + 1)]
                m.d.sync += [kernel_x.eq(0), x.eq(window_x), kernel_y.eq(0), y.eq(window_y)]
                m.d.sync += [row.eq(next_map_row), map_row.eq(next_map_row)]
            with m.Elif(kernel_last):
                m.d.sync += leaves_out.eq(1)
            with m.Elif(kernel_x_last):
                m.d.sync += [kernel_x.eq(0), x.eq(window_x), kernel_y.eq(kernel_y + 1), y.eq(y + 1)]
                m.d.sync += row.eq(row + settings.width)
            with m.Else():
                m.d.sync += [kernel_x.eq(kernel_x + together), x.eq(x + together)]

        # ---- the bytes, one clock after their address
        from_map = Signal.like(inside)
        border = Mux(settings.pad_enable, pad_port.data, settings.pad_value)
        m.d.comb += [
            self.read.enable.eq((used & inside).any()),
            self.read.address.eq(row + x),
            pad_port.en.eq((used & ~inside).any()),
            pad_port.addr.eq(pad_address),
        ]
        m.d.sync += [
            self.bytes.used.eq(used),
            self.bytes.channel_last.eq(channel_end),
            self.bytes.last.eq(last),
            from_map.eq(inside),
        ]
        for i, value in enumerate(self.bytes.values):
            m.d.comb += value.eq(Mux(from_map[i], self.read.data[i], border))

    def _together(self, m: Module, valid: Value, kernel_x: Signal, element: Value) -> tuple[Value, Value]:
        """How many activations the present clock takes, and which of the `values_together`: as many as there are left
        in the row of the kernel and in the segment."""
        config, settings = self.config, self.settings
        most = config.values_together
        if most == 1:
            return Const(1), valid
        together, used = Signal(range(most + 1)), Signal(most)
        line = Signal(range(config.ou_rows))  # of the segment
        kernel_left, lines_left = settings.kernel_width - kernel_x, config.ou_rows - line
        fits = Cat((kernel_left > i) & (lines_left > i) for i in range(most))
        m.d.comb += [used.eq(Mux(valid, Mux(element, 1, fits), 0)), together.eq(bit_count(used))]
        with m.If(self.start):
            m.d.sync += line.eq(0)
        with m.Elif(valid):
            m.d.sync += line.eq(Mux(lines_left == together, 0, line + together))
        return together, used
