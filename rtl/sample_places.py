"""Which of the two sample-and-hold places of a half are in use."""

from __future__ import annotations

from amaranth.hdl import Const, Module, Signal

from rtl.block import Block, In, Out


class SamplePlaces(Block):
    """Hands out the two places of a half in turn; activations are complete in the order in which they were sampled.

    Latency: combinational from `pending`. Throughput: an activation is sampled, and one is complete, every clock. A
    place is handed out again in the clock in which the activation in it is complete. Reset: both places are free.

    Members
    -------
    sampled : strobe, an activation is sampled; only if `free`. place : that it takes, right in every clock.
    free : a sample may be taken: there is a place, and `sample_interval` clocks have passed since the one before.
    pending : lanes have decisions to make about the oldest activation after this clock.
    oldest : place of the oldest activation that is not complete. complete : strobe, it is, behind this clock.
    over : behind this clock no activation is left, and `sample_interval` has passed.
    """

    sampled: In(1)
    place: Out(1)
    free: Out(1)
    pending: In(1)
    oldest: Out(1)
    complete: Out(1)
    over: Out(1)

    def elaborate(self, platform) -> Module:
        m = Module()
        interval = self.config.sample_interval
        taken, oldest, rested = Signal(range(3)), Signal(), Const(1)
        if interval > 1:
            wait = Signal(range(interval))
            rested = wait == 0
            with m.If(self.sampled):
                m.d.sync += wait.eq(interval - 1)
            with m.Elif(~rested):
                m.d.sync += wait.eq(wait - 1)
        m.d.comb += [
            self.oldest.eq(oldest),
            self.place.eq(oldest ^ taken[0]),
            self.complete.eq((taken != 0) & ~self.pending),
            self.free.eq(rested & ((taken != 2) | self.complete)),
            self.over.eq(rested & (taken == self.complete)),
        ]
        m.d.sync += [taken.eq(taken + self.sampled - self.complete), oldest.eq(oldest ^ self.complete)]
        return m
