"""One A/D lane: searches a sample by comparisons, in every mode of search."""

from __future__ import annotations

from collections.abc import Collection

from amaranth.hdl import Const, Module, Mux, Signal, Value, unsigned
from amaranth.lib import enum, wiring
from amaranth.lib.wiring import In, Out

from golden_model.config import HardwareConfig
from rtl import pair_layouts as layouts
from rtl.pair_layouts import SearchMode, check_modes


class Activity(enum.Enum, shape=unsigned(2)):
    """Which decision of a conversion is made in this clock."""

    FIRST = 0  # TWIN: the first detection; OUTWARD: v >= 1
    LOW = 1  # TWIN: detection at the bottom of the R1 window
    SEARCH = 2  # every other one


class SearchLane(wiring.Component):
    """Converts one sample by comparisons v >= t - 1/2, one a clock, v = c+ - c- (pairs) or a count.

    The threshold register ends as the result. A lane starts when it likes; what it knows of its sample is kept in it:

    UNIFORM, BOUNDED: the value lies in an interval low..low + left, t = low + (left + 1 >> 1). A decision leaves
        left >> 1 above (yes) or left - 1 >> 1 below (no), and t goes to the middle of that. It is the last one between
        two points of the grid. Thresholds of a coarse grid lie half a step below its points, so that t ends on the
        point itself.
    TWIN (flag 0 = R1, 1 = R2): detection at the top of the R1 window and, if the range goes on below it, at its bottom
        (always both); then as UNIFORM within the range. Thresholds: `SearchSettings`.
    OUTWARD (flag 1 = upwards, 0 = downwards): t = 1, 2, 3, ... until no, or t = 0, -1, ... until yes; `left` decisions
        lead to k or -k.

    Latency: `value` is right in the clock of `last`, combinational from `comparator`, and holds until the next `start`.
    In the clock of that `start` it is still right. Throughput: one A/D operation per clock; `start` in the clock of
    `last` gives conversions without a bubble. Reset: idle.

    Parameters
    ----------
    config : sizes. pairs : see `pair_layouts`. modes : the modes that there are; OUTWARD needs pairs.

    Members
    -------
    constants : from `SearchSettings`, stable while converting.
    start : strobe; allowed while idle or in the clock of `last`. begin : of `SearchBegin`, with `start`.
    threshold : DAC code t, registered.
    comparator : v >= t - 1/2, answer of the same clock, captured at its end.
    busy : a decision is made in this clock; the number of these clocks is the number of A/D operations.
    last : this decision is the last one of the conversion. Combinational from `comparator`.
    value : result in LSB of the full grid. flag : with `value`, in mode TWIN only: 0 = R1, 1 = R2.
    """

    def __init__(self, config: HardwareConfig, pairs: bool = True, modes: Collection[SearchMode] = tuple(SearchMode)):
        check_modes(pairs, modes)
        self.config, self.pairs, self.modes = config, pairs, frozenset(modes)
        super().__init__(
            {
                "constants": In(layouts.search_constants(config, pairs)),
                "start": In(1),
                "begin": In(layouts.search_begin(config, pairs)),
                "threshold": Out(layouts.search_threshold(config, pairs)),
                "comparator": In(1),
                "busy": Out(1),
                "last": Out(1),
                "value": Out(layouts.search_threshold(config, pairs)),
                "flag": Out(1),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        constants, begin, yes = self.constants, self.begin, self.comparator
        outward = self._mode_is(SearchMode.OUTWARD)
        # Only what says "idle" needs a reset.
        busy, last = Signal(), Signal()
        threshold = Signal(begin.threshold.shape(), reset_less=True)
        left = Signal(len(begin.left), reset_less=True)
        flag = Signal(reset_less=True)
        activity = Signal(Activity, reset_less=True)
        threshold_next, left_next, flag_next = Signal.like(threshold), Signal.like(left), Signal()
        m.d.comb += [
            self.threshold.eq(threshold),
            self.busy.eq(busy),
            self.last.eq(busy & last),
            self.value.eq(Mux(busy, threshold_next, threshold)),
            self.flag.eq(Mux(busy, flag_next, flag)),
        ]
        m.d.sync += [
            threshold.eq(self.value),
            left.eq(left_next),
            flag.eq(self.flag),
            activity.eq(Activity.SEARCH),
            busy.eq(busy & ~last),
        ]

        # ---- a decision of a search; the comparator, which answers late, only selects what it leaves
        first, end = activity == Activity.FIRST, Mux(flag, constants.r2_end, constants.r1_end)
        less, rest, step, carry = Signal.like(left), Signal.like(left), Signal.like(left), Signal()
        last_no, last_yes = Signal(), Signal()
        m.d.comb += [
            less.eq(left - 1),
            last_no.eq(Mux(outward & flag, ~first, (less & ~end) == 0)),
            last_yes.eq(Mux(outward, ~flag | (less == 0), (left & ~end) == 0)),
            last.eq(Mux(yes, last_yes, last_no)),
            rest.eq(Mux(Mux(yes, ~outward, outward & first), left, less)),
            left_next.eq(Mux(outward, rest, rest >> 1)),
            step.eq(Mux(outward, 0, rest >> 2)),
            carry.eq(yes & Mux(outward, flag & ~last_yes, (rest >> 1)[0])),
            threshold_next.eq(threshold + (step ^ (~yes).replicate(len(step))) + carry),
            flag_next.eq(flag & (yes | ~outward)),
        ]
        if SearchMode.TWIN in self.modes:
            with m.If(self._mode_is(SearchMode.TWIN) & (activity != Activity.SEARCH)):
                outside = Signal()
                m.d.comb += [
                    outside.eq(Mux(first, yes, flag | ~yes)),
                    threshold_next.eq(Mux(outside, constants.r2_first, constants.r1_first)),
                    left_next.eq(Mux(outside, left, constants.r1_left)),
                    flag_next.eq(outside),
                    last.eq(~outside & constants.r1_is_point),
                ]
                with m.If(first & constants.two_detections):
                    m.d.comb += [threshold_next.eq(constants.low), left_next.eq(left), last.eq(0)]
                    m.d.sync += activity.eq(Activity.LOW)

        with m.If(self.start):
            m.d.sync += [
                threshold.eq(begin.threshold),
                left.eq(begin.left),
                flag.eq(1),
                activity.eq(Activity.FIRST),
                busy.eq(1),
            ]
        return m

    def _mode_is(self, mode: SearchMode) -> Value:
        """Whether lanes search in this mode, without any logic if there is no other one, or if it is not there."""
        if self.modes == {mode} or mode not in self.modes:
            return Const(mode in self.modes)
        return self.constants.mode == mode
