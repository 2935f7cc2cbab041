"""A digital stand-in for the analog macros of pairs: exact differences of counts, ideal comparators."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Signal, signed, unsigned
from amaranth.lib import data, memory

from golden_model.config import bits_for
from rtl import layouts, pair_layouts
from rtl import pack_layouts as packs
from rtl.bit_count import bit_count
from rtl.block import Block, In
from rtl.pair_interfaces import PairCrossbarPort, halves_of


class EmulatedPairCrossbar(Block):
    """Cells in a memory with a word per OU column of a pair, bit lines by counting, their difference by subtracting.

    A sample reads the cells of its OU column; in the clock after the transfer they are counted, c+ - c- of the word
    lines that are on and whose cell is 1, and from the next one on comparators of its place answer with the difference
    that it holds.

    All macros have the same cells, and here they share one memory.

    Throughput: a sample a clock and half, an OU programmed or read back a clock; always ready, except that a read back
    waits for samples of half 0 and for the read back before it. There is no reset of the contents, and cells have no
    initial value.

    Members
    -------
    port : the analog macro's port, seen from the crossbar.
    """

    port: In(PairCrossbarPort)

    def elaborate(self, platform) -> Module:
        m = Module()
        config, port = self.config, self.port
        place = layouts.ou_address(config).members
        depth = config.crossbar_pairs << place["ou_col"].width
        shape = data.ArrayLayout(unsigned(config.ou_cells), config.grid_rows)
        m.submodules.cells = cells = memory.Memory(shape=shape, depth=depth, init=[])
        write, reads = cells.write_port(granularity=1), [cells.read_port() for _ in range(packs.all_halves(config))]

        # ---- programming and reading back, an OU row of a word
        written = port.program.payload
        requested, row = Signal(), Signal(place["ou_row"])
        m.d.comb += [
            port.program.ready.eq(1),
            write.addr.eq(Cat(written.ou_col, written.pair)),
            write.data.eq(Cat(written.cells for _ in range(config.grid_rows))),
            write.en.eq(port.program.valid << written.ou_row),
            port.readback_request.ready.eq(~port.half0.sample.valid & ~port.readback.valid),
            requested.eq(port.readback_request.valid & port.readback_request.ready),
            port.readback.payload.eq(reads[0].data[row]),
        ]
        with m.If(requested):
            m.d.sync += [port.readback.valid.eq(1), row.eq(port.readback_request.payload.ou_row)]
        with m.Elif(port.readback.ready):
            m.d.sync += port.readback.valid.eq(0)

        # ---- sampling
        differences = data.ArrayLayout(signed(bits_for(config.ou_rows * config.grid_rows) + 1), config.ou_cols)
        for half, read in zip(halves_of(port, config), reads, strict=True):
            sample, lines = half.sample.payload, Signal(pair_layouts.pack_lines(config))
            held = Signal(data.ArrayLayout(differences, config.sample_places))
            counted, counting, place = Signal(differences), Signal(), Signal.like(sample.place)
            m.d.comb += [half.sample.ready.eq(1), read.en.eq(half.sample.valid)]
            if config.comparator_valid:
                m.d.comb += half.decided.eq(~0)
            m.d.comb += read.addr.eq(Cat(sample.ou_col, sample.pair))
            m.d.sync += counting.eq(half.sample.valid)
            with m.If(half.sample.valid):
                m.d.sync += [lines.eq(sample.lines), place.eq(sample.place)]
            with m.If(counting):
                m.d.sync += held[place].eq(counted)
            for column in range(config.ou_cols):
                positive, negative = (
                    sum(
                        bit_count(ou.word_select(polarity * config.ou_cols + column, config.ou_rows) & on)
                        for ou, on in zip(read.data, lines, strict=True)
                    )
                    for polarity in (0, 1)
                )
                m.d.comb += [
                    counted[column].eq(positive - negative),
                    half.comparators[column].eq(held[half.places[column]][column] >= half.thresholds[column]),
                ]
        with m.If(requested):
            asked = port.readback_request.payload
            m.d.comb += [reads[0].en.eq(1), reads[0].addr.eq(Cat(asked.ou_col, asked.pair))]
        return m
