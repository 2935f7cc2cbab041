"""Fast loading: packets of a stream become writes of registers and memories."""

from __future__ import annotations

from contextlib import contextmanager

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib.wiring import In as Input
from amaranth.lib.wiring import Out as Output

from golden_model.registers import ADDRESS_BITS, REGION_SHIFT, REGISTER
from rtl import tile_layouts as tile
from rtl.block import Block, In, Out, Stream

#: Signals of the AXI4-Stream, seen from the tile, without the prefix that the enclosing block gives them.
SIGNALS = {
    "tdata": Input(tile.WORD),
    "tvalid": Input(1),
    "tready": Output(1),
    "tlast": Input(1),
}


class Loader(Block):
    """Turns packets into writes. A packet is a row of sections, a section an address, a number of words, the words.

    Words go to the address and those behind it, of a memory, or all to the address, of a register; what is legal is
    the register bank's to say. Cells go to the cell programmer and wait for it; a section of another register waits,
    before its words, until no cells are programmed or checked. A word that is refused, a packet that ends inside
    a section, or an address beyond the bus sets `status.error`, and the rest of the packet is dropped: the next one
    begins with a section again.

    Throughput: a word a clock, less what the bus takes, whose accesses go first. Latency: a word is written in the
    clock after it was taken, cells are taken in their clock. Ready waits for no valid. Reset: the next word begins
    a packet.

    Members
    -------
    words : stream of words; `last` ends a packet, and its last section with it.
    writes : stream of writes. refused : the write taken in the clock before is illegal.
    cells : words for the programmer, offered only when they are taken at once. cells_open : a section of cells goes on.
    cells_busy : the programmer works. cells_refused : it has no place for the next word, or a network runs.
    clear : strobes: `error` becomes 0; `busy`: the next word begins a packet, for senders that gave up in the middle of
        one. status : what LOAD_STATUS reads.
    """

    words: In(Stream(tile.load_word()))
    writes: Out(Stream(tile.load_write()))
    refused: In(1)
    cells: Out(Stream(tile.WORD))
    cells_open: Out(1)
    cells_busy: In(1)
    cells_refused: In(1)
    clear: In(tile.register_fields("LOAD_STATUS"))
    status: Out(tile.register_fields("LOAD_STATUS"))

    def elaborate(self, platform):
        m = Module()
        word, status = self.words.payload, self.status
        address, left = Signal(ADDRESS_BITS), Signal(tile.WORD)
        taken, wrong = Signal(), Signal()  # a word is taken, and it is wrong
        of_register, of_cells = Signal(), Signal()
        m.d.comb += [
            taken.eq(self.words.valid & self.words.ready),
            of_register.eq(address[REGION_SHIFT:] == 0),
            of_cells.eq(address == REGISTER["CELL_DATA"].offset),
            self.writes.payload.address.eq(address),
            self.writes.payload.data.eq(word.data),
            self.cells.payload.eq(word.data),
        ]
        with m.If(self.clear.busy):
            m.d.sync += status.busy.eq(0)
        with m.Elif(taken):
            m.d.sync += status.busy.eq(~word.last)
        with m.If(wrong | self.refused):
            m.d.sync += status.error.eq(1)
        with m.Elif(self.clear.error):
            m.d.sync += status.error.eq(0)

        @contextmanager
        def packet(name: str):
            """A state that a wrong word leaves (one that was refused may have ended its packet), and the host."""
            with m.State(name):
                yield
                with m.If(wrong | (self.refused & status.busy)):
                    m.next = "DROP"
                    with m.If(taken & word.last):
                        m.next = "ADDRESS"
                with m.If(self.clear.busy):
                    m.next = "ADDRESS"

        with m.FSM():
            with packet("ADDRESS"):
                m.d.comb += self.words.ready.eq(1)
                m.d.sync += address.eq(word.data)
                with m.If(taken):
                    m.d.comb += wrong.eq(word.last | word.data[ADDRESS_BITS:].any())
                    m.next = "COUNT"
            with packet("COUNT"):
                m.d.comb += self.words.ready.eq(~(of_register & ~of_cells & self.cells_busy))
                m.d.sync += left.eq(word.data)
                with m.If(taken):
                    m.d.comb += wrong.eq(word.last & word.data.any())
                    m.next = "WORDS"
                    with m.If(word.data == 0):
                        m.next = "ADDRESS"
            with packet("WORDS"):
                with m.If(of_cells):
                    m.d.comb += [
                        self.cells_open.eq(1),
                        self.cells.valid.eq(self.words.valid & ~self.cells_busy & ~self.cells_refused),
                        self.words.ready.eq(~self.cells_busy | self.cells_refused),
                    ]
                with m.Else():
                    m.d.comb += [self.writes.valid.eq(self.words.valid), self.words.ready.eq(self.writes.ready)]
                with m.If(taken):
                    m.d.comb += wrong.eq((word.last & (left != 1)) | (of_cells & self.cells_refused))
                    m.d.sync += [left.eq(left - 1), address.eq(Mux(of_register, address, address + 4))]
                    with m.If(left == 1):
                        m.next = "ADDRESS"
            with packet("DROP"):
                m.d.comb += self.words.ready.eq(1)
                with m.If(taken & word.last):
                    m.next = "ADDRESS"
        return m
