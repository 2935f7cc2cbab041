"""Both ends of a serial line."""

from __future__ import annotations

import pytest
from amaranth.hdl import Module

from rtl.fpga.uart_receiver import UartReceiver
from rtl.fpga.uart_transmitter import UartTransmitter
from sim.bench import simulate
from tests.bench import collector

pytestmark = [pytest.mark.rtl, pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")]


@pytest.mark.parametrize("divisor", [4, 7, 25])
def test_every_byte_arrives_as_it_was_sent(divisor):
    m = Module()
    m.submodules.sender = sender = UartTransmitter(divisor)
    m.submodules.receiver = receiver = UartReceiver(divisor)
    m.d.comb += receiver.line.eq(sender.line)
    sent, arrived = [0, 255, 0x55, 0xA5, 1, 128], []

    async def bench(ctx):
        todo = list(sent)
        for _ in range((10 * divisor + 1) * (len(sent) + 1)):
            ctx.set(sender.bytes.valid, bool(todo))
            ctx.set(sender.bytes.payload, todo[0] if todo else 0)
            if todo and ctx.get(sender.bytes.ready):
                todo.pop(0)
            if ctx.get(receiver.bytes.valid):
                arrived.append(ctx.get(receiver.bytes.payload))
            await ctx.tick()

    simulate(m, bench)
    assert arrived == sent


@pytest.mark.parametrize("divisor", [4, 7, 12])
def test_bits_are_sampled_in_their_middle(divisor):
    """The line is what it should be in the middle clock of every bit only."""
    receiver, arrived = UartReceiver(divisor), []
    bits, middle = [0, *(0xA5 >> i & 1 for i in range(8)), 1], divisor - divisor // 2

    async def bench(ctx):
        for place, bit in enumerate(bits):
            for clock in range(divisor):
                falls = place == 0 and clock < middle
                ctx.set(receiver.line, bit if falls or clock == middle else 1 - bit)
                await ctx.tick()
        ctx.set(receiver.line, 1)
        await ctx.tick().repeat(divisor)

    simulate(receiver, bench, background=[collector(receiver.bytes.valid, receiver.bytes.payload, into=arrived)])
    assert arrived == [0xA5]


@pytest.mark.parametrize("end", [UartReceiver, UartTransmitter])
def test_a_bit_of_too_few_clocks_is_refused(end):
    with pytest.raises(ValueError, match="divisor: 3 clocks a bit; at least 4 are needed"):
        end(3)


def test_a_byte_without_stop_bit_and_a_short_pulse_are_dropped():
    receiver, arrived = UartReceiver(8), []

    async def bench(ctx):
        for level, clocks in [(0, 2), (1, 100), (0, 80), (1, 100)]:
            ctx.set(receiver.line, level)
            for _ in range(clocks):
                if ctx.get(receiver.bytes.valid):
                    arrived.append(ctx.get(receiver.bytes.payload))
                await ctx.tick()

    simulate(receiver, bench)
    assert arrived == []
