"""One A/D lane: searches a sample by comparisons, in every mode of search."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from amaranth.hdl import Const, Module, Mux, Signal, Value, unsigned
from amaranth.lib import enum, wiring
from amaranth.lib.wiring import In, Out

from golden_model.config import HardwareConfig
from rtl import pair_layouts as layouts
from rtl.block import where
from rtl.pair_layouts import SearchMode, chosen_modes


class Activity(enum.Enum, shape=unsigned(2)):
    """Which decision of a conversion is made in this clock."""

    FIRST = 0  # TWIN: the first detection; OUTWARD: v >= 1
    LOW = 1  # TWIN: detection at the bottom of the R1 window
    SEARCH = 2  # every other one


class SearchLane(wiring.Component):
    """Converts samples by comparisons v >= t - 1/2, one a clock, v = c+ - c- (pairs) or a count.

    The threshold register ends as the result. A lane starts when it likes; what it knows of its sample is kept in it:

    UNIFORM, BOUNDED: the value lies in an interval low..low + left, t = low + (left + 1 >> 1). A decision leaves
        left >> 1 above (yes) or left - 1 >> 1 below (no), and t goes to the middle of that. It is the last one between
        two points of the grid. Thresholds of a coarse grid lie half a step below its points, so that t ends on the
        point itself.
    TWIN (flag 0 = R1, 1 = R2): detection at the top of the R1 window and, if the range goes on below it, at its bottom
        (always both); then as UNIFORM within the range. Thresholds: `SearchSettings`.
    OUTWARD (flag 1 = upwards, 0 = downwards): t = 1, 2, 3, ... until no, or t = 0, -1, ... until yes; `left` decisions
        lead to k or -k.

    Without `captured` the comparator must answer so early that its answer still leads to the next threshold: one
    sample, a decision a clock. Captured, the answer goes to a flip-flop, and nothing but that depends on the
    comparator. What belongs to the answer is then a register behind what belongs to the threshold, so that the two hold
    two samples, which take turns clock by clock: each makes a decision every other clock. A captured answer that was
    not `decided` changes nothing: the same is asked in the next turn.

    Latency: `value` is right in the clock of `last`, combinational from what was answered; without `captured` it holds
    until the next `start`, and in the clock of that it is still right. Throughput: one A/D operation per clock; `start`
    in the clock of `last` gives conversions without a bubble. Reset: idle.

    Parameters
    ----------
    config : sizes. pairs : see `pair_layouts`. modes : the modes that there are; OUTWARD needs pairs. captured : see
    above.

    Members
    -------
    constants : from `SearchSettings`, stable while converting.
    start : strobe; only if `free`. begin : of `SearchBegin`, with `start`.
    threshold : DAC code t, registered.
    comparator : v >= t - 1/2, answer of the same clock, captured at its end.
    decided : there is an answer. Only captured, with `comparator_valid` of the configuration.
    busy : a decision is asked for in this clock; the number of these clocks is the number of A/D operations.
    answered : an answer is looked at in this clock. Without `captured`, `busy`.
    last : this answer is the last one of its conversion.
    free : a conversion can start: no answer, or a last one.
    value : result in LSB of the full grid. flag : with `value`, in mode TWIN only: 0 = R1, 1 = R2.
    """

    def __init__(
        self,
        config: HardwareConfig,
        pairs: bool = True,
        modes: Collection[SearchMode] = tuple(SearchMode),
        *,
        captured: bool = False,
    ):
        self.config, self.pairs, self.modes, self.captured = config, pairs, chosen_modes(pairs, modes), captured
        super().__init__(
            {
                "constants": In(layouts.search_constants(config, pairs)),
                "start": In(1),
                "begin": In(layouts.search_begin(config, pairs)),
                "threshold": Out(layouts.search_threshold(config, pairs)),
                "comparator": In(1),
                **({"decided": In(1)} if captured and config.comparator_valid else {}),
                "busy": Out(1),
                "answered": Out(1),
                "last": Out(1),
                "free": Out(1),
                "value": Out(layouts.search_threshold(config, pairs)),
                "flag": Out(1),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        constants, begin = self.constants, self.begin
        outward = self._mode_is(SearchMode.OUTWARD)
        asked = self._state("")
        answered = busy, threshold, left, flag, activity = asked
        yes, decided = self.comparator, Const(1)
        if self.captured:
            # What the answer belongs to that is looked at in this clock, and the answer.
            answered = busy, threshold, left, flag, activity = self._state("answered_")
            yes = Signal(name="answer", reset_less=True)
            m.d.sync += [register.eq(value) for register, value in zip(answered, asked, strict=True)]
            m.d.sync += yes.eq(self.comparator)
            if self.config.comparator_valid:
                decided = Signal(name="answer_decided", reset_less=True)
                m.d.sync += decided.eq(self.decided)
        last, threshold_next, left_next, flag_next = Signal(), Signal.like(threshold), Signal.like(left), Signal()
        activity_next = Signal(Activity, init=Activity.SEARCH)
        m.d.comb += [
            self.busy.eq(asked[0]),
            self.threshold.eq(asked[1]),
            self.answered.eq(busy),
            self.last.eq(busy & decided & last),
            self.free.eq(~busy | self.last),
            self.value.eq(Mux(busy, threshold_next, threshold)),
            self.flag.eq(Mux(busy, flag_next, flag)),
        ]
        following = (busy & ~last, self.value, left_next, self.flag, activity_next)
        m.d.sync += [register.eq(value) for register, value in zip(asked, following, strict=True)]
        with m.If(~decided):
            m.d.sync += [register.eq(value) for register, value in zip(asked, answered, strict=True)]

        # ---- a decision of a search; the comparator, which answers late, only selects what it leaves
        first, end = activity == Activity.FIRST, Mux(flag, constants.r2_end, constants.r1_end)
        if SearchMode.UNIFORM not in self.modes and SearchMode.TWIN not in self.modes:  # no grid is coarse
            end = Mux(outward, 0, Const(1, len(left)))
        less, rest, step, carry = Signal.like(left), Signal.like(left), Signal.like(left), Signal()
        last_no, last_yes = Signal(), Signal()
        moved, kept = Signal.like(threshold, name="moved"), Signal.like(left, name="kept")
        m.d.comb += [
            less.eq(left - 1),
            last_no.eq(Mux(outward & flag, ~first, (less & ~end) == 0)),
            last_yes.eq(Mux(outward, ~flag | (less == 0), (left & ~end) == 0)),
            rest.eq(Mux(Mux(yes, ~outward, outward & first), left, less)),
            kept.eq(Mux(outward, rest, rest >> 1)),
            step.eq(Mux(outward, 0, rest >> 2)),
            carry.eq(yes & Mux(outward, flag & ~last_yes, (rest >> 1)[0])),
            moved.eq(threshold + (step ^ (~yes).replicate(len(step))) + carry),
        ]
        m.d.comb += [
            threshold_next.eq(moved),
            left_next.eq(kept),
            flag_next.eq(flag & (yes | ~outward)),
            last.eq(Mux(yes, last_yes, last_no)),
        ]
        if SearchMode.TWIN in self.modes:
            names = ("detects", "again", "above", "outside", "inside")
            detects, again, above, outside, inside = (Signal(name=name) for name in names)
            m.d.comb += [
                detects.eq(self._mode_is(SearchMode.TWIN) & (activity != Activity.SEARCH)),
                again.eq(detects & first & constants.two_detections),
                above.eq(Mux(first, yes, flag | ~yes)),
                outside.eq(detects & ~again & above),
                inside.eq(detects & ~again & ~above),
                threshold_next.eq(
                    where(again, constants.low)
                    | where(outside, constants.r2_first)
                    | where(inside, constants.r1_first)
                    | where(~detects, moved)
                ),
                left_next.eq(where(again | outside, left) | where(inside, constants.r1_left) | where(~detects, kept)),
                flag_next.eq(Mux(detects, above, flag & (yes | ~outward))),
                last.eq(Mux(detects, inside & constants.r1_is_point, Mux(yes, last_yes, last_no))),
            ]
            with m.If(again):
                m.d.comb += activity_next.eq(Activity.LOW)

        with m.If(self.start):
            started = (1, begin.threshold, begin.left, 1, Activity.FIRST)
            m.d.sync += [register.eq(value) for register, value in zip(asked, started, strict=True)]
        return m

    def _state(self, prefix: str) -> tuple[Any, ...]:
        """Registers of a conversion: busy, threshold, left, flag, activity. Only what says "idle" needs a reset."""
        begin = self.begin
        return (
            Signal(name=f"{prefix}busy"),
            Signal(begin.threshold.shape(), name=f"{prefix}threshold", reset_less=True),
            Signal(len(begin.left), name=f"{prefix}left", reset_less=True),
            Signal(name=f"{prefix}flag", reset_less=True),
            Signal(Activity, name=f"{prefix}activity", reset_less=True),
        )

    def _mode_is(self, mode: SearchMode) -> Value:
        """Whether lanes search in this mode, without any logic if there is no other one, or if it is not there."""
        if self.modes == (mode,) or mode not in self.modes:
            return Const(mode in self.modes)
        return self.constants.mode == mode
