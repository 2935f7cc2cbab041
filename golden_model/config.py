"""The one definition of the hardware configuration (system.md §5, §10, §14).

RTL, golden model, exporter, bus driver and documentation all derive from `HardwareConfig`.
Derived numbers are properties and are never stored.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal


def bits_for(largest: int) -> int:
    """Bits of an unsigned field that must hold 0..`largest` (at least 1)."""
    return max(1, int(largest).bit_length())


@dataclass(frozen=True, kw_only=True)
class HardwareConfig:
    """Elaboration-time parameters of one tile: a macro of crossbar pairs and its periphery.

    Parameters
    ----------
    rows, cols : word lines and bit lines of one crossbar.
    ou_rows, ou_cols : rows and columns of an operation unit (OU), the cells switched on together.
    adc_bits : R, resolution of the SAR ADCs in bits; an A/D value lies in 0..2**R - 1.
    input_bits : width of an unsigned activation in bits (bit-serial streaming).
    weight_bits : magnitude bits of a weight; the sign selects the crossbar of a pair.
    crossbar_pairs : number of (positive, negative) crossbar pairs that the macro drives.
    max_k : largest flattened input K = C*kh*kw of a crossbar step (size of the window buffer in bytes).
    max_n : largest number of outputs N of a crossbar step, and of logits.
    max_layers : steps of a program: number of descriptors and of event counter sets.
    activation_bytes : size of the activation memory in bytes.
    width_entries : capacity of the width table, one 4-bit entry per block, over all steps.
    channel_entries : capacity of the bias and multiplier tables, one per output channel, over all steps.
    pad_entries : capacity of the pad-byte table, one per channel, over all steps that use it.
    sample_interval : clocks between two samples that the array accepts.
    group_segments : input segments per dynamic-precision group; None means rows // ou_rows.
    accumulator_bits : width of a signed partial sum.
    machine : the main data path. "planes" is BWQ-H's order with twin-range converters, which convert every bit line;
        "pairs" fills its OUs with word lines that are on, and converts the difference of a column pair
        (docs/pair-machine.md). Its converters have adc_bits and a sign, and reach every count of an OU.
    macros : macros of a pair machine that work on one step side by side, each on the window of another output
        (docs/pair-machine.md); a power of two. Each has `crossbar_pairs` of its own, with the same cells. 1 in a
        machine of planes.
    sample_places : samples that a converter of a pair machine holds, those that it converts included.
    comparator_valid : 1: comparators say whether they have decided, and are asked again if not.
    early_stop : 1: lanes of a pair machine stop converting outputs that are certainly 0 (docs/pair-machine.md).
    activation_tables : activation functions that the tile can hold as tables, over all steps; 0 for a tile without the
        look-up, whose post-processing is a clock shorter.

    Raises
    ------
    TypeError for a number that is not an integer, ValueError for a value out of range; both name the
    field, the limit and the value.
    """

    rows: int = 128
    cols: int = 128
    ou_rows: int = 9
    ou_cols: int = 8
    adc_bits: int = 4
    input_bits: int = 8
    weight_bits: int = 8
    crossbar_pairs: int = 40
    max_k: int = 512
    max_n: int = 128
    max_layers: int = 8
    activation_bytes: int = 4096
    width_entries: int = 2048
    channel_entries: int = 512
    pad_entries: int = 64
    sample_interval: int = 1
    group_segments: int | None = None
    accumulator_bits: int = 32
    machine: Literal["planes", "pairs"] = "planes"
    macros: int = 1
    sample_places: int = 6
    comparator_valid: int = 0
    early_stop: int = 0
    activation_tables: int = 0

    def __post_init__(self) -> None:
        if self.machine not in MACHINES:
            raise ValueError(f"HardwareConfig.machine must be 'planes' or 'pairs', got {self.machine!r}")
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name == "machine" or (f.name == "group_segments" and value is None):
                continue
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"HardwareConfig.{f.name} must be an integer, got {value!r}")
            low, high = _LIMITS[f.name]
            if not low <= value <= high:
                raise ValueError(f"HardwareConfig.{f.name} must be in {low}..{high}, got {value}")
        for small, large in (("ou_rows", "rows"), ("ou_cols", "cols")):
            if getattr(self, small) > getattr(self, large):
                limit = f"{large} = {getattr(self, large)}"
                raise ValueError(f"HardwareConfig.{small} must be at most {limit}, got {getattr(self, small)}")
        if self.macros & (self.macros - 1):
            raise ValueError(f"HardwareConfig.macros must be a power of two, got {self.macros}")
        for name in _OF_PAIRS:
            if not self.pairs and getattr(self, name) != _LATER[name]:
                raise ValueError(
                    f"HardwareConfig.{name} must be {_LATER[name]} in a machine of planes, got {getattr(self, name)}"
                )
        if self.pairs and self.activation_bytes <= self.fetch_bytes:
            raise ValueError(
                f"HardwareConfig.activation_bytes of a pair machine must be more than {self.fetch_bytes} with "
                f"macros = {self.macros}, got {self.activation_bytes}"
            )
        if self.pairs and self.adc_bits < self.ideal_bits:
            raise ValueError(
                f"HardwareConfig.adc_bits of a pair machine must be at least {self.ideal_bits} with "
                f"ou_rows = {self.ou_rows}, got {self.adc_bits}"
            )

    # ---- converters -----------------------------------------------------------------------
    @property
    def pairs(self) -> bool:
        """Whether this is the pair machine."""
        return self.machine == "pairs"

    @property
    def of_planes(self) -> HardwareConfig:
        """The machine of planes of the same sizes."""
        return replace(self, machine="planes", **{name: _LATER[name] for name in _OF_PAIRS})

    @property
    def converter_bits(self) -> int:
        """Bits of the converters' grid: adc_bits, and a sign if they convert differences."""
        return self.adc_bits + self.pairs

    @property
    def values_together(self) -> int:
        """Activations, neighbours in a row of a kernel, that a clock loads at the most."""
        return min(REACH, self.ou_rows) if self.pairs else 1

    @property
    def fetch_bytes(self) -> int:
        """Neighbouring activations that a read of the activation memory brings: enough for the windows of all macros,
        each `REACH` behind the one before."""
        return REACH * self.macros if self.pairs else 1

    # ---- activation functions -------------------------------------------------------------
    @property
    def looks_up(self) -> bool:
        """Whether post-processing has tables of activation functions."""
        return self.activation_tables > 0

    @property
    def table_entries(self) -> int:
        """Entries of the table of an activation function: one for every code."""
        return 1 << self.input_bits

    # ---- geometry -------------------------------------------------------------------------
    @property
    def lanes(self) -> int:
        """ADC lanes: one per OU column and polarity; lane = polarity * ou_cols + column (0 = positive)."""
        return 2 * self.ou_cols

    @property
    def grid_rows(self) -> int:
        """OU rows of one crossbar."""
        return self.rows // self.ou_rows

    @property
    def grid_cols(self) -> int:
        """OU columns of one crossbar."""
        return self.cols // self.ou_cols

    @property
    def ous_per_crossbar(self) -> int:
        return self.grid_rows * self.grid_cols

    @property
    def segments_per_group(self) -> int:
        """Input segments that share one dynamic precision (system.md §6)."""
        return self.grid_rows if self.group_segments is None else self.group_segments

    def segments(self, k: int) -> int:
        """Input segments of K rows."""
        return -(-k // self.ou_rows)

    def block_cols(self, outputs: int) -> int:
        """Block columns of N outputs."""
        return -(-outputs // self.ou_cols)

    @property
    def max_segments(self) -> int:
        return self.segments(self.max_k)

    @property
    def max_block_cols(self) -> int:
        return self.block_cols(self.max_n)

    @property
    def max_groups(self) -> int:
        return -(-self.max_segments // self.segments_per_group)

    @property
    def ideal_bits(self) -> int:
        """R_ideal = ceil(log2(ou_rows + 1)) for 1-bit cells and DACs (system.md §4.4)."""
        return self.ou_rows.bit_length()

    # ---- cells ----------------------------------------------------------------------------
    @property
    def ou_cells(self) -> int:
        """Cells of one OU of a pair, both polarities; bit index = lane * ou_rows + row."""
        return self.lanes * self.ou_rows

    @property
    def cell_words(self) -> int:
        """32-bit bus words that carry the cells of one OU of a pair, least significant first."""
        return -(-self.ou_cells // 32)

    # ---- identity -------------------------------------------------------------------------
    def as_dict(self) -> dict[str, Any]:
        """All fields, without the later ones (`_LATER`) where they have their defaults: files and hashes from before
        them stay valid."""
        return {name: value for name, value in asdict(self).items() if (name, value) not in _LATER.items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> HardwareConfig:
        """Rebuild a configuration; an unknown or missing field is an error, but those of `_LATER` may be left out."""
        names = {f.name for f in fields(cls)}
        missing = names - set(values) - set(_LATER)
        parts = {"unknown fields": sorted(set(values) - names), "missing fields": sorted(missing)}
        if wrong := ", ".join(f"{what} {found}" for what, found in parts.items() if found):
            raise ValueError(f"hardware configuration: {wrong}")
        return cls(**values)

    @property
    def hash(self) -> str:
        """sha256 of the canonical JSON form, 64 hexadecimal digits."""
        return hashlib.sha256(json.dumps(self.as_dict(), sort_keys=True).encode()).hexdigest()

    @property
    def hash_word(self) -> int:
        """First 32 bits of `hash`, as the hardware's HARDWARE_HASH register reads."""
        return int(self.hash[:8], 16)


#: Main data paths.
MACHINES = ("planes", "pairs")
#: Activations, neighbours in a row, that a clock loads for a window of the pair machine at the most; and the largest
#: distance at which the windows of several macros may follow each other.
REACH = 4
#: Fields that came later than the first files, with their defaults.
_LATER: dict[str, Any] = {
    "machine": "planes",
    "macros": 1,
    "sample_places": 6,
    "comparator_valid": 0,
    "early_stop": 0,
    "activation_tables": 0,
}

#: Fields that only a pair machine has, others their defaults.
_OF_PAIRS = ("macros", "sample_places", "early_stop")

_LIMITS: dict[str, tuple[int, int]] = {
    "rows": (1, 1024),
    "cols": (1, 1024),
    "ou_rows": (1, 128),
    "ou_cols": (1, 128),
    "adc_bits": (1, 8),
    "input_bits": (1, 8),
    "weight_bits": (1, 8),
    "crossbar_pairs": (1, 65535),
    "max_k": (1, 65535),
    "max_n": (1, 65535),
    "max_layers": (1, 4096),
    "activation_bytes": (1, 1 << 24),
    "width_entries": (1, 1 << 20),
    "channel_entries": (1, 1 << 20),
    "pad_entries": (1, 1 << 20),
    "sample_interval": (1, 255),
    "group_segments": (1, 65536),
    "accumulator_bits": (8, 48),
    "macros": (1, 16),
    "sample_places": (2, 16),
    "comparator_valid": (0, 1),
    "early_stop": (0, 1),
    "activation_tables": (0, 255),
}

#: Smallest useful machine, for exhaustive tests.
TINY = HardwareConfig(
    rows=8,
    cols=8,
    ou_rows=4,
    ou_cols=2,
    adc_bits=3,
    input_bits=4,
    weight_bits=3,
    crossbar_pairs=8,
    max_k=24,
    max_n=8,
    max_layers=4,
    activation_bytes=256,
    width_entries=64,
    channel_entries=32,
    pad_entries=8,
)
#: Fits a mid-size FPGA with the emulated crossbar.
FPGA = HardwareConfig(crossbar_pairs=16, activation_bytes=2048, width_entries=1024, channel_entries=256)
#: BWQ-H's machine: 9 x 8 OUs, 4-bit ADC.
PAPER = HardwareConfig()
#: The whole-column regime: 128 rows at once, 8-bit ADC.
ISAAC = HardwareConfig(ou_rows=128, adc_bits=8)
#: ResNet-20, small VGGs, MobileNets and DenseNets on pictures of 32 x 32.
CIFAR = HardwareConfig(
    crossbar_pairs=1024,
    max_k=4608,
    max_n=512,
    max_layers=1024,
    activation_bytes=1 << 18,
    width_entries=1 << 16,
    channel_entries=1 << 14,
    pad_entries=4096,
)
#: SqueezeNet 1.1 on pictures of 224 x 224, in simulation.
LARGE = HardwareConfig(
    crossbar_pairs=8192,
    max_k=9216,
    max_n=4096,
    max_layers=4096,
    activation_bytes=1 << 20,
    width_entries=1 << 19,
    channel_entries=1 << 16,
    pad_entries=1 << 14,
)

_PLANES = {"tiny": TINY, "fpga": FPGA, "paper": PAPER, "isaac": ISAAC, "cifar": CIFAR, "large": LARGE}
#: Presets by name; a pair machine of the same sizes has "-pairs" behind it, with early stop "-stop". That for FPGAs has
#: smaller crossbars, for every half counts the word lines of a whole column.
PRESETS: dict[str, HardwareConfig] = _PLANES | {
    f"{name}-pairs": replace(hardware, machine="pairs") for name, hardware in _PLANES.items()
}
PRESETS["cifar-pairs-stop"] = replace(PRESETS["cifar-pairs"], early_stop=1)
PRESETS["fpga-pairs"] = replace(PRESETS["fpga-pairs"], rows=36, cols=64, crossbar_pairs=64, sample_places=4)


def read_hardware(text: str, default: str = "paper") -> HardwareConfig:
    """The configuration that an option `--hardware` names: a preset, or a JSON file with fields of `HardwareConfig`.

    Fields that the file leaves out are those of the preset that its entry "preset" names, or of `default`.

    Raises ValueError with one sentence for anything else.
    """
    if text in PRESETS:
        return PRESETS[text]
    path = Path(text)
    if path.suffix != ".json":
        raise ValueError(f"--hardware must be one of {', '.join(PRESETS)} or a .json file, got {text!r}")
    try:
        values = json.loads(path.read_text())
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: is not JSON ({error})") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path}: must hold a JSON object with fields of HardwareConfig")
    preset = values.pop("preset", default)
    if not isinstance(preset, str) or preset not in PRESETS:
        raise ValueError(f"{path}: preset must be one of {', '.join(PRESETS)}, got {preset!r}")
    try:
        return HardwareConfig.from_dict(PRESETS[preset].as_dict() | values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None
