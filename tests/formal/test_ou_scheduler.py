"""Proof: the scheduler keeps the stream rule and activates exactly the OUs that exist and are streamed."""

from __future__ import annotations

import pytest
from amaranth.hdl import Array, Assert, Assume, Cat, Module, Mux, Signal, unsigned
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In

from golden_model.config import HardwareConfig
from rtl import layouts
from rtl.address_generator import AddressGenerator
from rtl.ou_scheduler import OuScheduler
from tests.formal.prove import ProofError, held, prove

pytestmark = [pytest.mark.rtl, pytest.mark.slow]

#: Two segments of one row, two block columns of one output, two planes, two input bits.
SMALL = HardwareConfig(
    rows=2,
    cols=2,
    ou_rows=1,
    ou_cols=1,
    adc_bits=1,
    input_bits=2,
    weight_bits=2,
    crossbar_pairs=4,
    max_k=2,
    max_n=2,
    width_entries=4,
    sample_interval=1,
)


class SchedulerSpec(wiring.Component):
    """Any width table, any layer of up to two segments, any timing of crossbar, lanes and input.

    The first clocks load the width table; 15 clocks hold whole windows of up to six OU activations.

    `wrong` breaks one clause of the specification, to see the proof fail.
    """

    def __init__(self, wrong: str = ""):
        self.wrong = wrong
        lanes = SMALL.lanes
        super().__init__(
            {
                "settings": In(layouts.layer_settings(SMALL)),
                "widths": In(unsigned(2 * SMALL.width_entries)),
                "segments": In(stream.Signature(layouts.segment(SMALL))),
                "sample_ready": In(1),
                "lane_busy": In(lanes),
                "lane_last": In(lanes),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.addresses = addresses = AddressGenerator(SMALL)
        m.submodules.scheduler = scheduler = OuScheduler(SMALL)
        settings = self.settings
        for field in ("segments", "block_cols", "skip_zero_slices"):
            held(m, settings[field])
        held(m, self.widths)
        widths = Array(self.widths.word_select(i, 2) for i in range(SMALL.width_entries))
        m.d.comb += [
            *(Assume(width <= SMALL.weight_bits) for width in widths),
            Assume((settings.segments >= 1) & (settings.segments <= 2)),
            Assume((settings.block_cols >= 1) & (settings.block_cols <= 2)),
            # The rest stands for itself: places and last columns are no part of the property.
            Assume((settings.width_base == 0) & (settings.crossbar_base == 0) & (settings.last_cols == 1)),
        ]

        # Load the width table, then run one window.
        clock = Signal(range(SMALL.width_entries + 2))
        with m.If(clock <= SMALL.width_entries):
            m.d.sync += clock.eq(clock + 1)
        start = clock == SMALL.width_entries
        m.d.comb += [
            addresses.width_write.enable.eq(clock < SMALL.width_entries),
            addresses.width_write.address.eq(clock),
            addresses.width_write.data.eq(widths[clock[:2]]),
            addresses.settings.eq(settings),
            addresses.start.eq(start),
            scheduler.settings.eq(settings),
            scheduler.start.eq(start),
            scheduler.sample.ready.eq(self.sample_ready),
            scheduler.lane_busy.eq(self.lane_busy),
            scheduler.lane_last.eq(self.lane_last),
        ]
        wiring.connect(m, addresses.lists, scheduler.lists)
        wiring.connect(m, scheduler.segments, wiring.flipped(self.segments))

        # Streams: the input keeps the rule, the samples must.
        m.d.comb += Assume(_rule(m, self.segments, "segments"))
        m.d.comb += Assert(_rule(m, scheduler.sample, "sample"))

        # What each segment may activate: its streamed positions and its width row.
        beat = self.segments.payload
        non_zero = Cat(beat.slices[i] != 0 for i in range(SMALL.input_bits))
        streamed = beat.mask & Mux(settings.skip_zero_slices, non_zero, ~0)
        switches = Signal(2)
        positions = Array(Signal(SMALL.input_bits, name=f"positions{i}") for i in range(4))
        expected = Signal(6)
        bits = streamed[0] + streamed[1]
        with m.If(scheduler.lists.switch):
            m.d.sync += [
                switches.eq(switches + 1),
                positions[switches].eq(streamed),
                expected.eq(expected + bits * addresses.lists.next_planes),
            ]
            m.d.comb += Assert(switches < settings.segments)

        completed = Signal()
        count = Signal(6)
        m.d.sync += completed.eq(scheduler.completed)
        ou = scheduler.completed_ou
        entry = Mux(settings.block_cols == 2, ou.segment * 2, ou.segment) + ou.block_col
        previous = Signal(6)
        order = Cat(ou.plane, ou.block_col, ou.input_bit, ou.segment)
        with m.If(completed):
            m.d.sync += [count.eq(count + 1), previous.eq(order)]
            m.d.comb += [
                Assert(ou.plane + (self.wrong == "pruned") < widths[entry[:2]]),
                Assert(ou.block_col < settings.block_cols),
                Assert(positions[ou.segment].bit_select(ou.input_bit, 1)),
                Assert((count == 0) | (order > previous)),
            ]
        finished = Signal(2)
        m.d.sync += finished.eq(Cat(scheduler.done, finished))
        with m.If(finished[1]):  # the last record is counted one clock after it shows
            m.d.comb += [
                Assert(count + (self.wrong == "count") == expected),
                Assert(switches == settings.segments),
            ]
        return m


def _rule(m: Module, port, name: str):
    """Once valid, valid and payload hold until ready."""
    payload = port.payload.as_value()
    waiting, before = Signal(name=f"{name}_waiting"), Signal(len(payload), name=f"{name}_before")
    m.d.sync += [waiting.eq(port.valid & ~port.ready), before.eq(payload)]
    return ~waiting | (port.valid & (payload == before))


def test_only_existing_planes_and_streamed_bits_are_activated_in_order(tmp_path):
    prove(SchedulerSpec(), tmp_path, depth=15)


@pytest.mark.parametrize("wrong", ["pruned", "count"])
def test_wrong_specification_is_refuted(wrong, tmp_path):
    with pytest.raises(ProofError, match="Assert failed"):
        prove(SchedulerSpec(wrong), tmp_path, depth=15)
