"""Write the Verilog of tile, system, macro and every block: `python -m rtl.generate`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from amaranth.back import rtlil
from amaranth.back import verilog as amaranth_verilog
from amaranth.hdl import ClockDomain, ClockSignal, Module, ResetInserter, ResetSignal, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from golden_model.command import Json, Preset, command, results_console, table_of
from golden_model.config import PRESETS, HardwareConfig, read_hardware
from golden_model.files import printable, write_json, write_text
from rtl import c_header, layouts, register_map, sheets
from rtl.activation_memory import ActivationMemory
from rtl.address_generator import AddressGenerator
from rtl.axi_lite import AxiLite
from rtl.cell_programmer import CellProgrammer
from rtl.decode_shift_add import DecodeShiftAdd
from rtl.descriptor_check import DescriptorCheck
from rtl.descriptor_reader import DescriptorReader
from rtl.dynamic_precision import DynamicPrecision
from rtl.early_stop import EarlyStop
from rtl.emulated_crossbar import EmulatedCrossbar
from rtl.emulated_pair_crossbar import EmulatedPairCrossbar
from rtl.event_counters import EventCounters
from rtl.event_memory import EventMemory
from rtl.few_ones import FewOnes
from rtl.group_precision import GroupPrecision
from rtl.lane_test import LaneTest
from rtl.layer_sequencer import LayerSequencer
from rtl.loader import Loader
from rtl.logit_memory import LogitMemory
from rtl.lookup import Lookup
from rtl.macro import Macro
from rtl.ou_former import OuFormer
from rtl.ou_scheduler import OuScheduler
from rtl.pack_builder import PackBuilder
from rtl.pack_walker import PackWalker
from rtl.pair_converter import PairConverter
from rtl.pair_counters import PairCounters
from rtl.pair_lane import PairLane
from rtl.pair_macro import PairMacro
from rtl.pair_macros import PairMacros
from rtl.partial_sums import PartialSums
from rtl.post_processing import PostProcessing
from rtl.reduction import Reduction
from rtl.register_bank import RegisterBank
from rtl.requantisation import Requantisation
from rtl.residual_view import ResidualView
from rtl.sample_places import SamplePlaces
from rtl.search_begin import SearchBegin
from rtl.search_lane import SearchLane
from rtl.search_settings import SearchSettings
from rtl.stop_table import StopTable
from rtl.system import System
from rtl.table import Table
from rtl.tile import Tile
from rtl.trq_sar import TrqSar
from rtl.trq_settings import TrqSettings
from rtl.window_generator import WindowGenerator
from rtl.window_register import WindowRegister

#: Every component that is exported: name of its Verilog module and file -> how to make it.
COMPONENTS: dict[str, Callable[[HardwareConfig], Any]] = {
    "system": System,
    "tile": Tile,
    "macro": Macro,
    "trq_sar": TrqSar,
    "trq_settings": TrqSettings,
    "decode_shift_add": DecodeShiftAdd,
    "address_generator": AddressGenerator,
    "ou_scheduler": OuScheduler,
    "event_counters": EventCounters,
    "window_generator": WindowGenerator,
    "activation_memory": ActivationMemory,
    "residual_view": ResidualView,
    "group_precision": GroupPrecision,
    "dynamic_precision": DynamicPrecision,
    "reduction": Reduction,
    "post_processing": PostProcessing,
    "requantisation": Requantisation,
    "lookup": lambda config: Lookup(config if config.looks_up else replace(config, activation_tables=1)),
    "descriptor_reader": DescriptorReader,
    "descriptor_check": DescriptorCheck,
    "layer_sequencer": lambda config: LayerSequencer(config, settle_clocks=Tile.settle_clocks(config)),
    "lane_test": LaneTest,
    "table": lambda config: Table(layouts.width_write(config), config.width_entries),
    "event_memory": EventMemory,
    "logit_memory": LogitMemory,
    "cell_programmer": CellProgrammer,
    "register_bank": RegisterBank,
    "axi_lite": lambda config: AxiLite(),
    "loader": Loader,
    "emulated_crossbar": EmulatedCrossbar,
    "search_lane": SearchLane,
    "search_begin": SearchBegin,
    "search_settings": SearchSettings,
    "ou_former": OuFormer,
    "early_stop": EarlyStop,
    "stop_table": lambda config: StopTable(replace(config, machine="pairs", early_stop=1)),
    "pair_macros": PairMacros,
    "pair_macro": PairMacro,
    "window_register": WindowRegister,
    "pack_builder": PackBuilder,
    "pack_walker": PackWalker,
    "pair_converter": PairConverter,
    "pair_lane": PairLane,
    "sample_places": SamplePlaces,
    "partial_sums": PartialSums,
    "pair_counters": PairCounters,
    "emulated_pair_crossbar": EmulatedPairCrossbar,
    "few_ones": FewOnes,
}

#: Those that only the pair machine has.
OF_PAIRS = {name for name in COMPONENTS if name.startswith(("pair_", "pack_"))} | {
    *("search_lane", "search_begin", "search_settings", "ou_former", "early_stop", "stop_table", "few_ones"),
    *("window_register", "sample_places", "partial_sums", "emulated_pair_crossbar"),
}

#: What simulators and synthesis read by `-f`, in the folder of the files.
FILE_LIST = "files.f"
_ABOUT_FILES = (
    "// Every file is complete: a module of the file's name, and those inside it, whose names begin with it.",
    "// So one file is enough for a top, tile.v for a chip; together they do not clash.",
)

#: Lint messages that Amaranth's style of Verilog cannot avoid, with the reasons.
WAIVER = Path(__file__).with_name("verilator.vlt")


@contextmanager
def without_initial_zeros() -> Iterator[None]:
    """Inside, memories whose initial contents are all zero are written without initial contents.

    The design writes every entry before it reads it. One line of Verilog per word made compiled models 2.6 times
    slower, and the cells of a large machine are tens of millions of bits. Amaranth has no public way to say so.
    """
    emit = rtlil.ModuleEmitter.emit_memory

    def emit_unless_zero(self: Any, index: int, cell: Any) -> None:
        if any(cell.init):
            emit(self, index, cell)

    rtlil.ModuleEmitter.emit_memory = emit_unless_zero
    try:
        yield
    finally:
        rtlil.ModuleEmitter.emit_memory = emit


def component(name: str, config: HardwareConfig) -> Any:
    """A new component; ValueError for an unknown name."""
    if name not in COMPONENTS:
        raise ValueError(f"there is no block {name!r}; there are {', '.join(COMPONENTS)}")
    return COMPONENTS[name](config)


class ResetInput(StrEnum):
    """What the reset input of a module is."""

    #: Active high, synchronous to the clock.
    RST = "rst"
    #: Active low, synchronous to the clock.
    RST_N = "rst_n"
    #: Active low; begins without the clock, ends with it.
    ASYNC_RST_N = "async_rst_n"


class RegisteredReset(wiring.Component):
    """A component behind flip-flops for its reset input.

    Amaranth merges reset into the logic in front of every register. With the reset taken straight from
    an input, a compiled model works all of that logic out once more whenever an input may have changed.

    The component itself is reset with the clock. Behind an asynchronous input two flip-flops are set by it and pass a 0
    on when it has ended, so that the component leaves reset with the clock, whenever the input ends.

    Latency: reset takes effect one clock after `rst` or `rst_n`, and ends one clock after it; an asynchronous one takes
    effect with the next clock, and ends two clocks after it. Ports: those of the component, `clk`, `rst` or `rst_n`.
    """

    def __init__(self, component: Any, kind: ResetInput = ResetInput.RST):
        self._component, self._kind = component, kind
        self._port = "rst" if kind == ResetInput.RST else "rst_n"
        super().__init__({**component.signature.members, "clk": In(1), self._port: In(1)})

    def elaborate(self, platform):
        m = Module()
        m.domains.sync = domain = ClockDomain("sync", reset_less=True)
        domain.clk = self.clk
        given = getattr(self, self._port)
        reset = Signal(init=1)
        if self._kind == ResetInput.ASYNC_RST_N:
            m.domains.released = ClockDomain("released", async_reset=True)
            before = Signal(init=1)
            m.d.comb += [ClockSignal("released").eq(self.clk), ResetSignal("released").eq(~given)]
            m.d.released += [before.eq(0), reset.eq(before)]
        else:
            m.d.sync += reset.eq(given ^ (self._kind == ResetInput.RST_N))
        m.submodules.core = ResetInserter(reset)(self._component)
        for path, member, inner in self._component.signature.flatten(self._component):
            outer: Any = self
            for step in path:
                outer = outer[step] if isinstance(step, int) else getattr(outer, step)
            m.d.comb += inner.eq(outer) if member.flow == In else outer.eq(inner)
        return m


def to_verilog(elaboratable: Any, name: str, *, initial_values: bool = True, reset: ResetInput = ResetInput.RST) -> str:
    """Verilog text of any component as module `name`; the same on every machine, without source paths.

    Memories whose initial contents are all zero come without initial contents. initial_values : of registers; cell
    libraries have none, and a clock of reset sets all of them.
    """
    os.environ["AMARANTH_USE_YOSYS"] = "builtin"
    with without_initial_zeros():
        text = rtlil.convert(RegisteredReset(elaboratable, reset), name=name, emit_src=False)
    if not initial_values:
        text = re.sub(r"^\s*attribute \\init .*\n", "", text, flags=re.MULTILINE)
    # The step between RTLIL and Verilog that `verilog.convert` takes; it has no public name.
    return amaranth_verilog._convert_rtlil_text(text, strip_internal_attrs=True)


def verilog(name: str, config: HardwareConfig, *, top: str | None = None, **options: Any) -> str:
    """Verilog text of the block `name` of `COMPONENTS`; its module is called `top`, or `name`. options : as there."""
    return to_verilog(component(name, config), top or name, **options)


def lint(path: Path, top: str) -> list[str]:
    """Messages of Verilator's lint for one file under the waiver; empty if it is clean."""
    verilator = [sys.executable, "-m", "verilator", "--lint-only", "-Wall", "-Wno-fatal", "--top-module", top]
    environment = {key: value for key, value in os.environ.items() if key != "VERILATOR_ROOT"}
    done = subprocess.run([*verilator, str(WAIVER), str(path)], env=environment, capture_output=True, text=True)
    messages = [line for line in done.stderr.splitlines() if line.startswith("%")]
    if done.returncode and not messages:
        raise ValueError(f"Verilator could not be run: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    return messages


console = results_console(140)


def _registers(path: Path, check: bool) -> bool:
    renderers = {".h": c_header.render, ".vh": c_header.render_verilog}
    text = renderers.get(path.suffix, register_map.render)()
    if not check:
        write_text(path, text)
        return True
    try:
        return path.read_text() == text
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from None


def _generate(
    config: HardwareConfig, output: Path, names: list[str], with_lint: bool, **options: Any
) -> list[dict[str, Any]]:
    results = []
    for name in names:
        started = time.monotonic()
        path = output / f"{name}.v"
        text = verilog(name, config, **options)
        write_text(path, text)
        messages = lint(path, name) if with_lint else []
        seconds = time.monotonic() - started
        results.append({"block": name, "file": str(path), "lines": text.count("\n"), "messages": messages})
        console.print(f"{name:20} {text.count(chr(10)):7} lines {seconds:6.1f} s", highlight=False)
        for message in messages:
            console.print(f"  {message}", highlight=False, markup=False)
    write_text(output / FILE_LIST, "".join(f"{line}\n" for line in [*_ABOUT_FILES, *(f"{name}.v" for name in names)]))
    return results


@command
def app(
    hardware: Preset = "paper",
    output: Annotated[Path, typer.Option(help="directory for one .v file per block")] = Path("build/verilog"),
    block: Annotated[list[str] | None, typer.Option(help="only this block; may be given several times")] = None,
    with_lint: Annotated[bool, typer.Option("--lint", help="check every file with Verilator's lint")] = False,
    initial_values: Annotated[
        bool, typer.Option(help="of registers; without them for cell libraries, which need two clocks of reset instead")
    ] = True,
    reset: Annotated[
        ResetInput,
        typer.Option(help="the reset input: rst, rst_n (active low), async_rst_n (rst_n, begins without a clock)"),
    ] = ResetInput.RST,
    list_blocks: Annotated[bool, typer.Option("--list", help="list the blocks, write nothing")] = False,
    registers: Annotated[
        Path | None,
        typer.Option(
            help="write the register map to this file, as C if it ends in .h, as Verilog if in .vh, nothing else"
        ),
    ] = None,
    sheets_of: Annotated[
        Path | None, typer.Option("--sheets", help="write a sheet of every block into this directory, nothing else")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="with --registers or --sheets: only compare; status 1 if stale")
    ] = False,
    json_file: Json = None,
) -> None:
    """Write the Verilog of tile, system (tile and emulated crossbar), macro and every block.

    Exit status: 0 success, 1 lint messages, or a stale register map or sheet, 2 a bad call.
    """
    if list_blocks:
        blocks = ((name, type(component(name, PRESETS["tiny"])).__doc__ or "") for name in COMPONENTS)
        columns = [("block", lambda one: one[0]), ("what it does", lambda one: one[1].splitlines()[0])]
        console.print(table_of(None, columns, blocks))
        return
    if registers is not None:
        if not _registers(registers, check):
            print(printable(f"{registers} is stale: run `make regs`"), file=sys.stderr)
            raise typer.Exit(1)
        return
    if sheets_of is not None:
        if not check:
            sheets.write(sheets_of, COMPONENTS, OF_PAIRS)
        elif old := sheets.stale(sheets_of, COMPONENTS, OF_PAIRS):
            print(printable(f"{sheets_of}: stale: {', '.join(old)}: run `make sheets`"), file=sys.stderr)
            raise typer.Exit(1)
        return
    if check:
        raise ValueError("--check needs --registers FILE or --sheets DIR")
    config = read_hardware(hardware)
    names = list(block or COMPONENTS)
    for name in names:
        if name not in COMPONENTS:
            raise ValueError(f"there is no block {name!r}; there are {', '.join(COMPONENTS)}")
    results = _generate(config, output, names, with_lint, initial_values=initial_values, reset=reset)
    if json_file is not None:
        write_json(json_file, {"hardware": config.as_dict(), "hardware_hash": config.hash, "blocks": results})
    if any(result["messages"] for result in results):
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
