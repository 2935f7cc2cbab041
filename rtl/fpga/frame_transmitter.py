"""Bytes of frames of words."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.crc.catalog import CRC32_ISO_HDLC
from amaranth.lib.wiring import In, Out

from rtl import tile_layouts as tile
from rtl.fpga import serial_layouts as serial


class FrameTransmitter(wiring.Component):
    """Makes frames (`rtl.fpga.serial_layouts`): an END, the words and their CRC, an END.

    Latency: the first byte is offered in the clock in which the first word is. Throughput: a word in five clocks, plus
    one for every byte that is escaped, if every byte is taken at once. Reset: idle.

    Members
    -------
    words : those of a frame. bytes : what to send.
    """

    words: In(stream.Signature(serial.frame_word()))
    bytes: Out(stream.Signature(8))

    def elaborate(self, platform):
        m = Module()
        m.submodules.crc = crc = CRC32_ISO_HDLC(data_width=tile.WORD).create()
        word, place = Signal(tile.WORD), Signal(range(tile.WORD // 8))
        last, checking, escaped = Signal(), Signal(), Signal()
        byte = word[:8]
        special = (byte == serial.END) | (byte == serial.ESCAPE)
        m.d.comb += crc.data.eq(self.words.payload.word)
        with m.FSM():
            with m.State("OPEN"):
                m.d.comb += [self.bytes.payload.eq(serial.END), self.bytes.valid.eq(self.words.valid), crc.start.eq(1)]
                with m.If(self.bytes.valid & self.bytes.ready):
                    m.next = "TAKE"
            with m.State("TAKE"):
                m.d.comb += [self.words.ready.eq(1), crc.valid.eq(self.words.valid)]
                m.d.sync += [word.eq(self.words.payload.word), last.eq(self.words.payload.last), checking.eq(0)]
                with m.If(self.words.valid):
                    m.next = "SEND"
            with m.State("SEND"):
                m.d.comb += [self.bytes.valid.eq(1), self.bytes.payload.eq(byte)]
                with m.If(special & ~escaped):
                    m.d.comb += self.bytes.payload.eq(serial.ESCAPE)
                with m.Elif(special):
                    replaced = Mux(byte == serial.END, serial.ESCAPED_END, serial.ESCAPED_ESCAPE)
                    m.d.comb += self.bytes.payload.eq(replaced)
                with m.If(self.bytes.ready):
                    m.d.sync += escaped.eq(special & ~escaped)
                with m.If(self.bytes.ready & (escaped | ~special)):
                    m.d.sync += [word.eq(word >> 8), place.eq(place + 1)]
                    with m.If(place == tile.WORD // 8 - 1):
                        with m.If(checking):
                            m.next = "CLOSE"
                        with m.Elif(last):
                            m.d.sync += [word.eq(crc.crc), checking.eq(1)]
                        with m.Else():
                            m.next = "TAKE"
            with m.State("CLOSE"):
                m.d.comb += [self.bytes.payload.eq(serial.END), self.bytes.valid.eq(1)]
                with m.If(self.bytes.ready):
                    m.next = "OPEN"
        return m
