"""Proof: the bus slave keeps the rules of AXI4-Lite, and answers every transaction once, with what the bank said."""

from __future__ import annotations

import pytest
from amaranth.hdl import Assert, Assume, Cat, Module, Mux, Signal
from amaranth.lib import wiring

from rtl.axi_lite import OKAY, SLVERR, AxiLite
from tests.formal.mutants import mutant
from tests.formal.prove import PDR, bound
from tests.formal.streams import master_rule, stream_rule

pytestmark = [pytest.mark.rtl, pytest.mark.slow]


class AxiSpec(wiring.Component):
    """Any master that keeps the rules, and any bank that answers what it was asked and nothing else."""

    def __init__(self, slave: type = AxiLite):
        self.slave = slave()
        super().__init__(self.slave.signature)

    def elaborate(self, platform):
        m = Module()
        m.submodules.slave = slave = self.slave
        wiring.connect(m, wiring.flipped(self), slave)
        asked, answer = Signal(), slave.responses.payload
        requested = slave.requests.valid & slave.requests.ready
        answered = slave.responses.valid & slave.responses.ready
        m.d.sync += asked.eq((asked & ~answered) | requested)
        m.d.comb += [
            Assume(master_rule(m, slave)),
            Assume(stream_rule(m, slave.responses, "responses")),
            Assume(~slave.responses.valid | asked),
            Assert(stream_rule(m, slave.requests, "requests")),
            Assert(~(requested & asked)),
        ]

        # ---- transactions that were taken, and what belongs to them
        write = Signal()
        taken_write, taken_read = slave.awvalid & slave.awready, slave.arvalid & slave.arready
        open_write, open_read = Signal(), Signal()
        done_write, done_read = slave.bvalid & slave.bready, slave.rvalid & slave.rready
        request = slave.requests.payload
        m.d.sync += [
            open_write.eq((open_write & ~done_write) | taken_write),
            open_read.eq((open_read & ~done_read) | taken_read),
        ]
        m.d.comb += [
            write.eq(taken_write),
            # address and data of a write are taken together; a transaction is taken when the bank takes its request
            Assert(taken_write == (slave.wvalid & slave.wready)),
            Assert(requested == (taken_write | taken_read)),
            Assert(~(taken_write & taken_read)),
            Assert(~(requested & (open_write | open_read))),
        ]
        with m.If(requested):
            m.d.comb += [
                Assert(request.write == write),
                Assert(request.address == Mux(write, slave.awaddr, slave.araddr)),
                Assert(~write | ((request.data == slave.wdata) & (request.strobe == slave.wstrb))),
            ]

        # ---- no answer without a transaction, its own answer, held until it is taken
        said, given = Signal.like(answer), Signal()
        with m.If(answered):
            m.d.sync += said.eq(answer)
        m.d.sync += given.eq((given & ~(done_write | done_read)) | answered)
        response = Mux(said.error, SLVERR, OKAY)
        offered = Signal()
        b_kept = _kept(m, slave.bvalid, slave.bready, slave.bresp, "b")
        r_kept = _kept(m, slave.rvalid, slave.rready, Cat(slave.rdata, slave.rresp), "r")
        m.d.comb += [
            Assert(b_kept & r_kept),
            Assert(~slave.bvalid | (open_write & (slave.bresp == response))),
            Assert(~slave.rvalid | (open_read & (slave.rresp == response) & (slave.rdata == said.data))),
            # nothing hangs: an open transaction waits for the bank, which is listened to, or its answer is on the bus
            Assert((slave.bvalid | slave.rvalid) == given),
            Assert((open_write | open_read) == (asked | given)),
            Assert(~asked | slave.responses.ready),
            # and a transaction on offer is requested of the bank one clock later if none is open
            Assert(~offered | slave.requests.valid),
        ]
        m.d.sync += offered.eq(self._offered(slave) & ~(open_write | open_read | slave.requests.valid))

        # ---- in turns: of two that wait, one never passes the other twice
        for name, waits, mine, other in (
            ("read", slave.arvalid, taken_read, taken_write),
            ("write", slave.awvalid & slave.wvalid, taken_write, taken_read),
        ):
            passed = Signal(2, name=f"{name}_passed")
            with m.If(~waits | mine):
                m.d.sync += passed.eq(0)
            with m.Elif(other):
                m.d.sync += passed.eq(passed + 1)
            m.d.comb += Assert(~(other & waits & (passed == 2)))
        return m

    def _offered(self, slave):
        return slave.arvalid | (slave.awvalid & slave.wvalid)


def _kept(m: Module, valid, ready, payload, name: str):
    waiting, before = Signal(name=f"{name}_waits"), Signal(len(payload), name=f"{name}_was")
    m.d.sync += [waiting.eq(valid & ~ready), before.eq(payload)]
    return ~waiting | (valid & (payload == before))


def test_every_transaction_is_answered_once_by_the_rules_of_axi(proof):
    proof(AxiSpec(), "axi_lite", "any master, any bank", PDR)


@pytest.mark.parametrize(
    ("correct", "wrong"),
    [
        ("self.requests.payload.write.eq(write),", "self.requests.payload.write.eq(write_offered),"),
        ("with m.If(write_offered | self.arvalid):", "with m.If(write_offered):"),
        ("~(self.arvalid & last_was_write)", "~(self.arvalid & self.awprot[0])"),
        ("self.bvalid & self.bready | self.rvalid & self.rready", "self.bready | self.rready"),
        ("self.awready.eq(write & accepted),", "self.awready.eq(accepted),"),
    ],
)
def test_wrong_slave_is_refuted(correct, wrong, refutation):
    refutation(AxiSpec(mutant(AxiLite, correct, wrong)), "axi_lite", f"`{wrong}`", bound(16))
