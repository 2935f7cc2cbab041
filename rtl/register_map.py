"""The register map as Markdown, from the one table in `golden_model.registers` (rtl/REGISTERS.md)."""

from __future__ import annotations

from golden_model.config import PRESETS
from golden_model.registers import (
    ADDRESS_BITS,
    ARRAY_LIMIT,
    COUNTER_BITS,
    COUNTERS_PER_LAYER,
    DESCRIPTOR_STRIDE,
    EVENT_COUNTERS,
    IDENTITY,
    PARITY_TABLES,
    REGIONS,
    REGISTERS,
    ErrorCode,
    Field,
    descriptor_layout,
    region_entries,
)

_ACCESS = {
    "r": "read",
    "w": "write",
    "rw": "read, write",
    "w1": "write 1 to act, reads 0",
    "rw1c": "read, write 1 to clear",
}

_ERRORS = {
    ErrorCode.NONE: "no error",
    ErrorCode.ADC_CONFIGURATION: "illegal twin-range registers (system.md §4.1)",
    ErrorCode.LAYER_COUNT: "FIRST_LAYER is not below LAYER_COUNT, or LAYER_COUNT is more than max_layers",
    ErrorCode.LAYER_GEOMETRY: "a size, address or width does not fit the hardware, sizes contradict each other, "
    "or planes lie beyond the last crossbar pair",
    ErrorCode.UNSUPPORTED: "a kind of step that this hardware does not have",
    ErrorCode.ABORTED: "stopped by CONTROL.abort",
    ErrorCode.TABLE: f"an entry of {', '.join(PARITY_TABLES)} was used and has lost its parity",
}

_RULES = f"""\
An access is answered with SLVERR and has no effect if

- its address is not a multiple of 4, or names no register and no entry of a memory;
- the access rights forbid it;
- a register or table is written with a byte strobe at 0 (ACTIVATIONS takes byte strobes);
- the data has bits beyond the fields of the register, or is too large for the entry (PROGRAM takes any word);
- it writes a memory, LAYER_COUNT, FIRST_LAYER, CELL_PAIR, CELL_DATA or CELL_PAIRS, or reads ACTIVATIONS, while
  STATUS.busy is 1;
- it writes CELL_PAIR, CELL_DATA or CELL_PAIRS while STATUS.cells_busy is 1 (the array programs an OU, cells are
  checked, or a section of cells of the load stream goes on);
- CELL_DATA goes beyond the last crossbar pair (after reset and after check_cells a write of CELL_PAIR must come first);
- CELL_PAIR, CELL_PAIRS, a bit-plane width or a border value is larger than the hardware has;
- CONTROL asks for check_cells while STATUS.busy is 1, for check_cells or start while STATUS.cells_busy is 1, or for
  both.

A refused read gives 0. Nothing on the bus waits for the array: a host that writes CELL_DATA faster than the array
programs is refused, waits until STATUS.cells_busy is 0 and repeats the word.

The load stream (AXI4-Stream, 32 bits, s_axis_*) does the same writes, a word a clock. A packet, which tlast ends, is a
row of sections: an address, a number of words, the words. They go to the address and those behind it, of a memory, or
all to the address, of a register. CELL_DATA waits there for the array; a section of another register waits until no
cells are programmed or checked. A word that would be refused, or a packet that ends inside a section, sets
LOAD_STATUS.error, and the rest of the packet is dropped.

An array that takes more than {ARRAY_LIMIT} clocks to program an OU, to take a request for its cells or to answer it is
given up: STATUS.cells_busy becomes 0 and STATUS.cells_error 1, and CELL_DATA is refused until CELL_PAIR is written. An
abort waits as long for the array to take the samples on offer, and then withdraws them.

CONTROL.start while busy and CONTROL.abort while idle do nothing. Registers reset to 0; memories are undefined until
written: ACTIVATIONS until the host or a step wrote the byte, LOGITS until a last step wrote the entry, EVENTS until
the step ended. A four-state simulator answers X there.
"""


def _rows(fields: tuple[Field, ...]) -> list[str]:
    lines, low = [], 0
    for field in fields:
        high = low + field.bits - 1
        bits = str(low) if field.bits == 1 else f"{high}:{low}"
        lines.append(f"| {bits} | `{field.name}` | {field.doc} |")
        low = high + 1
    return lines


def render() -> str:
    """The whole register map as Markdown text."""
    paper = PRESETS["paper"]
    lines = [
        "# Register map",
        "",
        "Written by `make regs` from `golden_model/registers.py`; do not edit.",
        "",
        f"32-bit AXI4-Lite slave, {ADDRESS_BITS}-bit byte addresses. IDENTITY reads 0x{IDENTITY:08X}.",
        "",
        _RULES,
        "## Registers",
        "",
    ]
    for register in REGISTERS:
        lines += [
            f"### 0x{register.offset:02X} {register.name} ({_ACCESS[register.access]})",
            "",
            register.doc,
            "",
            "| bits | field | meaning |",
            "|---|---|---|",
            *_rows(register.fields),
            "",
        ]
    lines += ["## Error codes", "", "| STATUS.error | name | meaning |", "|---|---|---|"]
    lines += [f"| {code.value} | `{code.name}` | {_ERRORS[code]} |" for code in ErrorCode]
    lines += [
        "",
        "## Memories",
        "",
        "Entry i is at the address given plus 4·i. Sizes of the preset `paper`.",
        "",
        "| address | memory | access | entries | contents |",
        "|---|---|---|---|---|",
    ]
    entries = region_entries(paper)
    for region in REGIONS:
        lines.append(
            f"| 0x{region.address(0):07X} | `{region.name}` | {_ACCESS[region.access]} | {entries[region.name]} "
            f"| {region.doc} |"
        )
    lines += [
        "",
        "## Event counters",
        "",
        f"{COUNTER_BITS} bits each; entry = (step * {COUNTERS_PER_LAYER} + counter) * 2, low word first. "
        "A step's counters are stored when it ends.",
        "",
        "| counter | name | counts |",
        "|---|---|---|",
        *(f"| {index} | `{name}` | {doc} |" for index, (name, doc) in enumerate(EVENT_COUNTERS)),
        "",
        "## Descriptor of a step",
        "",
        f"{DESCRIPTOR_STRIDE} words per step in PROGRAM. The widths of the A/D fields depend on the converter's",
        "resolution; here those of the preset `paper`.",
        "",
        "| word | bits | field | meaning |",
        "|---|---|---|---|",
    ]
    for index, word in enumerate(descriptor_layout(paper)):
        lines += [f"| {index} {row}" for row in _rows(word)]
    return "\n".join(lines) + "\n"
