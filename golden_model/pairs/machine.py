"""Clocks of the pair machine as the hardware keeps them, exact (*ours*; rtl/pair_macro.py).

Tables (rtl/pack_builder.py), once per layer: `build_clocks`.

A window (rtl/pair_macro.py), both halves side by side. Every half has a walker, which forms OUs, and converters. One
clock each takes the walker

* a pack, for every input bit that any segment of the window streams: its slice is latched, or it is skipped;
* a mask of a latched pack of which no row is on;
* an OU that is formed; the one before the last must have been sampled for its last group in an earlier clock.

An OU can be sampled in the clock after it was formed. An activation begins with its sample and lasts
max(1, sample_interval, most decisions of its lanes) clocks; the next one may be sampled in its last clock. The window
ends `CONVERT` clocks after the later half has sampled, converted and walked everything.
"""

from __future__ import annotations

from golden_model.pairs.packs import Packing

#: Clocks from the last decision of a window to `window_done`: taking the values, shifting, adding.
CONVERT = 3


# ---- tables -------------------------------------------------------------------------------------
def build_clocks(packing: Packing) -> int:
    """Clocks from `start` to `built`.

    1 + the sum over packs of 2 * groups + 1, of segments + 1 for every block column, and for every group the place of
    its mask among the masks of the pack, counted from 1.
    """
    block_cols = packing.prepared.widths.shape[1]
    clocks = 1
    for pack in packing.packs:
        searched = sum(place * len(mask.groups) for place, mask in enumerate(pack.masks, 1))
        clocks += block_cols * (pack.segments + 1) + searched + 2 * pack.groups + 1
    return clocks
