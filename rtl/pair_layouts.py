"""Records of the pair machine's blocks, sized by one `HardwareConfig`, beside those of `rtl.layouts`.

`pairs` : lanes convert the difference of a pair of bit lines, -2**R..2**R - 1 with R = adc_bits; else the count of one
bit line, 0..2**R - 1.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from amaranth.hdl import Cat, Mux, Shape, Value, signed, unsigned
from amaranth.lib import data, enum

from golden_model.config import HardwareConfig, bits_for


class SearchMode(enum.Enum, shape=unsigned(2)):
    """How a lane looks for its sample."""

    UNIFORM = 0  # binary search of the whole grid
    TWIN = 1  # detection, then a binary search in R1 or R2 (system.md §4.3)
    BOUNDED = 2  # binary search of 0..k or -k..k (system.md §13.1)
    OUTWARD = 3  # 1, 2, 3, ... or 0, -1, -2, ... until the answer changes or k is reached; needs pairs


def chosen_modes(pairs: bool, modes: Collection[SearchMode]) -> tuple[SearchMode, ...]:
    """The modes of search, each once, in the order of `SearchMode`; ValueError unless a machine can have them."""
    if not modes or not set(modes) <= set(SearchMode):
        raise ValueError(f"modes must hold at least one of {', '.join(m.name for m in SearchMode)}, got {modes!r}")
    if SearchMode.OUTWARD in modes and not pairs:
        raise ValueError("mode OUTWARD needs lanes that convert pairs")
    return tuple(mode for mode in SearchMode if mode in modes)


# ---- lanes --------------------------------------------------------------------------------------
def search_threshold(config: HardwareConfig, pairs: bool) -> Shape:
    """DAC code t of a lane, or a value in LSB. The comparator answers v >= t - 1/2."""
    return signed(config.adc_bits + 1) if pairs else unsigned(config.adc_bits)


def search_left(config: HardwareConfig, pairs: bool) -> Shape:
    """Length of an interval of values in LSB: high - low; or a number of decisions."""
    return unsigned(config.adc_bits + pairs)


def ones_in_ou(config: HardwareConfig) -> Shape:
    """k, the number of word lines of an OU that are on, 0..ou_rows."""
    return unsigned(bits_for(config.ou_rows))


def search_registers(config: HardwareConfig, pairs: bool) -> data.StructLayout:
    """Registers of the lanes, per layer.

    signed : only with pairs; the lanes convert -2**R..2**R - 1 with F = R + 1 bits. Otherwise 0..2**R - 1 with F = R.
    n_r1, n_r2, m, bias : as in system.md §4.1, with F for R. The R1 window of a signed search lies around 0; it has no
        bias.
    """
    bits = config.adc_bits + pairs
    field = unsigned(bits_for(bits))
    optional = {"signed": unsigned(1)} if pairs else {}
    return data.StructLayout(
        {"mode": SearchMode, **optional, "n_r1": field, "n_r2": field, "m": field, "bias": unsigned(bits)}
    )


def search_constants(config: HardwareConfig, pairs: bool) -> data.StructLayout:
    """What the registers mean for the search, decoded once for all lanes.

    signed : as in the registers. two_detections : R1 does not begin at the bottom of the range. r1_is_point : n_r1 = 0.
    first : threshold of the first detection (TWIN), or of the first search decision (UNIFORM).
    low : threshold of the second detection. r1_first, r2_first : threshold of the first search decision in R1 and R2;
        r1_first is the result if R1 is a point.
    r1_left, r2_left : high - low of R1 and R2. r1_end, r2_end : a decision is the last one if no more than that is
        left before it, or after it (OUTWARD).
    scale : log2 of Delta_R1 in LSB; a value in LSB is shifted right by it.
    """
    threshold, left = search_threshold(config, pairs), search_left(config, pairs)
    return data.StructLayout(
        {
            "mode": SearchMode,
            "signed": unsigned(1),
            "two_detections": unsigned(1),
            "r1_is_point": unsigned(1),
            "first": threshold,
            "low": threshold,
            "r1_first": threshold,
            "r2_first": threshold,
            "r1_left": left,
            "r2_left": left,
            "r1_end": left,
            "r2_end": left,
            "scale": unsigned(bits_for(config.adc_bits + pairs - 1)),
        }
    )


def search_begin(config: HardwareConfig, pairs: bool) -> data.StructLayout:
    """What lanes take with `start`.

    threshold : of the first decision. left : of the search; what it counts depends on the mode, see `SearchLane`.
    """
    return data.StructLayout({"threshold": search_threshold(config, pairs), "left": search_left(config, pairs)})


def sample_place(config: HardwareConfig) -> Shape:
    """A sample-and-hold place of a converter."""
    return unsigned(bits_for(config.sample_places - 1))


def turn(config: HardwareConfig) -> data.StructLayout:
    """A sample in the order of sampling, which hands out the places in turn. lap : how often all of them, modulo 2."""
    return data.StructLayout({"place": sample_place(config), "lap": unsigned(1)})


def next_turn(config: HardwareConfig, turn: Any) -> Value:
    """The turn behind one."""
    wraps = turn.place == config.sample_places - 1
    return Cat(Mux(wraps, 0, turn.place + 1)[: len(turn.place)], turn.lap ^ wraps)


# ---- packs --------------------------------------------------------------------------------------
def pack_lines(config: HardwareConfig) -> data.ArrayLayout:
    """A bit per word line of a pack: of every segment, ascending, its rows."""
    return data.ArrayLayout(unsigned(config.ou_rows), config.grid_rows)


def slice_tag(config: HardwareConfig) -> Shape:
    """What tells the slices of a pack and input bit apart: as many values as a layer can have column groups."""
    return unsigned(bits_for(config.max_block_cols * config.weight_bits - 1))


def masked_slice(config: HardwareConfig) -> data.StructLayout:
    """An input bit of a pack, the segments that some column groups store, and a tag that comes back with the OUs."""
    return data.StructLayout(
        {"lines": pack_lines(config), "segments": unsigned(config.grid_rows), "tag": slice_tag(config)}
    )


def formed_ou(config: HardwareConfig) -> data.StructLayout:
    """Word lines that are switched on together, k of them; last : the last OU of its slice."""
    return data.StructLayout(
        {"lines": pack_lines(config), "ones": ones_in_ou(config), "last": unsigned(1), "tag": slice_tag(config)}
    )
