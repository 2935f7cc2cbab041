"""Which bits of a group of activations are worth streaming: the statistics of the dynamic-precision unit."""

from __future__ import annotations

from functools import reduce
from operator import or_

from amaranth.hdl import Cat, Module, Mux, Signal

from rtl import layouts
from rtl import tile_layouts as tile
from rtl.bit_count import bit_count
from rtl.block import Block, In, Out


class GroupPrecision(Block):
    """Decides hi and lo of every group of a window while its bytes pass by (system.md §6).

    Per group of `segments_per_group` segments it accumulates max, Σq, Σq² and the number n of rows. hi
    is the position of the leading one of the max; lo the largest 1 <= l <= min(l_max, hi) with
    (n² << (2l + 12)) <= tau_sq·(n·Σq² - (Σq)²), else 0. The condition holds for all l up to the largest
    one, so the number of l that meet it is the answer: no search, no root, no division. With
    `settings.dynamic` 0 every group streams the `stream_bits` low bits.

    Throughput: `bytes` every clock, groups of any length back to back: the steps from a byte to the
    answer are a pipeline, so a group costs no clocks of its own. Latency: the answer is on `precisions`
    `latency` clocks after the group's last byte.

    Members
    -------
    settings : the layer's descriptor, stable while the layer runs.
    bytes : rows of a window; no ready.
    precisions : one answer per group, in order, for one clock; no ready. A group of zeros has mask 0.
    """

    settings: In(layouts.layer_settings)
    bytes: In(tile.window_bytes)
    precisions: Out(tile.group_answer)

    #: Clocks from the last byte of a group to its precision.
    latency = 6

    def elaborate(self, platform):
        m = Module()
        config, settings = self.config, self.settings
        bits = config.input_bits
        rows = min(config.segments_per_group * config.ou_rows, config.max_k)
        top = (1 << bits) - 1

        # ---- what a clock brings: nothing but a register, for the bytes come from a memory through a multiplexer
        values = [Signal(bits, name=f"value{i}") for i in range(config.values_together)]
        taken, taken_last, taken_count = Signal(), Signal(), Signal(range(len(values) + 1))
        for value, used, byte in zip(values, self.bytes.used, self.bytes.values, strict=True):
            m.d.sync += value.eq(Mux(used, byte, 0))
        m.d.sync += [
            taken.eq(self.bytes.used[0]),
            taken_last.eq(self.bytes.last),
            taken_count.eq(bit_count(self.bytes.used)),
        ]

        # ---- sums; `ended` = the sums are those of a whole group; only the leading one of the maximum matters, so a
        # bitwise OR serves as well
        first, ended = Signal(init=1), Signal()
        count, counted, group_end = Signal(range(rows + 1)), Signal(range(rows + 1)), Signal()
        maximum = Signal(bits)
        total, squares = Signal(range(rows * top + 1)), Signal(range(rows * top * top + 1))
        m.d.comb += [
            counted.eq(Mux(first, 0, count) + taken_count),
            group_end.eq(taken_last | (counted == rows)),
        ]
        m.d.sync += ended.eq(0)
        with m.If(taken):
            m.d.sync += [
                count.eq(counted),
                maximum.eq(Mux(first, 0, maximum) | reduce(or_, values)),
                total.eq(Mux(first, 0, total) + sum(values)),
                squares.eq(Mux(first, 0, squares) + sum(value * value for value in values)),
                first.eq(group_end),
                ended.eq(group_end),
            ]

        # ---- products
        products_valid, products_maximum = Signal(), Signal(bits)
        count_square = Signal(range(rows * rows + 1))
        n_squares = Signal(range(rows * rows * top * top + 1))
        total_square = Signal(range(rows * rows * top * top + 1))
        m.d.sync += products_valid.eq(ended)
        with m.If(ended):
            m.d.sync += [
                products_maximum.eq(maximum),
                count_square.eq(count * count),
                n_squares.eq(count * squares),
                total_square.eq(total * total),
            ]

        # ---- n² times the variance; never negative
        variance_valid, variance_maximum = Signal(), Signal(bits)
        variance, variance_count = Signal.like(n_squares), Signal.like(count_square)
        m.d.sync += variance_valid.eq(products_valid)
        with m.If(products_valid):
            m.d.sync += [
                variance.eq(n_squares - total_square),
                variance_maximum.eq(products_maximum),
                variance_count.eq(count_square),
            ]

        # ---- tolerance: the product with each half of tau_sq, then their sum
        half = len(settings.tau_sq) // 2
        halves_valid, halves_maximum = Signal(), Signal(bits)
        low_half, high_half = (Signal(len(variance) + len(settings.tau_sq) - half, name=n) for n in ("low", "high"))
        halves_count = Signal.like(count_square)
        m.d.sync += halves_valid.eq(variance_valid)
        with m.If(variance_valid):
            m.d.sync += [
                low_half.eq(variance * settings.tau_sq[:half]),
                high_half.eq(variance * settings.tau_sq[half:]),
                halves_maximum.eq(variance_maximum),
                halves_count.eq(variance_count),
            ]
        tolerance_valid, tolerance_maximum = Signal(), Signal(bits)
        tolerance = Signal(len(variance) + len(settings.tau_sq))
        tolerance_count = Signal.like(count_square)
        m.d.sync += tolerance_valid.eq(halves_valid)
        with m.If(halves_valid):
            m.d.sync += [
                tolerance.eq(low_half + (high_half << half)),
                tolerance_maximum.eq(halves_maximum),
                tolerance_count.eq(halves_count),
            ]

        # ---- answer: upto = bits 0..hi; low = bits 0..lo - 1
        upto, low = Signal(bits), Signal(bits)
        for i in range(bits):
            m.d.comb += upto[i].eq(tolerance_maximum[i:].any())
        for lossy in range(1, bits):
            allowed = (tolerance_count << (2 * lossy + 12)) <= tolerance
            m.d.comb += low[lossy - 1].eq(allowed & (settings.l_max >= lossy) & upto[lossy])
        value = self.precisions.value
        m.d.comb += self.precisions.valid.eq(tolerance_valid)
        with m.If(settings.dynamic):
            m.d.comb += [value.mask.eq(upto & ~low), value.half.eq(low & ~(low >> 1))]
        with m.Else():
            m.d.comb += value.mask.eq(Cat(settings.stream_bits > i for i in range(bits)))
        return m
