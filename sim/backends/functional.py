"""Which uses of the hardware were compared with the golden model and found equal: functional coverage.

With OHMLOOM_COVERAGE=DIRECTORY in the environment every session that ends without a difference notes what the steps of
its program ask of the hardware, by machine and size of its operation units.
"""

from __future__ import annotations

import fcntl
import json
from collections import Counter
from pathlib import Path

from golden_model.image.lowering import Step
from golden_model.image.program import Program
from golden_model.registers import StepKind
from golden_model.trq import RTL_MODES

#: By adc_mode of a descriptor.
MODES = RTL_MODES["pairs"]
_FILE = "functional.jsonl"

#: What a step may ask for, and whether it does. Converter modes are those of crossbar steps.
USES = {
    **{f"step: {kind.name.lower()}": lambda step, kind=kind: step.kind == kind for kind in StepKind},
    **{
        f"converter: {name}": lambda step, mode=mode: step.kind == StepKind.CROSSBAR and step.fields["adc_mode"] == mode
        for mode, name in enumerate(MODES)
    },
    "fully connected": lambda step: step.kind == StepKind.CROSSBAR and step.fields["out_height"] == 1 and _whole(step),
    "kernel of 1 x 1": lambda step: step.fields["kernel_height"] == step.fields["kernel_width"] == 1,
    "larger kernel": lambda step: step.fields["kernel_height"] > 1 and not _whole(step),
    "stride": lambda step: step.fields["stride_y"] > 1 or step.fields["stride_x"] > 1,
    "pooling with a crossbar step": lambda step: step.fields["pool"] > 1,
    "second input": lambda step: step.fields["residual"] == 1,
    "border": lambda step: step.fields["pad_top"] > 0 or step.fields["pad_left"] > 0,
    "border by channel": lambda step: step.fields["pad_enable"] == 1,
    "dynamic precision": lambda step: step.fields["dynamic"] == 1,
    "bits dropped": lambda step: step.fields["dynamic"] == 1 and step.fields["tau_sq"] > 0,
    "zero slices skipped": lambda step: step.fields["skip_zero_slices"] == 1,
    "few ones": lambda step: step.fields.get("out_ones", 0) > 0,
    "activation function": lambda step: step.fields.get("lookup", 0) > 0,
    "logits": lambda step: step.fields["last"] == 1,
}


def _whole(step: Step) -> bool:
    """Whether the kernel is the whole map."""
    fields = step.fields
    return (fields["kernel_height"], fields["kernel_width"]) == (fields["height"], fields["width"])


def machine_of(program: Program) -> str:
    """A column of the table: machine, operation units, macros."""
    hardware = program.hardware
    several = f", {hardware.macros} macros" if hardware.macros > 1 else ""
    return f"{hardware.machine} {hardware.ou_rows} x {hardware.ou_cols}{several}"


def note(program: Program, where: Path, *, waits: bool = False, pauses: bool = False) -> None:
    """Add the uses of a program whose runs equalled the golden model.

    waits : the array held its streams up. pauses : so did the host the channels of the bus and the load stream.
    """
    used = Counter(name for step in program.steps for name, has in USES.items() if has(step))
    machine = machine_of(program) + ", array busy" * waits + ", bus paused" * pauses
    where.mkdir(parents=True, exist_ok=True)
    with (where / _FILE).open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(json.dumps({"machine": machine, "steps": used}) + "\n")


def summary(where: Path) -> dict[str, dict[str, int]]:
    """Steps by use and machine, of everything that was noted; a use that nothing had is {}."""
    found: dict[str, dict[str, int]] = {name: {} for name in USES}
    if not (where / _FILE).exists():
        return found
    for line in (where / _FILE).read_text().splitlines():
        entry = json.loads(line)
        for name, count in entry["steps"].items():
            by_machine = found[name]
            by_machine[entry["machine"]] = by_machine.get(entry["machine"], 0) + count
    return found
