"""Records of packs, masks, groups and gathered OUs, sized by one `HardwareConfig` (golden_model/pairs/packs.py)."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Shape, unsigned
from amaranth.lib import data

from golden_model.config import HardwareConfig, bits_for
from golden_model.registers import COUNTER_BITS
from rtl import layouts
from rtl.pair_layouts import formed_ou, pack_lines, sample_place, search_left, search_threshold

#: Parts of a macro that walk their own groups of every pack, each with converters for `ou_cols` column pairs.
HALVES = 2
#: Windows whose sums are kept: one that is walked, and the one before it, which is converted and then read.
BANKS = 2


# ---- sizes --------------------------------------------------------------------------------------
def max_packs(config: HardwareConfig) -> int:
    """Packs of the largest layer."""
    return -(-config.max_segments // config.grid_rows)


def max_pack_groups(config: HardwareConfig) -> int:
    """Column groups of a pack: one per block column and plane."""
    return config.max_block_cols * config.weight_bits


def max_groups(config: HardwareConfig) -> int:
    """Column groups of a layer: each takes an OU column of a crossbar pair."""
    return min(max_packs(config) * max_pack_groups(config), config.crossbar_pairs * config.grid_cols)


def _index(count: int) -> Shape:
    return unsigned(bits_for(count - 1))


def pack_index(config: HardwareConfig) -> Shape:
    """A pack of a layer."""
    return _index(max_packs(config))


def pack_size(config: HardwareConfig) -> Shape:
    """Segments of a pack, 0..grid_rows."""
    return unsigned(bits_for(config.grid_rows))


def pack_group(config: HardwareConfig) -> Shape:
    """A column group of a pack, in the order (block column, plane)."""
    return _index(max_pack_groups(config))


def group_index(config: HardwareConfig) -> Shape:
    """A column group, or a mask, of one half in the order of its walk."""
    return _index(max_groups(config))


def pack_mask(config: HardwareConfig) -> Shape:
    """Segments of a pack that groups store."""
    return unsigned(config.grid_rows)


def columns(config: HardwareConfig) -> Shape:
    """A bit per converter of a half, or column of a group."""
    return unsigned(config.ou_cols)


# ---- tables of a half ---------------------------------------------------------------------------
def pack_entry(config: HardwareConfig) -> data.StructLayout:
    """Masks of a pack that a half looks at. used : there is one."""
    mask = group_index(config)
    return data.StructLayout({"first_mask": mask, "last_mask": mask, "used": unsigned(1)})


def mask_entry(config: HardwareConfig) -> data.StructLayout:
    """A mask and its groups of a half."""
    group = group_index(config)
    return data.StructLayout({"segments": pack_mask(config), "first_group": group, "last_group": group})


def group_entry(config: HardwareConfig) -> data.StructLayout:
    """A column group and its place; `pair` counts from the first pair of its half."""
    members = layouts.listed_ou(config).members
    return data.StructLayout({name: members[name] for name in ("block_col", "plane", "pair", "ou_col")})


def _write(address: Shape, content: data.Layout) -> data.StructLayout:
    return data.StructLayout({"enable": unsigned(1), "address": address, "data": content})


def table_writes(config: HardwareConfig) -> data.StructLayout:
    """Writes to the three tables of a half."""
    group = group_index(config)
    return data.StructLayout(
        {
            "packs": _write(pack_index(config), pack_entry(config)),
            "masks": _write(group, mask_entry(config)),
            "groups": _write(group, group_entry(config)),
        }
    )


def layer_tables(config: HardwareConfig) -> data.StructLayout:
    """What macros take from the pack builder: writes to the tables of each half, and what it has found of the layer.

    built : the other ones are complete. last_pack, last_size : index of the layer's last pack, and its segments.
    first_pairs : first pair of each half that has groups. With early stop, columns : block columns of each half that
    store anything.
    """
    members = {
        "writes": halves_of(table_writes)(config),
        "built": unsigned(1),
        "last_pack": pack_index(config),
        "last_size": pack_size(config),
        "first_pairs": halves_of(layouts.pair_index)(config),
    }
    return data.StructLayout(members | ({"columns": halves_of(block_columns)(config)} if config.early_stop else {}))


# ---- windows and OUs ----------------------------------------------------------------------------
def halves_of(shape: Any) -> Any:
    """One `shape`, or what it is for a configuration, per half of a macro."""

    def layout(config: HardwareConfig) -> data.ArrayLayout:
        return data.ArrayLayout(shape(config), HALVES)

    return layout


def all_halves(config: HardwareConfig) -> int:
    """Halves of all macros; 2i and 2i + 1 are those of macro i."""
    return HALVES * config.macros


def all_halves_of(shape: Any) -> Any:
    """One `shape`, or what it is for a configuration, per half of every macro."""

    def layout(config: HardwareConfig) -> data.ArrayLayout:
        return data.ArrayLayout(shape(config), all_halves(config))

    return layout


def window_row(config: HardwareConfig) -> data.ArrayLayout:
    """The segments of a pack of a window."""
    return data.ArrayLayout(layouts.segment(config), config.grid_rows)


def slice_context(config: HardwareConfig) -> data.StructLayout:
    """What a slice belongs to: input bit, segments of the pack, the groups of a mask that convert its OUs, and which
    sums these add to."""
    group = group_index(config)
    return data.StructLayout(
        {
            "input_bit": unsigned(bits_for(config.input_bits - 1)),
            "segments": pack_size(config),
            "first_group": group,
            "last_group": group,
            "bank": unsigned(1),
        }
    )


def gathered_ou(config: HardwareConfig) -> data.StructLayout:
    """An OU: the word lines that are on, how many, and what its slice belongs to.

    With early stop, check : in place of an OU, a mark that outputs are to be checked after `input_bit`.
    """
    formed = formed_ou(config).members
    made = {"lines": formed["lines"], "ones": formed["ones"], **slice_context(config).members}
    return data.StructLayout(made | _check(config))


def _check(config: HardwareConfig) -> dict[str, Shape]:
    return {"check": unsigned(1)} if config.early_stop else {}


def pair_sample(config: HardwareConfig) -> data.StructLayout:
    """A sample request: an OU column of a crossbar pair, and the word lines that are on.

    place : which sample-and-hold place of every column takes the sample.
    """
    members = layouts.ou_address(config).members
    address = {"pair": members["pair"], "ou_col": members["ou_col"]}
    return data.StructLayout({**address, "lines": pack_lines(config), "place": sample_place(config)})


def sample_context(config: HardwareConfig) -> data.StructLayout:
    """What converters must know of a sample.

    left : `search_begin`'s. whole : all columns of the block column have an output. value << shift is added to the sums
    of the block column, in the bank of the window. With early stop, check : it is no sample, the sums of the block
    column are to be checked, with `shift` input bits to come.
    """
    members = {
        "left": search_left(config, True),
        "whole": unsigned(1),
        "bank": unsigned(1),
        "block_col": layouts.block_column(config),
        "shift": layouts.bit_position(config),
    }
    return data.StructLayout(members | _check(config))


def sample_contexts(config: HardwareConfig) -> data.ArrayLayout:
    """Of the sample in every place."""
    return data.ArrayLayout(sample_context(config), config.sample_places)


def converted(config: HardwareConfig) -> data.StructLayout:
    """A conversion that ends in this clock: `value`, and its context. With early stop, check : a check, of value 0."""
    context = sample_context(config).members
    members = {
        "valid": unsigned(1),
        "value": search_threshold(config, True),
        "bank": context["bank"],
        "block_col": context["block_col"],
        "shift": context["shift"],
    }
    return data.StructLayout(members | _check(config))


# ---- early stop ---------------------------------------------------------------------------------
def block_columns(config: HardwareConfig) -> Shape:
    """A bit per block column."""
    return unsigned(config.max_block_cols)


def stop_states(config: HardwareConfig) -> data.ArrayLayout:
    """A bit per block column of the windows of both banks."""
    return data.ArrayLayout(block_columns(config), BANKS)


def stop_words(config: HardwareConfig) -> data.StructLayout:
    """What is stored of an output. bound : P+, the sum of its positive weights. start : -(limit + P+ + 1)."""
    return data.StructLayout({"bound": layouts.stop_bound(config), "start": layouts.STOP_START})


def stop_write(config: HardwareConfig) -> data.StructLayout:
    """The words of an output: its block column, and its column in it."""
    return data.StructLayout(
        {
            "enable": unsigned(1),
            "address": layouts.block_column(config),
            "column": layouts.column(config),
            "words": stop_words(config),
        }
    )


def checked_sum(config: HardwareConfig) -> data.StructLayout:
    """A partial sum that is to be checked, with `bits_left` input bits to come."""
    return data.StructLayout(
        {
            "valid": unsigned(1),
            "sum": layouts.accumulator(config),
            "bank": unsigned(1),
            "block_col": layouts.block_column(config),
            "bits_left": layouts.bit_position(config),
        }
    )


def pair_thresholds(config: HardwareConfig) -> data.ArrayLayout:
    """A threshold of every converter of a half, in LSB."""
    return data.ArrayLayout(search_threshold(config, True), config.ou_cols)


def pair_places(config: HardwareConfig) -> data.ArrayLayout:
    """A place of every converter of a half."""
    return data.ArrayLayout(sample_place(config), config.ou_cols)


# ---- trace --------------------------------------------------------------------------------------
def pair_trace(config: HardwareConfig) -> data.StructLayout:
    """What all halves sample and convert in a clock; `valid` if any does.

    layer : the running step. sampled, pair, ou_col, lines, place : of every half, a sample was taken, `pair_sample`;
    lines, of all halves a bit per word line. converted, value, converted_place : of every column of every half, a
    conversion ends, with its result in LSB, of the sample in that place.
    """
    halves, sample = all_halves(config), pair_sample(config).members
    lines, lanes = config.grid_rows * config.ou_rows, halves * config.ou_cols
    return data.StructLayout(
        {
            "valid": unsigned(1),
            "layer": layouts.layer_index(config),
            "sampled": data.ArrayLayout(1, halves),
            **{name: data.ArrayLayout(sample[name], halves) for name in ("pair", "ou_col", "place")},
            "lines": data.ArrayLayout(1, halves * lines),
            "converted": data.ArrayLayout(1, lanes),
            "value": data.ArrayLayout(search_threshold(config, True), lanes),
            "converted_place": data.ArrayLayout(sample_place(config), lanes),
        }
    )


# ---- events -------------------------------------------------------------------------------------
def walk_events(config: HardwareConfig) -> data.StructLayout:
    """What a half does in a clock, in segments of the pack that it does it to, 0 if it does not.

    latched : a slice is latched. looked : a mask of it is looked at. formed : an OU is formed.
    """
    return data.StructLayout({name: pack_size(config) for name in ("latched", "looked", "formed")})


def conversion_events(config: HardwareConfig) -> data.StructLayout:
    """activation : strobe, an OU was sampled. started : converters that sample with it. busy : those that compare.

    With early stop, checked : converters whose output is to be checked.
    """
    members = {"activation": unsigned(1), "started": columns(config), "busy": columns(config)}
    return data.StructLayout(members | ({"checked": columns(config)} if config.early_stop else {}))


#: What the macros count; names and meaning as in golden_model/engines/pair_switches.py.
PAIR_COUNTERS = (
    "ou_activations",
    "conversions_r2",
    "ad_operations",
    "input_bits_streamed",
    "prefix_counts",
    "prefix_rows",
    "mask_bits_read",
    "stop_checks",
)


def pair_counters(config: HardwareConfig) -> data.StructLayout:
    """Event counters of all macros. input_bits_streamed : segments whose slice was latched."""
    names = PAIR_COUNTERS if config.early_stop else PAIR_COUNTERS[:-1]
    return data.StructLayout({name: unsigned(COUNTER_BITS) for name in names})
