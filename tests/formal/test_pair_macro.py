"""Proof: the pair macro's sums of a window are the matrix product of any input with any cells."""

from __future__ import annotations

from dataclasses import replace

import pytest
from amaranth.hdl import Array, Assert, Assume, Cat, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In

from golden_model.config import HardwareConfig
from rtl import layouts
from rtl.bit_count import bit_count
from rtl.pair_interfaces import halves_of
from rtl.pair_layouts import SearchMode
from rtl.pair_macros import PairMacros
from tests.formal.mutants import mutant
from tests.formal.prove import held, searched
from tests.formal.streams import stream_rule
from tests.formal.test_macro import MICRO, block_widths

pytestmark = [pytest.mark.rtl, pytest.mark.slow]

#: A pack of two segments of two rows, two block columns of one output, one plane, two input bits, two pairs.
PAIRS = replace(MICRO, machine="pairs", cols=2, weight_bits=1, sample_places=2)


class PairProductSpec(wiring.Component):
    """Any cells of sign and magnitude, any widths, any input and mask, one or two segments and block columns.

    The array subtracts exactly, the converters search outward. The layer is built and a window begins when the width
    table is loaded.
    """

    def __init__(self, config: HardwareConfig = PAIRS, macro: type = PairMacros, stalls: bool = False):
        self.config, self.macro, self.stalls = config, macro(config), stalls
        self.cell_layout = data.ArrayLayout(
            data.ArrayLayout(layouts.cells(config), config.grid_rows), config.crossbar_pairs * config.grid_cols
        )
        super().__init__(
            {
                "segment_count": In(range(3)),
                "block_cols": In(range(3)),
                "widths": In(data.ArrayLayout(2, config.width_entries)),
                "cells": In(self.cell_layout),
                "inputs": In(data.ArrayLayout(layouts.segment(config), 2)),
                "column": In(1),
                "valid": In(1),
                "sample_ready": In(2),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self.config
        m.submodules.macro = macro = self.macro
        settings, search = macro.settings, macro.search
        for value in (self.segment_count, self.block_cols, self.widths, self.cells, self.inputs, self.column):
            held(m, value)
        widths = block_widths(m, self)
        m.d.comb += [
            *(
                Assume((cells.word_select(0, config.ou_rows) & cells.word_select(1, config.ou_rows)) == 0)
                for place in self.cells
                for cells in place
            ),
            *(Assume(beat.mask[i] | (beat.slices[i] == 0)) for beat in self.inputs for i in range(config.input_bits)),
        ]

        clock, index = Signal(range(16)), Signal(2)
        m.d.sync += clock.eq(Mux(clock == 15, 15, clock + 1))
        m.d.comb += [
            settings.segments.eq(self.segment_count),
            settings.block_cols.eq(self.block_cols),
            settings.last_cols.eq(1),
            search.mode.eq(SearchMode.OUTWARD),
            search.signed.eq(1),
            search.n_r2.eq(config.converter_bits),
            macro.width_write.enable.eq(clock < config.width_entries),
            macro.width_write.address.eq(clock),
            macro.width_write.data.eq(self.widths[clock[:2]]),
            macro.layer_start.eq(clock == config.width_entries),
            macro.window_start.eq(clock == config.width_entries + 1),
            macro.active.eq(1),
            macro.filling.eq(1),
            macro.segments0.valid.eq(self.valid),
            macro.segments0.payload.eq(Mux(index[0], self.inputs[1].as_value(), self.inputs[0].as_value())),
            macro.sums_take.eq(macro.window_done),
            macro.sums_address.eq(self.column),
            Assume(stream_rule(m, macro.segments0, "segments")),
            Assume((index < self.segment_count) | ~self.valid),
            Assert(~macro.placement_error & ~macro.overflow),
            Assert((clock < 2) | ~macro.configuration_error),
        ]
        if not self.stalls:
            m.d.comb += [Assume(self.valid == (index < self.segment_count)), Assume(self.sample_ready == 3)]
        with m.If(macro.segments0.valid & macro.segments0.ready):
            m.d.sync += index.eq(index + 1)

        # The array: each place of a half holds a difference of one column pair.
        all_cells = Array(self.cells[p].as_value() for p in range(len(self.cells)))
        for number, half in enumerate(halves_of(macro.crossbar, config)):
            sample = half.sample.payload
            held_values = Array(Signal(signed(4), name=f"held_{number}_{p}") for p in range(config.sample_places))
            on = sample.lines.as_value()
            cells = Signal(self.cell_layout.elem_shape, name=f"cells_{number}")
            m.d.comb += [
                half.sample.ready.eq(self.sample_ready[number]),
                cells.eq(all_cells[Cat(sample.ou_col, sample.pair)]),
                half.comparators.eq(held_values[half.places[0]] >= half.thresholds[0]),
                Assert(~half.sample.valid | (bit_count(on) <= config.ou_rows)),
            ]
            with m.If(half.sample.valid & half.sample.ready):
                m.d.sync += held_values[sample.place].eq(
                    sum(_difference(config, cells[s], sample.lines[s]) for s in range(config.grid_rows))
                )

        # The product. Groups of block column 0 are in the first pair, those of column 1 in the next one that is free.
        first_used = (widths[0][0] | widths[1][0]) != 0
        product, terms = Signal(signed(12)), []
        for c in range(2):
            for b in range(config.weight_bits):
                place = Signal(self.cell_layout.elem_shape, name=f"place_{c}_{b}")
                m.d.comb += place.eq(all_cells[Mux(first_used, config.grid_cols, 0) + b if c else b])
                for s in range(2):
                    for i in range(config.input_bits):
                        term = Signal(signed(8), name=f"term_{s}_{c}_{b}_{i}")
                        used = (widths[s][c] > b) & (self.column == c)
                        difference = _difference(config, place[s], self.inputs[s].slices[i])
                        m.d.comb += term.eq(Mux(used, difference << (i + b), 0))
                        terms.append(term)
        m.d.comb += product.eq(sum(terms))

        taken, done = Signal(2), Signal()
        m.d.sync += taken.eq(taken << 1 | macro.window_done)
        with m.If(macro.window_done):
            m.d.sync += done.eq(1)
            m.d.comb += [Assert(index == self.segment_count), Assert(~done)]
        with m.If(taken[-1]):
            m.d.comb += Assert(macro.sums[0] == product)
        return m


def _difference(config: HardwareConfig, cells, on):
    """What a column pair of one output adds up to on the word lines that are on."""
    positive, negative = (bit_count(cells.word_select(polarity, config.ou_rows) & on) for polarity in (0, 1))
    return positive - negative


def test_sums_of_a_window_are_the_matrix_product(proof):
    what = "1 pack of 2 segments of 2 rows, 2 block columns, 1 plane, 2 bits, no stalls"
    proof(PairProductSpec(), "pair_macro", what, searched(36), limit=500)


@pytest.mark.parametrize(
    ("correct", "wrong"),
    [
        ("macro.sums_address.eq(self.sums_address)", "macro.sums_address.eq(0)"),
        (
            "tables[name].eq(getattr(builder, name))",
            "tables[name].eq(getattr(builder, name) if name != 'first_pairs' else 0)",
        ),
    ],
)
def test_wrong_macro_is_refuted(correct, wrong, refutation):
    refutation(PairProductSpec(macro=mutant(PairMacros, correct, wrong)), "pair_macro", f"`{wrong}`", searched(40))
