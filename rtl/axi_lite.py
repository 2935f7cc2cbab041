"""AXI4-Lite slave in front of the register bank."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from golden_model.registers import ADDRESS_BITS
from rtl import tile_layouts as tile

#: Signals of the bus, seen from the slave, without the prefix that the enclosing block gives them.
SIGNALS = {
    "awaddr": In(ADDRESS_BITS),
    "awprot": In(3),
    "awvalid": In(1),
    "awready": Out(1),
    "wdata": In(tile.WORD),
    "wstrb": In(tile.WORD // 8),
    "wvalid": In(1),
    "wready": Out(1),
    "bresp": Out(2),
    "bvalid": Out(1),
    "bready": In(1),
    "araddr": In(ADDRESS_BITS),
    "arprot": In(3),
    "arvalid": In(1),
    "arready": Out(1),
    "rdata": Out(tile.WORD),
    "rresp": Out(2),
    "rvalid": Out(1),
    "rready": In(1),
}
#: AXI response codes.
OKAY, SLVERR = 0, 2


class AxiLite(wiring.Component):
    """Turns AXI4-Lite transactions into single requests, one at a time; protection bits are ignored.

    A write waits for both its address and its data. When a read and a write are offered in the same
    clock they take turns. Throughput: a transaction every four clocks plus the bank's own. Latency: the
    request is offered in the clock after address (and data) became valid; no ready depends on a valid of
    its clock; the answer is on the bus in the clock after the bank gave it. Reset: nothing is accepted
    until the clock after it.

    Members
    -------
    The signals of `SIGNALS`, and:
    requests : stream of accesses. responses : stream of answers, one per request.
    """

    def __init__(self):
        super().__init__(
            {
                **SIGNALS,
                "requests": Out(stream.Signature(tile.bus_request())),
                "responses": In(stream.Signature(tile.bus_response())),
            }
        )

    def elaborate(self, platform):
        m = Module()
        write_offered, write, last_was_write = Signal(), Signal(), Signal()
        # The choice stays while the request is offered, even if the other channel becomes valid.
        m.d.comb += [
            write_offered.eq(self.awvalid & self.wvalid),
            self.requests.payload.write.eq(write),
            self.requests.payload.address.eq(Mux(write, self.awaddr, self.araddr)),
            self.requests.payload.data.eq(Mux(write, self.wdata, 0)),
            self.requests.payload.strobe.eq(Mux(write, self.wstrb, 0)),
        ]
        response = self.responses.payload
        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += write.eq(write_offered & ~(self.arvalid & last_was_write))
                with m.If(write_offered | self.arvalid):
                    m.next = "OFFER"
            with m.State("OFFER"):
                # The ready signals follow from registers alone: no path from valid to ready.
                accepted = self.requests.ready
                m.d.comb += self.requests.valid.eq(1)
                m.d.comb += [self.awready.eq(write & accepted), self.wready.eq(write & accepted)]
                m.d.comb += self.arready.eq(~write & accepted)
                with m.If(accepted):
                    m.d.sync += last_was_write.eq(write)
                    m.next = "ANSWER"
            with m.State("ANSWER"):
                m.d.comb += self.responses.ready.eq(1)
                with m.If(self.responses.valid):
                    m.d.sync += self.rdata.eq(response.data)
                    with m.If(last_was_write):
                        m.d.sync += [self.bvalid.eq(1), self.bresp.eq(Mux(response.error, SLVERR, OKAY))]
                    with m.Else():
                        m.d.sync += [self.rvalid.eq(1), self.rresp.eq(Mux(response.error, SLVERR, OKAY))]
                    m.next = "FINISH"
            with m.State("FINISH"), m.If(self.bvalid & self.bready | self.rvalid & self.rready):
                m.d.sync += [self.bvalid.eq(0), self.rvalid.eq(0)]
                m.next = "IDLE"
        return m
