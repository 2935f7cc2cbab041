"""From frames to bus accesses."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

from rtl import axi_lite
from rtl import tile_layouts as tile
from rtl.fpga import serial_layouts as serial


class SerialMaster(wiring.Component):
    """AXI4-Lite master that does what request frames ask for and answers them (`rtl.fpga.serial_layouts`).

    The words of a request are buffered, and nothing is done before its frame is known to be intact. The first access
    that fails ends a request. Latency and throughput: three clocks an access beside the slave's own. Handshake: once a
    request runs, `busy` is 1 until the last word of its answer is taken; frames in the meantime must be discarded.
    Reset: waits for a request.

    Members
    -------
    The signals of `rtl.axi_lite.SIGNALS`, from the other side, and:
    words, end, intact : from the frame receiver. busy : to it, discard what arrives.
    answer : to the frame transmitter.
    """

    def __init__(self):
        super().__init__(
            {
                **{name: member.flip() for name, member in axi_lite.SIGNALS.items()},
                "words": In(stream.Signature(tile.WORD, always_ready=True)),
                "end": In(1),
                "intact": In(1),
                "busy": Out(1),
                "answer": Out(stream.Signature(serial.frame_word())),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.buffer = buffer = memory.Memory(shape=tile.WORD, depth=serial.MAX_WORDS, init=[])
        buffer_write, buffer_read = buffer.write_port(), buffer.read_port()
        header, address = Signal(serial.request_header()), Signal.like(self.awaddr)
        received = Signal(range(serial.MAX_WORDS + serial.FRAME_WORDS + 2))  # words of the frame; stays at the top
        done, index = Signal(8), Signal(range(serial.MAX_WORDS + 1))
        status = Signal(serial.Status)
        written = Signal(serial.request_header())  # the request just before, if it was a write that was tried
        answered = Mux(header.write, self.bvalid, self.rvalid)
        response = Mux(header.write, self.bresp, self.rresp)
        payload = self.answer.payload
        m.d.comb += [
            buffer_read.addr.eq(index),
            self.awaddr.eq(address),
            self.araddr.eq(address),
            self.wdata.eq(buffer_read.data),
            self.wstrb.eq(~0),
        ]

        # ---- a request arrives
        with m.If(self.words.valid & ~self.busy):
            m.d.comb += [buffer_write.addr.eq(received - 2), buffer_write.data.eq(self.words.payload)]
            with m.If(received == 0):
                m.d.sync += header.eq(self.words.payload)
            with m.Elif(received == 1):
                m.d.sync += address.eq(self.words.payload)
            with m.Elif(received < serial.MAX_WORDS + 2):
                m.d.comb += buffer_write.en.eq(1)
            with m.If(received != serial.MAX_WORDS + serial.FRAME_WORDS + 1):
                m.d.sync += received.eq(received + 1)
        with m.If(self.end):
            m.d.sync += received.eq(0)

        with m.FSM() as fsm:
            m.d.comb += self.busy.eq(~fsm.ongoing("RECEIVE"))
            with m.State("RECEIVE"):
                wanted = Mux(header.write, header.count, 0) + serial.FRAME_WORDS
                m.d.sync += index.eq(0)
                with m.If(self.end & self.intact):
                    with m.If((received != wanted) | (header.count == 0) | (header.count > serial.MAX_WORDS)):
                        m.d.sync += [status.eq(serial.Status.MALFORMED), done.eq(0), written.write.eq(0)]
                        m.next = "HEADER"
                    with m.Elif(header.write & written.write & (header.number == written.number)):
                        m.next = "HEADER"
                    with m.Else():
                        m.d.sync += [status.eq(serial.Status.OKAY), done.eq(0), written.eq(header)]
                        m.next = "LOAD"
            with m.State("LOAD"):
                m.d.comb += buffer_read.en.eq(1)
                m.d.sync += [
                    self.awvalid.eq(header.write),
                    self.wvalid.eq(header.write),
                    self.arvalid.eq(~header.write),
                ]
                m.next = "ACCESS"
            with m.State("ACCESS"):
                m.d.comb += [self.bready.eq(1), self.rready.eq(1)]
                for valid, ready in (
                    (self.awvalid, self.awready),
                    (self.wvalid, self.wready),
                    (self.arvalid, self.arready),
                ):
                    with m.If(ready):
                        m.d.sync += valid.eq(0)
                with m.If(answered):
                    m.d.comb += [buffer_write.addr.eq(index), buffer_write.data.eq(self.rdata)]
                    m.d.comb += buffer_write.en.eq(~header.write)
                    with m.If(response == axi_lite.OKAY):
                        m.d.sync += [done.eq(done + 1), index.eq(index + 1)]
                        m.d.sync += address.eq(Mux(header.fixed, address, address + tile.WORD // 8))
                        m.next = "LOAD"
                    with m.Else():
                        m.d.sync += status.eq(response)
                        m.next = "HEADER"
                    with m.If(done + 1 == header.count):
                        m.next = "HEADER"

            # ---- the answer
            with m.State("HEADER"):
                to_send = Signal(serial.answer_header())
                m.d.comb += [
                    to_send.number.eq(header.number),
                    to_send.count.eq(done),
                    to_send.status.eq(status),
                    self.answer.valid.eq(1),
                    payload.word.eq(to_send),
                    payload.last.eq(header.write | (done == 0)),
                ]
                m.d.sync += index.eq(0)
                with m.If(self.answer.ready):
                    m.next = "RECEIVE"
                    with m.If(~payload.last):
                        m.next = "FETCH"
            with m.State("FETCH"):
                m.d.comb += buffer_read.en.eq(1)
                m.next = "SEND"
            with m.State("SEND"):
                m.d.comb += [
                    self.answer.valid.eq(1),
                    payload.word.eq(buffer_read.data),
                    payload.last.eq(index + 1 == done),
                ]
                with m.If(self.answer.ready):
                    m.d.sync += index.eq(index + 1)
                    m.next = "FETCH"
                    with m.If(payload.last):
                        m.next = "RECEIVE"
        return m
