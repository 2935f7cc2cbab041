"""Post-processing: requantisation, residual, max pooling, store (system.md §3, §5a)."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Module, Mux, Signal, signed, unsigned
from amaranth.lib import memory

from golden_model.config import HardwareConfig, bits_for
from golden_model.registers import OFFSET_BITS
from rtl import layouts
from rtl import tile_layouts as tile
from rtl.block import Block, In, Out
from rtl.few_ones import FewOnes
from rtl.interfaces import connect_write


class PostProcessing(Block):
    """Turns the N values of a window into activations, or into logits in the last step.

    y = clamp(round_half_up_shift(v·M + r·residual_multiplier + offset, S), 0, 2**out_bits - 1), where v
    is partial sum + bias with M of the channel in a crossbar step, the reduced value with M = multiplier
    in an element step, and r the residual. In a crossbar step then the maximum over the windows of a
    pooling window, kept per channel until the pooling window is complete. The result goes to byte
    target + n·out_plane + position, by running counters. The last step stores, saturated to 32 bits, v as
    logit n·out_plane + position, with offset_low, a signed number, in place of an element step's bias.

    On the pair machine the clamp is followed by rounding to the nearest level with `out_ones` 1s (rtl/few_ones.py).

    Throughput: a channel a clock. Latency: `done` comes in the clock of the last store, N - 1 + `latency`
    clocks after the `start` of a crossbar step's window, `latency` - 2 clocks after the last channel's
    `reduced` of an element step's.

    Members
    -------
    settings : the step's descriptor, stable while the step runs.
    layer_start : strobe, output positions restart at 0.
    start : strobe, a window begins. Crossbar step: its sums are ready; they and `place` must hold until
        `done`. Element step: its channels come on `reduced` from the next clock on.
    place : where the window lies.
    sums_address, sums_data : partial sums of a block column, answered in the same clock.
    reduced : the channels of an element step's window, with their residuals; no ready.
    residual_request, residual : crossbar step: the next channel's residual, answered in the next clock.
    bias_write, multiplier_write : write ports of the channel tables; between runs.
    store, logits : where results go. done : strobe.
    overflow : sticky, a logit was saturated. clear : strobe, clears it.
    """

    settings: In(layouts.layer_settings)
    layer_start: In(1)
    start: In(1)
    place: In(tile.window_place)
    sums_address: Out(layouts.block_column)
    sums_data: In(layouts.partial_sums)
    reduced: In(tile.reduced_channel)
    residual_request: Out(1)
    residual: In(tile.BYTE)
    bias_write: In(tile.bias_write)
    multiplier_write: In(tile.multiplier_write)
    store: Out(tile.activation_write)
    logits: Out(tile.logit_write)
    done: Out(1)
    overflow: Out(1)
    clear: In(1)

    @staticmethod
    def latency(config: HardwareConfig) -> int:
        """Clocks from `start` to the store of channel 0 of a crossbar step."""
        return 6 + config.pairs

    def elaborate(self, platform):
        m = Module()
        config, settings = self.config, self.settings
        element = layouts.is_element(settings)
        bias_port, multiplier_port = self._channel_tables(m)

        # ---- step 0: walk the channels of a crossbar step; select the channel's sum, read its tables
        active, channel_last = Signal(), Signal()
        channel, column = Signal(layouts.logit_index(config)), Signal(bits_for(config.ou_cols - 1))
        entry = Signal(layouts.channel_entry(config))
        selected = Signal(signed(config.accumulator_bits))
        column_last = column == config.ou_cols - 1
        m.d.comb += [
            channel_last.eq(channel + 1 == settings.outputs),
            self.residual_request.eq(active),
            bias_port.en.eq(active),
            bias_port.addr.eq(entry),
            multiplier_port.en.eq(active),
            multiplier_port.addr.eq(entry),
            selected.eq(Array(self.sums_data[i] for i in range(config.ou_cols))[column]),
        ]
        with m.If(self.start):
            m.d.sync += [active.eq(~element), channel.eq(0), column.eq(0), self.sums_address.eq(0)]
            m.d.sync += entry.eq(settings.channel_base)
        with m.Elif(active):
            m.d.sync += [channel.eq(channel + 1), column.eq(column + 1), entry.eq(entry + 1)]
            with m.If(column_last):
                m.d.sync += [column.eq(0), self.sums_address.eq(self.sums_address + 1)]
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
            valid[1].eq(Mux(element, self.reduced.valid, walked)),
            final[1].eq(Mux(element, self.reduced.last, walked_last)),
            index[0].eq(channel),
        ]
        m.d.sync += index[1].eq(index[0])
        for i in range(1, last):
            m.d.sync += [valid[i + 1].eq(valid[i]), final[i + 1].eq(final[i]), index[i + 1].eq(index[i])]

        # ---- step 1: add the bias
        accumulated = Signal.like(selected)
        value = Signal(signed(max(config.accumulator_bits, tile.element_bits(config) + 1)))
        bias, multiplier = Signal(signed(tile.WORD)), Signal(tile.MULTIPLIER_BITS)
        biased = Signal(signed(max(len(value), tile.WORD) + 1))
        residual = Signal(tile.BYTE)
        m.d.sync += accumulated.eq(selected)
        with m.If(element):
            m.d.comb += [value.eq(self.reduced.value), bias.eq(Mux(settings.last, settings.offset_low, 0))]
        with m.Else():
            m.d.comb += [value.eq(accumulated), bias.eq(bias_port.data)]
        with m.If(valid[1]):
            m.d.sync += [
                biased.eq(value + bias),
                multiplier.eq(Mux(element, settings.multiplier, multiplier_port.data)),
                residual.eq(Mux(element, self.reduced.residual, self.residual)),
            ]

        # ---- step 2: times M, residual times its multiplier; logits are done here
        product = Signal(signed(len(biased) + tile.MULTIPLIER_BITS))
        offset, addend = Signal(signed(OFFSET_BITS)), Signal(signed(OFFSET_BITS + 1))
        high = biased[tile.WORD - 1 :]
        fits = ~high.any() | high.all()
        most = (1 << tile.WORD - 1) - 1
        m.d.comb += [
            offset.eq(Cat(settings.offset_low, settings.offset_high)),
            self.logits.enable.eq(valid[2] & settings.last),
            self.logits.data.eq(Mux(fits, biased[: tile.WORD].as_signed(), Mux(biased < 0, -most - 1, most))),
        ]
        with m.If(valid[2]):
            m.d.sync += [
                product.eq(biased * multiplier),
                addend.eq(residual * settings.residual_multiplier + offset),
            ]
        with m.If(self.clear):
            m.d.sync += self.overflow.eq(0)
        with m.Elif(self.logits.enable & ~fits):
            m.d.sync += self.overflow.eq(1)

        # ---- step 3: the whole sum
        total = Signal(signed(max(len(product), len(addend)) + 1))
        with m.If(valid[3]):
            m.d.sync += total.eq(product + addend)

        # ---- step 4: shift; one bit more than S drops, for the rounding of step 5
        shifted = Signal(signed(len(total) + 1))
        m.submodules.pool = pool = memory.Memory(shape=unsigned(config.input_bits), depth=config.max_n, init=[])
        pool_read, pool_write = pool.read_port(), pool.write_port()
        with m.If(valid[4]):
            m.d.sync += shifted.eq(Cat(0, total).as_signed() >> settings.shift)
        m.d.comb += [pool_read.en.eq(valid[last - 1]), pool_read.addr.eq(index[last - 1])]

        # ---- step 5: round, clamp. The last step, this one or the one behind the few ones: pool, store
        rounded = Signal(signed(len(shifted)))
        limit, clamped, pooled = (Signal(config.input_bits, name=n) for n in ("limit", "clamped", "pooled"))
        made = self._few_ones(m, clamped, limit) if config.pairs else clamped
        m.d.comb += [
            rounded.eq((shifted + 1) >> 1),
            limit.eq(Cat(settings.out_bits > i for i in range(config.input_bits))),
            pool_write.en.eq(valid[last]),
            pool_write.addr.eq(index[last]),
            pool_write.data.eq(pooled),
            self.store.enable.eq(valid[last] & self.place.pool_last & ~settings.last),
            self.store.data.eq(pooled),
            self.done.eq(valid[last] & final[last]),
            pooled.eq(Mux(self.place.pool_first | (made > pool_read.data), made, pool_read.data)),
        ]
        with m.If(rounded < 0):
            m.d.comb += clamped.eq(0)
        with m.Elif(rounded > limit):
            m.d.comb += clamped.eq(limit)
        with m.Else():
            m.d.comb += clamped.eq(rounded)

        # ---- where the next result goes: a byte, or in the last step a logit
        address = Signal(max(len(self.store.address), len(self.logits.address)))
        position = Signal.like(address, name="position")
        m.d.comb += [self.store.address.eq(address), self.logits.address.eq(address)]
        with m.If(self.layer_start):
            m.d.sync += position.eq(Mux(settings.last, 0, settings.target))
        with m.Elif(self.done & self.place.pool_last):
            m.d.sync += position.eq(position + 1)
        with m.If(self.start):
            m.d.sync += address.eq(position)
        with m.Elif(self.store.enable | self.logits.enable):
            m.d.sync += address.eq(address + settings.out_plane)
        return m

    def _few_ones(self, m: Module, clamped: Signal, limit: Signal) -> Signal:
        """The nearest level of an activation, in the next clock."""
        m.submodules.few_ones = unit = FewOnes(self.config)
        ones = self.settings.out_ones
        level = Signal.like(clamped)
        m.d.comb += [
            unit.value.eq(clamped),
            unit.limit.eq(limit),
            unit.ones.eq(Mux(ones == 0, self.config.input_bits, ones)),
        ]
        m.d.sync += level.eq(unit.level)
        return level

    def _channel_tables(self, m: Module):
        """Bias and multiplier of every channel of every crossbar step; returns their read ports."""
        depth = self.config.channel_entries
        m.submodules.biases = biases = memory.Memory(shape=signed(tile.WORD), depth=depth, init=[])
        m.submodules.multipliers = multipliers = memory.Memory(
            shape=unsigned(tile.MULTIPLIER_BITS), depth=depth, init=[]
        )
        connect_write(m, biases, self.bias_write)
        connect_write(m, multipliers, self.multiplier_write)
        return biases.read_port(), multipliers.read_port()
