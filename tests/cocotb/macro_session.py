"""cocotb module: the exported macro runs windows of random layers; sums, trace and counters must be golden's.

OHMLOOM_CONFIG names the hardware configuration (see `tests.cocotb.designs`).
"""

import os

import cocotb
import numpy as np
from amaranth.hdl import Shape
from cocotb.triggers import FallingEdge, ReadOnly, with_timeout

from golden_model import layer as crossbar_layer
from golden_model.crossbar import redy, trace
from golden_model.crossbar.layer import DynamicPrecision
from golden_model.crossbar.prepared import prepare_layer
from golden_model.events import Events
from golden_model.image.program import plan
from golden_model.registers import counters_of
from rtl import layouts
from rtl.macro import Macro
from sim.array.crossbars import CrossbarSettings, make_crossbar
from sim.backends import cocotb_bench
from sim.host.records import unpack
from tests.cocotb.designs import CONFIGURATIONS
from tests.strategies import graph_of, make_layer

HARDWARE = CONFIGURATIONS[os.environ["OHMLOOM_CONFIG"]]
#: Nanoseconds that one window may take.
WATCHDOG = 100_000 * cocotb_bench.PERIOD


def pack(layout, values):
    """Fields -> packed structure port; fields not given are 0, each checked against its width."""
    word = 0
    for name, value in values.items():
        where = layout[name]
        width = Shape.cast(where.shape).width
        if not 0 <= int(value) < 1 << width:
            raise ValueError(f"{name} must be in 0..{(1 << width) - 1}, got {value}")
        word |= int(value) << where.offset
    return word


class Bench:
    """The macro with an ideal array behind it, one layer loaded."""

    def __init__(self, dut, layer):
        self.dut, self.layer = dut, layer
        program = plan(graph_of([layer], HARDWARE))
        self.fields, self.placed = program.steps[0].fields, program.placement.layers[0]
        self.crossbar = make_crossbar(program, CrossbarSettings())
        self.crossbar.load(program.tables.cells)
        self.monitor = cocotb_bench.TraceMonitor.of(dut, Macro(HARDWARE))
        self.monitor.enabled = True
        self.analog = cocotb_bench.Analog(dut, self.crossbar, self.monitor)

    async def load(self):
        dut, layer = self.dut, self.layer
        idle = ("layer", "window_start", "segments__valid", "segments__payload", "width_write")
        for signal in (*idle, "sums_address", "sums_column"):
            getattr(dut, signal).value = 0
        dut.settings.value = pack(layouts.layer_settings(HARDWARE), self.fields)
        dut.counters_clear.value = 1
        cocotb.start_soon(self.analog.run())
        await cocotb_bench.start(dut)
        for index, width in enumerate(layer.block_widths.ravel()):
            await FallingEdge(dut.clk)
            write = {"enable": 1, "address": index, "data": int(width)}
            dut.width_write.value = pack(layouts.width_write(HARDWARE), write)
        await FallingEdge(dut.clk)
        dut.width_write.value = 0
        dut.counters_clear.value = 0
        for _ in range(3):
            await FallingEdge(dut.clk)
        assert not cocotb_bench.number(dut.configuration_error)

    async def window(self, beats):
        """Run one window; returns its partial sums."""
        dut = self.dut
        feeder = cocotb.start_soon(self.feed(beats))
        await FallingEdge(dut.clk)
        dut.window_start.value = 1
        await FallingEdge(dut.clk)
        dut.window_start.value = 0
        while True:
            await ReadOnly()
            if cocotb_bench.number(dut.window_done):
                break
            await FallingEdge(dut.clk)
        await FallingEdge(dut.clk)
        assert feeder.done(), "the macro did not take every segment"
        sums, bits = [], HARDWARE.accumulator_bits
        for output in range(self.layer.outputs):
            dut.sums_address.value, dut.sums_column.value = divmod(output, HARDWARE.ou_cols)
            await FallingEdge(dut.clk)
            raw = cocotb_bench.number(dut.sum)
            sums.append(raw - (raw >> (bits - 1) << bits))
        return np.array(sums)

    async def feed(self, beats):
        dut = self.dut
        for slices, mask in beats:
            await FallingEdge(dut.clk)
            packed = sum(int(s) << (HARDWARE.ou_rows * i) for i, s in enumerate(slices))
            layout = layouts.segment(HARDWARE)
            dut.segments__payload.value = packed << layout["slices"].offset | int(mask) << layout["mask"].offset
            dut.segments__valid.value = 1
            while True:
                await ReadOnly()
                if cocotb_bench.number(dut.segments__ready):
                    break
                await FallingEdge(dut.clk)
        await FallingEdge(dut.clk)
        dut.segments__valid.value = 0


def beats_of(layer, row):
    """(slices, mask) per segment, as the dynamic-precision unit would send them."""
    segments = layer.segments(HARDWARE)
    q, lo, hi = row.astype(np.int64), np.zeros(segments, int), np.full(segments, layer.input_bits - 1)
    if layer.dynamic is not None:
        choice = redy.precision(q[None], HARDWARE, layer.dynamic)
        group = np.arange(segments) // HARDWARE.segments_per_group
        q, lo, hi = choice.streamed[0], choice.lo[0, group], choice.hi[0, group]
    padded = np.zeros(segments * HARDWARE.ou_rows, dtype=np.int64)
    padded[: layer.k] = q
    rows = padded.reshape(segments, HARDWARE.ou_rows)
    place = 1 << np.arange(HARDWARE.ou_rows)
    for segment in range(segments):
        slices = [int(((rows[segment] >> i) & 1) @ place) for i in range(HARDWARE.input_bits)]
        mask = sum(1 << i for i in range(int(lo[segment]), int(hi[segment]) + 1))
        yield slices, mask


async def check(dut, layer, rows):
    bench = Bench(dut, layer)
    await bench.load()
    sums, events = crossbar_layer.run(prepare_layer(layer, HARDWARE), rows)
    for index, row in enumerate(rows):
        bench.monitor.clear()
        found = await with_timeout(cocotb.start_soon(bench.window(beats_of(layer, row))), WATCHDOG, "ns")
        records = bench.monitor.records()
        expected = list(trace.window_trace(layer, HARDWARE, bench.placed, row))
        assert len(records["valid"]) == len(expected), f"window {index}: number of OU activations"
        for ou, golden in enumerate(expected):
            for name in ("segment", "input_bit", "block_col", "plane", "pair", "ou_row", "ou_col"):
                assert records[name][ou] == getattr(golden, name), f"window {index}, OU {ou}: {name}"
            started = golden.started.astype(bool)
            assert (records["started"][ou] == started).all(), f"window {index}, OU {ou}: started"
            for name in ("range_flags", "codes"):
                same = (records[name][ou] == getattr(golden, name)) | ~started
                assert same.all(), f"window {index}, OU {ou}, lane {int(np.argmin(same))}: {name}"
        assert (found == sums[index]).all(), f"window {index}: partial sums {found} instead of {sums[index]}"
    counted = unpack(layouts.counters(HARDWARE), cocotb_bench.number(dut.counters))
    total = Events(events.counts).sum().as_dict()
    for name in counters_of(HARDWARE):
        if name != "cycles":
            assert counted[name] == total[name], f"event counter {name}: {counted[name]} instead of {total[name]}"
    assert not cocotb_bench.number(dut.overflow)


def random_rows(rng, layer, count):
    return rng.integers(0, 1 << layer.input_bits, (count, layer.k))


def wide_layer(rng, **options):
    """K and N not multiples of the OU, two segments at least."""
    shape = {"channels": 2, "height": 3, "width": 3, "outputs": HARDWARE.ou_cols + 1}
    return make_layer(rng, HARDWARE, kind="linear", **shape, last=True, **options)


@cocotb.test()
async def random_layers_with_dynamic_precision(dut):
    rng = np.random.default_rng(1)
    layer = wide_layer(rng, dynamic=DynamicPrecision(l_max=2, tau_sq=600), counts_per_lsb=1.2)
    await check(dut, layer, random_rows(rng, layer, 3))


@cocotb.test()
async def saturated_data_in_every_cell_and_input(dut):
    rng = np.random.default_rng(2)
    top = (1 << HARDWARE.weight_bits) - 1
    layer = wide_layer(rng, weights=rng.choice([-top, top], (18, HARDWARE.ou_cols + 1)))
    rows = np.full((2, layer.k), (1 << layer.input_bits) - 1)
    await check(dut, layer, rows)


@cocotb.test()
async def zero_slices_are_skipped(dut):
    rng = np.random.default_rng(3)
    layer = wide_layer(rng, skip_zero_slices=True)
    rows = random_rows(rng, layer, 3) & 0b101
    rows[1] = 0
    await check(dut, layer, rows)
