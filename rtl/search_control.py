"""Search control: what the A/D lanes of an OU do next, in every mode of search."""

from __future__ import annotations

from collections.abc import Collection
from itertools import product

from amaranth.hdl import Const, Module, Mux, Signal, unsigned
from amaranth.lib import enum, wiring
from amaranth.lib.wiring import In, Out

from golden_model.config import HardwareConfig
from rtl import pair_layouts as layouts
from rtl.pair_layouts import SearchMode

#: Answers of a comparator.
NO, YES = 0, 1


class Activity(enum.Enum, shape=unsigned(2)):
    """Which decision of a conversion is made in this clock."""

    FIRST = 0  # TWIN: the first detection; OUTWARD: v >= 1
    LOW = 1  # TWIN: detection at the bottom of the R1 window
    SEARCH = 2  # every other one


class SearchControl(wiring.Component):
    """Gives the orders to all lanes that started together; every mode is a table of words to add to a threshold.

    The word of a decision depends on the answer and on the lane's flag:

    UNIFORM (flag 1): a decision of weight `step` is followed by + (step >> 1) or - (step - (step >> 1)). The last one,
        of weight 2**s, leaves the value itself, because its threshold lies (1 << s) >> 1 below a point of the grid.
    TWIN (flag 0 = R1, 1 = R2): detection at the top of the R1 window and, if the range goes on below it, at its bottom
        (always both); then as UNIFORM with the range's own step. Thresholds: `SearchSettings`.
    BOUNDED: thresholds t = (low + high + 1) >> 1. Halves of an interval differ in width by at most 1, and so do all
        intervals after equally many decisions: high - low is w or w - 1. w is kept here, the flag says which.
    OUTWARD (flag 0 = upwards, 1 = downwards): all lanes that search upwards have the same threshold 1, 2, 3, ..., all
        that search downwards have 0, -1, ...; so they reach the end at k together.

    Latency: the orders of a decision are there in its clock, from registers; `begin` is combinational from `ones`.
    Reset: gives orders that no lane takes.

    Parameters
    ----------
    config : sizes. pairs : see `pair_layouts`. modes : the modes that there are; OUTWARD needs pairs.

    Members
    -------
    constants : from `SearchSettings`, stable while converting.
    start : strobe, together with that of the lanes. ones : k of the OU that starts, at most 2**adc_bits - 1.
    begin, orders : to the lanes.
    """

    def __init__(self, config: HardwareConfig, pairs: bool = True, modes: Collection[SearchMode] = tuple(SearchMode)):
        check_modes(pairs, modes)
        self.config, self.pairs, self.modes = config, pairs, frozenset(modes)
        super().__init__(
            {
                "constants": In(layouts.search_constants(config, pairs)),
                "start": In(1),
                "ones": In(layouts.ones_in_ou(config)),
                "begin": Out(layouts.search_begin(config, pairs)),
                "orders": Out(layouts.search_orders(config, pairs)),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        constants, step = self.constants, layouts.search_step(self.config, self.pairs)
        activity = Signal(Activity)
        # Weights of the decisions in R1 and in R2; for BOUNDED `left` is w, for OUTWARD it is k less decisions made.
        r1_step, left, left_first = Signal(step), Signal(step), Signal(step)
        m.d.comb += [
            self.begin.threshold.eq(constants.first),
            self.begin.flag.eq(1),
            self.begin.decides.eq(1),
            self.orders.relative.eq(1),
            left_first.eq(constants.r2_step),
        ]
        m.d.sync += [activity.eq(Activity.SEARCH), r1_step.eq(r1_step >> 1), left.eq(left >> 1)]
        with m.Switch(constants.mode):
            if SearchMode.UNIFORM in self.modes:
                with m.Case(SearchMode.UNIFORM):
                    self._binary(m, 1, left, constants.r2_unit)
            if SearchMode.TWIN in self.modes:
                with m.Case(SearchMode.TWIN):
                    self._twin(m, activity, r1_step, left)
            if SearchMode.BOUNDED in self.modes:
                with m.Case(SearchMode.BOUNDED):
                    self._bounded(m, left, left_first)
            if SearchMode.OUTWARD in self.modes:
                with m.Case(SearchMode.OUTWARD):
                    self._outward(m, activity, left, left_first)
        with m.If(self.start):
            m.d.sync += [activity.eq(Activity.FIRST), r1_step.eq(constants.r1_step), left.eq(left_first)]
        return m

    def _order(self, m: Module, flag: int, answer: int, word, flag_next, last) -> None:
        """What the lanes with this flag and this answer do."""
        index = 2 * flag + answer
        m.d.comb += [
            self.orders.words[index].eq(word),
            self.orders.flags[index].eq(flag_next),
            self.orders.lasts[index].eq(last),
        ]

    def _binary(self, m: Module, flag: int, step: Signal, unit) -> None:
        last = (step & unit).any()
        self._order(m, flag, YES, step >> 1, flag, last)
        self._order(m, flag, NO, (step >> 1) - step, flag, last)

    def _twin(self, m: Module, activity: Signal, r1_step: Signal, r2_step: Signal) -> None:
        constants = self.constants
        with m.If(activity == Activity.SEARCH):
            self._binary(m, 0, r1_step, constants.r1_unit)
            self._binary(m, 1, r2_step, constants.r2_unit)
        with m.Else():
            first_of_two = (activity == Activity.FIRST) & constants.two_detections
            m.d.comb += self.orders.relative.eq(0)
            m.d.sync += [r1_step.eq(r1_step), r2_step.eq(r2_step)]
            with m.If(first_of_two):
                m.d.sync += activity.eq(Activity.LOW)
            for flag, answer in product((0, 1), (NO, YES)):
                # From the first detection to the second the flag remembers "above the window".
                outside = Mux(activity == Activity.LOW, flag or answer == NO, answer == YES)
                entered = Mux(outside, constants.r2_first, constants.r1_first)
                word = Mux(first_of_two, constants.low, entered)
                self._order(
                    m,
                    flag,
                    answer,
                    word,
                    Mux(first_of_two, answer, outside),
                    ~first_of_two & ~outside & constants.r1_is_point,
                )

    def _bounded(self, m: Module, left: Signal, left_first: Signal) -> None:
        ones = self.ones
        is_signed = self.constants.signed if self.pairs else Const(0)
        m.d.comb += [
            self.begin.threshold.eq(Mux(is_signed, 0, (ones + 1) >> 1)),
            self.begin.flag.eq(0),
            self.begin.decides.eq(ones.any()),
            left_first.eq(Mux(is_signed, ones << 1, ones)),
        ]
        # An interval of w is left with w >> 1 (yes) or (w - 1) >> 1 (no). Of `left` and `left` - 1 that makes
        # `left` >> 1 or one less.
        for flag, answer in product((0, 1), (NO, YES)):
            shorter = (Const(0), ~left[0], Const(1))[flag + (answer == NO)]
            rest = Signal.like(left, name=f"rest{flag}{answer}")
            m.d.comb += rest.eq((left >> 1) - shorter)
            word = (rest + 1) >> 1 if answer == YES else -1 - (rest >> 1)
            self._order(m, flag, answer, word, shorter, rest == 0)

    def _outward(self, m: Module, activity: Signal, left: Signal, left_first: Signal) -> None:
        up, down = 0, 1
        first, more = activity == Activity.FIRST, left > 1
        m.d.comb += [
            self.begin.threshold.eq(self.ones.any()),
            self.begin.flag.eq(up),
            self.begin.decides.eq(self.ones.any()),
            left_first.eq(self.ones),
        ]
        m.d.sync += left.eq(left - 1)
        self._order(m, up, YES, more, up, ~more)
        self._order(m, up, NO, -1, down, ~first)
        self._order(m, down, YES, 0, down, 1)
        self._order(m, down, NO, -1, down, left == 0)


def check_modes(pairs: bool, modes: Collection[SearchMode]) -> None:
    """ValueError unless a machine can have these modes of search."""
    if not modes or not set(modes) <= set(SearchMode):
        raise ValueError(f"modes must hold at least one of {', '.join(m.name for m in SearchMode)}, got {modes!r}")
    if SearchMode.OUTWARD in modes and not pairs:
        raise ValueError("mode OUTWARD needs lanes that convert pairs")
