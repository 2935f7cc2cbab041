"""Proof: a window's sums in the macro are the product of any input with any cells; no beat is lost or doubled."""

from __future__ import annotations

from typing import Any

import pytest
from amaranth.hdl import Array, Assert, Assume, Cat, Module, Mux, ResetInserter, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In

from golden_model.config import HardwareConfig
from rtl import layouts
from rtl.bit_count import bit_count
from rtl.macro import Macro
from tests.formal.mutants import mutant
from tests.formal.prove import held, searched
from tests.formal.streams import stream_rule

pytestmark = [pytest.mark.rtl, pytest.mark.slow]

#: Two segments of two rows, two block columns of one output, two planes, two input bits, four OUs in two pairs.
MICRO = HardwareConfig(
    rows=4,
    cols=1,
    ou_rows=2,
    ou_cols=1,
    adc_bits=2,
    input_bits=2,
    weight_bits=2,
    crossbar_pairs=2,
    max_k=4,
    max_n=2,
    width_entries=4,
    accumulator_bits=12,
)
PLACES = MICRO.crossbar_pairs * MICRO.grid_rows
#: Stored planes, all blocks together: a window without stalls is done in clock 24 at the latest.
MOST = 3


def block_widths(m: Module, spec: Any) -> list[list[Signal]]:
    """Bit planes of every block of a layer of one or two segments and block columns, by segment and block column, from
    the width table of `spec`; 0 where there is no block."""
    weight_bits = spec.macro.config.weight_bits
    m.d.comb += [
        Assume((spec.segment_count != 0) & (spec.segment_count != 3)),
        Assume((spec.block_cols != 0) & (spec.block_cols != 3)),
        Assume((spec.column == 0) | (spec.block_cols == 2)),
        *(Assume(width <= weight_bits) for width in spec.widths),
    ]
    widths = [[Signal(2, name=f"width_{s}_{c}") for c in range(2)] for s in range(2)]
    for s in range(2):
        for c in range(2):
            exists = (spec.segment_count > s) & (spec.block_cols > c)
            entry = Mux(spec.block_cols == 2, 2 * s + c, s)
            m.d.comb += widths[s][c].eq(Mux(exists, spec.widths[entry[:2]] if s + c else spec.widths[0], 0))
    return widths


class ProductSpec(wiring.Component):
    """Any cells, any widths that fit, any input and mask, one or two segments and block columns; any stalls or none.

    The array counts exactly and the converters are set to lossless uniform conversion. A window begins when the width
    table is loaded. aborted : before that the macro is reset, as by an abort.
    """

    def __init__(self, macro: type = Macro, stalls: bool = True, aborted: bool = False):
        self.macro, self.stalls, self.aborted = macro(MICRO), stalls, aborted
        super().__init__(
            {
                "segment_count": In(range(3)),
                "block_cols": In(range(3)),
                "skip_zero_slices": In(1),
                "widths": In(data.ArrayLayout(2, MICRO.width_entries)),
                "cells": In(data.ArrayLayout(layouts.cells(MICRO), PLACES)),
                "inputs": In(data.ArrayLayout(layouts.segment(MICRO), 2)),
                "column": In(1),
                "valid": In(1),
                "sample_ready": In(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        macro = self.macro
        first_clock = Signal(init=1)
        m.d.sync += first_clock.eq(0)
        m.submodules.macro = ResetInserter(first_clock)(macro) if self.aborted else macro
        settings, sample = macro.settings, macro.crossbar.sample
        for value in (
            *(self.segment_count, self.block_cols, self.skip_zero_slices),
            *(self.widths, self.cells, self.inputs, self.column),
        ):
            held(m, value)
        widths = block_widths(m, self)
        planes = sum(width for row in widths for width in row)
        m.d.comb += [
            Assume(planes <= MOST),
        ]
        clock = Signal(range(16))
        with m.If((clock != 15) & ~(first_clock & self.aborted)):
            m.d.sync += clock.eq(clock + 1)
        index = Signal(2)  # segments that were taken
        m.d.comb += [
            settings.segments.eq(self.segment_count),
            settings.block_cols.eq(self.block_cols),
            settings.last_cols.eq(1),
            settings.skip_zero_slices.eq(self.skip_zero_slices),
            settings.n_r2.eq(MICRO.adc_bits),
            macro.width_write.enable.eq((clock < MICRO.width_entries) & ~(first_clock & self.aborted)),
            macro.width_write.address.eq(clock),
            macro.width_write.data.eq(self.widths[clock[:2]]),
            macro.window_start.eq(clock == MICRO.width_entries),
            macro.segments.valid.eq(self.valid),
            macro.segments.payload.eq(Mux(index[0], self.inputs[1].as_value(), self.inputs[0].as_value())),
            sample.ready.eq(self.sample_ready),
            macro.sums_address.eq(self.column),
            Assume(stream_rule(m, macro.segments, "segments")),
            Assume((index < self.segment_count) | ~self.valid),
            Assert(first_clock | ~(macro.placement_error | macro.configuration_error | macro.overflow)),
        ]
        if not self.stalls:
            m.d.comb += [Assume(self.valid == (index < self.segment_count)), Assume(self.sample_ready)]
        with m.If(macro.segments.valid & macro.segments.ready & ~(first_clock & self.aborted)):
            m.d.sync += index.eq(index + 1)

        # The array: a sample is held, its cells count.
        place = Cat(sample.payload.ou_row, sample.payload.pair)
        slice_held, cells_held = Signal(MICRO.ou_rows), Signal(layouts.cells(MICRO))
        with m.If(sample.valid & sample.ready):
            m.d.sync += [slice_held.eq(sample.payload.slice), cells_held.eq(self.cells[place])]
        for lane in range(MICRO.lanes):
            ones = bit_count(cells_held.word_select(lane, MICRO.ou_rows) & slice_held)
            m.d.comb += macro.crossbar.comparators[lane].eq(ones >= macro.crossbar.thresholds[lane])

        # The product of input and stored planes, block column `column`.
        product, first = Signal(signed(12)), 0
        terms = []
        for s in range(2):
            beat = self.inputs[s]
            for c in range(2):
                for b in range(MICRO.weight_bits):
                    stored = Signal.like(cells_held, name=f"stored_{s}_{c}_{b}")
                    m.d.comb += stored.eq(Array(self.cells[p] for p in range(PLACES))[(first + b)])
                    for i in range(MICRO.input_bits):
                        counts = [
                            bit_count(stored.word_select(lane, MICRO.ou_rows) & beat.slices[i]) for lane in range(2)
                        ]
                        term = Signal(signed(8), name=f"term_{s}_{c}_{b}_{i}")
                        used = (widths[s][c] > b) & beat.mask[i] & (self.column == c)
                        m.d.comb += term.eq(Mux(used, (counts[0] - counts[1]) << (i + b), 0))
                        terms.append(term)
                first = first + widths[s][c]
        m.d.comb += product.eq(sum(terms))

        done, read = Signal(), Signal()
        m.d.sync += read.eq(macro.window_done & ~(first_clock & self.aborted))
        with m.If(read):
            m.d.comb += Assert(macro.sum == product)
        with m.If(macro.window_done & ~(first_clock & self.aborted)):
            m.d.sync += done.eq(1)
            m.d.comb += [
                Assert(index == self.segment_count),
                Assert(~done),
            ]
        return m


WHAT = f"2 segments of 2 rows, 2 block columns, {MOST} planes, 2 bits"


def test_sums_of_a_window_are_the_matrix_product(proof):
    proof(ProductSpec(stalls=False), "macro", f"{WHAT}, no stalls", searched(25), limit=500)


def test_sums_of_a_window_are_the_matrix_product_with_any_stalls(proof):
    proof(ProductSpec(), "macro", f"{WHAT}, any stalls", searched(18), limit=400)


@pytest.mark.parametrize(
    ("correct", "wrong"),
    [
        ("shift = ou.input_bit + ou.plane", "shift = ou.input_bit"),
        ("add.eq(decode), block_col.eq(ou.block_col)", "add.eq(decode), block_col.eq(0)"),
        ("with m.If(clear_col + 1 == self.settings.block_cols)", "with m.If(1)"),
    ],
)
def test_wrong_macro_is_refuted(correct, wrong, refutation):
    spec = ProductSpec(mutant(Macro, correct, wrong), stalls=False, aborted=True)
    refutation(spec, "macro", f"`{wrong}`", searched(21), any_state="macro")
