"""A digital stand-in for the analog macro: exact counts, ideal comparators (system.md §4.4, §10)."""

from __future__ import annotations

from collections.abc import Callable

from amaranth.hdl import Cat, Const, Module, Signal, Value, unsigned
from amaranth.lib import memory, wiring

from golden_model.config import HardwareConfig, bits_for
from rtl import layouts
from rtl.bit_count import bit_count
from rtl.block import Block, In
from rtl.interfaces import CrossbarPort

#: Rows that one look-up counts.
_ROWS_TOGETHER = 6


class EmulatedCrossbar(Block):
    """Cells in a memory, bit lines by counting, comparators by comparing levels.

    A sample reads the cells of its OU; in the clock after the transfer the count of rows where input
    bit and cell are both 1 is there for every lane, the reference turns it into a level, and the
    comparator answers level >= threshold, which is the count's comparison with min_count[threshold]
    (system.md §4.4). The levels of the running layer are copied from the reference memory whenever the
    layer changes or the memory is written; `settle_clocks` clocks later they are valid.

    Throughput: a sample, or an OU programmed or read back, a clock; always ready, except that a read
    back waits for the one before it. There is no reset of the contents, and cells and references have
    no initial value.

    Parameters beside those of every block
    --------------------------------------
    registered : for FPGAs: the levels of a sample pass a register, so that the way from the cells to the comparators
        is not part of the way from the comparators to the next sample. Cells are read as soon as a sample is on offer.
        After a sample that was not yet on offer in the clock before its transfer, `settling` is 1 for a clock: whoever
        drives the port must stand still, and what it offers is not taken.

    Members
    -------
    port : the analog macro's port, seen from the crossbar. settling : only if registered.
    """

    port: In(CrossbarPort)

    def __init__(self, config: HardwareConfig, *, registered: bool = False):
        self.registered = registered
        super().__init__(config, **({"settling": wiring.Out(1)} if registered else {}))

    @staticmethod
    def settle_clocks(config: HardwareConfig) -> int:
        """Clocks from a change of `layer` until the comparators follow it."""
        return config.ou_rows + 4

    def elaborate(self, platform):
        m = Module()
        config, port = self.config, self.port

        # ---- cells; address bits: OU column, OU row, pair, so that no multiplier is needed
        def cell_address(place):
            return Cat(place.ou_col, place.ou_row, place.pair)

        address_bits = layouts.ou_address(config).size - layouts.pair_index(config).width
        m.submodules.cells = cells = memory.Memory(
            shape=unsigned(config.ou_cells), depth=config.crossbar_pairs << address_bits, init=[]
        )
        write, read = cells.write_port(), cells.read_port()
        sampled, requested = Signal(), Signal()
        settling = self.settling if self.registered else Const(0, 1)
        if self.registered:
            input_slice, taken = self._look_ahead(m, sampled, requested)
            fetch = sampled | ~port.readback.valid
        else:
            input_slice, taken, fetch = Signal(config.ou_rows), Const(1, 1), sampled
            with m.If(sampled):
                m.d.sync += input_slice.eq(port.sample.payload.slice)
        m.d.comb += [
            port.program.ready.eq(1),
            *([port.decided.eq(~0)] if config.comparator_valid else []),
            write.en.eq(port.program.valid),
            write.addr.eq(cell_address(port.program.payload)),
            write.data.eq(port.program.payload.cells),
            port.sample.ready.eq(1),
            sampled.eq(port.sample.valid & ~settling),
            port.readback_request.ready.eq(~(sampled | port.readback.valid | settling)),
            requested.eq(port.readback_request.valid & port.readback_request.ready),
            read.en.eq(fetch | requested),
            read.addr.eq(cell_address(port.sample.payload)),
            port.readback.payload.eq(read.data),
        ]
        with m.If(requested):
            m.d.comb += read.addr.eq(cell_address(port.readback_request.payload))
            m.d.sync += port.readback.valid.eq(1)
        with m.Elif(port.readback.ready & ~settling):
            m.d.sync += port.readback.valid.eq(0)

        # ---- reference: levels of all layers, and a copy for the running one
        count_bits = bits_for(config.ou_rows)
        m.submodules.references = references = memory.Memory(
            shape=unsigned(config.adc_bits), depth=config.max_layers << count_bits, init=[]
        )
        reference_write, reference_read = references.write_port(), references.read_port()
        loaded, stale, loading, arriving = Signal(layouts.layer_index(config)), Signal(init=1), Signal(), Signal()
        count, arriving_count = Signal(count_bits), Signal(count_bits)
        m.d.comb += [
            reference_write.en.eq(port.reference_write.enable),
            reference_write.addr.eq(Cat(port.reference_write.count, port.reference_write.layer)),
            reference_write.data.eq(port.reference_write.level),
            reference_read.en.eq(loading),
            reference_read.addr.eq(Cat(count, loaded)),
        ]
        m.d.sync += [arriving.eq(loading), arriving_count.eq(count)]
        with m.If(port.reference_write.enable):
            m.d.sync += stale.eq(1)
        with m.Elif(stale | (loaded != port.layer)):
            m.d.sync += [loaded.eq(port.layer), stale.eq(0), loading.eq(1), count.eq(0)]
        with m.Elif(loading):
            m.d.sync += [count.eq(count + 1), loading.eq(count != config.ou_rows)]

        # ---- bit lines and comparators, each with its own table of levels
        ones_of = bit_count if self.registered else self._ones_table(m)
        for lane in range(config.lanes):
            m.submodules[f"levels{lane}"] = levels = memory.Memory(
                shape=unsigned(config.adc_bits), depth=1 << count_bits, init=[]
            )
            level_write, level_read = levels.write_port(), levels.read_port(domain="comb")
            active, level = Signal(config.ou_rows, name=f"active{lane}"), Signal(config.adc_bits, name=f"level{lane}")
            with m.If(taken):
                m.d["sync" if self.registered else "comb"] += level.eq(level_read.data)
            m.d.comb += [
                level_write.en.eq(arriving),
                level_write.addr.eq(arriving_count),
                level_write.data.eq(reference_read.data),
                active.eq(read.data.word_select(lane, config.ou_rows) & input_slice),
                level_read.addr.eq(ones_of(active)),
                port.comparators[lane].eq(level >= port.thresholds[lane]),
            ]
        return m

    def _look_ahead(self, m: Module, sampled: Signal, requested: Signal) -> tuple[Value, Value]:
        """The slice whose cells are read out in this clock, and whether their levels are those of a sample."""
        port, settling = self.port, self.settling
        offered, fetched, known = Signal.like(port.sample.payload), Signal(), Signal()
        m.d.sync += [
            offered.eq(port.sample.payload),
            fetched.eq(~(requested | port.readback.valid | port.program.valid)),
            settling.eq(sampled & ~known),
        ]
        m.d.comb += known.eq(fetched & (offered == port.sample.payload))
        return offered.slice, settling | sampled & known

    def _ones_table(self, m: Module) -> Callable[[Signal], Value]:
        """Counting by a table: fast to simulate. (Tools for FPGAs do not take a memory with so many ports.)"""
        together = min(self.config.ou_rows, _ROWS_TOGETHER)
        m.submodules.ones = ones = memory.Memory(
            shape=unsigned(bits_for(together)), depth=1 << together, init=[i.bit_count() for i in range(1 << together)]
        )

        def ones_of(active: Signal) -> Value:
            parts = []
            for row in range(0, len(active), together):
                part = ones.read_port(domain="comb")
                m.d.comb += part.addr.eq(active[row : row + together])
                parts.append(part.data)
            return sum(parts, Const(0, 1))

        return ones_of
