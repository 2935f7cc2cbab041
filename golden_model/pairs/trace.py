"""What every operation unit of the pair machine does in one window, in the order of each half (gather.py).

Made for finding the first difference between RTL and golden model: slow, one window at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from golden_model.pairs.early_stop import StopWords
from golden_model.pairs.gather import Activated, Formed, Latched, walk
from golden_model.pairs.packs import Packing
from golden_model.pairs.search import search_of


@dataclass(frozen=True, eq=False)
class PairRecord:
    """An OU on one column group.

    index : position among those of the half in the window. pack, input_bit, block_col, plane : which work it is.
    pair, ou_col : which cells; pairs count from the layer's first. lines : bool (grid_rows * ou_rows,), word lines that
    are on. values : int64, in units of Delta_R1 (system.md §4.2), of the columns that have an output. live : bool,
    those that convert, the others have stopped.
    """

    index: int
    pack: int
    input_bit: int
    block_col: int
    plane: int
    pair: int
    ou_col: int
    lines: np.ndarray
    values: np.ndarray
    live: np.ndarray


def window_trace(
    packing: Packing, window: np.ndarray, half: int, words: StopWords | None = None
) -> Iterator[PairRecord]:
    """What a half does in one window.

    window : (K,) unsigned integers, one row of `windows.windows`. words : of early stop, None for none.
    """
    hardware, prepared = packing.hardware, packing.prepared
    (x,), (streamed,) = packing.streams(np.asarray(window)[None])
    search, last_bit = search_of(prepared.registers, hardware), np.zeros(prepared.outputs, dtype=np.int64)
    if words is not None:
        (last_bit,) = words.find(prepared, np.asarray(window)[None]).last_bit
    lines = np.zeros(hardware.grid_rows * hardware.ou_rows, dtype=bool)
    index = pack = 0
    for bit in reversed(range(prepared.bits)):
        for what in walk(packing, x, streamed[:, bit], last_bit, half, bit):
            if isinstance(what, Latched):
                pack = what.pack
            elif isinstance(what, Formed):
                lines = np.pad(what.rows, (0, lines.size - what.rows.size))
            elif isinstance(what, Activated):
                group = what.group
                values, _ = search.pair(np.full(what.positive.shape, what.k), what.positive, what.negative)
                yield PairRecord(
                    index, pack, bit, group.block_col, group.plane, group.pair, group.ou_col, lines, values, what.live
                )
                index += 1
