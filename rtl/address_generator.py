"""Precision-aware address generator: width table -> OUs with their places, by counting."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, unsigned
from amaranth.lib import data
from amaranth.lib.memory import Memory

from golden_model.config import bits_for
from rtl import layouts
from rtl.block import Block, In, Out
from rtl.interfaces import OuLists
from rtl.table import Table


class AddressGenerator(Block):
    """Expands the width table into the OUs of each segment, in the order of the placement (system.md §5).

    The only metadata is the width table: the number of bit planes p of every block, in the order
    (segment, block column). Placement: a layer starts at crossbar pair `crossbar_base`; the OUs of a
    segment follow each other in the order (block column, plane) along OU columns, then OU rows, then
    pairs; a segment that has planes starts at a fresh OU row. Running counters follow it; there is no
    multiplier, divider or stored pointer.

    Two lists of (block column, p) are kept: the current segment's, walked by `step`, and the next
    segment's, which is filled at one block column per clock (p = 0 fills nothing).

    Latency: the first list is complete W + 1 clocks after `start` (W = settings.block_cols); a further
    list is complete W clocks after the `switch` to the segment before it, and its first block column is
    expanded in the clock of that switch.
    Reset: idle, no list.

    Members
    -------
    settings : layer descriptor, stable from two clocks before `start` to the end of the window.
    width_write : write port of the width table; entries are 0..weight_bits. Its last write is two clocks before
        `start` at the latest.
    start : strobe, begins a window: back to the first segment. Not while a window is running.
    lists : what the generator found, see `OuLists`.
    out_of_range : from the clock after such a plane was found: the layer needs more crossbar pairs than there
        are. It depends on the settings and the width table only, not on the input.
    table_error : strobe, a width has lost its parity.
    """

    settings: In(layouts.layer_settings)
    width_write: In(layouts.width_write)
    start: In(1)
    lists: Out(OuLists)
    out_of_range: Out(1)
    table_error: Out(1)

    def _place(self) -> data.StructLayout:
        """A place that may lie behind the last pair, by at most what one block needs."""
        members = layouts.ou_address(self.config).members
        pairs = bits_for(self.config.crossbar_pairs + self.config.weight_bits)
        return data.StructLayout({**members, "pair": unsigned(pairs)})

    def elaborate(self, platform) -> Module:
        m = Module()
        config = self.config
        width = self._width_table(m)

        # Registers of the list being filled (the next segment's) and of the one being walked.
        bank = Signal()  # which half of the item memory is the current segment's
        place = self._place()
        next_count, count = (Signal(bits_for(config.max_block_cols), name=n) for n in ("next_count", "count"))
        next_base, base = Signal(place), Signal(place)

        item = data.StructLayout({"block_col": layouts.block_column(config), "planes": unsigned(len(width))})
        m.submodules.items = items = Memory(shape=item, depth=2 << len(self.lists.ou.block_col), init=[])
        self._fill(m, items, width, bank, next_count, next_base)
        self._walk(m, items, bank, next_count, count, next_base, base)

        m.d.comb += self.lists.next_empty.eq(next_count == 0)
        with m.If(self.lists.switch):
            m.d.sync += [bank.eq(~bank), count.eq(next_count), base.eq(next_base)]
        return m

    def _width_table(self, m: Module) -> Signal:
        """The width table, read two entries ahead; returns the entry to expand, from a register.

        Between windows the first entry is read again and again, and the register follows it.
        """
        config = self.config
        m.submodules.widths = widths = Table(self.width_write.shape(), config.width_entries)
        read = widths.read
        following = Signal(layouts.width_address(config))  # the entry behind the one in the register
        width, wrong = Signal(bits_for(config.weight_bits), name="width"), Signal()
        # No window is running; an entry is used up in this clock.
        self._idle, self._expand = Signal(), Signal()
        m.d.comb += [
            widths.write.eq(self.width_write),
            read.enable.eq(1),
            self.table_error.eq(self._expand & wrong),
        ]
        with m.If(self._idle):
            m.d.comb += read.address.eq(self.settings.width_base + self.start)
            m.d.sync += following.eq(self.settings.width_base + 1)
        with m.Else():
            m.d.comb += read.address.eq(following + self._expand)
            m.d.sync += following.eq(read.address)
        with m.If(self._idle | self._expand):
            m.d.sync += [width.eq(read.data), wrong.eq(widths.wrong)]
        return width

    def _fill(self, m: Module, items: Memory, width: Signal, bank: Signal, next_count: Signal, next_base) -> None:
        """Expand one block column per clock into the next segment's list."""
        config, lists = self.config, self.lists
        left = Signal(bits_for(config.max_segments))  # segments not yet expanded
        column = Signal(layouts.block_column(config))
        last = Signal()
        free = Signal(self._place())  # first OU that no expanded block owns
        m.d.comb += [
            self._idle.eq((left == 0) | self.out_of_range),
            self._expand.eq((left != 0) & (~lists.next_ready | lists.switch) & ~self.out_of_range),
            last.eq(column + 1 == self.settings.block_cols),
        ]

        # A switch in this clock hands the old current list over, empty.
        present = Signal.like(next_count)
        planes = Signal.like(lists.next_planes)
        first = column == 0
        m.d.comb += [
            present.eq(Mux(first, 0, next_count)),
            planes.eq(Mux(first, 0, lists.next_planes)),
        ]
        write = items.write_port()
        m.d.comb += [
            write.en.eq(self._expand & (width != 0)),
            write.addr.eq(Cat(present[: len(lists.ou.block_col)], Mux(lists.switch, bank, ~bank))),
            write.data.block_col.eq(column),
            write.data.planes.eq(width),
        ]

        behind = self._after(m, free, width, "behind")
        fresh = self._fresh_row(m, behind, "fresh")
        pairs_left = behind.pair < config.crossbar_pairs
        at_end = (behind.pair == config.crossbar_pairs) & (behind.ou_row == 0) & (behind.ou_col == 0)
        beyond = Signal()
        m.d.comb += beyond.eq((width != 0) & ~pairs_left & ~at_end)
        with m.If(lists.switch):
            m.d.sync += lists.next_ready.eq(0)
        with m.If(self._expand):
            m.d.sync += [
                next_count.eq(present + (width != 0)),
                lists.next_planes.eq(planes + width),
                column.eq(Mux(last, 0, column + 1)),
                free.eq(Mux(last, fresh, behind)),
            ]
            with m.If(first):
                m.d.sync += next_base.eq(free)
            with m.If(last):
                m.d.sync += [lists.next_ready.eq(1), left.eq(left - 1)]
            with m.If(beyond):
                m.d.sync += [lists.next_ready.eq(0), self.out_of_range.eq(1)]
        with m.If(self.start):
            m.d.sync += [
                lists.next_ready.eq(0),
                self.out_of_range.eq(0),
                left.eq(self.settings.segments),
                column.eq(0),
                free.pair.eq(self.settings.crossbar_base),
                free.ou_row.eq(0),
                free.ou_col.eq(0),
            ]

    def _walk(self, m: Module, items: Memory, bank: Signal, next_count, count, next_base, base) -> None:
        """Point at the OUs of the current segment one after the other."""
        lists = self.lists
        index = Signal.like(lists.ou.block_col, name="index")
        plane = Signal.like(lists.ou.plane, name="plane")
        position = Signal(self._place())

        # The OU pointed at: the walk's, or the first of the next segment.
        shown_index, shown_count = Signal.like(index), Signal.like(count)
        shown_base, shown = Signal.like(base), Signal.like(position)
        with m.If(lists.from_next):
            m.d.comb += [shown.eq(next_base), shown_base.eq(next_base), shown_count.eq(next_count)]
        with m.Else():
            m.d.comb += [
                shown.eq(position),
                shown_base.eq(base),
                shown_count.eq(count),
                shown_index.eq(index),
                lists.ou.plane.eq(plane),
            ]
        read = items.read_port(domain="comb")
        m.d.comb += [
            read.addr.eq(Cat(shown_index, bank ^ lists.from_next)),
            lists.ou.block_col.eq(read.data.block_col),
            lists.ou.pair.eq(shown.pair),
            lists.ou.ou_row.eq(shown.ou_row),
            lists.ou.ou_col.eq(shown.ou_col),
        ]

        last_plane = Signal()
        m.d.comb += [
            last_plane.eq(lists.ou.plane + 1 == read.data.planes),
            lists.ou_last.eq(last_plane & (shown_index + 1 == shown_count)),
        ]
        behind = self._after(m, shown, 1, "walked")
        with m.If(lists.step & ~lists.ou_last):
            m.d.sync += [
                position.eq(behind),
                plane.eq(Mux(last_plane, 0, lists.ou.plane + 1)),
                index.eq(shown_index + last_plane),
            ]
        with m.Elif(lists.step | lists.switch):
            m.d.sync += [position.eq(shown_base), plane.eq(0), index.eq(0)]

    # ---- counting in OU columns, OU rows and pairs -------------------------------------------
    def _wrapped(self, value, limit: int, largest: int):
        """(value mod limit, value div limit) for value <= largest, by conditional subtraction."""
        carry = 0
        for _ in range(largest // limit):
            wraps = value >= limit
            value = Mux(wraps, value - limit, value)
            carry = carry + wraps
        return value, carry

    def _carry_rows(self, m: Module, result, place, rows, most: int) -> None:
        """result = `place`'s OU row and pair, `rows` <= `most` OU rows further."""
        config = self.config
        row, pairs = self._wrapped(place.ou_row + rows, config.grid_rows, config.grid_rows - 1 + most)
        m.d.comb += [result.ou_row.eq(row), result.pair.eq(place.pair + pairs)]

    def _after(self, m: Module, place, amount, name: str):
        """The place `amount` OUs behind `place`: an int, or a signal of at most weight_bits."""
        config = self.config
        most = amount if isinstance(amount, int) else config.weight_bits
        result = Signal(self._place(), name=name)
        largest = config.grid_cols - 1 + most
        column, rows = self._wrapped(place.ou_col + amount, config.grid_cols, largest)
        m.d.comb += result.ou_col.eq(column)
        self._carry_rows(m, result, place, rows, largest // config.grid_cols)
        return result

    def _fresh_row(self, m: Module, place, name: str):
        """The first OU row that starts at or behind `place`."""
        result = Signal(self._place(), name=name)
        self._carry_rows(m, result, place, place.ou_col != 0, 1)
        return result
