"""Post-processing: requantisation, residual, activation function, max pooling, store (system.md §3, §5a)."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, memory

from golden_model.config import HardwareConfig
from rtl import layouts
from rtl import tile_layouts as tile
from rtl.bit_count import bit_count
from rtl.block import Block, In, Out, Where
from rtl.lookup import Lookup
from rtl.requantisation import Requantisation
from rtl.table import Table


class PostProcessing(Block):
    """Turns the N values of a window, or of each window of a round, into activations, or into logits in the last step.

    A value is requantised (rtl/requantisation.py): the partial sum with bias and M of the channel in a crossbar step,
    the reduced value with M = multiplier in an element step, and the residual. Then, where the hardware has tables and
    the step names one, the activation function (rtl/lookup.py). In a crossbar step then the maximum over
    the windows of a pooling window, kept per channel until the pooling window is complete. The result goes to byte
    target + n·out_plane + position, by running counters. The last step stores, saturated to 32 bits, v as
    logit n·out_plane + position, with offset_low, a signed number, in place of an element step's bias.

    Several macros share the walk and the tables: the values of a channel of all windows of a round, neighbours in the
    map, are made and stored together.

    Throughput: a channel of a round a clock. Latency: `done` comes in the clock of the last store, N - 1 + `latency`
    clocks after the `start` of a crossbar step's window, `latency` - 2 clocks after the last channel's
    `reduced` of an element step's.

    Members
    -------
    settings : the step's descriptor, stable while the step runs.
    layer_start : strobe, output positions restart at 0.
    start : strobe, a round begins. Crossbar step: its sums are ready; they and `place` must hold until
        `done`. Element step: its channels come on `reduced` from the next clock on.
    place : where the windows lie.
    sums_address, sums_column : block column of a channel and its column in it; sums : of every macro, its partial sum,
        answered in the next clock. sums_taken : strobe, no other column of the block column will be asked for.
    reduced : the channels of an element step's windows, with their residuals, those of all macros together; no ready.
    residual_request, residuals : crossbar step: the next channel's residuals, answered in the next clock.
    bias_write, multiplier_write : write ports of the channel tables; between runs. lookup_write : that of the tables
        of activation functions, where there are any.
    store, logits : where results go. done : strobe.
    table_error : strobe, a bias, a multiplier or an entry of a function's table has lost its parity.
    overflow : sticky, a logit was saturated. clear : strobe, clears it.
    """

    settings: In(layouts.layer_settings)
    layer_start: In(1)
    start: In(1)
    place: In(tile.window_place)
    sums_address: Out(layouts.block_column)
    sums_column: Out(layouts.column)
    sums_taken: Out(1)
    sums: In(tile.of_macros(layouts.accumulator))
    reduced: In(tile.of_macros(tile.reduced_channel))
    residual_request: Out(1)
    residuals: In(tile.of_macros(tile.BYTE))
    bias_write: In(tile.bias_write)
    multiplier_write: In(tile.multiplier_write)
    lookup_write: Where(layouts.looks_up, In(tile.lookup_write))
    store: Out(tile.activation_write)
    logits: Out(tile.logit_write)
    done: Out(1)
    table_error: Out(1)
    overflow: Out(1)
    clear: In(1)

    @staticmethod
    def latency(config: HardwareConfig) -> int:
        """Clocks from `start` to the store of channel 0 of a crossbar step."""
        return 2 + Requantisation.latency(config) + (Lookup.latency if config.looks_up else 0)

    def elaborate(self, platform):
        m = Module()
        config, settings = self.config, self.settings
        element = layouts.is_element(settings)
        biases, multipliers = self._channel_tables(m)

        # ---- step 0: walk the channels of a crossbar step; read their sums and their tables
        active, channel_last = Signal(), Signal()
        channel = Signal(layouts.logit_index(config))
        entry = Signal(layouts.channel_entry(config))
        column_last = self.sums_column == config.ou_cols - 1
        m.d.comb += [
            channel_last.eq(channel + 1 == settings.outputs),
            self.residual_request.eq(active),
            self.sums_taken.eq(active & (column_last | channel_last)),
            *(table.read.enable.eq(active) for table in (biases, multipliers)),
            *(table.read.address.eq(entry) for table in (biases, multipliers)),
        ]
        with m.If(self.start):
            m.d.sync += [active.eq(~element), channel.eq(0), self.sums_column.eq(0), self.sums_address.eq(0)]
            m.d.sync += entry.eq(settings.channel_base)
        with m.Elif(active):
            m.d.sync += [channel.eq(channel + 1), self.sums_column.eq(self.sums_column + 1), entry.eq(entry + 1)]
            with m.If(column_last):
                m.d.sync += [self.sums_column.eq(0), self.sums_address.eq(self.sums_address + 1)]
            with m.If(channel_last):
                m.d.sync += active.eq(0)

        # valid[i], final[i], index[i] belong to step i, the last of which stores; an element step enters at step 1,
        # without an index.
        last = self.latency(config) - 1
        walked, walked_last = Signal(), Signal()
        m.d.sync += [walked.eq(active), walked_last.eq(channel_last)]
        valid, final, index = (
            [Signal(shape, name=f"{name}{i}") for i in range(last + 1)]
            for name, shape in (("valid", 1), ("final", 1), ("index", channel.shape()))
        )
        m.d.comb += [
            valid[1].eq(Mux(element, self.reduced[0].valid, walked)),
            final[1].eq(Mux(element, self.reduced[0].last, walked_last)),
            index[0].eq(channel),
        ]
        m.d.sync += index[1].eq(index[0])
        for i in range(1, last):
            m.d.sync += [valid[i + 1].eq(valid[i]), final[i + 1].eq(final[i]), index[i + 1].eq(index[i])]

        # ---- from step 1 on: the value of every macro
        bias, multiplier, lost = Signal(signed(tile.WORD)), Signal(tile.MULTIPLIER_BITS), Signal()
        m.d.comb += [
            bias.eq(Mux(element, Mux(settings.last, settings.offset_low.as_signed(), 0), biases.read.data)),
            multiplier.eq(Mux(element, settings.multiplier, multipliers.read.data)),
            lost.eq(walked & (biases.wrong | multipliers.wrong)),
            self.table_error.eq(lost),
        ]
        values = [Requantisation(config) for _ in range(config.macros)]
        for macro, (value, reduced) in enumerate(zip(values, self.reduced, strict=True)):
            m.submodules[f"value{macro}"] = value
            m.d.comb += [
                value.settings.eq(settings),
                value.steps.eq(Cat(valid[1:5])),
                value.value.eq(Mux(element, reduced.value, self.sums[macro])),
                value.bias.eq(bias),
                value.multiplier.eq(multiplier),
                value.residual.eq(Mux(element, reduced.residual, self.residuals[macro])),
            ]

        # ---- step 2: a logit is done; a step that makes logits has one window at a time
        m.d.comb += [
            self.logits.enable.eq(valid[2] & settings.last),
            self.logits.data.eq(values[0].logit),
        ]
        with m.If(self.clear):
            m.d.sync += self.overflow.eq(0)
        with m.Elif(self.logits.enable & values[0].saturated):
            m.d.sync += self.overflow.eq(1)

        # ---- the step before the last one, where there are tables: the activation function
        made = [value.made for value in values]
        if config.looks_up:
            m.submodules.lookup = lookup = Lookup(config)
            m.d.comb += [
                lookup.settings.eq(settings),
                lookup.enable.eq(valid[last - 1]),
                lookup.codes.eq(Cat(made)),
                lookup.write.eq(self.lookup_write),
                self.table_error.eq(lost | lookup.table_error),
            ]
            made = list(lookup.made)

        # ---- the last step: pool, store
        pooled = Signal(data.ArrayLayout(unsigned(config.input_bits), config.macros))
        m.submodules.pool = pool = memory.Memory(shape=pooled.shape(), depth=config.max_n, init=[])
        pool_read, pool_write = pool.read_port(), pool.write_port()
        keep = valid[last] & self.place.pool_last & ~settings.last
        m.d.comb += [
            pool_read.en.eq(valid[last - 1]),
            pool_read.addr.eq(index[last - 1]),
            pool_write.en.eq(valid[last]),
            pool_write.addr.eq(index[last]),
            pool_write.data.eq(pooled),
            self.store.enable.eq(Mux(keep, self.place.active, 0)),
            self.done.eq(valid[last] & final[last]),
        ]
        for macro, value in enumerate(made):
            before = pool_read.data[macro]
            m.d.comb += [
                pooled[macro].eq(Mux(self.place.pool_first | (value > before), value, before)),
                self.store.data[macro].eq(pooled[macro]),
            ]

        # ---- where the next results go: bytes, or in the last step a logit
        address = Signal(max(len(self.store.address), len(self.logits.address)))
        position = Signal.like(address, name="position")
        m.d.comb += [self.store.address.eq(address), self.logits.address.eq(address)]
        with m.If(self.layer_start):
            m.d.sync += position.eq(Mux(settings.last, 0, settings.target))
        with m.Elif(self.done & self.place.pool_last):
            m.d.sync += position.eq(position + bit_count(self.place.active))
        with m.If(self.start):
            m.d.sync += address.eq(position)
        with m.Elif(keep | self.logits.enable):
            m.d.sync += address.eq(address + settings.out_plane)
        return m

    def _channel_tables(self, m: Module) -> tuple[Table, Table]:
        """Bias and multiplier of every channel of every crossbar step."""
        depth = self.config.channel_entries
        m.submodules.biases = biases = Table(self.bias_write.shape(), depth)
        m.submodules.multipliers = multipliers = Table(self.multiplier_write.shape(), depth)
        m.d.comb += [biases.write.eq(self.bias_write), multipliers.write.eq(self.multiplier_write)]
        return biases, multipliers
