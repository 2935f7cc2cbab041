"""Pictures of the report, as text that goes straight into an HTML page.

Figures are SVG without a background; text and axes take the colour of the page (`currentColor`), data
colours are mid-tones that read on light and dark. Small images are PNG data addresses. Output depends
on the input only: no dates, no random identifiers.
"""

from __future__ import annotations

import base64
import io
import re
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import matplotlib

matplotlib.use("svg")

import matplotlib.pyplot as plt
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

#: Colour that stands for "the page's text colour" until the SVG is written.
_INK = "#010203"
#: Machines in bar charts, baseline first.
MACHINES = ("#8a94a6", "#d99a3d", "#1f9e89")
R1, R2 = "#1f9e89", "#d9823b"
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "ohmloom",
    "font.family": "sans-serif",
    "font.sans-serif": ["system-ui", "DejaVu Sans"],
    "font.size": 10,
    "text.color": _INK,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "legend.frameon": False,
    "legend.fontsize": 9,
    "axes.linewidth": 0.8,
}
#: Bit planes 0..8: grey for pruned blocks, then light to dark.
_WIDTH_COLOURS = ["#b9bec7", "#d7e8a5", "#a9d67c", "#6cc079", "#35a884", "#1f8c8a", "#2a6f8e", "#3a5189", "#432f78"]


def svg(figure: Figure, title: str) -> Markup:
    """The figure as an inline SVG element with `title` for screen readers; closes the figure.

    The result is marked as finished markup, so that a template that escapes texts leaves it alone.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": None})
    plt.close(figure)
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(_INK, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    size = re.search(r'<svg[^>]*?width="([\d.]+)pt"', text)
    assert size is not None
    text = re.sub(r'(<svg[^>]*?) width="[\d.]+pt"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[\d.]+pt"', r"\1", text, count=1)
    width = float(size.group(1)) * 96 / 72
    escaped = title.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    return Markup(
        text.replace(
            "<svg", f'<svg role="img" aria-label="{escaped}" style="width:{width:.0f}px;max-width:100%;height:auto"', 1
        )
    )


def png(pixels: np.ndarray) -> str:
    """uint8 (H, W) grey or (H, W, 3) colour -> data address of a PNG."""
    pixels = np.ascontiguousarray(pixels, dtype=np.uint8)
    height, width = pixels.shape[:2]
    kind = 0 if pixels.ndim == 2 else 2
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(data).decode()


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    with plt.rc_context(_STYLE):
        return plt.subplots(figsize=(width, height))


def _beside(axes: Axes, x: float, y: float, text: str, points: float, **style: Any) -> None:
    """Text to the right of a data point, `points` away."""
    axes.annotate(text, (x, y), xytext=(points, 0), textcoords="offset points", va="center", ha="left", **style)


def accuracy_ladder(stages: Sequence[str], accuracies: Sequence[float]) -> Markup:
    """Accuracy (0..1) of every stage, as points: the axis does not start at 0, so lengths must not be compared."""
    with plt.rc_context(_STYLE):
        figure, axes = _axes(6.4, 0.5 + 0.38 * len(stages))
        percent = 100 * np.asarray(accuracies, dtype=float)
        lowest, highest = percent.min(), percent.max()
        margin = max(0.5, 0.5 * (highest - lowest))
        start = max(0.0, np.floor((lowest - margin) * 2) / 2)
        places = np.arange(len(stages))[::-1]
        axes.hlines(places, start, percent, color=MACHINES[0], lw=1, ls=(0, (1, 2)))
        axes.plot(percent, places, "o", color=R1, ms=8)
        for place, value in zip(places, percent, strict=True):
            _beside(axes, value, place, f"{value:.2f} %", 8)
        axes.set_yticks(places, list(stages))
        axes.set_ylim(-0.6, len(stages) - 0.4)
        axes.set_xlim(start, max(highest + 0.18 * (highest - start), start + 0.1))
        axes.set_xlabel(f"correct, % (axis starts at {start:g} %)")
        return svg(figure, "Accuracy after every step")


def width_map(widths: np.ndarray, weight_bits: int) -> Markup:
    """Bit planes of every block: segments downward, block columns to the right."""
    with plt.rc_context(_STYLE):
        turn = widths.shape[0] > 2 * widths.shape[1]
        shown = widths.T if turn else widths
        aspect = shown.shape[0] / shown.shape[1]
        width = float(np.clip(0.16 * shown.shape[1], 1.6, 6.4))
        figure, axes = _axes(width, float(np.clip(width * aspect, 0.5, 6.0)))
        colours = ListedColormap(_WIDTH_COLOURS[: weight_bits + 1])
        norm = BoundaryNorm(np.arange(-0.5, weight_bits + 1), weight_bits + 1)
        axes.pcolormesh(
            np.arange(shown.shape[1] + 1),
            np.arange(shown.shape[0] + 1),
            shown,
            cmap=colours,
            norm=norm,
            lw=0,
            rasterized=True,
        )
        axes.set_ylim(shown.shape[0], 0)
        axes.set_aspect("equal")
        names = ("block column", "segment")
        axes.set_ylabel(names[0] if turn else names[1])
        axes.set_xlabel(names[1] if turn else names[0])
        for axis, size in ((axes.xaxis, shown.shape[1]), (axes.yaxis, shown.shape[0])):
            axis.set_major_locator(MaxNLocator(1 if size < 4 else 5, integer=True))
        return svg(figure, "Bit planes of every block")


def width_legend(weight_bits: int) -> list[tuple[str, str]]:
    """(label, colour) of every width, for a legend in HTML."""
    return [("pruned" if p == 0 else str(p), _WIDTH_COLOURS[p]) for p in range(weight_bits + 1)]


def count_histogram(histogram: np.ndarray, range_flag: np.ndarray, operations: np.ndarray) -> Markup:
    """How often each count was converted, coloured by the range it ends in, with its A/D operations.

    histogram, range_flag, operations : (ou_rows + 1,), index = count.
    """
    with plt.rc_context(_STYLE):
        figure, axes = _axes(4.6, 2.5)
        counts = np.arange(len(histogram))
        share = 100 * histogram / max(1, histogram.sum())
        in_r1 = np.asarray(range_flag) == 0
        for first, last in _runs(in_r1):
            axes.axvspan(first - 0.5, last + 0.5, color=R1, alpha=0.16, lw=0)
        axes.bar(counts, share, color=[R1 if r1 else R2 for r1 in in_r1], width=0.8)
        axes.set_ylabel("conversions, %")
        axes.set_xlabel("count on the bit line")
        axes.set_xlim(-0.6, len(counts) - 0.4)
        axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
        second = axes.twinx()
        second.step(counts, operations, where="mid", color=_INK, lw=1.1, ls=(0, (3, 2)))
        second.set_ylim(0, max(operations) + 1.2)
        second.set_ylabel("A/D operations")
        second.spines["right"].set_visible(True)
        second.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        handles = [Patch(color=R2, label="R2" if in_r1.any() else "uniform")]
        if in_r1.any():
            handles.insert(0, Patch(color=R1, label="R1 window"))
        axes.legend(handles=handles, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, borderaxespad=0.1)
        return svg(figure, "Counts on the bit lines and the two conversion ranges")


def _runs(mask: np.ndarray) -> list[tuple[int, int]]:
    """First and last index of every run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], np.asarray(mask, dtype=int), [0]])))
    return [(int(a), int(b) - 1) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def layer_bars(layers: Sequence[str], machines: Sequence[tuple[str, Sequence[float]]], label: str) -> Markup:
    """Grouped horizontal bars on a logarithmic axis: one group per layer, one bar per machine."""
    with plt.rc_context(_STYLE):
        figure, axes = _axes(4.9, 0.7 + 0.19 * len(layers) * (len(machines) + 0.6))
        height = 0.8 / len(machines)
        places = np.arange(len(layers))[::-1].astype(float)
        positive = [v for _, values in machines for v in values if v > 0]
        floor = 10 ** np.floor(np.log10(min(positive, default=1.0)) - 0.01)
        for i, (name, values) in enumerate(machines):
            where = places + 0.4 - height * (i + 0.5)
            heights = np.maximum(np.asarray(values, dtype=float), floor)
            axes.barh(where, heights - floor, left=floor, height=height * 0.92, color=MACHINES[i], label=name)
            for y, value, end in zip(where, values, heights, strict=True):
                _beside(axes, end, y, short(value), 3, fontsize=8)
        axes.set_xscale("log")
        axes.set_xlim(floor, max(positive, default=10.0) * 4)
        axes.set_yticks(places, list(layers))
        axes.set_xlabel(f"{label} (logarithmic)")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(machines))
        return svg(figure, label)


def stacked_bars(machines: Sequence[str], parts: Sequence[tuple[str, Sequence[float]]], label: str) -> Markup:
    """One stacked horizontal bar per machine."""
    colours = ["#1f9e89", "#d9823b", "#5b7fb5", "#a87cb3", "#b9a13d", "#8a94a6"]
    with plt.rc_context(_STYLE):
        figure, axes = _axes(6.8, 0.9 + 0.42 * len(machines))
        places = np.arange(len(machines))[::-1]
        start = np.zeros(len(machines))
        for i, (name, values) in enumerate(parts):
            axes.barh(places, values, left=start, color=colours[i % len(colours)], height=0.6, label=name)
            start = start + np.asarray(values, dtype=float)
        for place, total in zip(places, start, strict=True):
            _beside(axes, total, place, short(total), 4, fontsize=9)
        axes.set_yticks(places, list(machines))
        axes.set_xlim(0, max(float(start.max()), 1e-12) * 1.15)
        axes.set_xlabel(label)
        axes.legend(loc="lower center", bbox_to_anchor=(0.45, 1.0), ncols=3)
        return svg(figure, label)


def short(value: float) -> str:
    """A number with three significant digits and a decimal multiple: 1234567 -> 1.23 M."""
    value = float(value)
    for limit, suffix in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= 0.9995 * limit:
            return f"{value / limit:.3g}{suffix}"
    return f"{value:.3g}"
