"""The macro: a bank of crossbar pairs with its A/D lanes, shift-and-add lanes and scheduler."""

from __future__ import annotations

from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from golden_model.config import HardwareConfig
from rtl import layouts
from rtl.interfaces import ConversionPort


class Macro(wiring.Component):
    """Computes the partial sums of one window: every OU activation of every segment (system.md §5).

    Timing: from `window_start` to `window_done`
    W + Σ_r max(C_r, W, 0 in place of W after the last segment) + `window_overhead` clocks, with
    W = settings.block_cols and C_r the sum over the OU activations of segment r of
    max(1, sample_interval, most A/D operations of any started lane), as long as the crossbar is always
    ready and every segment is there when the macro asks for it.

    Parameters
    ----------
    config : sizes.

    Members
    -------
    settings : descriptor of the running layer. Stable from two clocks before `window_start` until
        `window_done`.
    layer : index of the running layer, forwarded to the crossbar.
    window_start : strobe, accepted while no window is running. Ignored if `configuration_error` is 1.
    segments : stream of `layouts.segment`, `settings.segments` beats a window in ascending order. A beat
        is consumed when the macro switches to the segment, at most one a clock; a late beat stalls.
    window_done : strobe; from this clock on the partial sums are readable and the counters are up to
        date. `window_start` may be given in this clock at the earliest.
    sums_address, sums_data : partial sums of block column `sums_address`, combinational (same clock).
        Valid from `window_done` until the next `window_start`; words at and above W are not valid.
    width_write : write port of the width table; may be used while no window is running.
    crossbar : the analog macro, or a model of it.
    counters : event counters, all but `cycles`. counters_clear : strobe, clears `counters`, `overflow` and
        the sticky part of `configuration_error`; may come with `window_start` but not during a window.
    overflow : sticky, a partial sum did not fit `accumulator_bits` and was saturated.
    configuration_error : 1 from the clock after illegal A/D registers (system.md §4.1) are on `settings`
        for as long as they are there; sticky if a window was started with them.
    trace : one strobe per OU activation, in order, in the clock after its last A/D operation.
    """

    def __init__(self, config: HardwareConfig):
        self.config = config
        super().__init__(
            {
                "settings": In(layouts.layer_settings(config)),
                "layer": In(layouts.layer_index(config)),
                "window_start": In(1),
                "segments": In(stream.Signature(layouts.segment(config))),
                "window_done": Out(1),
                "sums_address": In(layouts.block_column(config)),
                "sums_data": Out(layouts.partial_sums(config)),
                "width_write": In(layouts.width_write(config)),
                "crossbar": Out(ConversionPort(config)),
                "counters": Out(layouts.counters(config)),
                "counters_clear": In(1),
                "overflow": Out(1),
                "configuration_error": Out(1),
                "trace": Out(layouts.trace(config)),
            }
        )

    @property
    def window_overhead(self) -> int:
        """Clocks of a window beside expansion and conversion; part of c_window."""
        return 4

    def elaborate(self, platform):
        raise NotImplementedError
