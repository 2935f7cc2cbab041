"""Twin-range SAR controller: one A/D lane."""

from __future__ import annotations

from amaranth.hdl import Const, Module, Mux, Signal

from rtl import layouts
from rtl.block import Block, In, Out, Where, where


class TrqSar(Block):
    """Converts one sample by detection and binary search (TRQ; system.md §4.3).

    `start` presets the first threshold; each clock after it makes one decision, so a conversion takes
    exactly its number of A/D operations in clocks: n_r2 in uniform mode, nu + n_r1 in R1, nu + n_r2 in
    R2, nu = 1 or 2 detections. `start` in the clock of `last` gives conversions without a bubble.

    A search needs no adder. In bits, the threshold of a decision of weight 2**j on a grid of 2**s is what was found so
    far, and 1s at j - 1..s - 1 (s > 0) or at j (s = 0). So an answer makes the next threshold by bit j := answer and
    bit j - 1 := not bit j - 1.

    Latency: `code` and `range_flag` are registers that change at the end of the clock with `last` and
    hold until the end of the first decision of the next conversion, so that they can be read in the
    clock after `last` even when the next conversion has begun.
    Throughput: one A/D operation per clock. Reset: idle.

    Members
    -------
    search : `layouts.search`, from `TrqSettings`; stable while converting.
    start : strobe; allowed while idle or in the clock of `last`.
    threshold : DAC code, registered; 1..2**R - 1 while converting, R = config.adc_bits.
    comparator : v >= threshold - 1/2 LSB, answer of the same clock, captured at its end.
    decided : the answer is one; otherwise the lane stands still and asks the same in the next clock. Only with
        `comparator_valid` of the configuration.
    busy : a decision is asked for in this clock; the number of these clocks is the number of A/D operations.
    last : this decision is made, and the last one of the conversion. Combinational from `comparator` and `decided`.
    code : search result. range_flag : 0 = R1, 1 = R2 (uniform counts as R2).
    """

    search: In(layouts.search)
    start: In(1)
    threshold: Out(layouts.code)
    comparator: In(1)
    decided: Where(lambda config: bool(config.comparator_valid), In(1))
    busy: Out(1)
    last: Out(1)
    code: Out(layouts.code)
    range_flag: Out(1)

    def elaborate(self, platform) -> Module:
        m = Module()
        search, start, answer, bits = self.search, self.start, self.comparator, self.config.adc_bits
        steps = Signal(bits)  # weights of the search decisions that are left, from the present one down to the grid's
        first = Signal()  # this decision is the first one
        low = Signal()  # it is the detection at the bottom of the R1 window
        threshold, code = (Signal(bits, name=name, reset_less=True) for name in ("register", "found"))
        range_flag = Signal(name="is_r2", reset_less=True)

        # Where nothing is decided, nothing changes; `start` never comes then.
        decides = self.decided | ~self.busy if self.config.comparator_valid else Const(1)

        # ---- detections
        names = ("detects", "again", "flag", "outside", "inside", "searches")
        detects, again, flag, outside, inside, searches = (Signal(name=name) for name in names)
        m.d.comb += [
            detects.eq((first & search.twin) | low),
            again.eq(first & search.twin & search.two_detections),
            # Between two detections the flag remembers "above the window".
            flag.eq(Mux(first, answer | ~search.twin, range_flag | (low & ~answer))),
            outside.eq(detects & ~again & flag),
            inside.eq(detects & ~again & ~flag),
        ]

        # ---- a decision of the search
        step, rest, moved = (Signal(bits, name=name) for name in ("step", "rest", "moved"))
        m.d.comb += [
            step.eq(steps & ~(steps >> 1)),
            rest.eq(steps & (steps >> 1)),
            moved.eq((answer.replicate(bits) & step) | ((threshold ^ (step >> 1)) & ~step)),
            searches.eq(self.busy & ~detects),
        ]

        # ---- what follows; one condition at a time, so that nothing has to choose between them
        enters = inside & ~start  # a point is found without a search
        with m.If(decides):
            m.d.sync += [
                first.eq(start),
                low.eq(again),
                range_flag.eq(flag),
                threshold.eq(
                    where(start, search.first)
                    | where(again, search.low)
                    | where(outside, search.r2_first)
                    | where(enters, search.r1_first)
                    | where(~detects & ~start, moved)
                ),
                steps.eq(
                    where(start, search.r2_steps)
                    | where(enters, search.r1_steps)
                    | (steps & ((again | outside).replicate(bits) | where(~detects, steps >> 1)))
                ),
                code.eq(where(searches & ~first, code << 1) | (searches & answer) | where(~self.busy, code)),
            ]
        m.d.comb += [
            self.threshold.eq(threshold),
            self.busy.eq(steps.any()),
            self.last.eq(decides & ((searches & ~rest.any()) | (inside & search.r1_is_point))),
            self.code.eq(code),
            self.range_flag.eq(range_flag),
        ]
        return m
