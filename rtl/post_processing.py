"""Post-processing: requantisation of partial sums, max pooling, store (system.md §3, §5a)."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Module, Mux, Signal, signed, unsigned
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from golden_model.config import HardwareConfig, bits_for
from rtl import layouts
from rtl import tile_layouts as tile


class PostProcessing(wiring.Component):
    """Turns the N partial sums of a window into activations, or into logits in the last layer.

    y = clamp(round_half_up_shift((acc + bias)·M, S), 0, 2**out_bits - 1), then the maximum over the
    windows of a pooling window, kept per channel until the pooling window is complete; the result goes
    to byte n * out_plane + position of the output buffer, both by running counters. The last layer
    stores acc + bias, saturated to 32 bits, as logit n.

    Throughput: a channel a clock. Latency: `done` comes N - 1 + `latency` clocks after `start`, in the
    clock of the last store.

    Parameters
    ----------
    config : sizes.

    Members
    -------
    settings : the layer's descriptor, stable while the layer runs.
    layer_start : strobe, output positions restart at 0.
    start : strobe, the sums of a window are ready; they and `place` must hold until `done`.
    place : where the window lies.
    sums_address, sums_data : partial sums of a block column, answered in the same clock.
    bias_write, multiplier_write : write ports of the channel tables; between layers.
    store, logits : where results go. done : strobe.
    overflow : sticky, a logit was saturated. clear : strobe, clears it.
    """

    #: Clocks from `start` to the store of channel 0.
    latency = 5

    def __init__(self, config: HardwareConfig):
        self.config = config
        super().__init__(
            {
                "settings": In(layouts.layer_settings(config)),
                "layer_start": In(1),
                "start": In(1),
                "place": In(tile.window_place(config)),
                "sums_address": Out(layouts.block_column(config)),
                "sums_data": In(layouts.partial_sums(config)),
                "bias_write": In(tile.memory_write(tile.channel_entry(config), signed(tile.WORD))),
                "multiplier_write": In(tile.memory_write(tile.channel_entry(config), unsigned(tile.MULTIPLIER_BITS))),
                "store": Out(tile.activation_write(config)),
                "logits": Out(tile.logit_write(config)),
                "done": Out(1),
                "overflow": Out(1),
                "clear": In(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config, settings = self.config, self.settings
        channel_index = tile.logit_index(config)

        m.submodules.biases = biases = memory.Memory(shape=signed(tile.WORD), depth=config.channel_entries, init=[])
        m.submodules.multipliers = multipliers = memory.Memory(
            shape=unsigned(tile.MULTIPLIER_BITS), depth=config.channel_entries, init=[]
        )
        for table, write in ((biases, self.bias_write), (multipliers, self.multiplier_write)):
            port = table.write_port()
            m.d.comb += [port.en.eq(write.enable), port.addr.eq(write.address), port.data.eq(write.data)]
        bias_port, multiplier_port = biases.read_port(), multipliers.read_port()

        # ---- step 0: walk the channels; select the channel's sum, read its tables
        active, channel_last = Signal(), Signal()
        channel, column = Signal(channel_index), Signal(bits_for(config.ou_cols - 1))
        entry = Signal(tile.channel_entry(config))
        selected = Signal(signed(config.accumulator_bits))
        column_last = column == config.ou_cols - 1
        m.d.comb += [
            channel_last.eq(channel + 1 == settings.outputs),
            bias_port.en.eq(active),
            bias_port.addr.eq(entry),
            multiplier_port.en.eq(active),
            multiplier_port.addr.eq(entry),
            selected.eq(Array(self.sums_data[i] for i in range(config.ou_cols))[column]),
        ]
        with m.If(self.start):
            m.d.sync += [active.eq(1), channel.eq(0), column.eq(0), self.sums_address.eq(0)]
            m.d.sync += entry.eq(settings.channel_base)
        with m.Elif(active):
            m.d.sync += [channel.eq(channel + 1), column.eq(column + 1), entry.eq(entry + 1)]
            with m.If(column_last):
                m.d.sync += [column.eq(0), self.sums_address.eq(self.sums_address + 1)]
            with m.If(channel_last):
                m.d.sync += active.eq(0)

        valid = [active, *(Signal(name=f"valid{i}") for i in range(1, 5))]
        final = [channel_last, *(Signal(name=f"final{i}") for i in range(1, 5))]
        index = [channel, *(Signal(channel_index, name=f"channel{i}") for i in range(1, 5))]
        for i in range(4):
            m.d.sync += [valid[i + 1].eq(valid[i]), final[i + 1].eq(final[i]), index[i + 1].eq(index[i])]

        # ---- step 1: acc + bias
        accumulated = Signal.like(selected)
        biased = Signal(signed(max(config.accumulator_bits, tile.WORD) + 1))
        multiplier = Signal(tile.MULTIPLIER_BITS)
        m.d.sync += accumulated.eq(selected)
        with m.If(valid[1]):
            m.d.sync += [biased.eq(accumulated + bias_port.data), multiplier.eq(multiplier_port.data)]

        # ---- step 2: times M; logits are done here
        product = Signal(signed(len(biased) + tile.MULTIPLIER_BITS))
        high = biased[tile.WORD - 1 :]
        fits = ~high.any() | high.all()
        most = (1 << tile.WORD - 1) - 1
        m.d.comb += [
            self.logits.enable.eq(valid[2] & settings.last),
            self.logits.address.eq(index[2]),
            self.logits.data.eq(Mux(fits, biased[: tile.WORD].as_signed(), Mux(biased < 0, -most - 1, most))),
        ]
        with m.If(valid[2]):
            m.d.sync += product.eq(biased * multiplier)
        with m.If(self.clear):
            m.d.sync += self.overflow.eq(0)
        with m.Elif(self.logits.enable & ~fits):
            m.d.sync += self.overflow.eq(1)

        # ---- step 3: shift; one bit more than S drops, for the rounding of step 4
        shifted = Signal(signed(len(product) + 1))
        m.submodules.pool = pool = memory.Memory(shape=unsigned(config.input_bits), depth=config.max_n, init=[])
        pool_read, pool_write = pool.read_port(), pool.write_port()
        with m.If(valid[3]):
            m.d.sync += shifted.eq(Cat(0, product).as_signed() >> settings.shift)
        m.d.comb += [pool_read.en.eq(valid[3]), pool_read.addr.eq(index[3])]

        # ---- step 4: round, clamp, pool, store
        rounded = Signal(signed(len(shifted)))
        limit, clamped, pooled = (Signal(config.input_bits, name=n) for n in ("limit", "clamped", "pooled"))
        address, position = Signal(tile.activation_address(config)), Signal(tile.activation_address(config))
        stored = valid[4] & self.place.pool_last & ~settings.last
        m.d.comb += [
            rounded.eq((shifted + 1) >> 1),
            limit.eq(Cat(settings.out_bits > i for i in range(config.input_bits))),
            pool_write.en.eq(valid[4]),
            pool_write.addr.eq(index[4]),
            pool_write.data.eq(pooled),
            self.store.enable.eq(stored),
            self.store.address.eq(address),
            self.store.data.eq(pooled),
            self.done.eq(valid[4] & final[4]),
            pooled.eq(Mux(self.place.pool_first | (clamped > pool_read.data), clamped, pool_read.data)),
        ]
        with m.If(rounded < 0):
            m.d.comb += clamped.eq(0)
        with m.Elif(rounded > limit):
            m.d.comb += clamped.eq(limit)
        with m.Else():
            m.d.comb += clamped.eq(rounded)

        with m.If(self.layer_start):
            m.d.sync += position.eq(0)
        with m.Elif(stored & final[4]):
            m.d.sync += position.eq(position + 1)
        with m.If(self.start):
            m.d.sync += address.eq(position)
        with m.Elif(stored):
            m.d.sync += address.eq(address + settings.out_plane)
        return m
