"""The one register table: bus registers, bus memories, layer descriptor and event counters (system.md §10).

The RTL layouts, `pack`/`unpack`, the bus driver and `rtl/REGISTERS.md` all derive from the tables in
this file; nothing repeats an offset or a width.

Addresses are byte addresses on a 32-bit AXI4-Lite bus of `ADDRESS_BITS` bits. Bits 23:20 select a
region: 0 is the register page, every other region is one memory of the tile.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from golden_model.config import HardwareConfig, bits_for

ADDRESS_BITS = 24
REGION_SHIFT = 20
#: Reads from the IDENTITY register: "OHM" and the version of the register map.
IDENTITY = 0x4F484D01


class ErrorCode(IntEnum):
    """Value of STATUS.error; sticky until the next start."""

    NONE = 0
    ADC_CONFIGURATION = 1  # illegal twin-range registers (system.md §4.1)
    LAYER_COUNT = 2  # zero layers, or more than max_layers
    LAYER_GEOMETRY = 3  # a size, a base address or a width outside the hardware configuration
    UNSUPPORTED = 4  # residual add or average pooling, reserved in the descriptor
    ABORTED = 5  # stopped by CONTROL.abort


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
    "w" write only.
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
    Register("IDENTITY", 0x00, "r", (Field("identity", 32, "constant 0x4F484D01"),), "Names the device."),
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
            Field("start", 1, "run LAYER_COUNT layers; ignored while busy"),
            Field("abort", 1, "stop at the next clock; STATUS.error becomes ABORTED"),
            Field("check_cells", 1, "read the cells of CELL_PAIRS crossbar pairs back into CELL_CHECKSUM"),
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
            Field("cells_busy", 1, "the cell check is running"),
            Field("overflow", 1, "a partial sum left accumulator_bits; sticky until start"),
            Field("error", 4, "ErrorCode; sticky until start"),
            Field("layer", 8, "layer being run, or where the run stopped"),
        ),
        "State of the tile.",
    ),
    Register(
        "LAYER_COUNT",
        0x10,
        "rw",
        (Field("layers", 9, "layers to run, 1..max_layers; fewer than the network has dumps a layer's output"),),
        "Length of the program.",
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
        "Cell programming. OU column counts fastest, then OU row, then crossbar pair.",
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
    Region("PROGRAM", 1, "w", 4, "layer descriptors: entry = layer * DESCRIPTOR_STRIDE + word"),
    Region("WIDTHS", 2, "w", 4, "width table: bits 3:0 = bit planes of one block, in placement order"),
    Region("BIAS", 3, "w", 4, "signed 32-bit bias per output channel, in units of Delta_R1"),
    Region("MULTIPLIERS", 4, "w", 4, "bits 15:0 = requantisation multiplier per output channel"),
    Region("PADS", 5, "w", 4, "bits 7:0 = border value per input channel"),
    Region("REFERENCE", 6, "w", 4, "sampled level of every count: entry = layer * (ou_rows + 1) + count"),
    Region("ACTIVATIONS", 7, "rw", 4, "activations, 4 bytes a word; entry = buffer * (activation_bytes / 4) + word"),
    Region("LOGITS", 8, "r", 4, "signed 32-bit result of the last layer, one per output"),
    Region("EVENTS", 9, "r", 4, "event counters: entry = (layer * 16 + counter) * 2, low word then high word"),
)

REGION: dict[str, Region] = {r.name: r for r in REGIONS}


# ---- event counters -----------------------------------------------------------------------------
COUNTER_BITS = 48
COUNTERS_PER_LAYER = 16  # address space; see EVENT_COUNTERS for those that exist

#: Order is the counter's index. Identical in RTL and golden model (system.md §10).
EVENT_COUNTERS: tuple[tuple[str, str], ...] = (
    ("ou_activations", "one OU of a pair (both polarities) switched on for one input slice"),
    ("skipped_planes", "OU activations saved because a block has fewer than weight_bits planes"),
    ("skipped_bits", "OU activations saved because dynamic precision streams fewer than input_bits bits"),
    ("skipped_zero_slices", "OU activations saved because an input slice is all zero"),
    ("conversions_r1", "A/D conversions that ended in range R1"),
    ("conversions_r2", "A/D conversions that ended in range R2; uniform mode counts here"),
    ("ad_operations", "comparator decisions"),
    ("input_bits_streamed", "bit positions streamed, summed over windows and segments"),
    ("cycles", "clocks of the layer"),
)
COUNTER_NAMES: tuple[str, ...] = tuple(name for name, _ in EVENT_COUNTERS)


# ---- layer descriptor ---------------------------------------------------------------------------
def descriptor_fields(config: HardwareConfig) -> tuple[Field, ...]:
    """Fields of one layer descriptor, in order (system.md §5a). All unsigned; derived sizes are stored
    so that the hardware needs no multiplier or divider to walk a layer."""
    size = bits_for(65536)
    r = bits_for(config.adc_bits)
    return (
        Field("channels", size, "C, input channels"),
        Field("height", size, "H, input rows"),
        Field("width", size, "W, input columns"),
        Field("in_plane", size, "H * W"),
        Field("kernel_height", size, "kernel rows (H for a fully connected layer)"),
        Field("kernel_width", size, "kernel columns (W for a fully connected layer)"),
        Field("stride", 8, "stride of the convolution in both directions, at least 1"),
        Field("pad", 8, "border in both directions"),
        Field("pool", 8, "edge and stride of the pooling window, 1 = none"),
        Field("out_height", size, "output rows after pooling"),
        Field("out_width", size, "output columns after pooling"),
        Field("out_plane", size, "out_height * out_width"),
        Field("outputs", size, "N, output channels"),
        Field("segments", size, "ceil(K / ou_rows)"),
        Field("last_rows", 8, "valid rows of the last segment, 1..ou_rows"),
        Field("block_cols", size, "W, ceil(N / ou_cols)"),
        Field("last_cols", 8, "valid columns of the last block column, 1..ou_cols"),
        Field("crossbar_base", 16, "first crossbar pair of the layer"),
        Field("width_base", 16, "first entry in the width table; entries in order (segment, block column)"),
        Field("channel_base", 16, "first entry in the bias and multiplier tables"),
        Field("pad_base", 16, "first entry in the pad table"),
        Field("pad_enable", 1, "1: border bytes from the pad table, one per input channel; 0: border is 0"),
        Field("last", 1, "1: store acc + bias as logits, no requantisation"),
        Field("skip_zero_slices", 1, "1: input slices that are all zero cost no OU activation"),
        Field("dynamic", 1, "1: dynamic precision per group; 0: bits stream_bits - 1..0 are streamed"),
        Field("stream_bits", 4, "bits of this layer's input activations, 1..input_bits"),
        Field("l_max", 3, "most low bits that dynamic precision may drop"),
        Field("tau_sq", 16, "squared tolerance, unsigned Q4.12; 0 switches lossy dropping off"),
        Field("out_bits", 4, "a, width of the next layer's activations, 1..input_bits"),
        Field("shift", 6, "S of the requantisation"),
        Field("adc_mode", 1, "0 uniform, 1 twin range"),
        Field("n_r1", r, "search steps in R1"),
        Field("n_r2", r, "search steps in R2"),
        Field("m", r, "R2 steps are 2**m R1 steps"),
        Field("adc_bias", config.adc_bits, "position of the R1 window"),
        Field("residual", 1, "reserved: 1 adds the residual buffer"),
        Field("residual_multiplier", 16, "reserved: M_r"),
        Field("average", 1, "reserved: 1 pools by average"),
        Field("pool_multiplier", 16, "reserved: M_p"),
        Field("pool_shift", 6, "reserved: S_p"),
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
        raise ValueError(f"layer descriptor: missing fields {missing}, unknown fields {unknown}")
    return [
        pack_fields("layer descriptor", word, {f.name: values[f.name] for f in word})
        for word in descriptor_layout(config)
    ]


def unpack_descriptor(config: HardwareConfig, words: list[int]) -> dict[str, int]:
    layout = descriptor_layout(config)
    if len(words) < len(layout):
        raise ValueError(f"layer descriptor has {len(layout)} words, got {len(words)}")
    values: dict[str, int] = {}
    for fields, word in zip(layout, words, strict=False):
        values |= unpack_fields(fields, word)
    return values
