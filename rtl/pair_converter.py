"""The converters of a half: OUs on the column groups that want them, and their partial sums."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value
from amaranth.lib.memory import Memory

from golden_model.config import HardwareConfig
from rtl import layouts, pair_layouts
from rtl import pack_layouts as packs
from rtl.block import Block, In, Out, Stream, Where
from rtl.early_stop import EarlyStop
from rtl.pair_interfaces import HalfConversionPort
from rtl.pair_lane import PairLane
from rtl.partial_sums import PartialSums
from rtl.sample_places import SamplePlaces
from rtl.search_begin import SearchBegin


class PairConverter(Block):
    """Samples every OU on the groups of its mask, one after the other, and adds value << (input bit + plane).

    Two OUs are held: one that is sampled, and the next one. An OU may be sampled in the clock after it was taken.

    Every lane holds `sample_places` samples and converts them at its own pace, two side by side; each has the sums of
    its own column (rtl/partial_sums.py). A sample is offered when all lanes have converted the one before in its
    place, `sample_interval` clocks after the last one at the earliest.

    With early stop, a mark in place of an OU asks for a check of every block column of the half, ascending. A check is
    handed out as a sample is, and passes the lanes in order; until it is decided, its block column is not sampled.

    Latency: `PartialSums.latency` clocks from the last answer to its sum.
    Handshake: `ous.ready` and `port.sample` as streams; `ous.ready` is registered. Reset: idle.

    Members
    -------
    settings : layer descriptor, stable while a window runs. constants : from `SearchSettings`, for differences.
    first_pair : from the pack builder.
    writes : to the half's tables; groups are kept here.
    read_bank, sums_address, sums_column, sums_taken : see `PartialSums`.
    sum : of block column `sums_address`, in column `sums_column`, combinational.
    clear : 1 for at least as many clocks as the layer has block columns, before its first window: all sums become 0.
    columns, stop_write, begin, bank : with early stop, block columns of the half that store anything, words of the
        outputs, a strobe at the begin of a window, and its bank.
    ous : from the walker. port : to the analog macro.
    oldest : bank of the oldest window that is not done. quiet : no OU of it is held, none is converting, and no check
        of it is pending; means it once it has been walked.
    overflow : strobe, a partial sum did not fit `accumulator_bits` and was saturated.
    events : of this clock.
    """

    settings: In(layouts.layer_settings)
    constants: In(lambda config: pair_layouts.search_constants(config, True))
    first_pair: In(layouts.pair_index)
    writes: In(packs.table_writes)
    read_bank: In(1)
    sums_address: In(layouts.block_column)
    sums_column: In(layouts.column)
    sums_taken: In(1)
    sum: Out(layouts.accumulator)
    clear: In(1)
    columns: Where(layouts.early_stop, In(packs.block_columns))
    stop_write: Where(layouts.early_stop, In(packs.stop_write))
    begin: Where(layouts.early_stop, In(1))
    bank: Where(layouts.early_stop, In(1))
    ous: In(Stream(packs.gathered_ou))
    port: Out(HalfConversionPort)
    oldest: In(1)
    quiet: Out(1)
    overflow: Out(1)
    events: Out(packs.conversion_events)

    def __init__(self, config: HardwareConfig):
        self.lanes = [PairLane(config) for _ in range(config.ou_cols)]
        super().__init__(config)

    def elaborate(self, platform) -> Module:
        m = Module()
        config, lanes = self.config, self.lanes
        m.submodules.places = places = SamplePlaces(config)
        unfinished = Cat(lane.unfinished for lane in lanes)

        # ---- the OU that is sampled, and the next one
        ou, waiting = (Signal(packs.gathered_ou(config), name=name) for name in ("ou", "waiting"))
        held, waits = Signal(), Signal()
        group = Signal(packs.group_index(config))
        activation, used_up, take = Signal(), Signal(), Signal()
        checked = Signal()  # a check is handed out
        pending = Signal()  # the block column that is next has a check that is not decided
        following = Mux(waits, waiting.as_value(), self.ous.payload.as_value())
        next_ou = Signal(packs.gathered_ou(config))
        m.d.comb += [
            self.ous.ready.eq(~waits),
            next_ou.eq(following),
            used_up.eq(activation & (group == ou.last_group)),
            take.eq((~held | used_up) & (waits | self.ous.valid)),
        ]
        with m.If(take):
            m.d.sync += [ou.eq(next_ou), held.eq(1), waits.eq(0)]
        with m.Elif(used_up):
            m.d.sync += held.eq(0)
        with m.If(self.ous.valid & self.ous.ready & ~take):
            m.d.sync += [waiting.eq(self.ous.payload), waits.eq(1)]

        # ---- its groups, read one clock ahead
        m.submodules.groups = groups = Memory(shape=packs.group_entry(config), depth=packs.max_groups(config), init=[])
        write, read = groups.write_port(), groups.read_port()
        group_place, sample = read.data, self.port.sample
        m.d.comb += [
            write.en.eq(self.writes.groups.enable),
            write.addr.eq(self.writes.groups.address),
            write.data.eq(self.writes.groups.data),
            read.addr.eq(Mux(take, next_ou.first_group, group + activation)),
            sample.valid.eq(held & places.free & ~pending),
            sample.payload.pair.eq(self.first_pair + group_place.pair),
            sample.payload.ou_col.eq(group_place.ou_col),
            sample.payload.lines.eq(ou.lines),
            sample.payload.place.eq(places.turn.place),
            activation.eq(sample.valid & sample.ready),
        ]
        m.d.sync += group.eq(read.addr)

        # ---- conversion; the first threshold is the same for all differences of a layer
        m.submodules.begin = begin = SearchBegin(config)
        contexts = Signal(packs.sample_contexts(config))
        context = contexts[places.turn.place]
        whole, block_col, shift = Signal(), Signal.like(group_place.block_col), Signal.like(context.shift)
        takes_part = Cat(whole | self._inside(j) for j in range(config.ou_cols))
        m.d.comb += [
            places.sampled.eq(activation | checked),
            places.occupied.eq(Cat(lane.occupied for lane in lanes).any()),
            begin.constants.eq(self.constants),
            begin.constants.signed.eq(1),
            begin.ones.eq(ou.ones),
            whole.eq(block_col + 1 != self.settings.block_cols),
            block_col.eq(group_place.block_col),
            shift.eq(ou.input_bit + group_place.plane),
            self.events.activation.eq(activation),
            self.events.busy.eq(Cat(lane.busy for lane in lanes)),
        ]
        with m.If(activation | checked):
            m.d.sync += [
                context.left.eq(begin.begin.left),
                context.whole.eq(whole),
                context.bank.eq(ou.bank),
                context.block_col.eq(block_col),
                context.shift.eq(shift),
            ]
        clear_address = Signal.like(self.sums_address)
        m.d.sync += clear_address.eq(Mux(self.clear, clear_address + 1, 0))
        sums = [PartialSums(config) for _ in lanes]
        for j, (lane, column) in enumerate(zip(lanes, sums, strict=True)):
            m.submodules[f"lane{j}"] = lane
            m.submodules[f"sums{j}"] = column
            m.d.comb += [
                lane.constants.eq(self.constants),
                lane.first.eq(begin.begin.threshold),
                lane.inside.eq(self._inside(j)),
                lane.turn.eq(places.turn),
                lane.contexts.eq(contexts),
                lane.oldest.eq(self.oldest),
                lane.comparator.eq(self.port.comparators[j]),
                self.port.thresholds[j].eq(lane.threshold),
                self.port.places[j].eq(lane.place),
                self.port.compare[j].eq(lane.busy),
                column.scale.eq(self.constants.scale),
                column.converted.eq(lane.converted),
                column.read_bank.eq(self.read_bank),
                column.address.eq(self.sums_address),
                column.taken.eq(self.sums_taken),
                column.clear.eq(self.clear),
                column.clear_address.eq(clear_address),
            ]
            if config.comparator_valid:
                m.d.comb += lane.decided.eq(self.port.decided[j])

        # ---- early stop
        if config.early_stop:
            stops = [EarlyStop(config) for _ in lanes]
            left, last_check = Signal.like(self.columns), Signal()  # block columns to check
            m.d.comb += [
                pending.eq(Cat(stop.pending[ou.bank].bit_select(block_col, 1) for stop in stops).any()),
                checked.eq(held & ou.check & places.free & ~pending),
                last_check.eq((left & (left - 1)) == 0),
            ]
            with m.If(ou.check):
                m.d.comb += [sample.valid.eq(0), shift.eq(ou.input_bit), used_up.eq(checked & last_check)]
                for column in reversed(range(len(left))):  # the lowest one wins
                    with m.If(left[column]):
                        m.d.comb += block_col.eq(column)
            with m.If(take):
                m.d.sync += left.eq(self.columns)
            with m.Elif(checked):
                m.d.sync += left.eq(left & (left - 1))
            with m.If(activation | checked):
                m.d.sync += context.check.eq(checked)
            for j, (lane, column, stop) in enumerate(zip(lanes, sums, stops, strict=True)):
                m.submodules[f"stop{j}"] = stop
                m.d.comb += [
                    stop.begin.eq(self.begin),
                    stop.bank.eq(self.bank),
                    stop.write.eq(self.stop_write),
                    stop.write.enable.eq(self.stop_write.enable & (self.stop_write.column == j)),
                    stop.asked.eq(checked),
                    stop.asked_bank.eq(ou.bank),
                    stop.asked_col.eq(block_col),
                    stop.checked.eq(column.checked),
                    lane.stopped.eq(stop.stopped),
                ]
            takes_part &= ~Cat(stop.stopped[ou.bank].bit_select(block_col, 1) for stop in stops)
            no_check = ~Cat(stop.pending[self.oldest].any() for stop in stops).any()
            m.d.comb += self.events.checked.eq(Mux(checked, takes_part, 0))
        else:
            no_check = 1
        m.d.comb += [
            self.quiet.eq(
                ~(held & (ou.bank == self.oldest))
                & ~(waits & (waiting.bank == self.oldest))
                & ~unfinished.any()
                & no_check
            ),
            self.events.started.eq(Mux(activation, takes_part, 0)),
            self.sum.eq(Array(column.data for column in sums)[self.sums_column]),
            self.overflow.eq(Cat(column.overflow for column in sums).any()),
        ]
        return m

    def _inside(self, column: int) -> Value:
        """Whether a column has an output in the last block column."""
        return self.settings.last_cols > column
