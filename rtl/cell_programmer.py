"""Run-time programming of the cells, and their checksum read back."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib.crc.catalog import CRC32_ISO_HDLC

from golden_model.config import HardwareConfig, bits_for
from golden_model.registers import ARRAY_LIMIT, REGISTER
from rtl import layouts
from rtl import tile_layouts as tile
from rtl.block import Block, In, Out, Stream


class CellProgrammer(Block):
    """Collects bus words to the cells of an OU and writes them; reads all cells back into a CRC-32.

    OU column counts fastest, then OU row, then crossbar pair, of a check then macro. All macros are programmed with the
    same cells. A word of cells is `cell_words` bus words,
    least significant first. The checksum is that of zlib over the little-endian words, in that order.

    Throughput: a word a clock while collecting, one more clock per OU; a check takes a clock a word
    and 2 per OU on a crossbar that answers in one clock. Latency: an OU is offered to the crossbar in
    the clock after its last word.

    An array that lets an OU wait for `limit` clocks is given up: the offer is withdrawn, what was going on
    ends, and programming must say anew where it goes on. An answer that comes later is dropped.

    Parameters
    ----------
    limit : clocks that the array may take to program an OU, to take a request or to answer it.

    Members
    -------
    select : with `enable`, programming goes on at OU row 0, OU column 0 of `pair`; not while `busy`.
    cells : stream of words, ready unless `full` or `busy`. full : the place of the next word is beyond the last
        pair, as after reset, after a check and with `failed`.
    check : strobe, read the first `pairs` pairs of every macro; not while `busy`.
    busy : an OU waits to be programmed, or a check runs.
    gives_up : strobe, the array is given up. failed : it was; until the next `select` or `check`.
    checksum : result of the last check.
    restart : strobe, `failures` begins anew. failures : OUs that the array could not program, and the first of them.
    program, program_failed, readback_request, readback : the crossbar's port.
    """

    select: In(tile.pair_select)
    cells: In(Stream(tile.WORD))
    full: Out(1)
    check: In(1)
    pairs: In(REGISTER["CELL_PAIRS"].fields[0].bits)
    busy: Out(1)
    gives_up: Out(1)
    failed: Out(1)
    checksum: Out(tile.WORD)
    restart: In(1)
    failures: Out(tile.register_fields("CELL_FAILURES"))
    first_failed: Out(tile.register_fields("CELL_FAILED"))
    program: Out(Stream(layouts.cell_write))
    program_failed: In(1)
    readback_request: Out(Stream(layouts.readback_address))
    readback: In(Stream(layouts.cells))

    def __init__(self, config: HardwareConfig, *, limit: int = ARRAY_LIMIT):
        self.limit = limit
        super().__init__(config)

    def elaborate(self, platform):
        m = Module()
        config = self.config
        words, bits = config.cell_words, config.cell_words * tile.WORD
        m.submodules.crc = crc = CRC32_ISO_HDLC(data_width=tile.WORD).create()

        # One shift register collects words on the way in and delivers them on the way back.
        cells = Signal(bits)
        word = Signal(bits_for(words - 1))
        address = Signal(layouts.ou_address(config))
        # One more than the last pair, so that `full` can be told.
        pair = Signal(range(config.crossbar_pairs + 1), init=config.crossbar_pairs)
        macro = Signal(bits_for(config.macros - 1))
        step_address, restart = Signal(), Signal()
        m.d.comb += [
            address.pair.eq(pair),
            self.full.eq(pair == config.crossbar_pairs),
            self.program.payload.cells.eq(cells),
            self.checksum.eq(crc.crc),
            crc.data.eq(cells[: tile.WORD]),
        ]
        for name, _ in layouts.ou_address(config):
            m.d.comb += self.program.payload[name].eq(address[name])
            m.d.comb += self.readback_request.payload[name].eq(address[name])
        if config.macros > 1:
            m.d.comb += self.readback_request.payload.macro.eq(macro)
        with m.If(step_address):
            m.d.sync += address.ou_col.eq(address.ou_col + 1)
            with m.If(address.ou_col == config.grid_cols - 1):
                m.d.sync += [address.ou_col.eq(0), address.ou_row.eq(address.ou_row + 1)]
                with m.If(address.ou_row == config.grid_rows - 1):
                    m.d.sync += [address.ou_row.eq(0), pair.eq(pair + 1)]
        with m.If(restart):
            m.d.sync += [address.ou_col.eq(0), address.ou_row.eq(0), word.eq(0)]

        # ---- what the array says of an OU that it has programmed
        with m.If(self.restart):
            m.d.sync += self.failures.eq(0)
        with m.Elif(self.program.valid & self.program.ready & self.program_failed):
            m.d.sync += self.failures.units.eq(self.failures.units + ~self.failures.units.all())
            with m.If(self.failures.units == 0):
                m.d.sync += [self.first_failed[name].eq(address[name]) for name in address.shape().members]

        waits, waited = Signal(), Signal(range(self.limit))
        m.d.comb += self.gives_up.eq(waits & (waited == self.limit - 1))
        m.d.sync += waited.eq(Mux(waits, waited + 1, 0))
        with m.If(self.gives_up):
            m.d.sync += [pair.eq(config.crossbar_pairs), self.failed.eq(1)]
        with m.If(self.check | self.select.enable):
            m.d.sync += self.failed.eq(0)

        @contextmanager
        def waiting(name: str, transfer: Any):
            """A state of a wait for the array, which ends with `transfer` or when the array is given up."""
            with m.State(name):
                m.d.comb += waits.eq(~transfer)
                yield
                with m.If(self.gives_up):
                    m.next = "COLLECT"

        with m.FSM() as fsm:
            with m.State("COLLECT"):
                m.d.comb += self.readback.ready.eq(1)
                m.d.comb += self.cells.ready.eq(~self.full & ~self.check & ~self.select.enable)
                with m.If(self.check):
                    m.d.comb += [restart.eq(1), crc.start.eq(1)]
                    m.d.sync += [pair.eq(0), macro.eq(0)]
                    m.next = "REQUEST"
                with m.Elif(self.select.enable):
                    m.d.comb += restart.eq(1)
                    m.d.sync += pair.eq(self.select.pair)
                with m.Elif(self.cells.valid & self.cells.ready):
                    m.d.sync += [cells.eq(Cat(cells, self.cells.payload) >> tile.WORD), word.eq(word + 1)]
                    with m.If(word == words - 1):
                        m.d.sync += word.eq(0)
                        m.next = "PROGRAM"
            with waiting("PROGRAM", self.program.ready):
                m.d.comb += self.program.valid.eq(1)
                with m.If(self.program.ready):
                    m.d.comb += step_address.eq(1)
                    m.next = "COLLECT"
            with waiting("REQUEST", self.readback_request.ready | (pair == self.pairs)):
                with m.If((pair == self.pairs) & (macro != config.macros - 1)):
                    m.d.sync += [pair.eq(0), macro.eq(macro + 1)]
                with m.Elif(pair == self.pairs):
                    # Programming must say anew where it goes on.
                    m.d.sync += pair.eq(config.crossbar_pairs)
                    m.next = "COLLECT"
                with m.Else():
                    m.d.comb += self.readback_request.valid.eq(1)
                    with m.If(self.readback_request.ready):
                        m.next = "RECEIVE"
            with waiting("RECEIVE", self.readback.valid):
                m.d.comb += self.readback.ready.eq(1)
                m.d.sync += cells.eq(self.readback.payload)
                with m.If(self.readback.valid):
                    m.next = "CHECK"
            with m.State("CHECK"):
                m.d.comb += crc.valid.eq(1)
                m.d.sync += [cells.eq(cells >> tile.WORD), word.eq(word + 1)]
                with m.If(word == words - 1):
                    m.d.sync += word.eq(0)
                    m.d.comb += step_address.eq(1)
                    m.next = "REQUEST"
        m.d.comb += self.busy.eq(~fsm.ongoing("COLLECT"))
        return m
