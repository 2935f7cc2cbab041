"""The dynamic-precision unit: window buffer, rounding and bit slices (ReDy; system.md §6)."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, unsigned
from amaranth.lib import data, memory

from golden_model.config import bits_for
from rtl import layouts
from rtl import tile_layouts as tile
from rtl.bit_count import bit_count
from rtl.block import Block, In, Out, Stream
from rtl.group_precision import GroupPrecision


class DynamicPrecision(Block):
    """Collects a window and streams it as bit slices, one beat per segment.

    The window buffer has one word per segment, stored as `input_bits` slices of `ou_rows` bits; rows
    >= K are 0. `GroupPrecision` decides lo and hi of every group meanwhile. On the way out each
    activation becomes q'' = min(round_half_up_shift(q, lo), 2**(hi - lo + 1) - 1) << lo. The slices are
    vectors over rows, so the rounding is one ripple carry over slices for all rows at once: adding half
    of 2**lo leaves q' in positions lo..hi, and a carry beyond hi means that q' is all ones.

    Throughput: `bytes` every clock in, a segment a clock out. Latency: the first segment is valid `latency`
    clocks after the window's last byte, whatever the settings are. The whole window must be taken before
    the next one's first byte.

    Members
    -------
    settings : the layer's descriptor, stable while the layer runs.
    bytes : rows of a window; no ready.
    segments : the window's segments in ascending order.
    """

    settings: In(layouts.layer_settings)
    bytes: In(tile.window_bytes)
    segments: Out(Stream(layouts.segment))

    #: Clocks from a window's last byte to its first segment: the last group's precision, its store, a
    #: read of the buffers, rounding.
    latency = GroupPrecision.latency + 3

    def elaborate(self, platform):
        m = Module()
        config = self.config
        bits, ou_rows = config.input_bits, config.ou_rows
        slices_shape = data.ArrayLayout(unsigned(ou_rows), bits)
        segment_index = layouts.segment_index(config)

        m.submodules.precision = precision = GroupPrecision(config)
        m.submodules.window = window = memory.Memory(shape=slices_shape, depth=config.max_segments, init=[])
        m.submodules.groups = groups = memory.Memory(
            shape=tile.group_precision(config), depth=config.max_groups, init=[]
        )
        window_write, window_read = window.write_port(), window.read_port()
        group_write, group_read = groups.write_port(), groups.read_port()
        m.d.comb += [precision.settings.eq(self.settings), precision.bytes.eq(self.bytes)]

        # ---- in: `row_select` has a one at the row that the next byte fills, those behind it fill the next rows
        row_select = Signal(ou_rows, init=1)
        collected, filled = Signal(slices_shape), Signal(slices_shape)
        load_index, last_index, segment_end = Signal(segment_index), Signal(segment_index), Signal()
        rows = [(row_select << i)[:ou_rows] for i in range(config.values_together)]
        fills = [Mux(used, row, 0) for used, row in zip(self.bytes.used, rows, strict=True)]
        valid = self.bytes.used[0]
        m.d.comb += [
            segment_end.eq(Cat(row[-1] for row in fills).any() | self.bytes.last),
            window_write.en.eq(valid & segment_end),
            window_write.addr.eq(load_index),
            window_write.data.eq(filled),
        ]
        for i in range(bits):
            ones = collected[i]
            for row, value in zip(fills, self.bytes.values, strict=True):
                ones = ones | Mux(value[i], row, 0)
            m.d.comb += filled[i].eq(ones)
        with m.If(valid):
            m.d.sync += [collected.eq(filled), row_select.eq(row_select << bit_count(self.bytes.used))]
            with m.If(segment_end):
                m.d.sync += [collected.eq(0), row_select.eq(1), load_index.eq(load_index + 1)]
            with m.If(self.bytes.last):
                m.d.sync += [last_index.eq(load_index), load_index.eq(0)]

        # ---- precision of every group; the last one starts the way out
        window_loaded = Signal()
        group_count = Signal.like(group_write.addr)
        start = Signal()
        m.d.comb += [
            group_write.en.eq(precision.precisions.valid),
            group_write.addr.eq(group_count),
            group_write.data.eq(precision.precisions.value),
        ]
        last_pipe = Signal(GroupPrecision.latency)
        m.d.sync += last_pipe.eq(last_pipe << 1 | (valid & self.bytes.last))
        m.d.comb += window_loaded.eq(last_pipe[-1])
        m.d.sync += start.eq(window_loaded)
        with m.If(precision.precisions.valid):
            m.d.sync += group_count.eq(Mux(window_loaded, 0, group_count + 1))

        # ---- out: address, then the buffers' outputs, then the rounded slices
        reading, read_valid, advance = Signal(), Signal(), Signal()
        read_index = Signal(segment_index)
        in_group, group_index = Signal(bits_for(config.segments_per_group - 1)), Signal.like(group_read.addr)
        m.d.comb += [
            advance.eq(~self.segments.valid | self.segments.ready),
            window_read.en.eq((start | reading) & advance),
            group_read.en.eq(window_read.en),
            window_read.addr.eq(read_index),
            group_read.addr.eq(group_index),
        ]
        with m.If(start):
            m.d.sync += reading.eq(1)
        with m.If(advance):
            m.d.sync += read_valid.eq(start | reading)
            with m.If(start | reading):
                m.d.sync += [read_index.eq(read_index + 1), in_group.eq(in_group + 1)]
                with m.If(in_group == config.segments_per_group - 1):
                    m.d.sync += [in_group.eq(0), group_index.eq(group_index + 1)]
                with m.If(read_index == last_index):
                    m.d.sync += [reading.eq(0), read_index.eq(0), in_group.eq(0), group_index.eq(0)]

        slices, mask, half = window_read.data, group_read.data.mask, group_read.data.half
        rounded, beyond = Signal(slices_shape), Signal(ou_rows)
        carry, saturated = 0, 0
        for i in range(bits):
            addend = half[i].replicate(ou_rows)
            m.d.comb += rounded[i].eq(slices[i] ^ addend ^ carry)
            above_hi = (mask[i - 1] & ~mask[i]).replicate(ou_rows) if i else 0
            saturated = saturated | (rounded[i] & above_hi)
            carry_next = Signal(ou_rows, name=f"carry{i}")
            m.d.comb += carry_next.eq(slices[i] & addend | slices[i] & carry | addend & carry)
            carry = carry_next
        # Without rounding nothing can pass hi, and a static layer's input is cut to its bits.
        with m.If(half.any()):
            m.d.comb += beyond.eq(saturated | carry & mask[-1].replicate(ou_rows))
        with m.If(advance):
            m.d.sync += self.segments.valid.eq(read_valid)
            with m.If(read_valid):
                m.d.sync += self.segments.payload.mask.eq(mask)
                for i in range(bits):
                    m.d.sync += self.segments.payload.slices[i].eq((rounded[i] | beyond) & mask[i].replicate(ou_rows))
        return m
