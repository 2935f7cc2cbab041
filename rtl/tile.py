"""The tile: a macro and everything that lets it run whole networks from a bus (system.md §1, §10)."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, ResetInserter
from amaranth.lib import wiring
from amaranth.lib.crc.catalog import CRC32_ISO_HDLC

from golden_model.config import HardwareConfig
from rtl import axi_lite, layouts, loader
from rtl import tile_layouts as tile
from rtl.activation_memory import ActivationMemory
from rtl.axi_lite import AxiLite
from rtl.block import Block, Out
from rtl.cell_programmer import CellProgrammer
from rtl.descriptor_check import DescriptorCheck
from rtl.descriptor_reader import DescriptorReader
from rtl.dynamic_precision import DynamicPrecision
from rtl.emulated_crossbar import EmulatedCrossbar
from rtl.event_memory import EventMemory
from rtl.interfaces import CrossbarPort, forward, parts_of
from rtl.lane_test import LaneTest
from rtl.layer_sequencer import LayerSequencer
from rtl.loader import Loader
from rtl.logit_memory import LogitMemory
from rtl.macro import Macro
from rtl.pair_interfaces import PairCrossbarPort
from rtl.pair_macros import PairMacros
from rtl.post_processing import PostProcessing
from rtl.reduction import Reduction
from rtl.register_bank import RegisterBank
from rtl.residual_view import ResidualView
from rtl.window_generator import WindowGenerator

#: Prefixes of the bus and of the load stream at the top, where test benches look for them.
BUS_PREFIX, LOAD_PREFIX = "s_axil_", "s_axis_"


def bus_members() -> dict:
    """The AXI4-Lite slave as flat ports (no `__` in the Verilog names)."""
    return {BUS_PREFIX + name: member for name, member in axi_lite.SIGNALS.items()}


def load_members() -> dict:
    """The AXI4-Stream of the loader as flat ports."""
    return {LOAD_PREFIX + name: member for name, member in loader.SIGNALS.items()}


def trace_members(config: HardwareConfig) -> dict:
    """The trace port, where the machine has one."""
    return {} if config.pairs else {"trace": wiring.Out(tile.tile_trace(config))}


def connect_bus(m: Module, outer, inner, prefix: str = "") -> None:
    """Connect a component's flat bus ports to those of a part of it, called `prefix` + name there."""
    for name, member in axi_lite.SIGNALS.items():
        outside, inside = getattr(outer, BUS_PREFIX + name), getattr(inner, prefix + name)
        m.d.comb += inside.eq(outside) if member.flow == wiring.In else outside.eq(inside)


def connect_load(m: Module, outer, inner) -> None:
    """Connect a component's load stream to that of a part of it."""
    for name, member in loader.SIGNALS.items():
        outside, inside = getattr(outer, LOAD_PREFIX + name), getattr(inner, LOAD_PREFIX + name)
        m.d.comb += inside.eq(outside) if member.flow == wiring.In else outside.eq(inside)


def connect_loader(m: Module, outer, load: Loader, registers, programmer, running) -> None:
    """Connect the loader to the flat ports of the block around it, to the register bank and to the cell programmer,
    whose cells come from either and never from both. running : a network runs."""
    wiring.connect(m, load.writes, registers.loads)
    m.d.comb += [
        load.words.valid.eq(outer.s_axis_tvalid),
        load.words.payload.data.eq(outer.s_axis_tdata),
        load.words.payload.last.eq(outer.s_axis_tlast),
        outer.s_axis_tready.eq(load.words.ready),
        load.refused.eq(registers.load_refused),
        load.clear.eq(registers.load_clear),
        registers.load_status.eq(load.status),
        load.cells_busy.eq(programmer.busy),
        load.cells_refused.eq(programmer.full | running),
        registers.status.cells_busy.eq(programmer.busy | load.cells_open),
        programmer.cells.valid.eq(registers.cells.valid | load.cells.valid),
        programmer.cells.payload.eq(Mux(load.cells_open, load.cells.payload, registers.cells.payload)),
        registers.cells.ready.eq(programmer.cells.ready),
        load.cells.ready.eq(programmer.cells.ready),
    ]


def connect_checksum(m: Module, registers: RegisterBank) -> None:
    """Add the checksum of the tables to a block with a register bank."""
    m.submodules.table_checksum = crc = CRC32_ISO_HDLC(data_width=2 * tile.WORD).create()
    written = registers.table_write
    m.d.comb += [
        crc.start.eq(registers.control.restart_checksum),
        crc.valid.eq(written.enable),
        crc.data.eq(Cat(written.address, written.data)),
        registers.table_checksum.eq(crc.crc),
    ]


class Tile(Block):
    """Runs a network program on an analog macro; the host only writes tables and input and reads results.

    Data path of a crossbar step: activation memory -> window generator -> dynamic precision -> macro ->
    post-processing -> activation memory; of an element step: activation memory -> window generator ->
    reduction -> post-processing -> activation memory. Both may add a residual, which the residual view
    reads. The macro is the one of `config.machine`, "planes" or "pairs". The layer sequencer starts the
    blocks one after the other; the pair machine loads, converts and post-processes three rounds of windows of a
    crossbar step side by side, where a round is one window in every macro. Clocks of a run: exactly those of
    `golden_model.timing`, whose constants are `start_clocks`, `layer_clocks`, `group_clocks`,
    `window_clocks` and `element_clocks` here. Reset: idle; the memories keep what they hold.

    Members
    -------
    s_axil_* : AXI4-Lite slave, registers and memories of `golden_model.registers` (rtl/REGISTERS.md).
    s_axis_* : AXI4-Stream, fast loading, see `rtl.loader.Loader`.
    irq : interrupt, an end that the host asked to be told, see IRQ_ENABLE.
    crossbar : the analog macro, or a model of it.
    trace : one record per OU activation, see `layouts.trace`, with step (`layer`) and window. Not of the pair machine.
    """

    irq: Out(1)
    crossbar: Out(lambda config: (PairCrossbarPort if config.pairs else CrossbarPort)(config))

    def __init__(self, config: HardwareConfig):
        self.macro: Macro | PairMacros = (PairMacros if config.pairs else Macro)(config)
        super().__init__(config, **bus_members(), **load_members(), **trace_members(config))

    # ---- constants of the timing formula ------------------------------------------------------
    @staticmethod
    def start_clocks(config: HardwareConfig) -> int:
        """c_start: clocks with busy = 1 outside all steps."""
        return 0

    @staticmethod
    def group_clocks(config: HardwareConfig) -> int:
        """c_group: clocks that a group adds to loading; the statistics are a pipeline."""
        return 0

    @staticmethod
    def settle_clocks(config: HardwareConfig) -> int:
        """Clocks from a change of the crossbar's `layer` to the first window that use its reference."""
        return EmulatedCrossbar.settle_clocks(config)

    @classmethod
    def layer_clocks(cls, config: HardwareConfig) -> int:
        """c_layer: descriptor, check or settling (whichever is longer), storing of the event counters."""
        checked = DescriptorReader.latency(config) + DescriptorCheck.latency(config) + 1
        return max(checked, cls.settle_clocks(config) - 1) + 1 + EventMemory.latency(config)

    @staticmethod
    def window_clocks(config: HardwareConfig) -> int:
        """c_window: latencies of the blocks that a window of a crossbar step passes, beside bytes, OUs and channels.

        Each block starts in the clock in which the one before it ends, the last one takes its last clock.
        """
        latencies = WindowGenerator.latency + DynamicPrecision.latency + PostProcessing.latency(config)
        return latencies + Macro.window_overhead - 1

    @staticmethod
    def element_clocks(config: HardwareConfig) -> int:
        """c_element: latencies of the blocks that a window of an element step passes, beside its walk.

        The reduced channel takes the place of post-processing's first clock, the last one takes its last clock.
        """
        return WindowGenerator.latency + Reduction.latency + PostProcessing.latency(config) - 2

    @staticmethod
    def load_clocks(config: HardwareConfig) -> int:
        """c_load: clocks of a beat of the pair machine that loads, beside activations and segments."""
        return WindowGenerator.latency + DynamicPrecision.latency

    @staticmethod
    def convert_clocks(config: HardwareConfig) -> int:
        """c_convert: clocks from `window_walked` to the begin of the next beat."""
        return 1

    @staticmethod
    def drain_clocks(config: HardwareConfig) -> int:
        """c_drain: clocks of a beat that post-processes, beside channels."""
        return PostProcessing.latency(config)

    def elaborate(self, platform):
        m = Module()
        config = self.config
        m.submodules.axi_lite = bus = AxiLite()
        m.submodules.registers = registers = RegisterBank(config)
        m.submodules.programmer = programmer = CellProgrammer(config)
        m.submodules.loader = load = Loader(config)
        m.submodules.sequencer = sequencer = LayerSequencer(config, settle_clocks=self.settle_clocks(config))
        m.submodules.activations = activations = ActivationMemory(config)
        m.submodules.logits = logits = LogitMemory(config)
        m.submodules.test = test = LaneTest(config)
        reader, check = DescriptorReader(config), DescriptorCheck(config)
        windows = WindowGenerator(config)
        precisions = [DynamicPrecision(config) for _ in range(config.macros)]
        post, events, macro = PostProcessing(config), EventMemory(config), self.macro
        reductions = [Reduction(config) for _ in range(config.macros)]
        residual = ResidualView(config)
        # An abort or an error returns all of these to their reset state in one clock.
        flush = ResetInserter(sequencer.flush)
        m.submodules.reader = flush(reader)
        m.submodules.check = flush(check)
        m.submodules.windows = flush(windows)
        m.submodules.macro = flush(macro)
        m.submodules.post = flush(post)
        m.submodules.events = flush(events)
        m.submodules.residual = flush(residual)

        self._connect_host(m, bus, registers, programmer, sequencer)
        connect_loader(m, self, load, registers, programmer, sequencer.status.busy)
        connect_checksum(m, registers)
        settings = reader.settings
        element = layouts.is_element(settings)
        for i, (precision, reduction) in enumerate(zip(precisions, reductions, strict=True)):
            m.submodules[f"precision{i}"] = flush(precision)
            m.submodules[f"reduction{i}"] = flush(reduction)
            m.d.comb += [
                precision.settings.eq(settings),
                precision.bytes.eq(windows.bytes[i]),
                precision.bytes.used.eq(Mux(element, 0, windows.bytes[i].used)),
                reduction.settings.eq(settings),
                reduction.bytes.eq(windows.bytes[i]),
                reduction.residual.eq(residual.values[i]),
                post.reduced[i].eq(reduction.reduced),
            ]
        if isinstance(macro, PairMacros):
            self._connect_pairs(m, macro, sequencer, settings, windows.place, precisions, post)
        else:
            self._connect_planes(m, macro, registers, precisions[0], sequencer, post)
        m.d.sync += sequencer.table_error.eq(Cat(block.table_error for block in (reader, windows, macro, post)).any())
        m.d.comb += [
            # tables
            reader.program_write.eq(registers.program_write),
            macro.width_write.eq(registers.width_write),
            post.bias_write.eq(registers.bias_write),
            post.multiplier_write.eq(registers.multiplier_write),
            windows.pad_write.eq(registers.pad_write),
            # descriptor
            *(block.settings.eq(settings) for block in (check, windows, macro, residual, post)),
            reader.start.eq(sequencer.read_start),
            reader.layer.eq(sequencer.layer),
            sequencer.read_done.eq(reader.done),
            check.start.eq(sequencer.check_start),
            sequencer.check_done.eq(check.done),
            sequencer.check_error.eq(check.error),
            sequencer.adc_error.eq(macro.configuration_error),
            # activations
            activations.store.eq(post.store),
            # windows
            windows.row_step.eq(check.row_step),
            windows.pad_rows.eq(check.pad_rows),
            sequencer.element.eq(element),
            windows.layer_start.eq(sequencer.layer_start),
            windows.start.eq(sequencer.load_start),
            sequencer.place.eq(windows.place),
            # macro
            macro.layer.eq(sequencer.layer),
            macro.window_start.eq(sequencer.window_start),
            sequencer.window_done.eq(macro.window_done),
            sequencer.placement_error.eq(macro.placement_error),
            macro.counters_clear.eq(sequencer.counters_clear),
            sequencer.overflow.eq(macro.overflow | post.overflow),
            # residual: of a channel in post-processing, or between the kernels of an element step
            residual.layer_start.eq(sequencer.layer_start),
            residual.start.eq(sequencer.post_start),
            residual.next.eq(post.residual_request | windows.residual_request),
            post.residuals.eq(residual.values),
            # results
            post.layer_start.eq(sequencer.layer_start),
            post.start.eq(sequencer.post_start),
            post.place.eq(sequencer.post_place),
            post.clear.eq(sequencer.counters_clear),
            macro.sums_address.eq(post.sums_address),
            macro.sums_column.eq(post.sums_column),
            sequencer.post_done.eq(post.done),
            logits.write.eq(post.logits),
            events.store.eq(sequencer.store_events),
            events.layer.eq(sequencer.layer),
            *(
                events.counters[name].eq(macro.counters[name])
                for name in macro.counters.shape().members
                if name != "cycles"
            ),
            events.cycles.eq(sequencer.layer_cycles),
            sequencer.events_stored.eq(events.done),
        ]
        if config.looks_up:
            m.d.comb += post.lookup_write.eq(registers.lookup_write)
        if config.early_stop:
            m.d.comb += [macro.bound_write.eq(registers.bound_write), macro.start_write.eq(registers.start_write)]
        wiring.connect(m, windows.read, activations.window_read)
        wiring.connect(m, residual.read, activations.residual_read)
        wiring.connect(m, registers.activations, activations.bus)
        wiring.connect(m, registers.logits, logits.read)
        wiring.connect(m, registers.events, events.read)
        wiring.connect(m, macro.crossbar, test.macro)
        forward(m, test.array, self.crossbar)
        parts = parts_of(self.crossbar, config)
        m.d.comb += [
            test.control.eq(registers.test),
            test.code.eq(registers.test_code),
            test.lines.eq(registers.test_lines),
            test.request.eq(registers.test_request),
            registers.test_answers.eq(test.answers),
            registers.status.test_busy.eq(test.busy),
            sequencer.sample_waits.eq(Cat(part.sample.valid & ~part.sample.ready for part in parts).any()),
        ]
        return m

    def _connect_planes(self, m: Module, macro: Macro, registers, precision, sequencer, post) -> None:
        """What only BWQ's macro has: references of the array, a trace; a window streams into it."""
        m.d.comb += [
            self.crossbar.reference_write.eq(registers.reference_write),
            post.sums[0].eq(macro.sum),
            sequencer.window_loaded.eq(precision.segments.valid),
            *(self.trace[name].eq(macro.trace[name]) for name in layouts.trace(self.config).members),
            self.trace.layer.eq(sequencer.layer),
            self.trace.window.eq(sequencer.window),
        ]
        wiring.connect(m, precision.segments, macro.segments)

    def _connect_pairs(self, m: Module, macro: PairMacros, sequencer, settings, place, precisions, post) -> None:
        """What only the pair macro has: tables, windows side by side, converters of differences."""
        element = layouts.is_element(settings)
        m.d.comb += [
            macro.layer_start.eq(sequencer.layer_start & ~element),
            sequencer.layer_ready.eq(macro.layer_ready),
            # The round that was loaded last is the one that starts, and afterwards the one that is being loaded.
            macro.active.eq(place.active),
            macro.filling.eq(place.active),
            sequencer.window_loaded.eq(macro.window_filled),
            sequencer.window_walked.eq(macro.window_walked),
            macro.sums_take.eq(sequencer.post_start & ~element),
            macro.sums_taken.eq(post.sums_taken),
            post.sums.eq(macro.sums),
            macro.search.mode.eq(settings.adc_mode),
            macro.search.signed.eq(1),
            macro.search.bias.eq(settings.adc_bias),
            *(macro.search[name].eq(settings[name]) for name in ("n_r1", "n_r2", "m")),
        ]
        for i, precision in enumerate(precisions):
            wiring.connect(m, precision.segments, getattr(macro, f"segments{i}"))

    def _connect_host(self, m: Module, bus, registers, programmer, sequencer) -> None:
        """Bus, registers and cell programming."""
        connect_bus(m, self, bus)
        wiring.connect(m, bus.requests, registers.requests)
        wiring.connect(m, registers.responses, bus.responses)
        wiring.connect(m, programmer.program, wiring.flipped(self.crossbar.program))
        wiring.connect(m, programmer.readback_request, wiring.flipped(self.crossbar.readback_request))
        wiring.connect(m, wiring.flipped(self.crossbar.readback), programmer.readback)
        # A register between the bus and the reset of all blocks.
        m.d.sync += sequencer.abort.eq(registers.control.abort)
        m.d.comb += [
            sequencer.start.eq(registers.control.start),
            sequencer.layer_count.eq(registers.layer_count),
            sequencer.first_layer.eq(registers.first_layer),
            registers.status.eq(sequencer.status),
            registers.status.cells_error.eq(programmer.failed),
            registers.ends.done.eq(sequencer.ends.done),
            registers.ends.error.eq(sequencer.ends.error | programmer.gives_up),
            self.irq.eq(registers.interrupt),
            registers.cycles.eq(sequencer.cycles),
            registers.checksum.eq(programmer.checksum),
            registers.failures.eq(programmer.failures),
            registers.first_failed.eq(programmer.first_failed),
            programmer.restart.eq(registers.control.restart_checksum),
            programmer.program_failed.eq(self.crossbar.program_failed),
            registers.cells_full.eq(programmer.full),
            programmer.select.eq(registers.cell_select),
            programmer.check.eq(registers.control.check_cells),
            programmer.pairs.eq(registers.cell_pairs),
        ]
