"""Lanes that are measured beside those of rtl/: textbook designs, lanes with a control of their own, whole groups.

For `python -m rtl.synthesis tests.rtl.comparison_lanes:NAME`; each makes a component of a configuration. `Held` adds
what a lane needs so that its result stays while the next conversion runs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from golden_model.config import HardwareConfig, bits_for
from rtl import pair_layouts as layouts
from rtl.block import where
from rtl.pair_layouts import SearchMode
from rtl.search_begin import SearchBegin
from rtl.search_lane import SearchLane


class _Lane(wiring.Component):
    """Ports of a lane: start, comparator in; threshold, busy, last, value, range flag out; `inputs` beside them."""

    def __init__(self, config: HardwareConfig, pairs: bool, **inputs):
        self.config = config
        value = layouts.search_threshold(config, pairs)
        super().__init__(
            {name: In(shape) for name, shape in inputs.items()}
            | {"start": In(1), "comparator": In(1), "busy": Out(1), "last": Out(1)}
            | {"threshold": Out(value), "value": Out(value), "flag": Out(1)}
        )
        # Only what says "idle" needs a reset.
        self.register = Signal(value, reset_less=True)


class ClassicSar(_Lane):
    """The textbook's successive-approximation register: R steps, one-hot sequencer, no arithmetic."""

    def __init__(self, config: HardwareConfig):
        super().__init__(config, False)

    def elaborate(self, platform):
        m = Module()
        bits, register = self.config.adc_bits, self.register
        step = Signal(bits)
        m.d.comb += [
            self.threshold.eq(register),
            self.busy.eq(step.any()),
            self.last.eq(step[0]),
            self.value.eq(register & ~step | step >> 1 | step & self.comparator.replicate(bits)),
        ]
        m.d.sync += [register.eq(self.value), step.eq(step >> 1)]
        with m.If(self.start):
            m.d.sync += [register.eq(1 << (bits - 1)), step.eq(1 << (bits - 1))]
        return m


class PlainSar(_Lane):
    """A search of n_r2 steps over the whole grid, thresholds half a step below its points; the result is the value."""

    def __init__(self, config: HardwareConfig):
        super().__init__(config, False, first=config.adc_bits, unit=config.adc_bits)

    def elaborate(self, platform):
        m = Module()
        bits, register = self.config.adc_bits, self.register
        step = Signal(bits)
        half = step >> 1
        m.d.comb += [
            self.threshold.eq(register),
            self.busy.eq(step.any()),
            self.last.eq((step & self.unit).any()),
            self.value.eq(register + Mux(self.comparator, half, half - step)),
        ]
        m.d.sync += [register.eq(self.value), step.eq(Mux(self.last, 0, half))]
        with m.If(self.start):
            m.d.sync += [register.eq(self.first), step.eq(1 << (bits - 1))]
        return m


class OwnOutward(_Lane):
    """Outward search of a lane that starts when it likes."""

    def __init__(self, config: HardwareConfig):
        threshold = layouts.search_threshold(config, True)
        super().__init__(config, True, highest=threshold, lowest=threshold)

    def elaborate(self, platform):
        m = Module()
        register, busy = self.register, Signal()
        down, end, more = Signal(), Signal(), Signal()
        m.d.comb += [
            self.threshold.eq(register),
            self.busy.eq(busy),
            self.last.eq(busy & ~more),
            self.value.eq(register),
            down.eq(register[-1] | ~register.any()),
            end.eq(register == Mux(down, self.lowest, self.highest)),
        ]
        with m.If(busy & ~self.comparator):
            m.d.comb += [self.value.eq(register - 1), more.eq(Mux(down, ~end, register == 1))]
        with m.Elif(busy & ~(down | end)):
            m.d.comb += [self.value.eq(register + 1), more.eq(1)]
        m.d.sync += [register.eq(self.value), busy.eq(more)]
        with m.If(self.start):
            m.d.sync += [register.eq(1), busy.eq(1)]
        return m


class OwnTwin(_Lane):
    """Twin-range and uniform search of a lane that starts when it likes: `rtl.trq_sar`, whose result is the threshold.

    Of bit lines: the window of a pair lies around 0, so that its first decision changes more than two bits.
    point : R1 is one.
    """

    def __init__(self, config: HardwareConfig):
        value = layouts.search_threshold(config, False)
        words = dict.fromkeys(("first", "low", "r1_first", "r2_first", "r1_steps", "r2_steps"), value)
        super().__init__(config, False, twin=1, two=1, point=1, **words)

    def elaborate(self, platform):
        m = Module()
        start, answer, register, bits = self.start, self.comparator, self.register, self.config.adc_bits
        steps, first, low, above = Signal(bits), Signal(), Signal(), Signal(reset_less=True)
        detects, again, outside, inside = Signal(), Signal(), Signal(), Signal()
        step, rest, moved = Signal(bits), Signal(bits), Signal(bits)
        m.d.comb += [
            detects.eq(first & self.twin | low),
            again.eq(first & self.twin & self.two),
            outside.eq(detects & ~again & self.flag),
            inside.eq(detects & ~again & ~self.flag),
            step.eq(steps & ~(steps >> 1)),
            rest.eq(steps & (steps >> 1)),
            moved.eq(answer.replicate(bits) & step | (register ^ step >> 1) & ~step),
            self.value.eq(
                where(again, self.low)
                | where(outside, self.r2_first)
                | where(inside, self.r1_first)
                | where(~detects, moved)
            ),
            self.flag.eq(Mux(first, answer | ~self.twin, above | low & ~answer)),
            self.threshold.eq(register),
            self.busy.eq(steps.any()),
            self.last.eq(self.busy & ~detects & ~rest.any() | inside & self.point),
        ]
        following = steps & ((again | outside).replicate(bits) | where(~detects, steps >> 1))
        m.d.sync += [
            first.eq(start),
            low.eq(again),
            above.eq(self.flag),
            register.eq(Mux(start, self.first, self.value)),
            steps.eq(where(start, self.r2_steps) | where(inside & ~start, self.r1_steps) | following),
        ]
        return m


class Held(wiring.Component):
    """A lane and a register that keeps its result until the next one."""

    def __init__(self, lane):
        self.lane = lane
        super().__init__(dict(lane.signature.members.items()))

    def elaborate(self, platform):
        m = Module()
        m.submodules.lane = lane = self.lane
        for path, member, inner in lane.signature.flatten(lane):
            outer = self
            for step in path:
                outer = getattr(outer, step)
            if path[0] in ("value", "flag"):
                result = Signal(inner.shape(), reset_less=True)
                m.d.comb += outer.eq(result)
                with m.If(lane.last):
                    m.d.sync += result.eq(inner)
            else:
                m.d.comb += inner.eq(outer) if member.flow == In else outer.eq(inner)
        return m


class Group(wiring.Component):
    """All lanes of an OU of pairs and what they begin with, as one piece. modes : of search."""

    def __init__(self, config: HardwareConfig, modes: Collection[SearchMode], pairs: bool = True, lanes: int = 0):
        self.config, self.modes, self.pairs = config, modes, pairs
        self.lanes = lanes or config.ou_cols
        values = data.ArrayLayout(layouts.search_threshold(config, pairs), self.lanes)
        super().__init__(
            {
                "constants": In(layouts.search_constants(config, pairs)),
                "ones": In(bits_for(config.ou_rows)),
                "start": In(self.lanes),
                "comparators": In(self.lanes),
                "thresholds": Out(values),
                "values": Out(values),
                "flags": Out(self.lanes),
                "busy": Out(self.lanes),
                "last": Out(self.lanes),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.begin = begin = SearchBegin(self.config, self.pairs, self.modes)
        m.d.comb += [begin.constants.eq(self.constants), begin.ones.eq(self.ones)]
        lanes = [SearchLane(self.config, self.pairs, self.modes) for _ in range(self.lanes)]
        for i, lane in enumerate(lanes):
            m.submodules[f"lane{i}"] = lane
            m.d.comb += [
                lane.constants.eq(self.constants),
                lane.begin.eq(begin.begin),
                lane.start.eq(self.start[i]),
                lane.comparator.eq(self.comparators[i]),
                self.thresholds[i].eq(lane.threshold),
                self.values[i].eq(lane.value),
            ]
        m.d.comb += [
            self.flags.eq(Cat(lane.flag for lane in lanes)),
            self.busy.eq(Cat(lane.busy for lane in lanes)),
            self.last.eq(Cat(lane.last for lane in lanes)),
        ]
        return m


def _held(make: Callable) -> Callable:
    return lambda config: Held(make(config))


bit_line_lane = partial(SearchLane, pairs=False)
classic_held, plain_held = _held(ClassicSar), _held(PlainSar)
outward_held, twin_held = _held(OwnOutward), _held(OwnTwin)

outward_group = partial(Group, modes=[SearchMode.OUTWARD])
uniform_group = partial(Group, modes=[SearchMode.UNIFORM])
bounded_group = partial(Group, modes=[SearchMode.BOUNDED])
twin_group = partial(Group, modes=[SearchMode.UNIFORM, SearchMode.TWIN])
all_modes_group = partial(Group, modes=list(SearchMode))


def twin_bit_lines(config: HardwareConfig) -> Group:
    """The lanes of a machine without pairs: two for every column, uniform and twin range."""
    return Group(config, [SearchMode.UNIFORM, SearchMode.TWIN], pairs=False, lanes=config.lanes)
