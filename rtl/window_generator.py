"""The window (im2col) address generator: which activation, or border value, is the next one of a window."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Const, Module, Mux, Shape, Signal, Value, signed

from golden_model.config import bits_for
from rtl import layouts
from rtl import tile_layouts as tile
from rtl.bit_count import bit_count
from rtl.block import Block, In, Out
from rtl.interfaces import activation_read
from rtl.table import Table


class WindowGenerator(Block):
    """Walks the windows of a step and the activations of each window (system.md §5a).

    A clock has one activation, or of a crossbar step of the pair machine up to `values_together` neighbours: of one
    row of the kernel, and of one segment.

    Several macros have the windows of neighbouring outputs, a round, at once: what a clock brings to one of them lies
    at most `REACH` activations behind what it brings to the one before, so that one read brings all of it.

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
    start : strobe, generate the next window, or round of windows.
    read : the activation memory.
    bytes : the activations of every macro's window; there is no ready. Of a macro without a window none are used.
    table_error : strobe, a border value has lost its parity.
    residual_request : strobe, the residuals of the present channel are to be read in this clock.
    place : where the windows lie; of those started last.
    pad_write : write port of the pad table; between runs.
    """

    settings: In(layouts.layer_settings)
    row_step: In(layouts.activation_address)
    pad_rows: In(layouts.activation_address)
    layer_start: In(1)
    start: In(1)
    read: Out(activation_read)
    bytes: Out(tile.of_macros(tile.window_bytes))
    table_error: Out(1)
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
        """First row and column of the next window, and address of that row in channel 0, modulo the address range; of a
        round, its first window's."""
        settings, macros = self.settings, self.config.macros
        abreast = tile.abreast(settings, self.config)
        coordinate, address_shape = self._coordinate(), layouts.activation_address(self.config)
        pool_y, pool_x = Signal.like(settings.pool, name="pool_y"), Signal.like(settings.pool, name="pool_x")
        out_y, out_x = Signal.like(settings.out_height, name="out_y"), Signal.like(settings.out_width, name="out_x")
        origin_y, origin_x, origin_row = Signal(coordinate), Signal(coordinate), Signal(address_shape)
        pooled_y, pooled_x, pooled_row = Signal(coordinate), Signal(coordinate), Signal(address_shape)
        next_x, next_y, next_row = Signal(coordinate), Signal(coordinate), Signal(address_shape)
        top, left, first_row = Signal(coordinate), Signal(coordinate), Signal(address_shape)
        next_pooled, left_over = Signal(coordinate), Signal.like(out_x)  # left_over : outputs of the row from out_x on
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
            next_pooled.eq(Mux(abreast, pooled_x + macros * self._distance(), next_x)),
            left_over.eq(settings.out_width - out_x),
            out_x_last.eq(left_over <= Mux(abreast, macros, 1)),
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
                self.place.active.eq(Cat(True, *(abreast & (left_over > i) for i in range(1, macros)))),
            ]
            m.d.sync += [pool_x.eq(pool_x + 1), origin_x.eq(next_x)]
            with m.If(pool_x_last):
                m.d.sync += [pool_x.eq(0), origin_x.eq(pooled_x)]
                m.d.sync += [pool_y.eq(pool_y + 1), origin_y.eq(next_y), origin_row.eq(next_row)]
                with m.If(pool_y_last):
                    m.d.sync += [pool_y.eq(0), origin_y.eq(pooled_y), origin_row.eq(pooled_row)]
                    m.d.sync += out_x.eq(out_x + Mux(abreast, macros, 1))
                    m.d.sync += [origin_x.eq(next_pooled), pooled_x.eq(next_pooled)]
                    with m.If(out_x_last):
                        m.d.sync += [out_x.eq(0), origin_x.eq(left), pooled_x.eq(left)]
                        m.d.sync += [out_y.eq(out_y + 1), origin_y.eq(next_y), pooled_y.eq(next_y)]
                        m.d.sync += [origin_row.eq(next_row), pooled_row.eq(next_row)]
        return origin_y, origin_x, origin_row

    def _walk(self, m: Module, origin_y: Signal, origin_x: Signal, origin_row: Signal) -> None:
        """The bytes of a window, or of a round; its channels, and the clocks left for the residual."""
        config, settings = self.config, self.settings
        element = layouts.is_element(settings)
        coordinate, address_shape = self._coordinate(), layouts.activation_address(config)
        m.submodules.pads = pads = Table(self.pad_write.shape(), config.pad_entries)

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
        inside, needed = Signal(config.fetch_bytes), Signal(config.fetch_bytes)
        m.d.comb += [
            kernel_x_last.eq(kernel_x + together == settings.kernel_width),
            kernel_last.eq(kernel_x_last & (kernel_y + 1 == settings.kernel_height) & ~leaves_out),
            channel_end.eq(active & Mux(element & settings.residual, leaves_out, kernel_last)),
            last.eq(channel_end & (channel + 1 == Mux(element, settings.outputs, settings.channels))),
            in_map.eq(map_channel < settings.channels),
            # A negative coordinate is a large unsigned number, so one comparison is enough.
            inside.eq(Mux(in_map & (y.as_unsigned() < settings.height), self._inside(m, x), 0)),
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
        border, pad_arrives = Mux(settings.pad_enable, pads.read.data, settings.pad_value), Signal()
        m.d.sync += pad_arrives.eq(pads.read.enable)
        m.d.comb += [
            needed.eq(Mux(self.place.active == 1, used, used.any().replicate(len(needed)))),
            self.read.enable.eq((needed & inside).any()),
            self.read.address.eq(row + x),
            pads.write.eq(self.pad_write),
            pads.read.enable.eq((needed & ~inside).any() & settings.pad_enable),
            pads.read.address.eq(pad_address),
            self.table_error.eq(pad_arrives & pads.wrong),
        ]
        m.d.sync += from_map.eq(inside)
        fetched = [Mux(here, value, border) for here, value in zip(from_map, self.read.data, strict=True)]
        for macro, given in enumerate(self.bytes):
            active = self.place.active[macro]
            m.d.sync += [
                given.used.eq(Mux(active, used, 0)),
                given.channel_last.eq(channel_end & active),
                given.last.eq(last & active),
            ]
            for i, value in enumerate(given.values):
                places = (macro * distance + i for distance in range(tile.distances(config)))
                m.d.comb += value.eq(Array(fetched[place] for place in places)[self._distance()])

    def _distance(self) -> Value:
        """Activations of a map's row from the window of a macro to that of the next one; 0 where one macro has one."""
        bits = bits_for(tile.distances(self.config) - 1)
        pool, stride = self.settings.pool[:bits], self.settings.stride_x[:bits]
        return Mux(tile.abreast(self.settings, self.config), (pool * stride)[:bits], 0)

    def _inside(self, m: Module, x: Signal) -> Value:
        """Which of the columns from x on lie in the map: those before its end, from its begin on."""
        count = self.config.fetch_bytes
        room, outside = Signal(range(count + 1)), Signal(range(count + 1))
        for near, far in ((room, self.settings.width - x), (outside, -x)):
            m.d.comb += near.eq(Mux(far < 0, 0, Mux(far > count, count, far)))
        return Cat((room > i) & (outside <= i) for i in range(count))

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
