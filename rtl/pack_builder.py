"""The pack builder: width table -> masks and column groups of both halves, once per layer."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, enum
from amaranth.lib.memory import Memory, ReadPort, WritePort

from golden_model.config import HardwareConfig, bits_for
from rtl import layouts
from rtl import pack_layouts as packs
from rtl.block import Block, In, Out, Where
from rtl.table import Table


class Activity(enum.Enum, shape=unsigned(3)):
    """What is done at the moment."""

    IDLE = 0
    COUNT = 1
    READ = 2
    SEARCH = 3
    LIST = 4
    CLOSE = 5


class _Half:
    """Counters of a half.

    load : bit planes of the blocks of its columns. pair, ou_col : its next place, pairs counted from its first.
    group, mask : its next of both. mask_group, pack_mask : its first group of the present mask, and mask of the pack.
    """

    def __init__(self, config: HardwareConfig, name: str):
        index = bits_for(packs.max_groups(config))
        self.group, self.mask, self.mask_group, self.pack_mask = (
            Signal(index, name=f"{name}_{what}") for what in ("group", "mask", "mask_group", "pack_mask")
        )
        planes = config.max_segments * config.max_block_cols * config.weight_bits
        self.load = Signal(bits_for(planes), name=f"{name}_load")
        self.pair = Signal(bits_for(config.crossbar_pairs + packs.max_pack_groups(config)), name=f"{name}_pair")
        self.ou_col = Signal(range(config.grid_cols), name=f"{name}_ou_col")

    @property
    def registers(self) -> list[Signal]:
        return [self.group, self.mask, self.mask_group, self.pack_mask, self.load, self.pair, self.ou_col]

    @property
    def pairs(self) -> Value:
        """Crossbar pairs that have been begun."""
        return self.pair + (self.ou_col != 0)


class PackBuilder(Block):
    """Fills the tables of both halves with the order and the places of `pack_layer(layer, hardware, "columns")`.

    The only metadata is the width table: bit planes of every block, in the order (segment, block column).

        COUNT   the blocks of every block column, one a clock; the half that has fewer planes so far takes the column

    and pack by pack

        READ    the blocks of a block column, one a clock: which segments store each plane
        SEARCH  the column's masks, plane by plane, among the pack's masks so far, one a clock: a group takes the next
                place of its half, and joins the list of its mask or begins the list of a new one
        LIST    mask by mask, group by group: write the tables
        CLOSE   write the pack's masks

    Clocks from `start` to `built`: `build_clocks` in golden_model/pairs/machine.py. Reset: nothing built.

    Members
    -------
    settings : layer descriptor, stable from `start` on.
    width_write : write port of the width table; entries are 0..weight_bits. Not while a layer is being built.
    start : strobe, begins a layer. Not while a layer is being built.
    writes : to the tables of each half.
    built : the tables and the next three members are complete; 0 from the clock after `start`.
    last_pack, last_size : index of the layer's last pack, and its segments. first_pairs : first pair of each half
        that has groups.
    columns : with early stop, the block columns of each half that store anything.
    out_of_range : the layer needs more crossbar pairs than there are, and `built` never comes. Cleared by `start`.
    table_error : strobe, a width has lost its parity.
    """

    settings: In(layouts.layer_settings)
    width_write: In(layouts.width_write)
    start: In(1)
    writes: Out(packs.halves_of(packs.table_writes))
    built: Out(1)
    last_pack: Out(packs.pack_index)
    last_size: Out(packs.pack_size)
    first_pairs: Out(packs.halves_of(layouts.pair_index))
    columns: Where(layouts.early_stop, Out(packs.halves_of(packs.block_columns)))
    out_of_range: Out(1)
    table_error: Out(1)

    def elaborate(self, platform) -> Module:
        m = Module()
        config, settings = self.config, self.settings
        activity = Signal(Activity)
        halves = [_Half(config, f"half{i}") for i in range(packs.HALVES)]
        column_halves = Signal(config.max_block_cols)  # which half has a block column

        # Lists of the pack: what a group's table entry will be; the group behind it in the list of its mask; a mask
        # with the first and the last group of its list. A pointer to a group says which half has it.
        key = packs.pack_group(config)
        pointer = data.StructLayout({"group": key, "half": unsigned(1)})
        self._groups = self._memory(m, "groups", packs.group_entry(config))
        self._behind = self._memory(m, "behind", pointer)
        mask = {"segments": packs.pack_mask(config), "first": pointer, "last": key}
        self._masks = self._memory(m, "masks", data.StructLayout(mask))
        count = bits_for(packs.max_pack_groups(config))
        self._group_count, self._mask_count = Signal(count, name="group_count"), Signal(count, name="mask_count")

        left = Signal(bits_for(config.max_segments))  # segments of this pack and of those behind it
        more_packs = Signal()
        m.d.comb += [
            more_packs.eq(left > config.grid_rows),
            self.last_size.eq(Mux(more_packs, config.grid_rows, left)),
            self.first_pairs[0].eq(settings.crossbar_base),
            self.first_pairs[1].eq(settings.crossbar_base + halves[0].pairs),
        ]
        self._walk_columns(m, activity, halves, column_halves)
        self._list(m, activity, halves)
        with m.If(activity == Activity.CLOSE):
            self._close(m, activity, halves, more_packs)
            with m.If(more_packs):
                m.d.sync += left.eq(left - config.grid_rows)
        with m.If(self.start):
            m.d.sync += [
                activity.eq(Activity.COUNT),
                self.built.eq(0),
                self.out_of_range.eq(0),
                self.last_pack.eq(0),
                left.eq(settings.segments),
            ]
            m.d.sync += [register.eq(0) for half in halves for register in half.registers]
            if config.early_stop:
                m.d.sync += self.columns.as_value().eq(0)
        return m

    def _memory(self, m: Module, name: str, shape: data.Layout) -> tuple[WritePort, ReadPort]:
        """Ports of a memory with an entry per group of a pack; a read sees the write of its clock."""
        m.submodules[name] = memory = Memory(shape=shape, depth=packs.max_pack_groups(self.config), init=[])
        write = memory.write_port()
        return write, memory.read_port(transparent_for=(write,))

    # ---- COUNT, READ and SEARCH -----------------------------------------------------------------
    def _walk_columns(self, m: Module, activity: Signal, halves: list[_Half], column_halves: Signal) -> None:
        """Block column by block column, of all segments and then of every pack."""
        config, settings = self.config, self.settings
        entry, column_entry = (Signal(layouts.width_address(config), name=n) for n in ("entry", "column_entry"))
        column, last_column = Signal(layouts.block_column(config)), Signal()
        asked = Signal(bits_for(config.max_segments))  # segments whose width has been asked for
        width, column_read, column_done = Signal(bits_for(config.weight_bits)), Signal(), Signal()

        # In a clock, ask for the width of a segment and take that of the segment before it.
        m.submodules.widths = widths = Table(self.width_write.shape(), config.width_entries)
        m.d.comb += [
            widths.write.eq(self.width_write),
            widths.read.enable.eq(1),
            widths.read.address.eq(entry),
            width.eq(Mux(asked == 0, 0, widths.read.data)),
            column_read.eq(asked == Mux(activity == Activity.COUNT, settings.segments, self.last_size)),
            last_column.eq(column + 1 == settings.block_cols),
        ]
        with m.If((activity == Activity.COUNT) | (activity == Activity.READ)):
            m.d.comb += self.table_error.eq((asked != 0) & widths.wrong)
            m.d.sync += asked.eq(Mux(column_read, 0, asked + 1))
            with m.If(~column_read):
                m.d.sync += entry.eq(entry + settings.block_cols)
        with m.If(activity == Activity.COUNT):
            self._count(m, halves, column_halves.bit_select(column, 1), column, width, column_read)
            m.d.comb += column_done.eq(column_read)
        self._find_masks(m, activity, halves, column, column_halves, asked, width, column_read, column_done)

        next_entry = Signal.like(entry)
        m.d.comb += next_entry.eq(column_entry + 1)
        with m.If(column_done):
            m.d.sync += column.eq(Mux(last_column, 0, column + 1))
            with m.If(activity != Activity.COUNT):
                m.d.sync += activity.eq(Activity.READ)
            with m.If(last_column & (activity == Activity.COUNT)):
                m.d.comb += next_entry.eq(settings.width_base)
                m.d.sync += activity.eq(Activity.READ)
            with m.Elif(last_column):
                any_group = (self._group_count != 0) | (activity == Activity.SEARCH)
                m.d.comb += next_entry.eq(entry - settings.block_cols + 1)  # of the next pack
                m.d.sync += activity.eq(Mux(any_group, Activity.LIST, Activity.CLOSE))
        with m.If(self.start):
            m.d.comb += next_entry.eq(settings.width_base)
        with m.If(self.start | column_done):
            m.d.sync += [entry.eq(next_entry), column_entry.eq(next_entry)]

    def _count(
        self, m: Module, halves: list[_Half], takes_1: Value, column: Signal, width: Signal, column_read: Signal
    ) -> None:
        """Add up the planes of a column; at its end give it to a half."""
        so_far, total = Signal.like(halves[0].load), Signal.like(halves[0].load)
        less_in_1 = halves[1].load < halves[0].load
        m.d.comb += total.eq(so_far + width)
        m.d.sync += so_far.eq(Mux(column_read, 0, total))
        with m.If(column_read):
            m.d.sync += takes_1.eq(less_in_1)
            for number, (half, takes) in enumerate(zip(halves, (~less_in_1, less_in_1), strict=True)):
                with m.If(takes):
                    m.d.sync += half.load.eq(half.load + total)
                if self.config.early_stop:
                    mine = Mux(takes & (total != 0), 1 << column, 0)
                    m.d.sync += self.columns[number].eq(self.columns[number] | mine)

    def _find_masks(
        self, m: Module, activity: Signal, halves: list[_Half], column: Signal, column_halves: Signal,
        asked: Signal, width: Signal, column_read: Signal, column_done: Signal,
    ) -> None:  # fmt: skip
        """Which segments store each plane of a column; then, plane by plane, the mask of that."""
        config = self.config
        planes, widest = Signal.like(width), Signal.like(width)  # of the column's widest block so far
        stored = Signal(data.ArrayLayout(packs.pack_mask(config), config.weight_bits))
        plane, index = Signal(range(config.weight_bits)), Signal.like(self._mask_count)
        m.d.comb += widest.eq(Mux(width > planes, width, planes))
        with m.If(activity == Activity.READ):
            m.d.sync += planes.eq(widest)
            for p in range(config.weight_bits):
                with m.If(width > p):
                    m.d.sync += stored[p].eq(stored[p] | (1 << asked[: len(self.last_size)] >> 1))
            with m.If(column_read):
                m.d.sync += activity.eq(Activity.SEARCH)
                m.d.comb += column_done.eq(widest == 0)
        with m.If(activity == Activity.SEARCH):
            half = column_halves.bit_select(column, 1)
            found = self._search(m, stored[plane], index, half)
            self._place(m, halves, column, plane, half, found)
            m.d.sync += index.eq(Mux(found, 0, index + 1))
            with m.If(found):
                m.d.sync += plane.eq(plane + 1)
                with m.If(plane + 1 == planes):
                    m.d.sync += plane.eq(0)
                    m.d.comb += column_done.eq(1)
        with m.If(column_done):
            m.d.sync += [planes.eq(0), stored.eq(0)]

    def _search(self, m: Module, wanted: Value, index: Signal, half: Value) -> Signal:
        """Compare with a mask of the pack, or begin a new one behind the last; returns "the group has its mask"."""
        masks_write, masks = self._masks
        behind_write = self._behind[0]
        new, found = Signal(), Signal()
        m.d.comb += [
            new.eq(index == self._mask_count),
            found.eq(new | (masks.data.segments == wanted)),
            masks.addr.eq(Mux(found, 0, index + 1)),
            masks_write.en.eq(found),
            masks_write.addr.eq(index),
            masks_write.data.segments.eq(wanted),
            masks_write.data.first.group.eq(Mux(new, self._group_count, masks.data.first.group)),
            masks_write.data.first.half.eq(Mux(new, half, masks.data.first.half)),
            masks_write.data.last.eq(self._group_count),
            behind_write.en.eq(found & ~new),
            behind_write.addr.eq(masks.data.last),
            behind_write.data.group.eq(self._group_count),
            behind_write.data.half.eq(half),
        ]
        with m.If(found):
            m.d.sync += [
                self._group_count.eq(self._group_count + 1),
                self._mask_count.eq(self._mask_count + new),
            ]
        return found

    def _place(self, m: Module, halves: list[_Half], column: Signal, plane: Signal, half: Value, found: Signal) -> None:
        """A group takes the next OU column of its half."""
        write = self._groups[0]
        m.d.comb += [
            write.en.eq(found),
            write.addr.eq(self._group_count),
            write.data.block_col.eq(column),
            write.data.plane.eq(plane),
            write.data.pair.eq(Mux(half, halves[1].pair, halves[0].pair)),
            write.data.ou_col.eq(Mux(half, halves[1].ou_col, halves[0].ou_col)),
        ]
        for number, one in enumerate(halves):
            full = one.ou_col == self.config.grid_cols - 1
            with m.If(found & (half == number)):
                m.d.sync += [one.ou_col.eq(Mux(full, 0, one.ou_col + 1)), one.pair.eq(one.pair + full)]

    # ---- LIST and CLOSE -------------------------------------------------------------------------
    def _list(self, m: Module, activity: Signal, halves: list[_Half]) -> None:
        """Walk the lists; write a group a clock later, and a mask for each half that has groups of it."""
        index, first, listing = Signal.like(self._mask_count), Signal(init=1), Signal()
        mask_end, half = Signal(), Signal()
        group = Signal(packs.pack_group(self.config))
        masks, behind, groups = self._masks[1], self._behind[1], self._groups[1]
        m.d.comb += [
            listing.eq(activity == Activity.LIST),
            group.eq(Mux(first, masks.data.first.group, behind.data.group)),
            half.eq(Mux(first, masks.data.first.half, behind.data.half)),
            mask_end.eq(listing & (group == masks.data.last)),
            behind.addr.eq(group),
            groups.addr.eq(group),
        ]
        with m.If(listing):
            m.d.comb += masks.addr.eq(index + mask_end)
            m.d.sync += [first.eq(mask_end), index.eq(index + mask_end)]
        for number, (one, writes) in enumerate(zip(halves, self.writes, strict=True)):
            next_group, takes = Signal.like(one.group), listing & (half == number)
            m.d.comb += [
                next_group.eq(one.group + takes),
                writes.masks.enable.eq(mask_end & (next_group != one.mask_group)),
                writes.masks.address.eq(one.mask),
                writes.masks.data.segments.eq(masks.data.segments),
                writes.masks.data.first_group.eq(one.mask_group),
                writes.masks.data.last_group.eq(next_group - 1),
                writes.groups.data.eq(groups.data),
            ]
            m.d.sync += [
                writes.groups.enable.eq(takes),
                writes.groups.address.eq(one.group),
                one.group.eq(next_group),
                one.mask.eq(one.mask + writes.masks.enable),
            ]
            with m.If(mask_end):
                m.d.sync += one.mask_group.eq(next_group)
        with m.If(mask_end & (index + 1 == self._mask_count)):
            m.d.sync += [activity.eq(Activity.CLOSE), index.eq(0)]

    def _close(self, m: Module, activity: Signal, halves: list[_Half], more_packs: Signal) -> None:
        """Write the pack's masks, go on to the next one."""
        for half, writes in zip(halves, self.writes, strict=True):
            m.d.comb += [
                writes.packs.enable.eq(1),
                writes.packs.address.eq(self.last_pack),
                writes.packs.data.first_mask.eq(half.pack_mask),
                writes.packs.data.last_mask.eq(half.mask - 1),
                writes.packs.data.used.eq(half.mask != half.pack_mask),
            ]
            m.d.sync += half.pack_mask.eq(half.mask)
        m.d.sync += [self._group_count.eq(0), self._mask_count.eq(0)]
        needed = self.settings.crossbar_base + halves[0].pairs + halves[1].pairs
        with m.If(needed > self.config.crossbar_pairs):
            m.d.sync += [activity.eq(Activity.IDLE), self.out_of_range.eq(1)]
        with m.Elif(more_packs):
            m.d.sync += [activity.eq(Activity.READ), self.last_pack.eq(self.last_pack + 1)]
        with m.Else():
            m.d.sync += [activity.eq(Activity.IDLE), self.built.eq(1)]
