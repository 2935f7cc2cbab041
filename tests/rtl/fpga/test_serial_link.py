"""The host's bus over a serial line, on a small device."""

from __future__ import annotations

from itertools import pairwise

import pytest
from amaranth.hdl import Module

from rtl.fpga.serial_layouts import END, MAX_WORDS, Status, answer_header, request_header
from rtl.fpga.serial_link import SerialLink
from sim.backends.pysim_line import PysimLine
from sim.bench import simulate
from sim.host.bus import BusError, BusTimeout
from sim.host.serial_bus import SerialBus, decode, encode
from tests.sim.stand_in import behind_a_link

pytestmark = pytest.mark.rtl

DIVISOR = 4


def run_line(dut, pins, job, *, background=(), limit=200_000):
    """Run `job(line)` on the serial line of `pins`."""
    line = PysimLine(pins, DIVISOR)

    async def bench(ctx):
        line.attach(ctx)
        await job(line)

    simulate(dut, bench, background=[line.listen, *background], limit=limit)


def on_stand_in(job):
    """Run `job(line, writes)` on a device of eight words behind a link; `writes` fills with what is written to them."""
    (m, link, device), writes = behind_a_link(DIVISOR), []

    async def watch(ctx):
        async for _, _, valid, index in ctx.tick().sample(device.trace.valid, device.trace.layer):
            if valid:
                writes.append(index)

    run_line(m, link, lambda line: job(line, writes), background=[watch])


def _counted(line, sent):
    """The line's `send`, which also keeps what it sends."""
    send = line.send

    async def counted(content):
        sent.append(content)
        await send(content)

    return counted


def _header(**fields):
    return request_header().const({"number": 1, "count": 1} | fields).as_bits()


async def _answers(line, content):
    """What the device answers to bytes: (number, count, status, words) of every frame."""
    await line.send(content)
    arrived = b""
    while part := await line.receive(2e-3):
        arrived += part
    frames = [found for piece in arrived.split(bytes([END])) if (found := decode(piece)) is not None]
    headers = [answer_header().from_bits(words[0]) for words in frames]
    return [(h.number, h.count, h.status, words[1:]) for h, words in zip(headers, frames, strict=True)]


def test_words_are_written_and_read_in_bursts_and_one_by_one():
    async def job(line, writes):
        bus = SerialBus(line, patience=0.02)
        words = [1, 0xFFFFFFFF, 0xC0DBC0DB, 0, 5, 6, 7, 8]
        await bus.write_many(range(0, 32, 4), words)
        assert await bus.read_many(range(0, 32, 4)) == words
        assert await bus.read_many([28, 8, 8, 12, 16, 0]) == [8, words[2], words[2], 0, 5, 1]
        await bus.write(4, 9)
        assert await bus.read(4) == 9
        await bus.write_many([8] * (MAX_WORDS + 3), range(MAX_WORDS + 3))
        assert await bus.read(8) == MAX_WORDS + 2
        assert writes == [*range(8), 1, *[2] * (MAX_WORDS + 3)]

    on_stand_in(job)


def test_an_error_names_its_access_and_ends_the_request():
    async def job(line, writes):
        bus = SerialBus(line, patience=0.02)
        with pytest.raises(BusError, match="answered a write at address 0x0000020 with SLVERR") as error:
            await bus.write_many(range(16, 48, 4), range(8))
        assert error.value.done == 4
        assert writes == [4, 5, 6, 7]
        with pytest.raises(BusError, match="answered a read at address 0x0000100 with SLVERR") as error:
            await bus.read_many([0, 4, 8, 0x100])
        assert error.value.done == 3
        assert await bus.read(28) == 3

    on_stand_in(job)


def test_a_damaged_request_is_not_done_and_is_asked_again():
    async def job(line, writes):
        send, damage = line.send, [True]

        async def noisy(content):
            if damage and damage.pop():
                content = b"\x00" + content[:3] + bytes([content[3] ^ 1]) + content[4:]
            await send(content)

        line.send = noisy
        bus = SerialBus(line, patience=0.01)
        await bus.write(12, 7)
        assert writes == [3]
        damage[:] = [True]
        assert await bus.read(12) == 7

    on_stand_in(job)


def test_a_write_whose_answer_was_lost_is_not_done_again():
    async def job(line, writes):
        receive, sent = line.receive, []

        async def lossy(seconds):
            content = await receive(seconds)
            return content if len(sent) > 1 else b""

        line.send, line.receive = _counted(line, sent), lossy
        bus = SerialBus(line, patience=0.01)
        with pytest.raises(BusError) as error:
            await bus.write_many(range(20, 48, 4), range(7))
        assert error.value.done == 3
        assert len(sent) == 2
        assert writes == [5, 6, 7]
        await bus.write(0, 1)
        await bus.write(0, 1)
        assert writes == [5, 6, 7, 0, 0]

    on_stand_in(job)


def test_the_answer_to_a_write_has_no_words_and_neither_has_its_repetition():
    async def job(line, writes):
        request = encode([_header(count=2, write=1), 8, 5, 6])
        for _ in range(2):
            assert await _answers(line, request) == [(1, 2, Status.OKAY, [])]
        assert writes == [2, 3]

    on_stand_in(job)


def test_a_second_answer_that_comes_late_is_not_taken_for_the_next_one():
    async def job(line, writes):
        receive, sent = line.receive, []

        async def late(seconds):
            if len(sent) > 1:
                return await receive(seconds)
            await line.wait(max(seconds, 1e-5))
            return b""

        bus = SerialBus(line, patience=0.01)
        await bus.write_many([4, 8], [11, 22])
        line.send, line.receive = _counted(line, sent), late
        assert await bus.read(4) == 11
        assert len(sent) == 2
        assert await bus.read(8) == 22

    on_stand_in(job)


@pytest.mark.parametrize(
    "words",
    [
        [_header(count=2, write=1), 0, 1],
        [_header(write=1), 0, 1, 2],
        [_header(), 0, 1],
        [_header(count=0), 0],
        [_header(count=MAX_WORDS + 1, write=1), 0, *range(MAX_WORDS + 1)],
        [_header(count=1, write=1), 0, *range(2 * MAX_WORDS)],
        [_header()],
    ],
    ids=["too few", "too many", "a read with words", "none", "more than fit", "far more than fit", "no address"],
)
def test_a_malformed_request_is_refused_and_not_done(words):
    async def job(line, writes):
        assert await _answers(line, encode(words)) == [(1, 0, Status.MALFORMED, [])]
        assert writes == []
        assert await SerialBus(line, patience=0.02).read_many([0, 4]) == [0, 0]

    on_stand_in(job)


@pytest.mark.parametrize("count", [1, MAX_WORDS], ids=["ends before", "ends after"])
def test_a_request_that_begins_while_another_one_runs_is_not_answered(count):
    async def job(line, writes):
        first = encode([_header(count=2), 0])
        second = encode([_header(number=2, count=count, write=1, fixed=1), 0, *range(count)])
        assert await _answers(line, first + second) == [(1, 2, Status.OKAY, [0, 0])]
        assert await _answers(line, first) == [(1, 2, Status.OKAY, [0, 0])]
        assert writes == []

    on_stand_in(job)


def test_busy_is_1_while_a_request_is_worked_on():
    (m, link, _), busy = behind_a_link(DIVISOR), []

    async def watch(ctx):
        async for _, _, now, reading in ctx.tick().sample(link.busy, link.arvalid):
            assert now >= reading
            busy.append(now)

    async def job(line):
        for number in (1, 2):
            assert await _answers(line, encode([_header(number=number), 0])) == [(number, 1, Status.OKAY, [0])]
            assert busy[-1] == 0

    run_line(m, link, job, background=[watch])
    assert sum(now > before for before, now in pairwise(busy)) == 2


def test_a_line_without_a_device_times_out():
    m = Module()
    m.submodules.link = link = SerialLink(DIVISOR)

    async def job(line):
        with pytest.raises(BusTimeout, match="the device did not answer a read at address 0x0000004"):
            await SerialBus(line, patience=0.005).read(4)

    run_line(m, link, job)
