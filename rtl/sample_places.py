"""Which sample-and-hold place of a half takes the next sample, and when."""

from __future__ import annotations

from amaranth.hdl import Const, Module, Signal

from rtl import pair_layouts as layouts
from rtl.block import Block, In, Out


class SamplePlaces(Block):
    """Hands out the places of a half in turn.

    Latency: `free` is combinational from `occupied`. Throughput: a sample a clock.
    Reset: the next sample takes place 0.

    Members
    -------
    sampled : strobe, a sample is taken; only if `free`. turn : of the next sample, registered.
    occupied : the sample before in the place of `turn` is not converted in every lane.
    free : a sample may be taken: its place is not occupied, and `sample_interval` clocks have passed since the sample
        before.
    """

    sampled: In(1)
    turn: Out(layouts.turn)
    occupied: In(1)
    free: Out(1)

    def elaborate(self, platform) -> Module:
        m = Module()
        interval = self.config.sample_interval
        rested = Const(1)
        if interval > 1:
            wait = Signal(range(interval))
            rested = wait == 0
            with m.If(self.sampled):
                m.d.sync += wait.eq(interval - 1)
            with m.Elif(~rested):
                m.d.sync += wait.eq(wait - 1)
        m.d.comb += self.free.eq(rested & ~self.occupied)
        with m.If(self.sampled):
            m.d.sync += self.turn.eq(layouts.next_turn(self.config, self.turn))
        return m
