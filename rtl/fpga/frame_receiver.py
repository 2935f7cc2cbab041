"""Frames of words from bytes."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.crc.catalog import CRC32_ISO_HDLC
from amaranth.lib.wiring import In, Out

from rtl import tile_layouts as tile
from rtl.fpga import serial_layouts as serial


class FrameReceiver(wiring.Component):
    """Takes frames (`rtl.fpga.serial_layouts`) apart and checks them.

    Words are given as they arrive, the CRC as the last of them: they count for nothing until `end` says that the frame
    is intact. Latency: 0. Throughput: a byte a clock. Nothing stalls. Reset: waits for a frame.

    Members
    -------
    bytes : what arrives. discard : a frame of which a byte comes while this is 1 is not intact.
    words : those of a frame. end : strobe, a frame ended that was not empty. intact : with `end`, its CRC, its length
        and its escapes are right.
    """

    bytes: In(stream.Signature(8, always_ready=True))
    discard: In(1)
    words: Out(stream.Signature(tile.WORD, always_ready=True))
    end: Out(1)
    intact: Out(1)

    def elaborate(self, platform):
        m = Module()
        m.submodules.crc = crc = CRC32_ISO_HDLC(data_width=tile.WORD).create()
        byte, arrived = self.bytes.payload, self.bytes.valid
        escaped, wrong, began = Signal(), Signal(), Signal()
        before, place = Signal(tile.WORD - 8), Signal(range(tile.WORD // 8))
        value = Signal(8)
        m.d.comb += [
            value.eq(Mux(escaped, Mux(byte == serial.ESCAPED_END, serial.END, serial.ESCAPE), byte)),
            self.words.payload.eq(Cat(before, value)),
            crc.data.eq(self.words.payload),
            crc.valid.eq(self.words.valid),
            self.intact.eq(~wrong & ~escaped & (place == 0) & crc.match_detected),
        ]
        with m.If(arrived & (byte == serial.END)):
            m.d.comb += [self.end.eq(began), crc.start.eq(1)]
            m.d.sync += [escaped.eq(0), wrong.eq(0), began.eq(0), place.eq(0)]
        with m.Elif(arrived):
            m.d.sync += [began.eq(1), escaped.eq(0)]
            with m.If(self.discard):
                m.d.sync += wrong.eq(1)
            with m.If(byte == serial.ESCAPE):
                m.d.sync += escaped.eq(1)
            with m.Else():
                m.d.comb += self.words.valid.eq(place == tile.WORD // 8 - 1)
                m.d.sync += [place.eq(place + 1), before.eq(Cat(before, value)[8:])]
                with m.If(escaped & (byte != serial.ESCAPED_END) & (byte != serial.ESCAPED_ESCAPE)):
                    m.d.sync += wrong.eq(1)
        return m
