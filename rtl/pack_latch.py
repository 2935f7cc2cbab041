"""Pack latch: one input bit of all segments of a pack, held for the word lines while the next one is collected."""

from __future__ import annotations

from amaranth.hdl import Module, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from golden_model.config import HardwareConfig
from rtl import pair_layouts as layouts


class PackLatch(wiring.Component):
    """Collects a pack segment by segment and hands it over when the one before has been used.

    A segment comes with all bits of its activations, as the window register has it; the latch takes one of them. A pack
    may have fewer than grid_rows segments; the rows of those that it does not have are 0.

    Latency: `latency` clocks from the last segment to `packs`. Throughput: `segments_per_clock`, and a clock between
    two packs.
    Handshake: `packs` holds valid and payload until ready; `segments.ready` does not depend on `packs.ready`.
    Reset: empty.

    Parameters
    ----------
    config : sizes. segments_per_clock : how many come in a beat, 1..grid_rows.

    Members
    -------
    segments : stream of `pair_layouts.pack_segments`, the segments of a pack ascending.
    packs : stream of `pair_layouts.latched_pack`.
    """

    #: Clocks from the transfer of a pack's last segment to `packs`.
    latency = 2

    def __init__(self, config: HardwareConfig, segments_per_clock: int = 1):
        if not 1 <= segments_per_clock <= config.grid_rows:
            limit = f"1..{config.grid_rows}, the segments of a pack"
            raise ValueError(f"PackLatch.segments_per_clock must be in {limit}, got {segments_per_clock}")
        self.config, self.segments_per_clock = config, segments_per_clock
        super().__init__(
            {
                "segments": In(stream.Signature(layouts.pack_segments(config, segments_per_clock))),
                "packs": Out(stream.Signature(layouts.latched_pack(config))),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        segments, each = self.config.grid_rows, self.segments_per_clock
        given, held = self.segments.payload, self.packs.payload
        collected, full = Signal(layouts.latched_pack(self.config), init={"empty": 1}), Signal()
        place = Signal(-(-segments // each), init=1)  # one bit, at the segments that come next
        lines = Signal(data.ArrayLayout(unsigned(self.config.ou_rows), each))
        m.d.comb += self.segments.ready.eq(~full)
        m.d.comb += (lines[i].eq(given.segments[i][given.input_bit]) for i in range(each))

        with m.If(self.packs.ready):
            m.d.sync += self.packs.valid.eq(0)
        with m.If(full & (~self.packs.valid | self.packs.ready)):
            m.d.sync += [held.eq(collected), self.packs.valid.eq(1), full.eq(0)]
            m.d.sync += [collected.lines.eq(0), collected.empty.eq(1), place.eq(1)]
        with m.If(self.segments.valid & self.segments.ready):
            for segment in range(segments):
                with m.If(place[segment // each]):
                    m.d.sync += collected.lines[segment].eq(lines[segment % each])
            empty = collected.empty & ~lines.as_value().any()
            m.d.sync += [collected.empty.eq(empty), place.eq(place << 1), full.eq(given.last)]
        return m
