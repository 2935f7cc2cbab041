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
from rtl.search_control import SearchControl
from rtl.search_lane import SearchLane


class PairConverter(Block):
    """Samples every OU on the groups of its mask, one after the other, and adds value << (input bit + plane).

    Two OUs are held: one that is sampled, and the next one. An activation lasts from the clock after its sample was
    transferred to the clock in which all started lanes have finished and `sample_interval` clocks have passed; in that
    clock the next sample is offered. An OU may be sampled in the clock after it was taken.

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
    idle : no OU is held, and none is converting behind this clock.
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
        activation, completed = Signal(), Signal()
        lanes = self._lanes(m)
        slot_over = self._slot(m, lanes, activation, completed)

        # ---- the OU that is sampled, and the next one
        ou, waiting = (Signal(packs.gathered_ou(config), name=name) for name in ("ou", "waiting"))
        held, waits = Signal(), Signal()
        group = Signal(packs.group_index(config))
        used_up, take = Signal(), Signal()
        following = Mux(waits, waiting.as_value(), self.ous.payload.as_value())
        next_ou = Signal(packs.gathered_ou(config))
        m.d.comb += [
            self.ous.ready.eq(~waits),
            next_ou.eq(following),
            used_up.eq(activation & (group == ou.last_group)),
            take.eq((~held | used_up) & (waits | self.ous.valid)),
            self.idle.eq(~held & slot_over),
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
        place, sample = read.data, self.port.sample
        m.d.comb += [
            write.en.eq(self.writes.groups.enable),
            write.addr.eq(self.writes.groups.address),
            write.data.eq(self.writes.groups.data),
            read.addr.eq(Mux(take, next_ou.first_group, group + activation)),
            sample.valid.eq(held & slot_over),
            sample.payload.pair.eq(self.first_pair + place.pair),
            sample.payload.ou_col.eq(place.ou_col),
            sample.payload.lines.eq(ou.lines),
            sample.payload.place.eq(0),
            self.port.places.eq(0),
            activation.eq(sample.valid & sample.ready),
        ]
        m.d.sync += group.eq(read.addr)

        # ---- conversion
        started = Signal(packs.columns(config))
        last_column = place.block_col + 1 == self.settings.block_cols
        valid_columns = Cat(~last_column | (self.settings.last_cols > j) for j in range(config.ou_cols))
        m.submodules.control = control = SearchControl(config)
        m.d.comb += [
            started.eq(Mux(activation, valid_columns, 0)),
            control.constants.eq(self.constants),
            control.start.eq(activation),
            control.ones.eq(ou.ones),
            self.events.activation.eq(activation),
            self.events.started.eq(started),
            self.events.busy.eq(Cat(lane.busy for lane in lanes)),
        ]
        for j, lane in enumerate(lanes):
            m.d.comb += [
                lane.begin.eq(control.begin),
                lane.orders.eq(control.orders),
                lane.start.eq(started[j]),
                lane.comparator.eq(self.port.comparators[j]),
                self.port.thresholds[j].eq(lane.threshold),
            ]

        block_col = Signal(layouts.block_column(config))
        shift = Signal(layouts.bit_position(config))
        columns = Signal(packs.columns(config))
        with m.If(activation):
            m.d.sync += [block_col.eq(place.block_col), shift.eq(ou.input_bit + place.plane), columns.eq(started)]
        self._accumulate(m, completed, [lane.value for lane in lanes], columns, block_col, shift)
        return m

    def _lanes(self, m: Module) -> list[SearchLane]:
        lanes = [SearchLane(self.config) for _ in range(self.config.ou_cols)]
        for j, lane in enumerate(lanes):
            m.submodules[f"lane{j}"] = lane
        return lanes

    def _slot(self, m: Module, lanes: list[SearchLane], activation: Signal, completed: Signal) -> Signal:
        """The time of the activation that is converting; returns "a new one may begin in this clock"."""
        interval = self.config.sample_interval
        slot, slot_over = Signal(), Signal()
        lanes_done = ~Cat(lane.busy & ~lane.last for lane in lanes).any()
        waited = 1
        if interval > 1:
            wait = Signal(range(interval))
            waited = wait == 0
            with m.If(activation):
                m.d.sync += wait.eq(interval - 1)
            with m.Elif(wait != 0):
                m.d.sync += wait.eq(wait - 1)
        m.d.comb += [completed.eq(slot & lanes_done & waited), slot_over.eq(~slot | completed)]
        with m.If(slot_over):
            m.d.sync += slot.eq(activation)
        return slot_over

    def _accumulate(self, m: Module, completed: Signal, values: list, columns: Signal, block_col, shift) -> None:
        """In `completed`: take the values. A clock later: shift. Another one later: read, add and write the sums."""
        config = self.config
        shifted_shape = signed(config.adc_bits + 1 + config.input_bits + config.weight_bits - 2)
        taken = Signal(packs.pair_values(config))
        shifted = Signal(data.ArrayLayout(shifted_shape, config.ou_cols))
        shift_now, add = Signal(), Signal()
        taken_shift = Signal.like(shift)
        taken_col, add_col = Signal.like(block_col), Signal.like(block_col)
        m.d.sync += [shift_now.eq(completed), add.eq(shift_now), add_col.eq(taken_col)]
        with m.If(completed):
            m.d.sync += [taken_shift.eq(shift), taken_col.eq(block_col)]
            m.d.sync += (taken[j].eq(Mux(columns[j], value, 0)) for j, value in enumerate(values))
        for j in range(config.ou_cols):
            m.d.sync += shifted[j].eq((taken[j] >> self.constants.scale) << taken_shift)

        m.submodules.partial_sums = memory = Memory(
            shape=layouts.partial_sums(config), depth=2 << len(block_col), init=[]
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
        if bits >= needed_bits(self.config):
            return total, Const(0)
        largest = (1 << bits >> 1) - 1
        above, below = total > largest, total < ~largest
        return Mux(above, largest, Mux(below, ~largest, total)), above | below
