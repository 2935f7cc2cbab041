"""The pack builder: width table -> masks and column groups of both halves, once per layer."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, enum
from amaranth.lib.memory import Memory, ReadPort, WritePort

from golden_model.config import HardwareConfig, bits_for
from rtl import layouts
from rtl import pack_layouts as packs
from rtl.bit_count import bit_count
from rtl.block import Block, In, Out


class Activity(enum.Enum, shape=unsigned(3)):
    """What is done with the pack that is being built."""

    IDLE = 0
    READ = 1
    SEARCH = 2
    ASSIGN = 3
    PLACE = 4
    CLOSE = 5


class _Half:
    """Counters of a half.

    group, mask : its next of both. mask_group, pack_mask : its first group of the present mask, and mask of the pack.
    load : segments of the pack's groups that it has taken. pair, ou_col : its next place.
    """

    def __init__(self, config: HardwareConfig, name: str):
        index = bits_for(packs.max_groups(config))
        self.group, self.mask, self.mask_group, self.pack_mask = (
            Signal(index, name=f"{name}_{what}") for what in ("group", "mask", "mask_group", "pack_mask")
        )
        self.load = Signal(bits_for(config.grid_rows * packs.max_pack_groups(config)), name=f"{name}_load")
        self.pair = Signal(bits_for(config.crossbar_pairs + packs.max_pack_groups(config)), name=f"{name}_pair")
        self.ou_col = Signal(range(config.grid_cols), name=f"{name}_ou_col")


class PackBuilder(Block):
    """Fills the tables of both halves with the order and the places of `pack_layer(layer, hardware, "groups")`.

    The only metadata is the width table: bit planes of every block, in the order (segment, block column). Pack by pack:

        READ    the blocks of a block column, one a clock: which segments store each plane
        SEARCH  the column's masks, plane by plane, among the pack's masks so far, one a clock: a group joins the list
                of its mask, or begins the list of a new one
        ASSIGN  mask by mask, group by group: the half whose groups have fewer segments so far takes it
        PLACE   groups in the order (block column, plane): the next OU column of their half; half 1 begins a fresh pair
        CLOSE   note the pack's masks

    Clocks from `start` to `built`: `build_clocks` in golden_model/pairs/machine.py. Reset: nothing built.

    Members
    -------
    settings : layer descriptor, stable from `start` on.
    width_write : write port of the width table; entries are 0..weight_bits. Not while a layer is being built.
    start : strobe, begins a layer. Not while a layer is being built.
    writes : to the tables of each half.
    built : the tables and the next two members are complete; 0 from the clock after `start`.
    last_pack, last_size : index of the layer's last pack, and its segments.
    out_of_range : the layer needs more crossbar pairs than there are, and `built` never comes. Cleared by `start`.
    """

    settings: In(layouts.layer_settings)
    width_write: In(layouts.width_write)
    start: In(1)
    writes: Out(packs.halves_of(packs.table_writes))
    built: Out(1)
    last_pack: Out(packs.pack_index)
    last_size: Out(packs.pack_size)
    out_of_range: Out(1)

    def elaborate(self, platform) -> Module:
        m = Module()
        config, settings = self.config, self.settings
        activity = Signal(Activity)
        halves = [_Half(config, f"half{i}") for i in range(packs.HALVES)]

        # Lists of the pack: block column and plane of a group, and the group behind it in the list of its mask; a mask
        # with the first and the last group of its list; the half that takes a group, and the group's index there.
        key, members = packs.pack_group(config), packs.group_entry(config).members
        self._groups = self._memory(m, "groups", {name: members[name] for name in ("block_col", "plane")})
        self._behind = self._memory(m, "behind", {"group": key})
        self._masks = self._memory(m, "masks", {"segments": packs.pack_mask(config), "first": key, "last": key})
        self._taken = self._memory(m, "taken", {"half": unsigned(1), "group": packs.group_index(config)})
        count = bits_for(packs.max_pack_groups(config))
        self._group_count, self._mask_count = Signal(count, name="group_count"), Signal(count, name="mask_count")

        left = Signal(bits_for(config.max_segments))  # segments of this pack and of those behind it
        more_packs = Signal()
        m.d.comb += [
            more_packs.eq(left > config.grid_rows),
            self.last_size.eq(Mux(more_packs, config.grid_rows, left)),
        ]
        self._find_masks(m, activity)
        with m.If(activity == Activity.ASSIGN):
            self._assign(m, activity, halves)
        with m.If(activity == Activity.PLACE):
            self._place(m, activity, halves)
        with m.If(activity == Activity.CLOSE):
            self._close(m, activity, halves, more_packs)
            with m.If(more_packs):
                m.d.sync += left.eq(left - config.grid_rows)
        with m.If(self.start):
            m.d.sync += [
                activity.eq(Activity.READ),
                self.built.eq(0),
                self.out_of_range.eq(0),
                self.last_pack.eq(0),
                left.eq(settings.segments),
            ]
            for half in halves:
                m.d.sync += [x.eq(0) for x in (half.group, half.mask, half.mask_group, half.pack_mask)]
                m.d.sync += half.pair.eq(settings.crossbar_base)
        return m

    def _memory(self, m: Module, name: str, members: dict) -> tuple[WritePort, ReadPort]:
        """Ports of a memory with an entry per group of a pack; a read sees the write of its clock."""
        shape = data.StructLayout(members)
        m.submodules[name] = memory = Memory(shape=shape, depth=packs.max_pack_groups(self.config), init=[])
        write = memory.write_port()
        return write, memory.read_port(transparent_for=(write,))

    # ---- READ and SEARCH ------------------------------------------------------------------------
    def _find_masks(self, m: Module, activity: Signal) -> None:
        """Block column by block column: what it stores, and the masks of its planes."""
        config, settings = self.config, self.settings
        entry, column_entry = (Signal(layouts.width_address(config), name=n) for n in ("entry", "column_entry"))
        column = Signal(layouts.block_column(config))
        planes = Signal(bits_for(config.weight_bits))  # of the column's widest block so far
        stored = Signal(data.ArrayLayout(packs.pack_mask(config), config.weight_bits))  # segments with a plane
        column_done = Signal()

        self._read(m, activity, entry, planes, stored, column_done)
        with m.If(activity == Activity.SEARCH):
            self._search(m, column, planes, stored, column_done)

        next_entry = Signal.like(entry)
        m.d.comb += next_entry.eq(column_entry + 1)
        with m.If(column_done):
            m.d.sync += [activity.eq(Activity.READ), column.eq(column + 1), planes.eq(0), stored.eq(0)]
            with m.If(column + 1 == settings.block_cols):
                any_group = (self._group_count != 0) | (activity == Activity.SEARCH)
                m.d.comb += next_entry.eq(entry - settings.block_cols + 1)  # of the next pack
                m.d.sync += [activity.eq(Mux(any_group, Activity.ASSIGN, Activity.CLOSE)), column.eq(0)]
        with m.If(self.start):
            m.d.comb += next_entry.eq(settings.width_base)
        with m.If(self.start | column_done):
            m.d.sync += [entry.eq(next_entry), column_entry.eq(next_entry)]

    def _read(self, m: Module, activity: Signal, entry: Signal, planes: Signal, stored, column_done: Signal) -> None:
        """In a clock, ask for the width of a segment and take that of the segment before it."""
        config = self.config
        m.submodules.widths = widths = Memory(shape=layouts.WIDTH_BITS, depth=config.width_entries, init=[])
        write, read = widths.write_port(), widths.read_port()
        m.d.comb += [
            write.en.eq(self.width_write.enable),
            write.addr.eq(self.width_write.address),
            write.data.eq(self.width_write.data),
            read.addr.eq(entry),
        ]
        asked = Signal(packs.pack_size(config))
        width, widest = Signal.like(planes), Signal.like(planes)
        m.d.comb += [width.eq(Mux(asked == 0, 0, read.data)), widest.eq(Mux(width > planes, width, planes))]
        with m.If(activity == Activity.READ):
            m.d.sync += [asked.eq(asked + 1), planes.eq(widest)]
            for plane in range(config.weight_bits):
                with m.If(width > plane):
                    m.d.sync += stored[plane].eq(stored[plane] | (1 << asked >> 1))
            with m.If(asked != self.last_size):
                m.d.sync += entry.eq(entry + self.settings.block_cols)
            with m.Else():
                m.d.sync += [asked.eq(0), activity.eq(Activity.SEARCH)]
                m.d.comb += column_done.eq(widest == 0)

    def _search(self, m: Module, column: Signal, planes: Signal, stored, column_done: Signal) -> None:
        """Compare the mask of a plane with one of the pack's masks."""
        plane, index = Signal(range(self.config.weight_bits)), Signal.like(self._mask_count)
        masks_write, masks = self._masks
        behind_write, groups_write = self._behind[0], self._groups[0]
        wanted, new, found = Signal(packs.pack_mask(self.config)), Signal(), Signal()
        m.d.comb += [
            wanted.eq(stored[plane]),
            new.eq(index == self._mask_count),
            found.eq(new | (masks.data.segments == wanted)),
            masks.addr.eq(Mux(found, 0, index + 1)),
            masks_write.en.eq(found),
            masks_write.addr.eq(index),
            masks_write.data.segments.eq(wanted),
            masks_write.data.first.eq(Mux(new, self._group_count, masks.data.first)),
            masks_write.data.last.eq(self._group_count),
            behind_write.en.eq(found & ~new),
            behind_write.addr.eq(masks.data.last),
            behind_write.data.group.eq(self._group_count),
            groups_write.en.eq(found),
            groups_write.addr.eq(self._group_count),
            groups_write.data.block_col.eq(column),
            groups_write.data.plane.eq(plane),
        ]
        m.d.sync += index.eq(Mux(found, 0, index + 1))
        with m.If(found):
            m.d.sync += [
                self._group_count.eq(self._group_count + 1),
                self._mask_count.eq(self._mask_count + new),
                plane.eq(plane + 1),
            ]
            with m.If(plane + 1 == planes):
                m.d.comb += column_done.eq(1)
                m.d.sync += plane.eq(0)

    # ---- ASSIGN, PLACE, CLOSE -------------------------------------------------------------------
    def _assign(self, m: Module, activity: Signal, halves: list[_Half]) -> None:
        """Give a group to a half; behind the last one of a mask, write the mask for halves that have groups of it."""
        index, first = Signal.like(self._mask_count), Signal(init=1)
        group, mask_end, takes_1 = Signal(packs.pack_group(self.config)), Signal(), Signal()
        masks, behind, taken_write = self._masks[1], self._behind[1], self._taken[0]
        m.d.comb += [
            group.eq(Mux(first, masks.data.first, behind.data.group)),
            mask_end.eq(group == masks.data.last),
            behind.addr.eq(group),
            masks.addr.eq(index + mask_end),
            takes_1.eq(halves[1].load < halves[0].load),
            taken_write.en.eq(1),
            taken_write.addr.eq(group),
            taken_write.data.half.eq(takes_1),
            taken_write.data.group.eq(Mux(takes_1, halves[1].group, halves[0].group)),
        ]
        m.d.sync += [first.eq(mask_end), index.eq(index + mask_end)]
        for half, writes, takes in zip(halves, self.writes, (~takes_1, takes_1), strict=True):
            next_group = Signal.like(half.group)
            m.d.comb += [
                next_group.eq(half.group + takes),
                writes.masks.enable.eq(mask_end & (next_group != half.mask_group)),
                writes.masks.address.eq(half.mask),
                writes.masks.data.segments.eq(masks.data.segments),
                writes.masks.data.first_group.eq(half.mask_group),
                writes.masks.data.last_group.eq(next_group - 1),
            ]
            m.d.sync += [half.group.eq(next_group), half.mask.eq(half.mask + writes.masks.enable)]
            with m.If(takes):
                m.d.sync += half.load.eq(half.load + bit_count(masks.data.segments))
            with m.If(mask_end):
                m.d.sync += half.mask_group.eq(next_group)
        # Half 1 begins behind the pairs of half 0.
        begun = Signal.like(halves[0].ou_col)
        with m.If(~takes_1):
            m.d.sync += begun.eq(self._next_column(begun))
            with m.If(begun == 0):
                m.d.sync += halves[1].pair.eq(halves[1].pair + 1)
        with m.If(mask_end & (index + 1 == self._mask_count)):
            m.d.sync += [activity.eq(Activity.PLACE), index.eq(0), begun.eq(0)]

    def _place(self, m: Module, activity: Signal, halves: list[_Half]) -> None:
        """Write a group with its place."""
        index = Signal(packs.pack_group(self.config))
        groups, taken = self._groups[1], self._taken[1]
        m.d.comb += [groups.addr.eq(index + 1), taken.addr.eq(index + 1)]
        m.d.sync += index.eq(index + 1)
        for number, (half, writes) in enumerate(zip(halves, self.writes, strict=True)):
            m.d.comb += [
                writes.groups.enable.eq(taken.data.half == number),
                writes.groups.address.eq(taken.data.group),
                writes.groups.data.block_col.eq(groups.data.block_col),
                writes.groups.data.plane.eq(groups.data.plane),
                writes.groups.data.pair.eq(half.pair),
                writes.groups.data.ou_col.eq(half.ou_col),
            ]
            with m.If(writes.groups.enable):
                next_column = self._next_column(half.ou_col)
                m.d.sync += [half.ou_col.eq(next_column), half.pair.eq(half.pair + (next_column == 0))]
        with m.If(index + 1 == self._group_count):
            m.d.sync += [activity.eq(Activity.CLOSE), index.eq(0)]

    def _close(self, m: Module, activity: Signal, halves: list[_Half], more_packs: Signal) -> None:
        """Write the pack; the next one begins at a fresh pair."""
        next_pair = Signal.like(halves[1].pair)
        m.d.comb += next_pair.eq(halves[1].pair + (halves[1].ou_col != 0))
        for half, writes in zip(halves, self.writes, strict=True):
            m.d.comb += [
                writes.packs.enable.eq(1),
                writes.packs.address.eq(self.last_pack),
                writes.packs.data.first_mask.eq(half.pack_mask),
                writes.packs.data.last_mask.eq(half.mask - 1),
                writes.packs.data.used.eq(half.mask != half.pack_mask),
            ]
            m.d.sync += [half.pack_mask.eq(half.mask), half.load.eq(0), half.pair.eq(next_pair), half.ou_col.eq(0)]
        m.d.sync += [self._group_count.eq(0), self._mask_count.eq(0)]
        with m.If(next_pair > self.config.crossbar_pairs):
            m.d.sync += [activity.eq(Activity.IDLE), self.out_of_range.eq(1)]
        with m.Elif(more_packs):
            m.d.sync += [activity.eq(Activity.READ), self.last_pack.eq(self.last_pack + 1)]
        with m.Else():
            m.d.sync += [activity.eq(Activity.IDLE), self.built.eq(1)]

    def _next_column(self, ou_col: Signal) -> Value:
        return Mux(ou_col == self.config.grid_cols - 1, 0, ou_col + 1)
