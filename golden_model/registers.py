"""The one register table: bus registers, bus memories, layer descriptor and event counters (system.md §10).

The RTL layouts, `pack`/`unpack`, the bus driver and `rtl/REGISTERS.md` all derive from the tables in
this file; nothing repeats an offset or a width.

Addresses are byte addresses on a 32-bit AXI4-Lite bus of `ADDRESS_BITS` bits. Bits 27:24 select a
region: 0 is the register page, every other region is one memory of the tile.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from golden_model.config import HardwareConfig, bits_for

ADDRESS_BITS = 28
REGION_SHIFT = 24
#: Reads from the IDENTITY register: "OHM" and the version of the register map.
IDENTITY = 0x4F484D04
#: Clocks that the array may take for an OU before it is given up: 10 ms at 100 MHz.
ARRAY_LIMIT = 1 << 20
#: Bits of one width-table entry: bit planes of a block, 0..8 (system.md §5).
WIDTH_BITS = 4


#: Regions that the host writes between runs and whose entries have a parity bit. REFERENCE has none.
PARITY_TABLES = ("PROGRAM", "WIDTHS", "BIAS", "MULTIPLIERS", "PADS", "LOOKUPS", "STOP_BOUNDS", "STOP_STARTS")


class ErrorCode(IntEnum):
    """Value of STATUS.error; sticky until the next start."""

    NONE = 0
    ADC_CONFIGURATION = 1  # illegal twin-range registers (system.md §4.1)
    LAYER_COUNT = 2  # no step to run: FIRST_LAYER is not below LAYER_COUNT; or that is more than max_layers
    LAYER_GEOMETRY = 3  # a size, a base address or a width outside the hardware configuration
    UNSUPPORTED = 4  # a kind of step that this hardware does not have
    ABORTED = 5  # stopped by CONTROL.abort
    TABLE = 6  # an entry of one of `PARITY_TABLES` was used and has lost its parity


class PortMode(IntEnum):
    """Value of TEST_CONTROL.mode: what is between converters and array."""

    NORMAL = 0  # nothing
    TIED_OFF = 1  # the array is left alone: samples are taken at once, and every comparator answers TEST_CONTROL.answer
    DRIVEN = 2  # the host samples and compares: TEST_SAMPLE, TEST_CODE, TEST_ANSWERS; no network can run


class StepKind(IntEnum):
    """What a step of the program does; field `step` of its descriptor."""

    CROSSBAR = 0  # matrix product on crossbars, post-processing, maximum over a pooling window
    MAXIMUM = 1  # per channel, maximum of a window of activations, rescaled
    SUM = 2  # per channel, sum of a window of activations, rescaled: average pooling, addition, copy


@dataclass(frozen=True)
class Field:
    """A bit field: `bits` wide, unsigned; `doc` says what it means and its unit."""

    name: str
    bits: int
    doc: str


@dataclass(frozen=True)
class Register:
    """A 32-bit register at byte address `offset`; fields fill it from bit 0 upward.

    `access`: "r" read only, "rw" read and write, "w1" writing a 1 triggers the action and reads as 0,
    "w" write only, "rw1c" read, and writing a 1 clears.
    """

    name: str
    offset: int
    access: str
    fields: tuple[Field, ...]
    doc: str

    def pack(self, **values: int) -> int:
        """Field values -> register word; an unknown field or an oversize value is an error."""
        return pack_fields(self.name, self.fields, values)

    def unpack(self, word: int) -> dict[str, int]:
        return unpack_fields(self.fields, word)


def pack_fields(owner: str, table: tuple[Field, ...], values: dict[str, int]) -> int:
    """Concatenate fields from bit 0 upward; fields not given are 0."""
    unknown = sorted(set(values) - {f.name for f in table})
    if unknown:
        raise ValueError(f"{owner} has no field {', '.join(unknown)}")
    word = shift = 0
    for field in table:
        value = int(values.get(field.name, 0))
        if not 0 <= value < 1 << field.bits:
            raise ValueError(f"{owner}.{field.name} must be in 0..{(1 << field.bits) - 1}, got {value}")
        word |= value << shift
        shift += field.bits
    return word


def unpack_fields(table: tuple[Field, ...], word: int) -> dict[str, int]:
    values = {}
    for field in table:
        values[field.name] = word & ((1 << field.bits) - 1)
        word >>= field.bits
    return values


REGISTERS: tuple[Register, ...] = (
    Register("IDENTITY", 0x00, "r", (Field("identity", 32, f"constant 0x{IDENTITY:08X}"),), "Names the device."),
    Register(
        "HARDWARE_HASH",
        0x04,
        "r",
        (Field("hash", 32, "first 32 bits of the configuration's sha256"),),
        "Which HardwareConfig this hardware was made from.",
    ),
    Register(
        "CONTROL",
        0x08,
        "w1",
        (
            Field("start", 1, "run steps FIRST_LAYER..LAYER_COUNT - 1; does nothing while busy"),
            Field("abort", 1, "stop as soon as the array has taken the samples on offer; STATUS.error becomes ABORTED"),
            Field("check_cells", 1, "read the cells of CELL_PAIRS crossbar pairs back into CELL_CHECKSUM"),
            Field("restart_checksum", 1, "begin TABLE_CHECKSUM and CELL_FAILURES anew"),
        ),
        "Commands.",
    ),
    Register(
        "STATUS",
        0x0C,
        "r",
        (
            Field("busy", 1, "a network is running"),
            Field("done", 1, "the last run ended without error; cleared by start"),
            Field("cells_busy", 1, "cells are being programmed or checked"),
            Field("overflow", 1, "a partial sum left accumulator_bits; sticky until start"),
            Field("error", 4, "ErrorCode; sticky until start"),
            Field("layer", 16, "step being run, or where the run stopped"),
            Field("cells_error", 1, "the array was given up; cleared by CELL_PAIR and check_cells"),
            Field("test_busy", 1, "a sample of TEST_SAMPLE waits for the array"),
        ),
        "State of the tile.",
    ),
    Register(
        "LAYER_COUNT",
        0x10,
        "rw",
        (Field("layers", 16, "end of the steps to run, 1..max_layers; fewer than the program has keep an output"),),
        "Length of the program, or where a run stops: behind step LAYER_COUNT - 1.",
    ),
    Register("CYCLES_LOW", 0x14, "r", (Field("cycles", 32, "clocks from start to done, bits 31:0"),), "Run time."),
    Register("CYCLES_HIGH", 0x18, "r", (Field("cycles", 16, "clocks from start to done, bits 47:32"),), "Run time."),
    Register(
        "CELL_PAIR",
        0x1C,
        "w",
        (Field("pair", 16, "crossbar pair; OU row and OU column restart at 0"),),
        "Where cell programming goes on.",
    ),
    Register(
        "CELL_DATA",
        0x20,
        "w",
        (Field("cells", 32, "next 32 cells; after HardwareConfig.cell_words words one OU of a pair is written"),),
        "Cell programming. OU column counts fastest, then OU row, then crossbar pair; bits behind the last cell of an "
        "OU do not count. A write while the array still programs the OU before (STATUS.cells_busy) is refused and "
        "can be repeated: no word is lost and none is taken twice.",
    ),
    Register(
        "CELL_PAIRS",
        0x24,
        "rw",
        (Field("pairs", 16, "crossbar pairs, from 0, that check_cells reads"),),
        "Extent of the cell check.",
    ),
    Register(
        "CELL_CHECKSUM",
        0x28,
        "r",
        (Field("crc", 32, "CRC-32 (as zlib) of the little-endian cell words read back, in programming order"),),
        "Result of check_cells.",
    ),
    Register(
        "IRQ_ENABLE",
        0x2C,
        "rw",
        (
            Field("done", 1, "IRQ_STATUS.done raises the interrupt"),
            Field("error", 1, "IRQ_STATUS.error raises the interrupt"),
        ),
        "What raises the interrupt output, which stays at 1 until the host clears its cause or disables it.",
    ),
    Register(
        "IRQ_STATUS",
        0x30,
        "rw1c",
        (
            Field("done", 1, "a run has ended without error"),
            Field(
                "error",
                1,
                "a run has ended with an error, an abort or no legal steps to run, or the array was given up",
            ),
        ),
        "Ends that the host has not cleared; what happens in the clock of the clearing is kept.",
    ),
    Register(
        "LOAD_STATUS",
        0x34,
        "rw1c",
        (
            Field("error", 1, "a word of the load stream was refused, and the rest of its packet dropped"),
            Field("busy", 1, "inside a packet; cleared by a host whose sender gave up: the next word begins a packet"),
        ),
        "State of the load stream.",
    ),
    Register(
        "TABLE_CHECKSUM",
        0x38,
        "r",
        (
            Field(
                "crc", 32, "CRC-32 (as zlib) of address and data of every word, 4 bytes each, little-endian, in order"
            ),
        ),
        f"What reached {', '.join(PARITY_TABLES)} and REFERENCE since restart_checksum, over bus or load stream, "
        "without what was refused. It covers the way to the memories, not what becomes of their contents.",
    ),
    Register(
        "CELL_FAILURES",
        0x3C,
        "r",
        (Field("units", 16, "operation units of which a cell did not take its value; 65535 stays"),),
        "What the array said while cells were programmed since restart_checksum.",
    ),
    Register(
        "CELL_FAILED",
        0x40,
        "r",
        (
            Field("pair", 16, "crossbar pair"),
            Field("ou_row", 8, "OU row, bits 7:0"),
            Field("ou_col", 8, "OU column, bits 7:0"),
        ),
        "The first operation unit of CELL_FAILURES.",
    ),
    Register(
        "TEST_CONTROL",
        0x44,
        "rw",
        (
            Field("mode", 2, "PortMode"),
            Field("answer", 1, "what comparators answer in mode TIED_OFF"),
            Field("place", 4, "pair machine: sample-and-hold place of samples and comparisons in mode DRIVEN"),
            Field("half", 5, "pair machine: which half samples and answers; 2i and 2i + 1 are those of macro i"),
            Field("word", 3, "which 32 comparators TEST_ANSWERS shows"),
        ),
        "Test of array and converters by the host. Refused while a network runs or a sample waits.",
    ),
    Register(
        "TEST_CODE",
        0x48,
        "rw",
        (Field("code", 9, "DAC code, of the pair machine as two's complement of adc_bits + 1 bits"),),
        "Threshold of all converters in mode DRIVEN.",
    ),
    Register(
        "TEST_LINES",
        0x4C,
        "w",
        (Field("lines", 32, "the next 32 word lines, from 0 on; the last words written count, as many as there are"),),
        "Word lines of the next TEST_SAMPLE: of an OU, or of a whole OU column of the pair machine.",
    ),
    Register(
        "TEST_SAMPLE",
        0x50,
        "w",
        (
            Field("pair", 16, "crossbar pair"),
            Field("ou_row", 8, "OU row; the pair machine samples an OU column"),
            Field("ou_col", 8, "OU column"),
        ),
        "Offers a sample to the array; only in mode DRIVEN, one at a time, see STATUS.test_busy. Reaches 256 rows and "
        "columns.",
    ),
    Register(
        "TEST_ANSWERS",
        0x54,
        "r",
        (Field("answers", 32, "comparators 32 * word and up: 1 = the sample is at least the code less half an LSB"),),
        "What the comparators of the half answered in the clock before.",
    ),
    Register(
        "FIRST_LAYER",
        0x58,
        "rw",
        (Field("layer", 16, "first step to run, below LAYER_COUNT; memories keep what earlier runs left"),),
        "Where a run begins: a host that computes between two steps runs the program in parts.",
    ),
)

REGISTER: dict[str, Register] = {r.name: r for r in REGISTERS}


@dataclass(frozen=True)
class Region:
    """A memory on the bus: entry i is at byte address (index << REGION_SHIFT) + i * stride."""

    name: str
    index: int
    access: str
    stride: int
    doc: str

    def address(self, entry: int) -> int:
        return (self.index << REGION_SHIFT) + entry * self.stride


REGIONS: tuple[Region, ...] = (
    Region("PROGRAM", 1, "w", 4, "descriptors: entry = step * DESCRIPTOR_STRIDE + word"),
    Region("WIDTHS", 2, "w", 4, "width table: bits 3:0 = bit planes of one block, in placement order"),
    Region("BIAS", 3, "w", 4, "signed 32-bit bias per output channel, in units of Delta_R1"),
    Region("MULTIPLIERS", 4, "w", 4, "bits 15:0 = requantisation multiplier per output channel"),
    Region("PADS", 5, "w", 4, "border value per channel, below 2**input_bits"),
    Region(
        "REFERENCE",
        6,
        "w",
        4,
        "sampled level of every count 0..ou_rows: entry = step * 2**bits(ou_rows) + count; the pair machine has none",
    ),
    Region("ACTIVATIONS", 7, "rw", 4, "activations, 4 bytes a word; entry = address / 4"),
    Region("LOGITS", 8, "r", 4, "signed 32-bit result of the last step, one per output"),
    Region("EVENTS", 9, "r", 4, "event counters: entry = (step * 16 + counter) * 2, low word then high word"),
    Region(
        "LOOKUPS",
        10,
        "w",
        4,
        "tables of activation functions, below 2**input_bits: entry = (table - 1) * 2**input_bits + code",
    ),
    Region("STOP_BOUNDS", 11, "w", 4, "early stop: sum of the positive weights per output channel"),
    Region("STOP_STARTS", 12, "w", 4, "early stop: signed 32-bit -(limit + bound + 1) per output channel"),
)

REGION: dict[str, Region] = {r.name: r for r in REGIONS}


def reference_entry(config: HardwareConfig, step: int, count: int = 0) -> int:
    """Entry of region REFERENCE for `count` = 0..ou_rows of a step; the counts of a step lie side by side."""
    return (step << bits_for(config.ou_rows)) + count


def region_entries(config: HardwareConfig) -> dict[str, int]:
    """Entries of every region."""
    return {
        "PROGRAM": config.max_layers * DESCRIPTOR_STRIDE,
        "WIDTHS": config.width_entries,
        "BIAS": config.channel_entries,
        "MULTIPLIERS": config.channel_entries,
        "PADS": config.pad_entries,
        "REFERENCE": 0 if config.pairs else reference_entry(config, config.max_layers),
        "ACTIVATIONS": -(-config.activation_bytes // 4),
        "LOGITS": config.max_n,
        "EVENTS": config.max_layers * COUNTERS_PER_LAYER * 2,
        "LOOKUPS": config.activation_tables * config.table_entries,
        "STOP_BOUNDS": config.early_stop * config.channel_entries,
        "STOP_STARTS": config.early_stop * config.channel_entries,
    }


# ---- event counters -----------------------------------------------------------------------------
COUNTER_BITS = 48
COUNTERS_PER_LAYER = 16  # address space; see EVENT_COUNTERS for those that exist

#: Order is the counter's index. Identical in RTL and golden model (system.md §10). Those behind `cycles` exist in the
#: pair machine only; of those before, it skips nothing and has one range, R2.
EVENT_COUNTERS: tuple[tuple[str, str], ...] = (
    ("ou_activations", "one OU of a pair (both polarities) switched on for one input slice"),
    ("skipped_planes", "OU activations saved because a block has fewer than weight_bits planes"),
    ("skipped_bits", "OU activations saved because dynamic precision streams fewer than input_bits bits"),
    ("skipped_zero_slices", "OU activations saved because an input slice is all zero"),
    ("conversions_r1", "A/D conversions that ended in range R1"),
    ("conversions_r2", "A/D conversions that ended in range R2; uniform mode counts here"),
    ("ad_operations", "comparator decisions"),
    ("input_bits_streamed", "bit positions streamed, summed over windows and segments"),
    ("cycles", "clocks of the step"),
    ("prefix_counts", "pair machine: OUs that are formed"),
    ("prefix_rows", "pair machine: rows of the packs that OUs are formed of"),
    ("mask_bits_read", "pair machine: segments of all masks that are looked at"),
    ("stop_checks", "pair machine with early stop: outputs that are checked"),
)
COUNTER_NAMES: tuple[str, ...] = tuple(name for name, _ in EVENT_COUNTERS)


def counters_of(config: HardwareConfig) -> tuple[str, ...]:
    """Counters that a machine has, the first ones of `COUNTER_NAMES`."""
    last = "cycles" if not config.pairs else "stop_checks" if config.early_stop else "mask_bits_read"
    return COUNTER_NAMES[: COUNTER_NAMES.index(last) + 1]


# ---- descriptor of a step -----------------------------------------------------------------------
_ADDRESS, _SIZE = 24, 16
#: Bits of the signed offset that post-processing adds before its shift.
OFFSET_BITS = 48
#: Largest kernel of an element step, in values.
MAX_ELEMENT_KERNEL = (1 << 16) - 1


def descriptor_fields(config: HardwareConfig) -> tuple[Field, ...]:
    """Fields of the descriptor of one step, in order (system.md §5a). All unsigned; derived sizes are stored so that
    the hardware needs no multiplier or divider to walk a step. Fields that a step does not use are 0.

    Steps without crossbars (`StepKind.MAXIMUM`, `StepKind.SUM`) are called element steps.
    """
    r = bits_for(config.converter_bits)
    modes = "0 uniform, 1 twin range" + (", 2 bounded, 3 outward" if config.pairs else "")
    return (
        Field("source", _ADDRESS, "first byte of the input"),
        Field("step", 2, "StepKind"),
        Field("last", 1, "1: results are logits, not requantised: acc + bias, or acc + offset of an element step"),
        Field("residual", 1, "1: a second input is added in the post-processing; without pooling"),
        Field("pad_enable", 1, "1: border bytes from the pad table, one per channel; 0: pad_value"),
        Field("skip_zero_slices", 1, "1: input slices that are all zero cost no OU activation"),
        Field("dynamic", 1, "1: dynamic precision per group; 0: bits stream_bits - 1..0 are streamed"),
        Field("target", _ADDRESS, "first byte of the output"),
        Field("pad_value", 8, "what lies outside the map or the channels, where pad_enable is 0; below 2**input_bits"),
        Field("in_plane", _ADDRESS, "height * width"),
        Field("stream_bits", 4, "bits of the input activations, 1..input_bits"),
        Field("out_bits", 4, "a, width of the output activations, or of what a table is indexed by, 1..input_bits"),
        *([Field("out_ones", 4, "most ones of an output activation, up to input_bits; 0: any")] * config.pairs),
        Field("out_plane", _ADDRESS, "out_height * out_width"),
        Field("stride_y", 8, "rows from a window to the next, at least 1"),
        Field("residual_base", _ADDRESS, "first byte of the residual"),
        Field("stride_x", 8, "columns from a window to the next, at least 1"),
        Field("residual_plane", _ADDRESS, "bytes from a channel of the residual to the next"),
        Field("pad_top", 8, "rows of border above the map"),
        Field("residual_row", _ADDRESS, "bytes of the residual from an output row to the next"),
        Field("pad_left", 8, "columns of border left of the map"),
        Field("channels", _SIZE, "C, input channels"),
        Field("height", _SIZE, "H, input rows"),
        Field("width", _SIZE, "W, input columns"),
        Field("kernel_height", _SIZE, "kernel rows (H for a fully connected layer)"),
        Field("kernel_width", _SIZE, "kernel columns (W for a fully connected layer)"),
        Field("out_height", _SIZE, "output rows after pooling"),
        Field("out_width", _SIZE, "output columns after pooling"),
        Field("outputs", _SIZE, "N, output channels"),
        Field("first_channel", _SIZE, "element step: output channel that reads input channel 0; others read border"),
        Field("segments", _SIZE, "ceil(K / ou_rows)"),
        Field("block_cols", _SIZE, "ceil(N / ou_cols)"),
        Field("crossbar_base", _SIZE, "first crossbar pair"),
        Field("residual_channels", _SIZE, "channels of the residual"),
        Field("residual_first", _SIZE, "output channel that gets channel 0 of the residual"),
        Field("residual_column", _SIZE, "bytes of the residual from an output column to the next"),
        Field("multiplier", _SIZE, "M of an element step"),
        Field("residual_multiplier", 32, "M_r"),
        Field("offset_low", 32, "bits 31:0 of the offset that is added before the shift, a signed number"),
        Field("offset_high", OFFSET_BITS - 32, "bits 47:32 of the offset"),
        Field("tau_sq", 16, "squared tolerance, unsigned Q4.12; 0 switches lossy dropping off"),
        Field("width_base", _ADDRESS, "first entry in the width table; entries in order (segment, block column)"),
        Field("pool", 8, "edge and stride of the pooling window of a crossbar step, 1 = none"),
        Field("channel_base", _ADDRESS, "first entry in the bias and multiplier tables"),
        Field("last_rows", 8, "valid rows of the last segment, 1..ou_rows"),
        Field("pad_base", _ADDRESS, "first entry in the pad table"),
        *(
            [Field("lookup", 8, "1..activation_tables: outputs are looked up in this table, before pooling; 0: none")]
            * config.looks_up
        ),
        *(
            [Field("stop_bits", 8, "input bits after which outputs that are certainly 0 stop: bit j for input bit j")]
            * config.early_stop
        ),
        Field("last_cols", 8, "valid columns of the last block column, 1..ou_cols"),
        Field("residual_value", 8, "residual of the output channels that have none"),
        Field("shift", 6, "S of the requantisation"),
        Field("l_max", 3, "most low bits that dynamic precision may drop"),
        Field("adc_mode", 2 if config.pairs else 1, modes),
        Field("n_r1", r, "search steps in R1"),
        Field("n_r2", r, "search steps in R2"),
        Field("m", r, "R2 steps are 2**m R1 steps"),
        Field("adc_bias", config.converter_bits, "position of the R1 window"),
    )


def descriptor_layout(config: HardwareConfig) -> tuple[tuple[Field, ...], ...]:
    """The fields of every 32-bit descriptor word; no field straddles a word."""
    words: list[list[Field]] = [[]]
    for field in descriptor_fields(config):
        if sum(f.bits for f in words[-1]) + field.bits > 32:
            words.append([])
        words[-1].append(field)
    return tuple(tuple(word) for word in words)


def descriptor_words(config: HardwareConfig) -> int:
    """Words of one descriptor."""
    return len(descriptor_layout(config))


#: Words between two descriptors on the bus and in program memory (a power of two).
DESCRIPTOR_STRIDE = 32


def pack_descriptor(config: HardwareConfig, values: dict[str, int]) -> list[int]:
    """Field values -> descriptor words; every field must be given, within its width."""
    names = {f.name for f in descriptor_fields(config)}
    if set(values) != names:
        missing, unknown = sorted(names - set(values)), sorted(set(values) - names)
        raise ValueError(f"descriptor: missing fields {missing}, unknown fields {unknown}")
    return [
        pack_fields("descriptor", word, {f.name: values[f.name] for f in word}) for word in descriptor_layout(config)
    ]


def unpack_descriptor(config: HardwareConfig, words: list[int]) -> dict[str, int]:
    layout = descriptor_layout(config)
    if len(words) < len(layout):
        raise ValueError(f"descriptor has {len(layout)} words, got {len(words)}")
    values: dict[str, int] = {}
    for fields, word in zip(layout, words, strict=False):
        values |= unpack_fields(fields, word)
    return values
