"""The host link's frames: what the words of a request and of its answer mean.

A frame is some 32-bit words, least significant byte first, and their CRC-32 (that of zlib), between two END bytes and
escaped as in RFC 1055 (SLIP). An END ends whatever came before it, so that both sides find the next frame after any
damage.

    request: header, byte address, words to write              answer: header, words read

The device answers a frame that arrived whole, and stays silent about any other. A write with the number of the write
just before it is not done again, but its answer is repeated; so the host can repeat what was not answered.
"""

from __future__ import annotations

from amaranth.lib import data, enum

from rtl import tile_layouts as tile

#: Bytes with a meaning of their own, and what stands for them inside a frame, behind an ESCAPE.
END, ESCAPE, ESCAPED_END, ESCAPED_ESCAPE = 0xC0, 0xDB, 0xDC, 0xDD
#: Words that a request writes or reads at the most.
MAX_WORDS = 64
#: Words of a request beside those that it writes: header, address, CRC.
FRAME_WORDS = 3
#: Bits a second, unless told otherwise.
BAUD = 1_000_000


class Status(enum.Enum, shape=8):
    """How a request ended; the first four are AXI's responses to the access that ended it."""

    OKAY = 0
    EXOKAY = 1
    SLVERR = 2
    DECERR = 3
    MALFORMED = 128  #: not as many words as its header says, or none, or more than `MAX_WORDS`


def request_header() -> data.StructLayout:
    """number : of the request. count : of words. write : else read. fixed : all words at the same address, else each at
    the next one."""
    return data.StructLayout({"number": 8, "count": 8, "write": 1, "fixed": 1, "reserved": 14})


def answer_header() -> data.StructLayout:
    """number : the request's. count : of accesses that succeeded, and of the words read. status : `Status`."""
    return data.StructLayout({"number": 8, "count": 8, "status": Status, "reserved": 8})


def frame_word() -> data.StructLayout:
    """A word of a frame that is sent."""
    return data.StructLayout({"word": tile.WORD, "last": 1})
