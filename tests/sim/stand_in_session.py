"""cocotb module: the small device's bus through cocotbext-axi, and its trace."""

import cocotb

from sim.backends import cocotb_bench
from tests.sim.stand_in import StandIn
from tests.sim.test_buses import exercise


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def accesses(dut):
    bus = cocotb_bench.CocotbBus(dut)
    await cocotb_bench.start(dut)
    await exercise(bus)


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def trace(dut):
    monitor = cocotb_bench.TraceMonitor.of(dut, StandIn())
    bus = cocotb_bench.CocotbBus(dut, monitor)
    await cocotb_bench.start(dut)

    async def watch():
        while True:
            await cocotb.triggers.FallingEdge(dut.clk)
            await cocotb.triggers.ReadOnly()
            monitor.sample()

    cocotb.start_soon(watch())
    await bus.write(20, 0b1001)
    await bus.wait(4)
    records = bus.records()
    assert records["layer"].tolist() == [5]
    assert records["started"].tolist() == [[1, 0, 0, 1]]
    assert records["codes"].tolist() == [[9, 10, 11, 12]]
