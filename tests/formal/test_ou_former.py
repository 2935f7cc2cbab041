"""Proof: every 1 of a slice is in exactly one OU, in order, never more than ou_rows in one, and k counts them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from amaranth.hdl import Assert, Assume, Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In

from golden_model.config import TINY
from rtl import pair_layouts as layouts
from rtl.bit_count import bit_count
from rtl.ou_former import OuFormer
from tests.formal.mutants import mutant
from tests.formal.prove import PDR, bound
from tests.formal.streams import stream_rule

pytestmark = [pytest.mark.rtl, pytest.mark.slow]


class FormerSpec(wiring.Component):
    """Any slices, any stalls on both sides; one slice, any of them, is watched.

    Tags count slices, so that every OU tells which slice it is of.
    """

    def __init__(self, ou_rows: int, segments: int, former: type = OuFormer):
        self.config = replace(TINY, ou_rows=ou_rows, rows=ou_rows * segments)
        self.former = former
        super().__init__(
            {
                "slices": In(stream.Signature(layouts.masked_slice(self.config))),
                "ready": In(1),
                "watch": In(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        rows = self.config.ou_rows
        m.submodules.former = former = self.former(self.config)
        wiring.connect(m, former.slices, wiring.flipped(self.slices))
        given, ous = self.slices.payload, former.ous
        m.d.comb += ous.ready.eq(self.ready)
        m.d.comb += [Assume(stream_rule(m, self.slices, "slices")), Assert(stream_rule(m, ous, "ous"))]

        # Which slice is watched, and what of it is to come.
        tag = Signal.like(given.tag)
        m.d.comb += Assume(given.tag == tag)
        accepted = self.slices.valid & self.slices.ready
        watched, watched_tag = Signal(), Signal.like(tag)
        lines = Cat(Mux(given.segments[s], given.lines[s], 0) for s in range(self.config.grid_rows))
        left, used, age = Signal(len(lines)), Signal(len(lines)), Signal(2)
        with m.If(accepted):
            m.d.sync += tag.eq(tag + 1)
            with m.If(self.watch & ~watched):
                m.d.sync += [watched.eq(1), watched_tag.eq(tag), left.eq(lines)]
            with m.If(watched & (age != 3)):
                m.d.sync += age.eq(age + 1)
        m.d.comb += Assume(~accepted | ~watched | (age != 3))  # before a tag comes again

        chosen = ous.payload.lines.as_value()
        ones = bit_count(chosen)
        lowest = chosen & (0 - chosen)[: len(chosen)]
        mine = watched & ous.valid & (ous.payload.tag == watched_tag)
        m.d.comb += Assert(~ous.valid | chosen.any())
        with m.If(mine):
            m.d.comb += [
                Assert((chosen & ~left) == 0),
                Assert(used < lowest),
                Assert(ones <= rows),
                Assert(ous.payload.ones == ones),
                Assert(ous.payload.last == (left == chosen)),
                Assert(ous.payload.last | (ones == rows)),
            ]
            with m.If(self.ready):
                m.d.sync += [left.eq(left & ~chosen), used.eq(used | chosen)]
        # Once a later slice has its turn, nothing of the watched one is left.
        distance = (ous.payload.tag - watched_tag)[: len(tag)]
        with m.If(watched & ous.valid & (distance >= 1) & (distance <= 3)):
            m.d.comb += Assert(left == 0)
        # Nor after three clocks without back-pressure and without an OU.
        idle = Signal(2)
        m.d.sync += idle.eq(Mux(ous.valid | accepted, 0, Mux(idle == 3, 3, idle + 1)))
        with m.If(watched & (idle == 3)):
            m.d.comb += Assert(left == 0)
        return m


@pytest.mark.parametrize(("ou_rows", "segments"), [(1, 3), (2, 3), (3, 3), (2, 5)])
def test_every_1_is_in_exactly_one_ou(ou_rows, segments, proof):
    proof(FormerSpec(ou_rows, segments), "ou_former", f"{segments} segments of {ou_rows} lines", PDR)


def test_every_1_of_a_real_ou_is_in_exactly_one_ou(proof):
    """All runs of enough clocks for the watched slice and what is behind it; PDR does not end in minutes."""
    proof(FormerSpec(9, 2), "ou_former", "2 segments of 9 lines", bound(8))


@pytest.mark.parametrize(
    ("correct", "wrong"), [("before > rows - q if", "before >= rows - q if"), ("one & ~two", "one")]
)
def test_wrong_former_is_refuted(correct, wrong, refutation):
    spec = FormerSpec(3, 3, mutant(OuFormer, correct, wrong))
    refutation(spec, "ou_former", f"`{wrong}`", bound(12))
