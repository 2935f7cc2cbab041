"""The converters of a half: OUs on the column groups that want them, and their partial sums."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data
from amaranth.lib.memory import Memory

from rtl import layouts, pair_layouts
from rtl import pack_layouts as packs
from rtl.block import Block, In, Out, Stream
from rtl.decode_shift_add import needed_bits
from rtl.pair_interfaces import HalfConversionPort
from rtl.pair_lane import PairLane
from rtl.sample_places import SamplePlaces
from rtl.search_begin import SearchBegin


class PairConverter(Block):
    """Samples every OU on the groups of its mask, one after the other, and adds value << (input bit + plane).

    Two OUs are held: one that is sampled, and the next one. An OU may be sampled in the clock after it was taken.

    Every lane holds two samples and converts them at its own pace. An activation is complete when all of its lanes have
    made their last decision about it; then its values are taken. A sample is offered as long as not both places are
    taken by activations that are not complete, `sample_interval` clocks after the one before at the earliest.

    Partial sums are kept twice: those of the running window are added up, those of the one before are read. A word that
    no group has touched yet counts as 0, so nothing is cleared.

    Latency: `latency` clocks from the last decision of an activation to its sums.
    Handshake: `ous.ready` and `port.sample` as streams; `ous.ready` is registered. Reset: idle.

    Members
    -------
    settings : layer descriptor, stable while a window runs. constants : from `SearchSettings`.
    first_pair : from the pack builder.
    writes : to the half's tables; groups are kept here.
    start : strobe, begins a window. bank : which partial sums it adds up. read_bank : which ones are read.
    ous : from the walker. port : to the analog macro.
    idle : no OU is held, none is converting behind this clock, and `sample_interval` has passed.
    sums_address, sums_data : partial sums of a block column, combinational.
    overflow : strobe, a partial sum did not fit `accumulator_bits` and was saturated.
    events : of this clock.
    """

    settings: In(layouts.layer_settings)
    constants: In(lambda config: pair_layouts.search_constants(config, True))
    first_pair: In(layouts.pair_index)
    writes: In(packs.table_writes)
    start: In(1)
    bank: In(1)
    read_bank: In(1)
    ous: In(Stream(packs.gathered_ou))
    port: Out(HalfConversionPort)
    idle: Out(1)
    sums_address: In(layouts.block_column)
    sums_data: Out(layouts.partial_sums)
    overflow: Out(1)
    events: Out(packs.conversion_events)

    #: Clocks from the last decision of an activation until its sums can be read: take the values, shift, add.
    latency = 3

    def elaborate(self, platform) -> Module:
        m = Module()
        config = self.config
        m.submodules.places = places = SamplePlaces(config)
        m.submodules.begin = begin = SearchBegin(config)
        lanes = [PairLane(config) for _ in range(config.ou_cols)]

        # ---- the OU that is sampled, and the next one
        ou, waiting = (Signal(packs.gathered_ou(config), name=name) for name in ("ou", "waiting"))
        held, waits = Signal(), Signal()
        group = Signal(packs.group_index(config))
        activation, used_up, take = Signal(), Signal(), Signal()
        following = Mux(waits, waiting.as_value(), self.ous.payload.as_value())
        next_ou = Signal(packs.gathered_ou(config))
        m.d.comb += [
            self.ous.ready.eq(~waits),
            next_ou.eq(following),
            used_up.eq(activation & (group == ou.last_group)),
            take.eq((~held | used_up) & (waits | self.ous.valid)),
            self.idle.eq(~held & places.over),
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
            sample.valid.eq(held & places.free),
            sample.payload.pair.eq(self.first_pair + group_place.pair),
            sample.payload.ou_col.eq(group_place.ou_col),
            sample.payload.lines.eq(ou.lines),
            sample.payload.place.eq(places.place),
            activation.eq(sample.valid & sample.ready),
        ]
        m.d.sync += group.eq(read.addr)

        # ---- conversion
        begin_layout = pair_layouts.search_begin(config, True)
        begin_waiting, started = Signal(begin_layout), Signal(packs.columns(config))
        contexts = Signal(data.ArrayLayout(packs.activation_context(config), 2))
        m.d.comb += [
            places.sampled.eq(activation),
            places.pending.eq(Cat(lane.pending for lane in lanes).any()),
            begin.constants.eq(self.constants),
            begin.ones.eq(ou.ones),
            started.eq(Mux(activation, self._columns(group_place.block_col), 0)),
            self.events.activation.eq(activation),
            self.events.started.eq(started),
            self.events.busy.eq(Cat(lane.busy for lane in lanes)),
        ]
        with m.If(activation):
            m.d.sync += [
                begin_waiting.eq(begin.begin),
                contexts[places.place].block_col.eq(group_place.block_col),
                contexts[places.place].shift.eq(ou.input_bit + group_place.plane),
            ]
        for j, lane in enumerate(lanes):
            m.submodules[f"lane{j}"] = lane
            m.d.comb += [
                lane.constants.eq(self.constants),
                lane.sample.eq(started[j]),
                lane.place_next.eq(places.place),
                lane.begin.eq(begin.begin),
                lane.begin_waiting.eq(begin_waiting),
                lane.oldest.eq(places.oldest),
                lane.complete.eq(places.complete),
                lane.comparator.eq(self.port.comparators[j]),
                self.port.thresholds[j].eq(lane.threshold),
                self.port.places[j].eq(lane.place),
            ]
        self._accumulate(m, places.complete, [lane.value for lane in lanes], contexts[places.oldest])
        return m

    def _columns(self, block_col: Value) -> Value:
        """Columns of a block column: all but those behind the last output."""
        inside = block_col + 1 != self.settings.block_cols
        return Cat(inside | (self.settings.last_cols > j) for j in range(self.config.ou_cols))

    def _accumulate(self, m: Module, complete: Signal, values: list, context) -> None:
        """In `complete`: take the values. A clock later: shift. Another one later: read, add and write the sums."""
        config = self.config
        shifted_shape = signed(config.adc_bits + 1 + config.input_bits + config.weight_bits - 2)
        taken = Signal(packs.pair_values(config))
        shifted = Signal(data.ArrayLayout(shifted_shape, config.ou_cols))
        shift_now, add = Signal(), Signal()
        taken_context = Signal(packs.activation_context(config))
        columns = self._columns(context.block_col)
        add_col = Signal.like(taken_context.block_col)
        m.d.sync += [shift_now.eq(complete), add.eq(shift_now), add_col.eq(taken_context.block_col)]
        with m.If(complete):
            m.d.sync += taken_context.eq(context)
            m.d.sync += (taken[j].eq(Mux(columns[j], value, 0)) for j, value in enumerate(values))
        for j in range(config.ou_cols):
            m.d.sync += shifted[j].eq((taken[j] >> self.constants.scale) << taken_context.shift)

        m.submodules.partial_sums = memory = Memory(
            shape=layouts.partial_sums(config), depth=2 << len(add_col), init=[]
        )
        write, mine, other = memory.write_port(), memory.read_port(domain="comb"), memory.read_port(domain="comb")
        touched = Signal(data.ArrayLayout(config.max_block_cols, 2))
        m.d.comb += [
            mine.addr.eq(Cat(add_col, self.bank)),
            write.addr.eq(mine.addr),
            write.en.eq(add),
            other.addr.eq(Cat(self.sums_address, self.read_bank)),
        ]
        overflows = []
        for j in range(config.ou_cols):
            before = Mux(touched[self.bank].bit_select(add_col, 1), mine.data[j], 0)
            total, too_large = self._narrowed(before + shifted[j])
            m.d.comb += [
                write.data[j].eq(total),
                self.sums_data[j].eq(Mux(touched[self.read_bank].bit_select(self.sums_address, 1), other.data[j], 0)),
            ]
            overflows.append(too_large)
        m.d.comb += self.overflow.eq(add & Cat(overflows).any())
        with m.If(add):
            m.d.sync += touched[self.bank].bit_select(add_col, 1).eq(1)
        with m.If(self.start):
            m.d.sync += touched[self.bank].eq(0)

    def _narrowed(self, total: Value) -> tuple[Any, Any]:
        """(`total` as far as it fits `accumulator_bits`, else the nearest number that does; whether it did not fit).

        Without any logic if no layer can need more bits.
        """
        bits = self.config.accumulator_bits
        # A difference reaches -2**adc_bits, one further than a count of a plain lane.
        if bits > needed_bits(self.config):
            return total, Const(0)
        largest = (1 << bits >> 1) - 1
        above, below = total > largest, total < ~largest
        return Mux(above, largest, Mux(below, ~largest, total)), above | below
