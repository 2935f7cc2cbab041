"""Twin-range SAR controller: one A/D lane."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, unsigned
from amaranth.lib import enum

from rtl import layouts
from rtl.block import Block, In, Out


class Activity(enum.Enum, shape=unsigned(2)):
    """What a lane decides in this clock."""

    IDLE = 0  # nothing
    FIRST = 1  # detection at the top of the R1 window, or in uniform mode the first search step
    LOW = 2  # detection at the bottom of the R1 window
    SEARCH = 3  # a step of the binary search in R1 or R2


class TrqSar(Block):
    """Converts one sample by detection and binary search (TRQ; system.md §4.3).

    `start` presets the first threshold; each clock after it makes one decision, so a conversion takes
    exactly its number of A/D operations in clocks: n_r2 in uniform mode, nu + n_r1 in R1, nu + n_r2 in
    R2, nu = 1 or 2 detections. `start` in the clock of `last` gives conversions without a bubble.
    A search decision of weight `step` moves the threshold by step / 2 up or down: one adder.

    Latency: `code` and `range_flag` are registers that change at the end of the clock with `last` and
    hold until the end of the first decision of the next conversion, so that they can be read in the
    clock after `last` even when the next conversion has begun.
    Throughput: one A/D operation per clock. Reset: idle.

    Members
    -------
    search : `layouts.search`, from `TrqSettings`; stable while converting.
    start : strobe; allowed while idle or in the clock of `last`.
    threshold : DAC code, registered; 1..2**R - 1 while converting.
    comparator : v >= threshold - 1/2 LSB, answer of the same clock, captured at its end.
    busy : a decision is made in this clock; the number of these clocks is the number of A/D operations.
    last : this decision is the last one of the conversion. Combinational from `comparator`.
    code : search result. range_flag : 0 = R1, 1 = R2 (uniform counts as R2).
    """

    search: In(layouts.search)
    start: In(1)
    threshold: Out(layouts.code)
    comparator: In(1)
    busy: Out(1)
    last: Out(1)
    code: Out(layouts.code)
    range_flag: Out(1)

    def elaborate(self, platform) -> Module:
        m = Module()
        search = self.search
        activity = Signal(Activity)
        step = Signal(self.config.adc_bits)  # weight of the decision in LSB, one-hot

        with m.Switch(activity):
            with m.Case(Activity.FIRST):
                with m.If(~search.twin):
                    m.d.sync += self.range_flag.eq(1)
                    self._search_step(m, activity, step, self.comparator, search.r2_unit)
                with m.Elif(search.two_detections):
                    # The flag remembers "above the window" until the second detection.
                    m.d.sync += [
                        self.range_flag.eq(self.comparator),
                        self.threshold.eq(search.low),
                        activity.eq(Activity.LOW),
                    ]
                with m.Else():
                    self._enter_range(m, activity, step, self.comparator)
            with m.Case(Activity.LOW):
                self._enter_range(m, activity, step, self.range_flag | ~self.comparator)
            with m.Case(Activity.SEARCH):
                code = (self.code << 1) | self.comparator
                unit = Mux(self.range_flag, search.r2_unit, search.r1_unit)
                self._search_step(m, activity, step, code, unit)

        with m.If(self.start):
            m.d.sync += [
                activity.eq(Activity.FIRST),
                self.threshold.eq(search.first),
                step.eq(search.r2_step),
            ]
        m.d.comb += self.busy.eq(activity != Activity.IDLE)
        return m

    def _search_step(self, m: Module, activity: Signal, step: Signal, code, unit) -> None:
        """Keep the decided bit and move half a step; `unit` is the weight of the last decision."""
        half = step >> 1
        m.d.comb += self.last.eq((step & unit).any())
        m.d.sync += [
            self.code.eq(code),
            self.threshold.eq(Mux(self.comparator, self.threshold + half, self.threshold - half)),
            step.eq(half),
            activity.eq(Mux(self.last, Activity.IDLE, Activity.SEARCH)),
        ]

    def _enter_range(self, m: Module, activity: Signal, step: Signal, outside) -> None:
        """End of the detection: search R2 if the sample is `outside` the R1 window, else R1."""
        search = self.search
        m.d.sync += [self.code.eq(0), self.range_flag.eq(outside), activity.eq(Activity.SEARCH)]
        with m.If(outside):
            m.d.sync += [self.threshold.eq(search.r2_first), step.eq(search.r2_step)]
        with m.Else():
            m.d.sync += [self.threshold.eq(search.r1_first), step.eq(search.r1_step)]
            with m.If(search.r1_is_point):
                m.d.comb += self.last.eq(1)
                m.d.sync += activity.eq(Activity.IDLE)
