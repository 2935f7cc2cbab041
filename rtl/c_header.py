"""The register map as a C header, from the one table in `golden_model.registers` (rtl/ohmloom.h), and for Verilog."""

from __future__ import annotations

import re
from collections.abc import Iterator

from golden_model.registers import (
    ARRAY_LIMIT,
    COUNTERS_PER_LAYER,
    DESCRIPTOR_STRIDE,
    EVENT_COUNTERS,
    IDENTITY,
    REGIONS,
    REGISTERS,
    ErrorCode,
    Register,
)

_HEAD = """\
/* Registers and memories of the OhmLoom tile: byte addresses on its 32-bit AXI4-Lite bus.
 *
 * Written by `make regs` from golden_model/registers.py; do not edit. What they mean: REGISTERS.md.
 * Of a field: _MASK is its bits where they lie in the word, _SHIFT its lowest bit.
 */
#ifndef OHMLOOM_H
#define OHMLOOM_H
"""


def _define(name: str, value: str) -> str:
    return f"#define OHM_{name} {value}"


def _register(register: Register) -> Iterator[str]:
    yield ""
    yield _define(register.name, f"0x{register.offset:02X}u")
    for field in register.fields:
        name, one = f"{register.name}_{field.name.upper()}", register.pack(**{field.name: 1})
        yield _define(f"{name}_SHIFT", str(one.bit_length() - 1))
        yield _define(f"{name}_MASK", f"0x{((1 << field.bits) - 1) * one:08X}u")


def render() -> str:
    """The whole header as text."""
    lines = [_HEAD, _define("IDENTITY_VALUE", f"0x{IDENTITY:08X}u")]
    lines += ["/* Clocks that the array may take for an operation unit. */", _define("ARRAY_LIMIT", f"{ARRAY_LIMIT}u")]
    for register in REGISTERS:
        lines += _register(register)
    lines += ["", "/* STATUS.error */"]
    lines += [_define(f"ERROR_{code.name}", str(code.value)) for code in ErrorCode]
    lines += ["", "/* Entry i of a memory is at its address + 4 * i. */"]
    lines += [_define(region.name, f"0x{region.address(0):07X}u") for region in REGIONS]
    lines += ["", "/* First word of a step in PROGRAM. */"]
    lines += [_define("PROGRAM_ENTRY(step)", f"((step) * {DESCRIPTOR_STRIDE}u)")]
    lines += ["", "/* Low word of a step's counter in EVENTS; the high word follows. */"]
    lines += [_define("EVENTS_ENTRY(step, counter)", f"(((step) * {COUNTERS_PER_LAYER}u + (counter)) * 2u)")]
    lines += [_define(f"EVENT_{name.upper()}", str(index)) for index, (name, _) in enumerate(EVENT_COUNTERS)]
    return "\n".join([*lines, "", "#endif", ""])


def render_verilog() -> str:
    """The same for Verilog, as macros."""
    text = re.sub(r"\b0x([0-9A-F]+)u\b", r"32'h\1", render())
    text = re.sub(r"\b(\d+)u\b", r"\1", text)
    return re.sub(r"^#(?=ifndef|define|endif)", "`", text, flags=re.MULTILINE)
