"""Netlists beside the RTL: what a block's ports held in every clock of its tests, played to Verilog of the block.

Example::

    with recording(Macro, TINY) as sessions:
        check(random_case(1, TINY))            # any test of anything that holds such a block
    replay = Replay(folder, [folder / "macro.v", folder / "macro_cells.v"], "macro", ports_of(Macro(TINY)))
    assert replay.first_difference(sessions[0]) is None
"""

from __future__ import annotations

import subprocess
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any
from unittest.mock import patch

from amaranth.hdl import Cat, Value
from amaranth.lib.wiring import In

import sim.bench
from golden_model.config import HardwareConfig
from sim.backends import toolchain

#: Seconds that a run may take.
LIMIT = 300


@dataclass(frozen=True)
class Port:
    """A port of some bits, by its name in Verilog."""

    name: str
    width: int
    is_input: bool
    value: Value | None = field(default=None, compare=False)


def ports_of(component: Any) -> list[Port]:
    """All ports of a component but clock and reset, inputs first."""
    found = []
    for path, member, value in component.signature.flatten(component):
        bits = Value.cast(value)
        if len(bits):
            found.append(Port("__".join(map(str, path)), len(bits), member.flow == In, bits))
    return sorted(found, key=lambda port: not port.is_input)


#: All ports of a block as one number per clock, the first port lowest.
Session = list[int]


@contextmanager
def recording(kind: type, config: HardwareConfig) -> Iterator[list[Session]]:
    """Inside, every block `kind` of `config` in a simulation (`sim.bench.simulate`) notes its ports, as they are at the
    end of every clock from reset on."""
    sessions: list[Session] = []
    blocks: list[Any] = []
    elaborate = kind.elaborate

    def noticed(self: Any, platform: Any) -> Any:
        if self.config == config:
            blocks.append(self)
        return elaborate(self, platform)

    def note(block: Any, session: Session) -> Any:
        async def bench(ctx: Any) -> None:
            async for _, _, word in ctx.tick().sample(Cat(port.value for port in ports_of(block))):
                session.append(word)

        return bench

    class Recorder(sim.bench.Simulator):
        def __init__(self, toplevel: Any):
            blocks.clear()
            super().__init__(toplevel)
            for block in blocks:
                sessions.append([])
                self.add_testbench(note(block, sessions[-1]), background=True)

    with patch.object(kind, "elaborate", noticed), patch.object(sim.bench, "Simulator", Recorder):
        yield sessions


def _bench(module: str, ports: list[Port]) -> str:
    """Verilog that plays a file of words to a module and stops at the first one that it does not answer alike."""
    width, inputs = sum(port.width for port in ports), sum(port.width for port in ports if port.is_input)
    offset, connections = 0, [".clk(clk)", ".rst(rst)"]
    for port in ports:
        part = f"word[{offset + port.width - 1}:{offset}]"
        if not port.is_input:
            part = f"answer[{offset - inputs + port.width - 1}:{offset - inputs}]"
        connections.append(f".\\{port.name} ({part})")
        offset += port.width
    return f"""module bench;
  reg clk = 0, rst = 1;
  reg [{width - 1}:0] word;
  wire [{width - inputs - 1}:0] answer;
  wire [{width - inputs - 1}:0] wanted = word[{width - 1}:{inputs}];
  reg [{width - inputs - 1}:0] compared;
  reg [8*256-1:0] name;
  integer file, clocks = 0, undefined;
  \\{module} dut ({", ".join(connections)});
  initial begin
    if (!$value$plusargs("words=%s", name) || !$value$plusargs("compared=%h", compared)) $finish;
    undefined = $test$plusargs("undefined");  // outputs that are not compared may be undefined, but not wrong
    file = $fopen(name, "r");
    word = 0;
    repeat (4) begin #1 clk = 1; #1 clk = 0; end
    rst = 0;
    while ($fscanf(file, "%h", word) == 1) begin
      #1 if ((answer & compared) !== (wanted & compared) || (undefined && |(answer ^ wanted) === 1'b1)) begin
        $display("different %0d %b", clocks, answer);
        $finish;
      end
      clk = 1;
      #1 clk = 0;
      clocks = clocks + 1;
    end
    $display("equal %0d", clocks);
    $finish;
  end
endmodule
"""


class Replay:
    """A module and a bench for it, compiled by Verilator or by Icarus Verilog.

    folder : where to work. sources : Verilog files. ports : of the module, inputs first, but `clk` and `rst`. icarus :
    registers and memories begin undefined (X), whatever a run asks for; outputs that need not be equal may then be
    undefined, but not wrong.
    """

    def __init__(self, folder: Path, sources: list[Path], module: str, ports: list[Port], *, icarus: bool = False):
        self._folder, self._ports = folder, ports
        (folder / "bench.v").write_text(_bench(module, ports))
        if icarus:
            toolchain.need("iverilog", "vvp")
            self._command, self._undefined = ["vvp", folder / "bench.vvp"], ["+undefined"]
            command = ["iverilog", "-g2005", "-s", "bench", "-o", folder / "bench.vvp"]
            subprocess.run([*command, folder / "bench.v", *sources], check=True, timeout=LIMIT)
            return
        toolchain.need("g++", "make", "perl")
        self._command, self._undefined = [folder / "obj" / "Vbench"], []
        # Registers and memories begin with random bits, where the run asks for them; of inlined cells not all would.
        options = [*toolchain.VERILATOR_OPTIONS, "--x-initial", "unique", "-fno-inline"]
        verilator = toolchain.verilator_root() / "bin" / "verilator"
        command = [verilator, "--binary", "--timing", *options, "--top-module", "bench", "--Mdir", folder / "obj"]
        with toolchain.Tools(folder / "log.txt") as tools:
            tools.call([*command, folder / "bench.v", *sources], cwd=folder, env=toolchain.cocotb_environment())

    def first_difference(self, session: Session, *, begin: int | None = None, but: Collection[str] = ()) -> str | None:
        """Plays a session from reset on; the first clock and output that differ, in words, or None if none does.

        begin : seed of random bits that registers and memories begin with; None for zeros. but : outputs that need not
        be equal."""
        words = self._folder / "words.txt"
        words.write_text("".join(f"{word:x}\n" for word in session))
        outputs = [port for port in self._ports if not port.is_input]
        inputs = sum(port.width for port in self._ports if port.is_input)
        places = accumulate((port.width for port in outputs), initial=0)
        fields = [
            (port.name, place, ((1 << port.width) - 1) << place)
            for port, place in zip(outputs, places, strict=False)
            if port.name not in but
        ]
        compared = sum(mask for *_, mask in fields)
        random = ["+verilator+rand+reset+0"]
        if begin is not None:
            random = ["+verilator+rand+reset+2", f"+verilator+seed+{begin}"]
        done = subprocess.run(
            [*self._command, f"+words={words}", f"+compared={compared:x}", *(self._undefined or random)],
            capture_output=True,
            text=True,
            timeout=LIMIT,
        )
        verdict, *values = (done.stdout.splitlines() or ["nothing"])[0].split()
        if verdict == "equal":
            assert int(values[0]) == len(session), "not every clock was played"
            return None
        assert verdict == "different", done.stdout + done.stderr
        clock, answer = int(values[0]), values[1]
        for name, place, mask in fields:
            width = mask.bit_length() - place
            found, wanted = answer[len(answer) - place - width :][:width], (session[clock] >> inputs & mask) >> place
            if found != f"{wanted:0{width}b}":
                said = f"{int(found, 2):#x}" if set(found) <= {"0", "1"} else f"undefined ({found})"
                return f"clock {clock}: {name} is {said} instead of {wanted:#x}"
        raise AssertionError("the bench saw a difference that is none")
