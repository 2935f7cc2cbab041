"""The window (im2col) address generator: which activation, or border value, is the next row of a window."""

from __future__ import annotations

from amaranth.hdl import Module, Signal, signed, unsigned
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from golden_model.config import HardwareConfig, bits_for
from rtl import layouts
from rtl import tile_layouts as tile


class WindowGenerator(wiring.Component):
    """Walks the windows of a layer and the K activations of each window (system.md §5a).

    Inside a window the channel is outermost, then the kernel row, then the kernel column. Windows are in
    pooled raster order, raster inside a pooling window, so that pooled values are complete one after the
    other. Outside the map the value is the channel's pad byte, or 0. Only counters and adders: the two
    products that depend on the layer alone, stride * W and pad * W, come from outside.

    Throughput: one byte a clock. Latency: the first byte is on `bytes` `latency` clocks after `start`;
    the last one K - 1 clocks later, and `start` may be given again from that clock on.

    Parameters
    ----------
    config : sizes.

    Members
    -------
    settings : the layer's descriptor, stable while the layer runs.
    row_step, pad_rows : stride * W and pad * W, modulo the buffer's address range.
    layer_start : strobe, the next window is the first one of the layer.
    start : strobe, generate the next window.
    read, read_data : the activation buffer, which answers in the next clock.
    bytes : the window's activations; there is no ready, the consumer must take a byte a clock.
    place : where the window lies; of the window started last.
    pad_write : write port of the pad table; between layers.
    """

    #: Clocks from `start` to the first byte.
    latency = 2

    def __init__(self, config: HardwareConfig):
        self.config = config
        super().__init__(
            {
                "settings": In(layouts.layer_settings(config)),
                "row_step": In(tile.activation_address(config)),
                "pad_rows": In(tile.activation_address(config)),
                "layer_start": In(1),
                "start": In(1),
                "read": Out(tile.activation_read(config)),
                "read_data": In(tile.BYTE),
                "bytes": Out(tile.window_byte(config)),
                "place": Out(tile.window_place(config)),
                "pad_write": In(tile.memory_write(tile.pad_entry(config), unsigned(tile.BYTE))),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config, settings = self.config, self.settings
        address_shape = tile.activation_address(config)
        # A coordinate lies in -pad .. H - 1 + pad, and one stride beyond while the walk steps on.
        coordinate = signed(bits_for(max(config.activation_bytes, 255)) + 3)

        m.submodules.pads = pads = memory.Memory(shape=unsigned(tile.BYTE), depth=config.pad_entries, init=[])
        pad_port, pad_write_port = pads.read_port(), pads.write_port()
        m.d.comb += [
            pad_write_port.en.eq(self.pad_write.enable),
            pad_write_port.addr.eq(self.pad_write.address),
            pad_write_port.data.eq(self.pad_write.data),
        ]

        # ---- origin of the next window; `_row` is the address part y * W, modulo the address range
        pool_y, pool_x = Signal(8), Signal(8)
        out_y, out_x = Signal(address_shape), Signal(address_shape)
        origin_y, origin_x, origin_row = Signal(coordinate), Signal(coordinate), Signal(address_shape)
        pooled_y, pooled_x, pooled_row = Signal(coordinate), Signal(coordinate), Signal(address_shape)
        next_x, next_y, next_row = Signal(coordinate), Signal(coordinate), Signal(address_shape)
        border = Signal(coordinate)
        pool_x_last, pool_y_last, out_x_last, out_y_last = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            border.eq(-settings.pad),
            next_x.eq(origin_x + settings.stride),
            next_y.eq(origin_y + settings.stride),
            next_row.eq(origin_row + self.row_step),
            pool_x_last.eq(pool_x + 1 == settings.pool),
            pool_y_last.eq(pool_y + 1 == settings.pool),
            out_x_last.eq(out_x + 1 == settings.out_width),
            out_y_last.eq(out_y + 1 == settings.out_height),
        ]

        # ---- position inside the window
        active = Signal()
        k_shape = unsigned(bits_for(config.max_k - 1))
        kernel_x, kernel_y, channel = Signal(k_shape), Signal(k_shape), Signal(k_shape)
        kernel_x_last, kernel_y_last, channel_last, last = Signal(), Signal(), Signal(), Signal()
        x, y, row = Signal(coordinate), Signal(coordinate), Signal(address_shape)
        window_x, window_y, channel_row = Signal(coordinate), Signal(coordinate), Signal(address_shape)
        pad_address = Signal(tile.pad_entry(config))
        inside = Signal()
        m.d.comb += [
            kernel_x_last.eq(kernel_x + 1 == settings.kernel_width),
            kernel_y_last.eq(kernel_y + 1 == settings.kernel_height),
            channel_last.eq(channel + 1 == settings.channels),
            last.eq(kernel_x_last & kernel_y_last & channel_last),
            # A negative coordinate is a large unsigned number, so one comparison a side is enough.
            inside.eq((x.as_unsigned() < settings.width) & (y.as_unsigned() < settings.height)),
            self.read.enable.eq(active & inside),
            self.read.address.eq(row + x),
            pad_port.en.eq(active & ~inside),
            pad_port.addr.eq(pad_address),
        ]

        with m.If(self.start):
            m.d.sync += [
                active.eq(1),
                kernel_x.eq(0),
                kernel_y.eq(0),
                channel.eq(0),
                pad_address.eq(settings.pad_base),
                x.eq(origin_x),
                y.eq(origin_y),
                row.eq(origin_row),
                window_x.eq(origin_x),
                window_y.eq(origin_y),
                channel_row.eq(origin_row + settings.in_plane),
                self.place.pool_first.eq((pool_x == 0) & (pool_y == 0)),
                self.place.pool_last.eq(pool_x_last & pool_y_last),
                self.place.last.eq(pool_x_last & pool_y_last & out_x_last & out_y_last),
            ]
        with m.Elif(active):
            m.d.sync += [kernel_x.eq(kernel_x + 1), x.eq(x + 1)]
            with m.If(kernel_x_last):
                m.d.sync += [kernel_x.eq(0), x.eq(window_x), kernel_y.eq(kernel_y + 1), y.eq(y + 1)]
                m.d.sync += row.eq(row + settings.width)
                with m.If(kernel_y_last):
                    m.d.sync += [kernel_y.eq(0), y.eq(window_y), row.eq(channel_row)]
                    m.d.sync += [channel_row.eq(channel_row + settings.in_plane)]
                    m.d.sync += [channel.eq(channel + 1), pad_address.eq(pad_address + 1)]
            with m.If(last):
                m.d.sync += active.eq(0)

        with m.If(self.layer_start):
            m.d.sync += [pool_y.eq(0), pool_x.eq(0), out_y.eq(0), out_x.eq(0)]
            m.d.sync += [origin_y.eq(border), origin_x.eq(border), origin_row.eq(-self.pad_rows)]
            m.d.sync += [pooled_y.eq(border), pooled_x.eq(border), pooled_row.eq(-self.pad_rows)]
        with m.Elif(self.start):
            m.d.sync += [pool_x.eq(pool_x + 1), origin_x.eq(next_x)]
            with m.If(pool_x_last):
                m.d.sync += [pool_x.eq(0), origin_x.eq(pooled_x)]
                m.d.sync += [pool_y.eq(pool_y + 1), origin_y.eq(next_y), origin_row.eq(next_row)]
                with m.If(pool_y_last):
                    m.d.sync += [pool_y.eq(0), origin_y.eq(pooled_y), origin_row.eq(pooled_row)]
                    m.d.sync += [out_x.eq(out_x + 1), origin_x.eq(next_x), pooled_x.eq(next_x)]
                    with m.If(out_x_last):
                        m.d.sync += [out_x.eq(0), origin_x.eq(border), pooled_x.eq(border)]
                        m.d.sync += [out_y.eq(out_y + 1), origin_y.eq(next_y), pooled_y.eq(next_y)]
                        m.d.sync += [origin_row.eq(next_row), pooled_row.eq(next_row)]

        # ---- the byte, one clock after its address
        from_map, from_table = Signal(), Signal()
        m.d.sync += [
            self.bytes.valid.eq(active),
            self.bytes.last.eq(last),
            from_map.eq(inside),
            from_table.eq(~inside & settings.pad_enable),
        ]
        with m.If(from_map):
            m.d.comb += self.bytes.value.eq(self.read_data)
        with m.Elif(from_table):
            m.d.comb += self.bytes.value.eq(pad_port.data)
        return m
