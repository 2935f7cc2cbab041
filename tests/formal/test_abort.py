"""Proof: an abort in any clock ends the run once no sample waits, and the next run begins as the first one did."""

from __future__ import annotations

from dataclasses import replace

import pytest
from amaranth.hdl import Assert, Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from golden_model.config import TINY, HardwareConfig
from golden_model.registers import ErrorCode, PortMode
from rtl.interfaces import parts_of
from rtl.layer_sequencer import LayerSequencer
from rtl.tile import Tile
from rtl.tile_layouts import register_fields, status
from tests.formal.mutants import mutant
from tests.formal.prove import PDR, bound, induction, searched
from tests.formal.test_macro import WHAT, ProductSpec

pytestmark = [pytest.mark.rtl, pytest.mark.slow]

PAIRS = replace(TINY, machine="pairs")
#: Clocks that an abort waits for the array.
LIMIT = 3
STROBES = (
    *("read_start", "check_start", "layer_start", "load_start", "window_start", "post_start"),
    *("store_events", "counters_clear", "flush"),
)


class SequencerSpec(wiring.Component):
    """Any behaviour of all other blocks, start and abort in any clock."""

    def __init__(self, config: HardwareConfig, sequencer: type = LayerSequencer):
        self.sequencer = sequencer(config, settle_clocks=6, limit=LIMIT)
        super().__init__(self.sequencer.signature)

    def elaborate(self, platform):
        m = Module()
        m.submodules.sequencer = sequencer = self.sequencer
        wiring.connect(m, wiring.flipped(self), sequencer)
        state, count, first = sequencer.status, sequencer.layer_count, sequencer.first_layer
        stopped, began, refused = Signal(), Signal(), Signal()
        # An abort that waits for the array to take its samples, and the clocks that it has waited.
        waiting, waited = Signal(), Signal(range(LIMIT + 1))
        with m.If(~state.busy | ~sequencer.sample_waits | (waited == LIMIT)):
            m.d.sync += [waiting.eq(0), waited.eq(0)]
        with m.Elif(sequencer.abort | waiting):
            m.d.sync += [waiting.eq(1), waited.eq(waited + 1)]
        had_to_wait = Signal()
        m.d.sync += had_to_wait.eq(state.busy & (had_to_wait | sequencer.sample_waits))
        legal = (first < count) & (count <= sequencer.config.max_layers)
        asked = Signal.like(first)
        idle_start = sequencer.start & ~state.busy
        m.d.sync += [
            stopped.eq(state.busy & (sequencer.abort | waiting) & (~sequencer.sample_waits | (waited == LIMIT))),
            began.eq(idle_start & legal),
            refused.eq(idle_start & ~legal),
            asked.eq(first),
        ]
        strobes = Cat(getattr(sequencer, name) for name in STROBES)
        with m.If(~state.busy):
            m.d.comb += Assert(strobes == 0)
        with m.If(state.busy & (sequencer.abort | waiting) & ~sequencer.sample_waits):
            m.d.comb += Assert(sequencer.flush)
        with m.If(stopped):
            m.d.comb += [
                Assert(~state.busy & ~state.done),
                # an error that waited before the abort stays
                Assert((state.error == ErrorCode.ABORTED) | (had_to_wait & state.error.any())),
            ]
        with m.If(refused):
            m.d.comb += [Assert(~state.busy & (state.layer == 0)), Assert(state.error == ErrorCode.LAYER_COUNT)]
        with m.If(began):
            m.d.comb += [
                Assert(state.busy & ~state.done & ~state.overflow & (state.error == ErrorCode.NONE)),
                Assert(sequencer.read_start & sequencer.counters_clear),
                Assert((state.layer == asked) & (sequencer.cycles == 0) & (sequencer.layer_cycles == 1)),
            ]
        # A run ends by an abort, an error, or its last step.
        busy, ended = Signal(), Signal()
        m.d.sync += [busy.eq(state.busy), ended.eq(sequencer.flush | sequencer.events_stored)]
        m.d.comb += Assert(~busy | state.busy | ended)
        m.d.comb += Assert(~(state.busy & state.done))
        return m


class FlushSpec(wiring.Component):
    """A whole tile in any state, but that the host samples itself: the register bank lets no network run then."""

    def __init__(self, config: HardwareConfig):
        self.tile = Tile(config)
        super().__init__(
            {
                "outer": Out(self.tile.signature),
                "flush": In(1),
                "status": In(status()),
                "mode": In(register_fields("TEST_CONTROL")),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.tile = tile = self.tile
        wiring.connect(m, wiring.flipped(self.outer), tile)
        flushed = Signal()
        m.d.sync += flushed.eq(self.flush)
        samples = [part.sample for part in parts_of(tile.crossbar, tile.config)]
        with m.If(flushed):
            m.d.comb += [Assert(~sample.valid | (self.mode.mode == PortMode.DRIVEN)) for sample in samples]
            m.d.comb += Assert(~self.status.busy)
        return m


@pytest.mark.parametrize("config", [TINY, PAIRS], ids=["tiny", "tiny-pairs"])
def test_an_abort_in_any_clock_ends_the_run_once_no_sample_waits_and_the_next_one_begins_anew(config, proof):
    proof(SequencerSpec(config), "layer_sequencer", f"tiny, {config.machine}, any blocks", PDR)


@pytest.mark.parametrize("config", [TINY, PAIRS], ids=["tiny", "tiny-pairs"])
def test_nothing_is_sampled_in_the_clock_after_an_abort(config, proof):
    probes = {"flush": "tile.sequencer.flush", "status": "tile.sequencer.status", "mode": "tile.registers.test"}
    proof(FlushSpec(config), "tile", f"tiny, {config.machine}, any state", induction(1), probes=probes)


def test_a_window_after_an_abort_in_any_state_is_the_matrix_product(proof):
    """Registers and memories hold anything when the macro is reset."""
    spec = ProductSpec(stalls=False, aborted=True)
    proof(spec, "macro", f"{WHAT}, no stalls", searched(26), any_state="macro", limit=300)


def test_without_the_reset_of_an_abort_it_is_not(refutation):
    spec = ProductSpec(stalls=False)
    refutation(spec, "macro", "any state, not reset", searched(20), any_state="macro")


@pytest.mark.parametrize(
    ("correct", "wrong"),
    [
        ("Mux(self.abort, ErrorCode.ABORTED, Mux(self.table_error, ErrorCode.TABLE, error))", "error"),
        ("(~self.sample_waits | (waited == self.limit))", "~self.sample_waits"),
        ("(~self.sample_waits | (waited == self.limit))", "(waited == self.limit)"),
        ("status.layer.eq(0), self.cycles.eq(0)", "self.cycles.eq(0)"),
        ("status.layer.eq(self.first_layer)", "status.layer.eq(0)"),
        ("self.first_layer >= count", "count == 0"),
    ],
)
def test_wrong_sequencer_is_refuted(correct, wrong, refutation):
    spec = SequencerSpec(TINY, mutant(LayerSequencer, correct, wrong))
    refutation(spec, "layer_sequencer", f"`{wrong}`", bound(14))
