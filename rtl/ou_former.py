"""OU former: which word lines of a pack are switched on together."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from golden_model.config import HardwareConfig, bits_for
from rtl import pair_layouts as layouts
from rtl.bit_count import bit_count
from rtl.prefix_network import prefixes

#: Segments whose 1s are summed in the first step; the rest is left to the second one.
_BLOCK = 4


class OuFormer(wiring.Component):
    """Cuts the 1s of a masked slice into OUs: the first ou_rows 1s, the next ou_rows, and so on; none without a 1.

    1s are counted modulo ou_rows: one that is a multiple of ou_rows behind the first one begins an OU. A segment has
    ou_rows word lines, so at most one OU begins in it. An OU goes from the begin in one segment to the begin in the
    next segment that has one; those are the lowest two 1s of a word with a bit per segment.

    Three steps: (1) mask, 1s of every segment, their sums up to it within blocks of segments, modulo ou_rows;
    (2) 1s below every segment, where an OU begins in it; (3) an OU a clock.

    Latency: `latency` clocks from a slice to its first OU. Throughput: max(1, number of OUs) clocks a slice.
    Handshake: both streams hold valid and payload until ready; `slices.ready` depends on `ous.ready`.
    Reset: empty.

    Parameters
    ----------
    config : sizes; a pack has grid_rows segments.

    Members
    -------
    slices : stream of `pair_layouts.masked_slice`. ous : stream of `pair_layouts.formed_ou`, in order.
    """

    #: Clocks from the transfer of a slice to its first OU.
    latency = 2

    def __init__(self, config: HardwareConfig):
        self.config = config
        super().__init__(
            {
                "slices": In(stream.Signature(layouts.masked_slice(config))),
                "ous": Out(stream.Signature(layouts.formed_ou(config))),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        rows, segments = self.config.ou_rows, self.config.grid_rows
        pack = layouts.pack_lines(self.config)
        residue, tail = unsigned(bits_for(rows - 1)), layouts.ones_in_ou(self.config)
        tag = layouts.slice_tag(self.config)
        # `up_to` counts the 1s of a block up to a segment, `tail` those of the last OU; `after` are the 1s from a begin
        # on in its segment, `ahead` are all others; `begins` has a bit for every OU that is left.
        counted = Signal(
            data.StructLayout(
                {
                    "valid": unsigned(1),
                    "lines": pack,
                    "up_to": data.ArrayLayout(residue, segments),
                    "tag": tag,
                }
            )
        )
        begins = Signal(segments)
        formed = Signal(data.StructLayout({"ahead": pack, "after": pack, "tail": tail, "tag": tag}))
        last, done, rest = Signal(), Signal(), Signal(segments)
        m.d.comb += [done.eq(~self.ous.valid | (self.ous.ready & last)), self.slices.ready.eq(~counted.valid | done)]
        counted_next, formed_next, begins_next = Signal.like(counted), Signal.like(formed), Signal.like(begins)
        self._count(m, counted_next)
        self._begin(m, counted, formed_next, begins_next)
        with m.If(self.slices.ready):
            m.d.sync += counted.eq(counted_next)
        with m.If(done):
            m.d.sync += [formed.eq(formed_next), begins.eq(Mux(counted.valid, begins_next, 0))]
        with m.Elif(self.ous.ready):
            m.d.sync += begins.eq(rest)
        self._select(m, formed, begins, rest, last)
        return m

    def _count(self, m: Module, counted) -> None:
        """The 1s of its block up to every segment, modulo ou_rows."""
        residue, given = counted.up_to[0].shape(), self.slices.payload
        counts = [Signal(residue, name=f"count{s}") for s in range(self.config.grid_rows)]
        for segment, count in enumerate(counts):
            lines = counted.lines[segment]
            m.d.comb += [
                lines.eq(Mux(given.segments[segment], given.lines[segment], 0)),
                count.eq(bit_count(lines)),
            ]
        sums = prefixes(m, counts, residue, self._add, end=_BLOCK)
        m.d.comb += [
            counted.valid.eq(self.slices.valid),
            *(counted.up_to[segment].eq(total) for segment, total in enumerate(sums)),
            counted.tag.eq(given.tag),
        ]

    def _add(self, a: Value, b: Value) -> Value:
        """Modulo ou_rows; a sum of nothing but full segments may be ou_rows instead of 0."""
        beyond = a + b - self.config.ou_rows
        return Mux(beyond < 0, a + b, beyond)

    def _begin(self, m: Module, counted, formed, begins: Signal) -> None:
        """Where an OU begins in every segment."""
        rows, residue = self.config.ou_rows, counted.up_to[0].shape()
        largest = (1 << residue.width) - 1
        *befores, total = [Const(0, residue), *prefixes(m, counted.up_to, residue, self._add, begin=_BLOCK)]
        m.d.comb += [formed.tail.eq(Mux(total == 0, rows, total)), formed.tag.eq(counted.tag)]
        for segment, before in enumerate(befores):
            lines = counted.lines[segment]
            # Bit q: at most q more 1s up to the begin. It is the next 1 if the OU before is full (0 or ou_rows).
            full = (before > rows - q if rows - q < largest else 0 for q in range(1, rows))
            left = Cat(0, *((before == 0) | one for one in full), 1)
            for line in range(rows):
                reached = Signal(rows + 1, name=f"reached{segment}_{line}")
                m.d.comb += [
                    reached.eq(left | Mux(lines[line], left >> 1, 0)),
                    formed.after[segment][line].eq(lines[line] & reached[0]),
                    formed.ahead[segment][line].eq(lines[line] & ~reached[0]),
                ]
                left = reached
            m.d.comb += begins[segment].eq(left[0])

    def _select(self, m: Module, formed, begins: Signal, rest: Signal, last: Signal) -> None:
        """From the lowest begin up to the next one; whether one or more, and two or more begins are below a segment."""
        up_to = prefixes(m, [Cat(one, 0) for one in begins], unsigned(2), self._one_or_more)
        below = [Const(0, 2), *up_to[:-1]]
        one, two = (Cat(count[i] for count in below) for i in range(2))
        first, ahead = Signal.like(begins, name="first"), Signal.like(begins, name="ahead")
        m.d.comb += [
            rest.eq(begins & one),
            first.eq(begins & ~one),
            ahead.eq(one & ~two),  # the segment of the next begin included
            last.eq(~up_to[-1][1]),
            self.ous.valid.eq(up_to[-1][0]),
            self.ous.payload.ones.eq(Mux(last, formed.tail, self.config.ou_rows)),
            self.ous.payload.last.eq(last),
            self.ous.payload.tag.eq(formed.tag),
        ]
        for segment, lines in enumerate(self.ous.payload.lines):
            m.d.comb += lines.eq(
                Mux(first[segment], formed.after[segment], 0) | Mux(ahead[segment], formed.ahead[segment], 0)
            )

    def _one_or_more(self, a: Value, b: Value) -> Value:
        """Bit 0: one or more, bit 1: two or more."""
        return Cat(a[0] | b[0], a[1] | b[1] | (a[0] & b[0]))
