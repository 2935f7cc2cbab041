"""The first difference between the trace of a pair machine (`rtl.pack_layouts.pair_trace`) and the golden model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from golden_model import timing
from golden_model.config import HardwareConfig
from golden_model.image.lowering import Step
from golden_model.pairs.early_stop import StopWords
from golden_model.pairs.packs import pack_layer
from golden_model.pairs.trace import PairRecord, window_trace
from rtl.pack_layouts import HALVES, all_halves

#: A place as data.
Place = dict[str, Any]
#: Names of places in sentences.
_WORDS = {
    "input_bit": "input bit",
    "ou": "OU",
    "block_col": "block column",
    "pair": "crossbar pair",
    "ou_col": "OU column",
}


@dataclass(frozen=True, eq=False)
class Samples:
    """What a half sampled, in order, and what its lanes made of it.

    pair, ou_col : (samples,). lines : (samples, word lines). values : (samples, columns), in LSB. converted : of
    which columns the conversion ended.
    """

    pair: np.ndarray
    ou_col: np.ndarray
    lines: np.ndarray
    values: np.ndarray
    converted: np.ndarray

    def __len__(self) -> int:
        return len(self.pair)


def samples_of(hardware: HardwareConfig, records: Mapping[str, np.ndarray], half: int) -> Samples:
    """From the records of a step, by field. A conversion is of the sample that its place took last."""
    columns, lines = hardware.ou_cols, hardware.grid_rows * hardware.ou_rows
    lanes = slice(half * columns, (half + 1) * columns)
    clock = np.flatnonzero(records["sampled"][:, half])
    place = records["place"][clock, half]
    values, converted = np.zeros((2, len(clock), columns), dtype=np.int64)
    end, column = np.nonzero(records["converted"][:, lanes])
    value = records["value"][:, lanes][end, column]
    value -= (value >> hardware.adc_bits) << (hardware.adc_bits + 1)  # signed
    of = records["converted_place"][:, lanes][end, column]
    for one in range(hardware.sample_places):
        taken, ended = np.flatnonzero(place == one), np.flatnonzero(of == one)
        last = np.searchsorted(clock[taken], end[ended]) - 1
        ended, last = ended[last >= 0], last[last >= 0]
        values[taken[last], column[ended]] = value[ended]
        converted[taken[last], column[ended]] = 1
    return Samples(
        records["pair"][clock, half],
        records["ou_col"][clock, half],
        records["lines"][clock, half * lines : (half + 1) * lines],
        values,
        converted,
    )


def first_difference(
    step: Step, hardware: HardwareConfig, base: int, rows: np.ndarray, records: Mapping[str, np.ndarray]
) -> tuple[str, Place] | None:
    """Where the trace of a crossbar step parts from the golden model: a sentence, and the place; None if nowhere.

    base : crossbar pair that the layer's pairs count from. rows : (windows, K), what its windows read.
    """
    assert step.layer is not None
    packing, registers, words = pack_layer(step.layer, hardware), step.layer.registers, StopWords.of(step.layer)
    scale = hardware.converter_bits - registers.n_r2 - registers.m
    found = [samples_of(hardware, records, half) for half in range(all_halves(hardware))]
    at = [0] * len(found)
    for window, half in _order(step, hardware):
        samples = found[half]
        for golden in window_trace(packing, rows[window], half % HALVES, words):
            difference = _difference(golden, samples, at[half], base, scale)
            if difference is not None:
                sentence, more = difference
                place = {"window": window, "half": half, "pack": golden.pack, "input_bit": golden.input_bit}
                place |= {"ou": golden.index, "block_col": golden.block_col, "plane": golden.plane}
                where = ", ".join(f"{_WORDS.get(name, name)} {number}" for name, number in place.items())
                return f"{where}: {sentence}", place | more
            at[half] += 1
    for half, samples in enumerate(found):
        if more := len(samples) - at[half]:
            return f"after the last window: half {half} of the hardware sampled {more} OUs too many", {"half": half}
    return None


def _order(step: Step, hardware: HardwareConfig) -> Iterator[tuple[int, int]]:
    """(window, half of all macros) in the order of rounds."""
    for of_round in timing.step_rounds(hardware, step.fields).tolist():
        for macro, window in enumerate(of_round):
            if window >= 0:
                yield from ((window, HALVES * macro + half) for half in range(HALVES))


def _difference(golden: PairRecord, samples: Samples, at: int, base: int, scale: int) -> tuple[str, Place] | None:
    if at >= len(samples):
        return "the hardware did not sample it", {}
    for name, wanted in (("pair", base + golden.pair), ("ou_col", golden.ou_col)):
        if (found := int(getattr(samples, name)[at])) != wanted:
            return f"{_WORDS[name]} is {found} instead of {wanted}", _field(name, found, wanted)
    lines = samples.lines[at].astype(bool)
    if (lines != golden.lines).any():
        found, wanted = (np.flatnonzero(one).tolist() for one in (lines, golden.lines))
        return f"word lines {found} are on instead of {wanted}", _field("lines", found, wanted)
    for column, wanted in enumerate(golden.values.tolist()):
        if not golden.live[column]:
            if samples.converted[at, column]:
                return f"column pair {column} was converted, its output has stopped", {"column": column}
            continue
        found = int(samples.values[at, column]) >> scale if samples.converted[at, column] else None
        if found != wanted:
            made = "has no value" if found is None else f"is {found}"
            place = {"column": column, **_field("value", found, wanted)}
            return f"column pair {column} {made} instead of {wanted}", place
    return None


def _field(name: str, found: Any, expected: Any) -> Place:
    return {"field": name, "found": found, "expected": expected}
