"""A digital stand-in for the analog macros of pairs: exact differences of counts, ideal comparators."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, memory, wiring

from golden_model.config import HardwareConfig, bits_for
from rtl import layouts, pair_layouts
from rtl import pack_layouts as packs
from rtl.bit_count import bit_count
from rtl.block import Block, In
from rtl.pair_interfaces import PairCrossbarPort, halves_of


class EmulatedPairCrossbar(Block):
    """Cells in a memory with a word per OU column of a pair, bit lines by counting, their difference by subtracting.

    A sample reads the cells of its OU column; from the clock after the transfer on, comparators of its place answer
    c+ - c- >= threshold, counts of the word lines that are on and whose cell is 1. The other place's differences are in
    a register.

    All macros have the same cells, and here they share one memory.

    Throughput: a sample a clock and half, an OU programmed or read back a clock; always ready, except that a read back
    waits for samples of half 0 and for the read back before it. There is no reset of the contents, and cells have no
    initial value.

    Parameters beside those of every block
    --------------------------------------
    registered : for FPGAs: the counts of a sample and then their differences pass a register, so that the way from the
        cells to the comparators is not part of the way from the comparators to the next sample. In the two clocks after
        a sample `settling` is 1: whoever drives the port must stand still, and what it offers is not taken.

    Members
    -------
    port : the analog macro's port, seen from the crossbar. settling : only if registered.
    """

    port: In(PairCrossbarPort)

    def __init__(self, config: HardwareConfig, *, registered: bool = False):
        self.registered = registered
        super().__init__(config, **({"settling": wiring.Out(1)} if registered else {}))

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
        settling = self.settling if self.registered else Const(0, 1)
        m.d.comb += [
            port.program.ready.eq(1),
            write.addr.eq(Cat(written.ou_col, written.pair)),
            write.data.eq(Cat(written.cells for _ in range(config.grid_rows))),
            write.en.eq(port.program.valid << written.ou_row),
            port.readback_request.ready.eq(~(port.half0.sample.valid | port.readback.valid | settling)),
            requested.eq(port.readback_request.valid & port.readback_request.ready),
            port.readback.payload.eq(reads[0].data[row]),
        ]
        with m.If(requested):
            m.d.sync += [port.readback.valid.eq(1), row.eq(port.readback_request.payload.ou_row)]
        with m.Elif(port.readback.ready & ~settling):
            m.d.sync += port.readback.valid.eq(0)

        # ---- sampling
        halves = halves_of(port, config)
        taken = [half.sample.valid & ~settling for half in halves]
        differences = data.ArrayLayout(signed(bits_for(config.ou_rows * config.grid_rows) + 1), config.ou_cols)
        step = m.d["sync" if self.registered else "comb"]
        for half, read, sampled in zip(halves, reads, taken, strict=True):
            sample, lines = half.sample.payload, Signal(pair_layouts.pack_lines(config))
            latest, other = (Signal(differences, name=name) for name in ("latest", "other"))
            place = Signal()  # of the latest sample
            m.d.comb += [half.sample.ready.eq(1), read.en.eq(sampled)]
            m.d.comb += read.addr.eq(Cat(sample.ou_col, sample.pair))
            with m.If(sampled):
                m.d.sync += [lines.eq(sample.lines), place.eq(sample.place)]
                with m.If(sample.place != place):
                    m.d.sync += other.eq(latest)
            for column in range(config.ou_cols):
                sums = []
                for polarity in (0, 1):
                    counts = [Signal(range(config.ou_rows + 1), name="count") for _ in range(config.grid_rows)]
                    for ou, on, count in zip(read.data, lines, counts, strict=True):
                        cells = ou.word_select(polarity * config.ou_cols + column, config.ou_rows)
                        step += count.eq(bit_count(cells & on))
                    sums.append(sum(counts, Const(0, 1)))
                held = Mux(half.places[column] == place, latest[column], other[column])
                step += latest[column].eq(sums[0] - sums[1])
                m.d.comb += half.comparators[column].eq(held >= half.thresholds[column])
        if self.registered:
            counting = Signal()
            m.d.sync += [counting.eq(Cat(taken).any()), self.settling.eq(Cat(taken, counting).any())]
        with m.If(requested):
            asked = port.readback_request.payload
            m.d.comb += [reads[0].en.eq(1), reads[0].addr.eq(Cat(asked.ou_col, asked.pair))]
        return m
