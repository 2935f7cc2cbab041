"""Proof: address generator and scheduler activate the OUs that exist and are streamed, once each, where they are."""

from __future__ import annotations

import pytest
from amaranth.hdl import Array, Assert, Assume, Cat, Module, Mux, Signal, unsigned
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In

from golden_model.config import HardwareConfig
from rtl import layouts
from rtl.address_generator import AddressGenerator
from rtl.ou_scheduler import OuScheduler
from tests.formal.mutants import mutant
from tests.formal.prove import bound, held
from tests.formal.streams import stream_rule

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

    The first clocks load the width table. Then a window begins, and later another one at any time.
    """

    def __init__(self, addresses: type = AddressGenerator, scheduler: type = OuScheduler):
        self.addresses, self.scheduler = addresses(SMALL), scheduler(SMALL)
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
        m.submodules.addresses = addresses = self.addresses
        m.submodules.scheduler = scheduler = self.scheduler
        settings = self.settings
        for field in ("segments", "block_cols", "skip_zero_slices", "last_cols", "width_base", "crossbar_base"):
            held(m, settings[field])
        held(m, self.widths)
        widths = Array(self.widths.word_select(i, 2) for i in range(SMALL.width_entries))
        entries = Mux(settings.segments == 2, settings.block_cols << 1, settings.block_cols)
        m.d.comb += [
            *(Assume(width <= SMALL.weight_bits) for width in widths),
            Assume((settings.segments >= 1) & (settings.segments <= 2)),
            Assume((settings.block_cols >= 1) & (settings.block_cols <= 2)),
            Assume(settings.width_base + entries <= SMALL.width_entries),
            Assume(settings.last_cols == 1),
            Assume(settings.crossbar_base <= SMALL.crossbar_pairs),  # as the descriptor check sees to
        ]

        # Load the width table, then run one window.
        begin = SMALL.width_entries + 1  # two clocks behind the last write
        clock = Signal(range(begin + 2))
        with m.If(clock <= begin):
            m.d.sync += clock.eq(clock + 1)
        start = clock == begin
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
        m.d.comb += [
            Assume(stream_rule(m, self.segments, "segments")),
            Assert(stream_rule(m, scheduler.sample, "sample")),
        ]

        # What each segment may activate: its streamed positions and its width row.
        beat = self.segments.payload
        non_zero = Cat(beat.slices[i] != 0 for i in range(SMALL.input_bits))
        streamed = beat.mask & Mux(settings.skip_zero_slices, non_zero, ~0)
        switches = Signal(2)
        positions = Array(Signal(SMALL.input_bits, name=f"positions{i}") for i in range(2))
        slices = Array(Signal(beat.slices.shape(), name=f"slices{i}") for i in range(2))
        expected = Signal(6)
        bits = streamed[0] + streamed[1]
        row = self._row(widths, switches[0])
        with m.If(scheduler.lists.switch):
            m.d.sync += [
                switches.eq(switches + 1),
                positions[switches[0]].eq(streamed),
                slices[switches[0]].eq(beat.slices),
                expected.eq(expected + Mux(bits[0], sum(row), 0) + Mux(bits[1], sum(row) << 1, 0)),
            ]
            m.d.comb += Assert(switches < settings.segments)

        # The placement of system.md §5, by division: OU columns, OU rows, pairs; segments begin in a fresh row.
        first, second = sum(self._row(widths, 0)), sum(self._row(widths, 1))
        grid = SMALL.grid_cols
        rows = [(count + grid - 1) // grid for count in (first, second)]
        all_rows = settings.crossbar_base * SMALL.grid_rows + rows[0] + Mux(settings.segments == 2, rows[1], 0)
        fits = all_rows <= SMALL.crossbar_pairs * SMALL.grid_rows

        # The sample that was transferred, kept until its record is there.
        converting, sampled = Signal.like(scheduler.sample.payload), Signal.like(scheduler.sample.payload)
        completed = Signal()
        m.d.sync += completed.eq(scheduler.completed)
        with m.If(scheduler.completed):
            m.d.sync += sampled.eq(converting)
        with m.If(scheduler.sample.valid & scheduler.sample.ready):
            m.d.sync += converting.eq(scheduler.sample.payload)
        ou = scheduler.completed_ou
        count, previous = Signal(6), Signal(6)
        order = Cat(ou.plane, ou.block_col, ou.input_bit, ou.segment)
        own_row = self._row(widths, ou.segment[0])
        place = Signal(8)
        ou_row = Signal(8)
        m.d.comb += [
            place.eq(Mux(ou.block_col == 0, 0, own_row[0]) + ou.plane),
            ou_row.eq(settings.crossbar_base * SMALL.grid_rows + Mux(ou.segment == 0, 0, rows[0]) + place // grid),
        ]
        with m.If(completed):
            m.d.sync += [count.eq(count + 1), previous.eq(order)]
            m.d.comb += [
                Assert(ou.segment < switches),
                Assert(ou.block_col < settings.block_cols),
                Assert(ou.plane < Mux(ou.block_col == 0, own_row[0], own_row[1])),
                Assert(positions[ou.segment[0]].bit_select(ou.input_bit, 1)),
                Assert((count == 0) | (order > previous)),
                Assert(sampled.slice == slices[ou.segment[0]][ou.input_bit]),
                Assert(sampled.pair < SMALL.crossbar_pairs),
                *(Assert(sampled[name] == ou[name]) for name in ("pair", "ou_row", "ou_col")),
                Assert(ou.ou_col == place % grid),
                Assert(ou.ou_row == ou_row % SMALL.grid_rows),
                Assert(ou.pair == ou_row // SMALL.grid_rows),
            ]
        finished = Signal(2)
        m.d.sync += finished.eq(Cat(scheduler.done, finished))
        with m.If(finished[1]):  # the last record is counted one clock after it shows
            m.d.comb += [
                Assert(count == expected),
                Assert(switches == settings.segments),
                Assert(fits),
            ]
        with m.If(addresses.out_of_range):
            m.d.comb += Assert(~fits)
        return m

    def _row(self, widths, segment) -> tuple:
        """Planes of both blocks of a segment; a block that does not exist has none."""
        settings = self.settings
        entry = settings.width_base + Mux(segment, settings.block_cols, 0)
        return widths[entry[:2]], Mux(settings.block_cols == 2, widths[(entry + 1)[:2]], 0)


WINDOW = "2 segments, 2 block columns, 2 planes, 2 bits; one window"


def test_every_existing_plane_and_streamed_bit_is_activated_once_in_order_at_its_place(proof):
    proof(SchedulerSpec(), "address_generator, ou_scheduler", WINDOW, bound(17), limit=500)


@pytest.mark.parametrize(
    ("block", "correct", "wrong"),
    [
        (AddressGenerator, "free.eq(Mux(last, fresh, behind))", "free.eq(behind)"),
        (AddressGenerator, "last_plane & (shown_index + 1 == shown_count)", "last_plane"),
        (OuScheduler, "shown_left & (shown_left - 1), shown_left)", "shown_left & (shown_left - 1), left)"),
        (OuScheduler, "beat.mask & non_zero, beat.mask)", "non_zero, beat.mask)"),
    ],
)
def test_wrong_block_is_refuted(block, correct, wrong, refutation):
    broken = {block.__name__: mutant(block, correct, wrong)}
    spec = SchedulerSpec(broken.get("AddressGenerator", AddressGenerator), broken.get("OuScheduler", OuScheduler))
    refutation(spec, block.__name__, f"`{wrong}`", bound(17))
