"""The layer sequencer: runs a network program, or a part of it, without the host."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib.data import View

from golden_model.config import HardwareConfig
from golden_model.registers import ARRAY_LIMIT, COUNTER_BITS, REGISTER, ErrorCode
from rtl import layouts
from rtl import tile_layouts as tile
from rtl.block import Block, In, Out

#: Opens a state that an abort or an error leaves for IDLE.
Running = Callable[[str], AbstractContextManager[None]]


class LayerSequencer(Block):
    """Starts the other blocks one after the other, step by step, window by window (system.md §5a).

    Per step: read the descriptor, check it, wait until the A/D reference has settled; then per window
    load, convert, post-process; then store the event counters. A window of an element step is not
    converted: what is loaded goes through the post-processing at once. No block waits for data
    elsewhere, so the clocks of a run follow from the formula in `golden_model.timing`. An abort or an
    error ends the run and returns every other block to its reset state, in the first clock in which no sample waits
    for the array, after `limit` clocks at the latest.

    The pair machine's windows are double-buffered. In a *beat* one window is loaded, the one before it is
    walked (its OUs are formed and sampled), and the one before that is post-processed, as soon as its last conversion
    is done, side by side; the next beat begins when all of them are over. In the first beat of a step the macro also
    builds its tables.

    Parameters
    ----------
    settle_clocks : least clocks from a change of `layer` to the first window. limit : clocks that an end waits.

    Members
    -------
    start : strobe, run layers `first_layer`..`layer_count` - 1; ignored while busy. abort : strobe, stop; ignored when
        idle.
    status : busy, done, error, layer, overflow for register STATUS (cells_busy stays 0).
    ends : strobes, a run ends: without error, or with one, which may be that it does not begin.
    cycles : clocks with busy = 1 of the run, so far or in total.
    layer : index of the running step. window : index of the window inside the step, for traces.
    sample_waits : a sample is on offer that the array does not take in this clock.
    flush : strobe, every other block must return to its reset state.
    element : the running step has no crossbars; valid from `check_done` on.
    placement_error : the planes of the running step reach beyond the last crossbar pair.
    table_error : strobe, an entry of a table that was used has lost its parity; ignored when idle.
    window_loaded : the window can be converted. window_walked : strobe, the next one can be (pair machine).
    place : where the window lies that was loaded last.
    post_place : where the one lies that is post-processed. layer_ready : the macro's tables are built (pair machine).
    layer_start, window counters and the pairs of strobes: see the block that each names.
    """

    start: In(1)
    abort: In(1)
    layer_count: In(REGISTER["LAYER_COUNT"].fields[0].bits)
    first_layer: In(REGISTER["FIRST_LAYER"].fields[0].bits)
    status: Out(tile.status())
    ends: Out(tile.ends())
    cycles: Out(COUNTER_BITS)
    layer: Out(layouts.layer_index)
    window: Out(layouts.window_index)
    sample_waits: In(1)
    flush: Out(1)
    # descriptor
    read_start: Out(1)
    read_done: In(1)
    check_start: Out(1)
    check_done: In(1)
    check_error: In(4)
    adc_error: In(1)
    # windows
    element: In(1)
    layer_start: Out(1)
    load_start: Out(1)
    window_loaded: In(1)
    place: In(tile.window_place)
    post_place: Out(tile.window_place)
    layer_ready: In(1)
    window_start: Out(1)
    window_walked: In(1)
    window_done: In(1)
    placement_error: In(1)
    table_error: In(1)
    post_start: Out(1)
    post_done: In(1)
    # events
    overflow: In(1)
    counters_clear: Out(1)
    store_events: Out(1)
    events_stored: In(1)
    layer_cycles: Out(COUNTER_BITS)

    def __init__(self, config: HardwareConfig, *, settle_clocks: int, limit: int = ARRAY_LIMIT):
        self.settle_clocks, self.limit = settle_clocks, limit
        super().__init__(config)

    def elaborate(self, platform):
        m = Module()
        status, count = self.status, self.layer_count
        run_end, error = Signal(), Signal.like(status.error)
        # Why the run ends, in the clock that says so and while it waits for the array.
        cause, new, kept = (Signal.like(error, name=name) for name in ("cause", "new", "kept"))
        waited = Signal(range(self.limit + 1))
        m.d.comb += [
            self.layer.eq(status.layer),
            run_end.eq(self.events_stored & (status.layer + 1 == count)),
            cause.eq(Mux(kept != ErrorCode.NONE, kept, new)),
            new.eq(Mux(self.abort, ErrorCode.ABORTED, Mux(self.table_error, ErrorCode.TABLE, error))),
            self.flush.eq(status.busy & (cause != ErrorCode.NONE) & (~self.sample_waits | (waited == self.limit))),
        ]
        with m.If(status.busy & (cause != ErrorCode.NONE) & ~self.flush):
            m.d.sync += [kept.eq(cause), waited.eq(waited + 1)]
        with m.Else():
            m.d.sync += [kept.eq(ErrorCode.NONE), waited.eq(0)]

        @contextmanager
        def running(name: str):
            """A state that an abort or an error leaves for IDLE."""
            with m.State(name):
                yield
                with m.If(self.flush):
                    m.next = "IDLE"

        beat = Signal(tile.beat())
        with m.If(self.layer_start):
            m.d.sync += [beat.eq(0), beat.loads.eq(1)]

        with m.FSM():
            with m.State("IDLE"), m.If(self.start):
                m.d.sync += [status.done.eq(0), status.overflow.eq(0), status.layer.eq(0), self.cycles.eq(0)]
                with m.If((self.first_layer >= count) | (count > self.config.max_layers)):
                    m.d.sync += status.error.eq(ErrorCode.LAYER_COUNT)
                    m.d.comb += self.ends.error.eq(1)
                with m.Else():
                    m.d.sync += [status.error.eq(ErrorCode.NONE), status.busy.eq(1)]
                    m.d.sync += status.layer.eq(self.first_layer)
                    m.next = "FETCH"
            with running("FETCH"):
                m.d.comb += [self.read_start.eq(1), self.counters_clear.eq(1)]
                m.d.sync += self.window.eq(0)
                m.next = "READ"
            with running("READ"), m.If(self.read_done):
                m.d.comb += self.check_start.eq(1)
                m.next = "CHECK"
            with running("CHECK"), m.If(self.check_done):
                m.d.comb += error.eq(self.check_error)
                with m.If(self.adc_error & ~self.element & (self.check_error == ErrorCode.NONE)):
                    m.d.comb += error.eq(ErrorCode.ADC_CONFIGURATION)
                m.next = "SETTLE"
            with running("SETTLE"), m.If(self.layer_cycles >= self.settle_clocks):
                m.d.comb += self.layer_start.eq(1)
                m.next = "LOAD"
                if self.config.pairs:
                    with m.If(~self.element):
                        m.next = "BEAT"
            with running("LOAD"):
                m.d.comb += self.load_start.eq(1)
                with m.If(self.element):
                    m.d.comb += self.post_start.eq(1)
                    m.next = "DRAIN"
                if not self.config.pairs:
                    with m.Else():
                        m.next = "PREPARE"
            if self.config.pairs:
                self._beats(m, running, error, beat)
            else:
                m.d.comb += self.post_place.eq(self.place)
                self._convert(m, running, error)
            with running("DRAIN"), m.If(self.post_done):
                m.d.sync += self.window.eq(self.window + 1)
                m.next = "LOAD"
                with m.If(self.post_place.last):
                    m.d.comb += self.store_events.eq(1)
                    m.next = "STORE"
            with running("STORE"), m.If(self.events_stored):
                with m.If(run_end):
                    m.d.sync += [status.busy.eq(0), status.done.eq(1)]
                    m.d.comb += self.ends.done.eq(~self.flush)
                    m.next = "IDLE"
                with m.Else():
                    m.d.sync += status.layer.eq(status.layer + 1)
                    m.next = "FETCH"

        with m.If(status.busy):
            m.d.sync += [self.cycles.eq(self.cycles + 1), self.layer_cycles.eq(self.layer_cycles + 1)]
            with m.If(self.overflow):
                m.d.sync += status.overflow.eq(1)
        with m.If(self.start & ~status.busy | self.events_stored):
            m.d.sync += self.layer_cycles.eq(1)
        with m.If(self.flush):
            m.d.comb += self.ends.error.eq(1)
            m.d.sync += [status.busy.eq(0), status.done.eq(0)]
            m.d.sync += status.error.eq(cause)
        return m

    def _convert(self, m: Module, running: Running, error: Signal) -> None:
        """States between the load of a crossbar step's window and its post-processing."""
        with running("PREPARE"), m.If(self.window_loaded):
            m.d.comb += self.window_start.eq(1)
            m.next = "CONVERT"
        with running("CONVERT"):
            with m.If(self.placement_error):
                m.d.comb += error.eq(ErrorCode.LAYER_GEOMETRY)
            with m.Elif(self.window_done):
                m.d.comb += self.post_start.eq(1)
                m.next = "DRAIN"

    def _beats(self, m: Module, running: Running, error: Signal, beat: View) -> None:
        """States of a crossbar step of the pair machine. beat : what this beat does, each on another window."""
        walked, drained = Signal(), Signal()
        place, drained_place = Signal.like(self.place), Signal.like(self.place)  # of what is walked, and drained
        over = Signal()
        # A window of an element step is drained while it is loaded.
        m.d.comb += self.post_place.eq(Mux(self.element, self.place, drained_place))
        m.d.comb += over.eq(
            (~beat.loads | self.window_loaded)
            & (~beat.converts | walked | self.window_walked)
            & (~beat.drains | drained | self.post_done)
            & self.layer_ready
        )

        def drain() -> None:
            """The window before the one that is walked, in the clock in which it is done, or later in its beat."""
            done = beat.done | self.window_done
            m.d.comb += self.post_start.eq(beat.drains & ~beat.begun & done)
            m.d.sync += [beat.begun.eq(beat.begun | self.post_start), beat.done.eq(done & ~self.post_start)]

        with running("BEAT"):
            m.d.comb += [self.load_start.eq(beat.loads), self.window_start.eq(beat.converts)]
            m.d.sync += [walked.eq(0), drained.eq(0)]
            m.d.sync += [place.eq(self.place), drained_place.eq(place)]
            drain()
            m.next = "WORK"
        with running("WORK"):
            m.d.sync += [walked.eq(walked | self.window_walked), drained.eq(drained | self.post_done)]
            drain()
            with m.If(self.placement_error):
                m.d.comb += error.eq(ErrorCode.LAYER_GEOMETRY)
            with m.Elif(over):
                m.d.sync += [
                    beat.loads.eq(beat.loads & ~self.place.last),
                    beat.converts.eq(beat.loads),
                    beat.drains.eq(beat.converts),
                    beat.begun.eq(0),
                    self.window.eq(self.window + beat.converts),
                ]
                m.next = "BEAT"
                with m.If(beat.drains & self.post_place.last):
                    m.d.comb += self.store_events.eq(1)
                    m.next = "STORE"
