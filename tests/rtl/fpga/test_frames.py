"""Frames of the host link: what the device takes apart, what it sends, and what the host makes of it."""

from __future__ import annotations

import random

import pytest

from rtl.fpga.frame_receiver import FrameReceiver
from rtl.fpga.frame_transmitter import FrameTransmitter
from rtl.fpga.serial_layouts import END, ESCAPE, ESCAPED_END, Status, answer_header, request_header
from sim.bench import simulate
from sim.host.serial_bus import decode, encode
from tests.bench import receive, send

pytestmark = pytest.mark.rtl

#: Every byte with a meaning of its own, and others.
WORDS = [0xC0C0C0C0, 0xDBDBDBDB, 0xDCDDDCDD, 0xC0DBDCDD, 0, 0xFFFFFFFF, 0x12345678]


def _received(content: bytes, discarded: range = range(0)) -> list[list[int] | None]:
    """What a receiver makes of bytes, one a clock: words of every frame, None for one that is not intact."""
    dut, frames, words = FrameReceiver(), [], []

    async def bench(ctx):
        for index, byte in enumerate(content):
            ctx.set(dut.bytes.payload, byte)
            ctx.set(dut.bytes.valid, 1)
            ctx.set(dut.discard, index in discarded)
            if ctx.get(dut.words.valid):
                words.append(ctx.get(dut.words.payload))
            if ctx.get(dut.end):
                frames.append(words[:-1] if ctx.get(dut.intact) else None)
                words.clear()
            await ctx.tick()

    simulate(dut, bench)
    return frames


def test_headers_are_words_with_the_fields_of_the_protocol_at_their_places():
    fields = {"number": 0x12, "count": 0x34, "write": 1, "fixed": 0}
    assert request_header().const(fields).as_bits() == 0x00013412
    assert request_header().const(fields | {"write": 0, "fixed": 1}).as_bits() == 0x00023412
    answer = answer_header().const({"number": 0x12, "count": 0x34, "status": Status.MALFORMED})
    assert answer.as_bits() == 0x00803412
    assert request_header().size == answer_header().size == 32


@pytest.mark.parametrize("count", [1, 2, len(WORDS)])
def test_frames_of_the_host_arrive(count):
    assert _received(encode(WORDS[:count]) + encode(WORDS)) == [WORDS[:count], WORDS]


@pytest.mark.parametrize("stall", [0, 0.5])
def test_frames_of_the_device_arrive(stall):
    dut, frames = FrameTransmitter(), [WORDS, [WORDS[0]], [7, 8]]
    beats = [{"word": word, "last": word is frame[-1]} for frame in frames for word in frame]
    length = sum(len(encode(frame)) for frame in frames)
    sent = []

    async def sender(ctx):
        await send(ctx, dut.words, beats, stall=stall, seed=1)

    async def listener(ctx):
        sent.extend(await receive(ctx, dut.bytes, length, stall=stall, seed=2))

    simulate(dut, sender, listener, limit=5000)
    assert bytes(sent) == b"".join(map(encode, frames))
    assert [decode(part) for part in bytes(sent).split(bytes([END])) if part] == frames


@pytest.mark.parametrize("seed", range(3))
def test_a_frame_with_any_bit_turned_over_is_not_intact_and_the_next_one_is(seed):
    rng, frame = random.Random(seed), encode(WORDS)
    for at in rng.sample(range(1, len(frame) - 1), 8):
        damaged = bytearray(frame)
        damaged[at] ^= 1 << rng.randrange(8)
        found = _received(bytes(damaged) + encode([5]))
        assert WORDS not in found
        assert found[-1] == [5]
        assert all(decode(bytes(part)) is None for part in bytes(damaged).split(bytes([END])))


def test_a_frame_behind_anything_else_is_found():
    frame = encode(WORDS)
    for before in (b"", frame[:9], b"\x55\xaa" * 50, bytes([ESCAPE]), bytes([END] * 5)):
        assert _received(before + frame)[-1] == WORDS


def test_a_wrong_escape_a_missing_byte_and_no_words_are_not_intact():
    frame = encode([0xC0, 1])
    wrong = frame.replace(bytes([ESCAPE, ESCAPED_END]), bytes([ESCAPE, 0x11]))
    assert _received(wrong) == [None]
    assert _received(frame[:-2] + frame[-1:]) == [None]
    assert _received(bytes([END, END])) == []


def test_a_frame_is_discarded_if_any_of_its_bytes_came_at_a_wrong_time():
    frame = encode([1, 2])
    for at in (1, 5, len(frame) - 2):
        assert _received(frame + encode([3]), range(at, at + 1)) == [None, [3]]
