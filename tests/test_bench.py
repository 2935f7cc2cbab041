"""The simulator benches themselves: range checks, watchdog, stream rules, stalls."""

import numpy as np
import pytest
from amaranth.hdl import Module, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from sim.bench import WatchdogError, simulate
from tests import bench

pytestmark = pytest.mark.rtl


class Queue(wiring.Component):
    """A four-deep byte queue with stream ports."""

    samples: In(stream.Signature(8))
    codes: Out(stream.Signature(8))

    def elaborate(self, platform):
        m = Module()
        m.submodules.fifo = fifo = SyncFIFOBuffered(width=8, depth=4)
        wiring.connect(m, wiring.flipped(self.samples), fifo.w_stream)
        wiring.connect(m, fifo.r_stream, wiring.flipped(self.codes))
        return m


class Fickle(wiring.Component):
    """Breaks the stream rule: its payload counts while nobody accepts."""

    codes: Out(stream.Signature(8))

    def elaborate(self, platform):
        m = Module()
        m.d.comb += self.codes.valid.eq(1)
        m.d.sync += self.codes.payload.eq(self.codes.payload + 1)
        return m


@pytest.mark.parametrize("stall", [0.0, 0.5])
def test_beats_arrive_in_order_whatever_the_stalls(stall):
    dut, values, got = Queue(), list(range(200)), []

    async def producer(ctx):
        await bench.send(ctx, dut.samples, np.array(values, dtype=np.uint8), stall=stall, seed=1)

    async def consumer(ctx):
        got.extend(await bench.receive(ctx, dut.codes, len(values), stall=stall, seed=2))

    simulate(dut, producer, consumer, background=[bench.stream_rule(dut.codes)], limit=2000)
    assert got == values


def test_without_stalls_a_beat_moves_every_clock():
    dut, seen = Queue(), []

    async def producer(ctx):
        await bench.send(ctx, dut.samples, range(50))

    async def consumer(ctx):
        await bench.receive(ctx, dut.codes, 50)

    accepted = bench.collector(dut.codes.valid & dut.codes.ready, dut.codes.payload, into=seen)
    simulate(dut, producer, consumer, background=[accepted], limit=60)
    assert seen == list(range(50))


def test_a_lost_beat_ends_in_the_watchdog():
    dut = Queue()

    async def consumer(ctx):
        await bench.receive(ctx, dut.codes, 1)

    with pytest.raises(WatchdogError, match="did not end within 100 clocks"):
        simulate(dut, consumer, limit=100)


def test_a_payload_that_changes_while_waiting_is_reported():
    dut = Fickle()

    async def consumer(ctx):
        await ctx.tick().repeat(10)

    with pytest.raises(bench.StreamRuleError, match="codes changed its payload"):
        simulate(dut, consumer, background=[bench.stream_rule(dut.codes, "codes")])


def test_oversize_values_are_refused_with_place_and_range():
    shape = data.StructLayout({"pair": 4, "levels": data.ArrayLayout(signed(3), 2)})
    assert bench.checked(shape, {"pair": np.uint8(15), "levels": [-4, 3]}) == {"pair": 15, "levels": [-4, 3]}
    with pytest.raises(ValueError, match=r"value.levels\[1\] must be in -4..3, got 4"):
        bench.checked(shape, {"pair": 0, "levels": [0, 4]})
    with pytest.raises(ValueError, match="value must have fields"):
        bench.checked(shape, {"pair": 0})


def test_structured_payloads_travel_as_plain_python():
    class Register(wiring.Component):
        d: In(data.StructLayout({"a": 4, "b": data.ArrayLayout(2, 2)}))
        q: Out(data.StructLayout({"a": 4, "b": data.ArrayLayout(2, 2)}))

        def elaborate(self, platform):
            m = Module()
            m.d.sync += self.q.eq(self.d)
            return m

    dut, value = Register(), {"a": 9, "b": [1, 3]}

    async def testbench(ctx):
        bench.put(ctx, dut.d, value)
        await ctx.tick()
        assert bench.fetch(ctx, dut.q) == value

    simulate(dut, testbench)


def test_clocks_until_counts_the_clock_of_the_condition():
    class Counter(wiring.Component):
        done: Out(1)

        def elaborate(self, platform):
            m = Module()
            count = Signal(4)
            m.d.sync += count.eq(count + 1)
            m.d.comb += self.done.eq(count == 5)
            return m

    dut = Counter()

    async def testbench(ctx):
        assert await bench.clocks_until(ctx, dut.done) == 6

    simulate(dut, testbench)
