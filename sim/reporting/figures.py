"""Figures of the report, as SVG text that goes straight into an HTML page.

Text and lines take the colour of the page (`currentColor`), data colours are mid-tones that read on light and dark.
Every figure is drawn at its own size in CSS pixels and fits a telephone; none has a background. Small images are PNG
data addresses. Output depends on the input only.
"""

from __future__ import annotations

import base64
import math
import struct
import zlib
from collections.abc import Iterable, Sequence
from colorsys import hls_to_rgb
from html import escape
from typing import Any

import numpy as np
from markupsafe import Markup

R1, R2 = "#1f9e89", "#d9823b"
#: Groups of components, or kinds of nodes, one colour each.
COLOURS = (
    "#1f9e89", "#d9823b", "#5b7fb5", "#a87cb3", "#b9a13d", "#8a94a6", "#c2607a", "#6aa84f", "#3f8fb0", "#9c6b4a",
)  # fmt: skip
#: Bit planes 0..8: grey for pruned blocks, then light to dark.
_WIDTH_COLOURS = ("#b9bec7", "#d7e8a5", "#a9d67c", "#6cc079", "#35a884", "#1f8c8a", "#2a6f8e", "#3a5189", "#432f78")


def colour(index: int) -> str:
    """A colour "#rrggbb" for every index, different from all others."""
    if index < len(COLOURS):
        return COLOURS[index]
    lightness = 0.55 - 0.12 * (index // len(COLOURS) % 3 - 1)
    return "#" + "".join(f"{round(255 * x):02x}" for x in hls_to_rgb(index * 137.508 % 360 / 360, lightness, 0.45))


# ---- writing SVG --------------------------------------------------------------------------------
def _number(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _tag(name: str, text: str | None = None, **attributes: Any) -> str:
    """An SVG element; `_` in an attribute's name is `-`, numbers get two decimals, `text` is escaped."""
    shown = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_number(v) if isinstance(v, int | float) else escape(str(v))}"'
        for key, v in attributes.items()
    )
    return f"<{name}{shown}/>" if text is None else f"<{name}{shown}>{escape(text)}</{name}>"


def _text(x: float, y: float, text: str, anchor: str = "start", **attributes: Any) -> str:
    return _tag("text", text, x=x, y=y, text_anchor=anchor, **attributes)


def _cut(text: str, most: int) -> str:
    """At most so many characters; the end of a long name tells more than its beginning."""
    return text if len(text) <= most else "…" + text[1 - most :]


def _svg(width: float, height: float, parts: Iterable[str], title: str, **style: str) -> Markup:
    """The figure, `title` for people who cannot see it; narrower pages shrink it."""
    css = "".join(f";{key.replace('_', '-')}:{value}" for key, value in style.items())
    return Markup(
        f'<svg role="img" aria-label="{escape(title)}" viewBox="0 0 {_number(width)} {_number(height)}" '
        f'style="width:{_number(width)}px;max-width:100%;height:auto{css}">{"".join(parts)}</svg>'
    )


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(pixels: np.ndarray, palette: Sequence[str] | None = None) -> str:
    """uint8 (H, W) grey or (H, W, 3) colour -> data address of a PNG.

    palette : "#rrggbb" of every value of (H, W); values beyond it are transparent.
    """
    pixels = np.ascontiguousarray(pixels, dtype=np.uint8)
    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    kind, more = (0 if pixels.ndim == 2 else 2), b""
    if palette is not None:
        kind = 3
        colours = b"".join(bytes.fromhex(one[1:]) for one in palette) + b"\0\0\0"
        more = _chunk(b"PLTE", colours) + _chunk(b"tRNS", b"\xff" * len(palette) + b"\0")
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + header + more + _chunk(b"IDAT", zlib.compress(rows, 9)) + _chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(data).decode()


# ---- the graph ----------------------------------------------------------------------------------
_ROW, _LANE, _NODE_WIDTH = 40, 14, 330


def graph(nodes: Sequence[dict[str, Any]], colours: dict[str, str]) -> list[Markup]:
    """One small figure per node, in the order of computation; stacked without gaps they are the drawing of the graph.

    nodes : with "name", "inputs", "kind", "first" and "second" line of text. colours : of every kind.
    An edge runs in a lane from its node down to its last consumer; lanes are used again.
    """
    last_use = {name: index for index, node in enumerate(nodes) for name in node["inputs"]}
    lanes: list[str | None] = []  # node whose output runs in each lane
    drawn = []
    for index, node in enumerate(nodes):
        before = list(lanes)
        for lane, name in enumerate(lanes):
            if name is not None and last_use.get(name, -1) <= index:
                lanes[lane] = None
        wanted = [lane for lane, name in enumerate(before) if name in node["inputs"][:1]]
        free = [lane for lane in [*wanted, *range(len(lanes))] if lanes[lane] is None]
        mine = free[0] if free else len(lanes)
        if mine == len(lanes):
            lanes.append(None)
        lanes[mine] = node["name"] if node["name"] in last_use else None
        drawn.append((node, before, list(lanes), mine))
    left = _LANE * max(len(after) for *_, after, _ in drawn) + 8
    return [_node(*row, left=left, colours=colours) for row in drawn]


def _node(
    node: dict[str, Any],
    before: list[str | None],
    after: list[str | None],
    mine: int,
    *,
    left: float,
    colours: dict[str, str],
) -> Markup:
    def x(lane: int) -> float:
        return _LANE * (lane + 0.5)

    middle, parts = _ROW / 2, []
    line = {"fill": "none", "stroke": "currentColor", "stroke_width": 1.5, "opacity": 0.55}
    for lane, name in enumerate(before):
        if name is None:
            continue
        if name in node["inputs"]:
            parts.append(
                _tag(
                    "path", d=f"M{x(lane)} 0 C{x(lane)} {middle / 2} {x(mine)} {middle / 2} {x(mine)} {middle}", **line
                )
            )
        if after[lane] == name:
            parts.append(_tag("path", d=f"M{x(lane)} 0 V{_ROW}", **line))
    if after[mine] == node["name"]:
        parts.append(_tag("path", d=f"M{x(mine)} {middle} V{_ROW}", **line))
    parts.append(_tag("circle", cx=x(mine), cy=middle, r=5.5, fill=colours[node["kind"]]))
    parts.append(_text(left, 17, _cut(node["first"], 44), class_="strong"))
    parts.append(_text(left, 32, _cut(node["second"], 58), class_="soft"))
    return _svg(left + _NODE_WIDTH, _ROW, parts, f"{node['first']}: {node['second']}", display="block")


# ---- block widths -------------------------------------------------------------------------------
#: Most squares of a width map along one direction; more blocks share a square.
_MOST_SQUARES = 512
_MAP_WIDTH, _MAP_HEIGHT = 620, 300


def width_map(widths: Sequence[np.ndarray], weight_bits: int) -> tuple[Markup, int]:
    """Bit planes of every block: segments to the right, block columns downward; groups below each other.

    widths : (segments, block columns) of every group. Returns the figure, and how many blocks a square has along each
    edge (their mean is shown).
    """
    whole = np.concatenate([np.asarray(w).T for w in widths], axis=0)  # (block columns, segments)
    each = max(1, -(-max(whole.shape) // _MOST_SQUARES)) if len(widths) == 1 else max(1, -(-whole.shape[1] // 512))
    if each > 1:
        room = [-(-n // each) * each for n in whole.shape]
        padded = np.full(room, np.nan)
        padded[: whole.shape[0], : whole.shape[1]] = whole
        squares = padded.reshape(room[0] // each, each, room[1] // each, each)
        whole = np.floor(np.nanmean(squares, axis=(1, 3)) + 0.5)
    blank = weight_bits + 1
    rows, columns = whole.shape
    if rows > 32 and columns < rows // 8:  # a tall narrow map goes on to the right, with a gap
        height = max(8, int(np.ceil(np.sqrt(rows * (columns + 1) / 2))))
        parts = []
        for first in range(0, rows, height):
            part = np.full((height, columns + 1), blank)
            part[: len(whole[first : first + height]), :columns] = whole[first : first + height]
            parts.append(part)
        whole = np.concatenate(parts, axis=1)[:, :-1]
        rows, columns = whole.shape
    square = float(np.clip(min(_MAP_WIDTH / columns, _MAP_HEIGHT / rows), 1.2, 11))
    width, height = columns * square, rows * square
    parts = [
        _tag("image", href=png(whole, _WIDTH_COLOURS[: weight_bits + 1]), width=width, height=height,
             preserveAspectRatio="none", style="image-rendering:pixelated"),
    ]  # fmt: skip
    for every, opacity in ((1, 0.3), (10, 0.9)):
        if square * every >= 5:
            lines = [f"M{_number(i * square)} 0V{_number(height)}" for i in range(0, columns + 1, every)]
            lines += [f"M0 {_number(i * square)}H{_number(width)}" for i in range(0, rows + 1, every)]
            parts.append(
                _tag("path", d="".join(lines), stroke="#1d2430", stroke_width=0.6, opacity=opacity, fill="none")
            )
    return _svg(width, height, parts, "Bit planes of every block"), each


def width_legend(weight_bits: int) -> list[tuple[str, str]]:
    """(label, colour) of every width, for a legend in HTML."""
    return [("pruned" if p == 0 else str(p), _WIDTH_COLOURS[p]) for p in range(weight_bits + 1)]


# ---- histograms ---------------------------------------------------------------------------------
def bars(values: Sequence[float], labels: Sequence[str], colours: Sequence[str], label: str) -> Markup:
    """Upright bars with their share of the sum above them; labels below."""
    share = np.asarray(values, dtype=float) / max(1.0, float(np.sum(values)))
    width, height, top, bottom = 44.0 * len(share), 120.0, 16.0, 34.0
    step, scale = width / len(share), height / max(float(share.max()), 1e-9)
    parts = []
    for i, (part, name, fill) in enumerate(zip(share, labels, colours, strict=True)):
        high, x = part * scale, (i + 0.5) * step
        parts.append(_tag("rect", x=x - 0.4 * step, y=top + height - high, width=0.8 * step, height=high, fill=fill))
        parts.append(_text(x, top + height - high - 4, _percent(part), "middle", font_size=10))
        parts.append(_text(x, top + height + 13, name, "middle"))
    parts.append(_tag("path", d=f"M0 {top + height}H{width}", stroke="currentColor", opacity=0.6))
    parts.append(_text(width / 2, top + height + bottom - 5, label, "middle", class_="soft"))
    return _svg(width, top + height + bottom, parts, label)


def _percent(share: float) -> str:
    percent = 100 * share
    return "0" if share == 0 else "<.1" if percent < 0.05 else f"{percent:.1f}" if percent < 10 else f"{percent:.0f}"


def count_histogram(histogram: np.ndarray, range_flag: np.ndarray, operations: np.ndarray, *, first: int = 0) -> Markup:
    """How often each count, or difference of two, was converted, coloured by its range, with its A/D operations.

    histogram, range_flag, operations : (values,), of the values from `first` on, which is 0 for counts.
    """
    counts, in_r1 = len(histogram), np.asarray(range_flag) == 0
    share = np.asarray(histogram) / max(1, int(np.sum(histogram)))
    left, right, top, width, height = 34.0, 20.0, 22.0, 256.0, 112.0
    step, highest = width / counts, max(float(share.max()), 1e-9)
    most = int(np.ceil(max(operations)))
    parts = [
        _tag("rect", x=left + a * step, y=top, width=(b - a + 1) * step, height=height, fill=R1, opacity=0.15)
        for a, b in _runs(in_r1)
    ]
    for i, part in enumerate(share):
        high = part / highest * height
        parts.append(_tag("rect", x=left + (i + 0.12) * step, y=top + height - high, width=0.76 * step, height=high,
                          fill=R1 if in_r1[i] else R2))  # fmt: skip
    every = -(-counts // 12)
    for i in range(0, counts, every):
        parts.append(_text(left + (i + 0.5) * step, top + height + 13, str(first + i), "middle"))
    for value in (0.0, highest):
        parts.append(_text(left - 4, top + height * (1 - value / highest) + 4, f"{100 * value:.0f}", "end"))

    def level(decisions: float) -> float:
        return top + height * (1 - decisions / (most + 1))

    steps = "".join(
        f"{'M' if i == 0 else 'L'}{_number(left + i * step)} {_number(level(n))}H{_number(left + (i + 1) * step)}"
        for i, n in enumerate(operations)
    )
    parts.append(_tag("path", d=steps, fill="none", stroke="currentColor", stroke_dasharray="4 2"))
    for n in (0, most):
        parts.append(_text(left + width + 4, level(n) + 4, str(n)))
    parts.append(_tag("path", d=f"M{left} {top}V{top + height}H{left + width}V{top}", stroke="currentColor",
                      fill="none", opacity=0.6))  # fmt: skip
    parts.append(_text(0, 12, "% of conversions", class_="soft"))
    parts.append(_text(left + width + right, 12, "A/D operations (dashed)", "end", class_="soft"))
    below = "difference of the column pair" if first else "count on the bit line"
    parts.append(_text(left + width / 2, top + height + 28, below, "middle", class_="soft"))
    what = "Differences of column pairs" if first else "Counts on the bit lines and the conversion ranges"
    return _svg(left + width + right, top + height + 34, parts, what)


def _runs(mask: np.ndarray) -> list[tuple[int, int]]:
    """First and last index of every run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], np.asarray(mask, dtype=int), [0]])))
    return [(int(a), int(b) - 1) for a, b in zip(edges[::2], edges[1::2], strict=True)]


# ---- the machine --------------------------------------------------------------------------------
#: Crossbar pairs up to which each has a figure of its own, with its number and its filling below it.
_MOST_PLANS = 128


def floor_plan(pairs: Sequence[dict[str, Any]], colours: Sequence[str]) -> list[Markup]:
    """Every crossbar pair as a box of places for OUs, in the colour of the node whose planes lie there.

    pairs : from `overall.floor`. colours : of its nodes. Returns a figure each, or one of very many.
    """
    rows, columns = np.array(pairs[0]["places"]).shape
    if len(pairs) > _MOST_PLANS:
        across = max(1, 640 // (2 * columns + 4))
        drawn = [
            part
            for i, pair in enumerate(pairs)
            for part in _plan(pair, colours, 2, i % across * (2 * columns + 4), i // across * (2 * rows + 4))
        ]
        high = -(-len(pairs) // across) * (2 * rows + 4)
        return [_svg(across * (2 * columns + 4), high, drawn, "Floor plan of the crossbar pairs")]
    size, made = min(5.0, max(2.0, 70 / columns)), []
    wide, high = max(columns * size + 1, 56), rows * size + 1
    for index, pair in enumerate(pairs):
        filled = f"{index}: {100 * pair['ous'] / (rows * columns):.0f} %"
        parts = [*_plan(pair, colours, size, 0, 0), _text(wide / 2, high + 12, filled, "middle", font_size=10)]
        made.append(_svg(wide, high + 16, parts, f"Crossbar pair {filled} taken"))
    return made


def _plan(pair: dict[str, Any], colours: Sequence[str], size: float, x: float, y: float) -> list[str]:
    places = np.array(pair["places"])
    used = np.unique(places[places >= 0])
    pixels = np.where(places < 0, len(used), np.searchsorted(used, places))
    box: dict[str, Any] = {"x": x + 0.5, "y": y + 0.5, "width": size * len(places[0]), "height": size * len(places)}
    return [
        _tag("image", href=png(pixels, [colours[int(node)] for node in used]), preserveAspectRatio="none",
             style="image-rendering:pixelated", **box),
        _tag("rect", fill="none", stroke="currentColor", stroke_width=0.7, opacity=0.6, **box),
    ]  # fmt: skip


def lanes_over_time(rows: Sequence[dict[str, Any]], lanes: int, colours: Sequence[str]) -> Markup:
    """How many converters are busy on average, one block per row: as wide as its clocks, as high as its busy lanes.

    rows : with "node", "cycles" and "busy", the share of converter clocks that are used.
    """
    left, top, width, height = 40.0, 20.0, 640.0, 150.0
    total = sum(row["cycles"] for row in rows) or 1.0
    parts, x = [_text(0, 12, f"A/D lanes busy, of {lanes}", class_="soft")], left
    for row, fill in zip(rows, colours, strict=True):
        wide, high = row["cycles"] / total * width, row["busy"] * height
        tip = f"{row['node']}: {row['busy'] * lanes:.1f} lanes busy for {row['cycles']:,.0f} clocks"
        parts.append(
            f'<rect x="{_number(x)}" y="{_number(top + height - high)}" width="{_number(max(wide, 0.3))}" '
            f'height="{_number(high)}" fill="{fill}">{_tag("title", tip)}</rect>'
        )
        shown = _cut(row["node"], max(2, int(wide / 6.2)))
        if wide > 26:
            parts.append(_text(x + wide / 2, top + height - high - 4, shown, "middle", font_size=10))
        x += wide
    mean = sum(row["busy"] * row["cycles"] for row in rows) / total
    level = top + height * (1 - mean)
    parts.append(_tag("path", d=f"M{left} {_number(level)}H{left + width}", stroke="currentColor",
                      stroke_dasharray="4 3", opacity=0.8))  # fmt: skip
    parts += _axes(left, top, width, height)
    for share in (0, 0.25, 0.5, 0.75, 1):
        parts.append(_text(left - 5, top + height * (1 - share) + 4, f"{share * lanes:g}", "end"))
        anchor = "start" if share == 0 else "end" if share == 1 else "middle"
        parts.append(_text(left + share * width, top + height + 14, short(share * total), anchor))
    parts.append(_text(left + width / 2, top + height + 30, "clocks of one picture", "middle", class_="soft"))
    return _svg(left + width + 8, top + height + 36, parts, "A/D lanes that are busy, over the layers")


def _axes(left: float, top: float, width: float, height: float) -> list[str]:
    d = f"M{_number(left)} {_number(top)}V{_number(top + height)}H{_number(left + width)}"
    return [_tag("path", d=d, fill="none", stroke="currentColor", opacity=0.6)]


#: Where the number of a point may stand, best first.
_AROUND = ((0.8, -0.6), (-0.8, -0.6), (0.8, 0.7), (-0.8, 0.7), (0, -1), (0, 1.1), (1, 0), (-1, 0))


def scatter(
    points: Sequence[tuple[float, float]], x_name: str, y_name: str, title: str, *, log_y: bool = False
) -> Markup:
    """Numbered points, in the order of a table beside them; x is logarithmic, y if `log_y`. The last one stands out."""
    left, top, width, height = 58.0, 24.0, 420.0, 200.0
    x_of, x_ticks = _scale([x for x, _ in points], log=True)
    y_of, y_ticks = _scale([y for _, y in points], log=log_y)
    parts = [_text(0, 12, y_name, class_="soft"), *_axes(left, top, width, height)]
    for value, shown in x_ticks:
        x = left + x_of(value) * width
        parts.append(_tag("path", d=f"M{_number(x)} {top}v{height}", stroke="currentColor", opacity=0.15))
        parts.append(_text(x, top + height + 14, shown, "middle"))
    for value, shown in y_ticks:
        y = top + height * (1 - y_of(value))
        parts.append(_tag("path", d=f"M{left} {_number(y)}h{width}", stroke="currentColor", opacity=0.15))
        parts.append(_text(left - 5, y + 4, shown, "end"))
    places = [(left + x_of(x) * width, top + height * (1 - y_of(y))) for x, y in points]
    taken = [(x, y + 4) for x, y in places]
    for i, (px, py) in enumerate(places):
        last = i == len(points) - 1
        parts.append(_tag("circle", cx=px, cy=py, r=6 if last else 4.5, fill=R2 if last else R1))
        around = [(px + r * x, py + 4 + r * y) for r in (13, 22, 31) for x, y in _AROUND]
        spot = next((s for s in around if all(math.dist(s, other) > 12 for other in taken)), around[0])
        taken.append(spot)
        parts.append(_text(*spot, str(i + 1), "middle", class_="strong"))
    parts.append(_text(left + width / 2, top + height + 31, x_name, "middle", class_="soft"))
    return _svg(left + width + 20, top + height + 38, parts, title)


def _scale(values: Sequence[float], *, log: bool) -> tuple[Any, list[tuple[float, str]]]:
    """Value -> 0..1, and ticks; the ends lie a little outside the values."""
    if not log:
        margin = max(0.1, 0.15 * (max(values) - min(values)))
        low, high = min(values) - margin, max(values) + margin
        each = 10 ** math.floor(math.log10((high - low) / 2))
        each = next(each * k for k in (1, 2, 5, 10) if (high - low) / (each * k) <= 6)
        ticks = [i * each for i in range(math.ceil(low / each), math.floor(high / each) + 1)]
        digits = max(0, -math.floor(math.log10(each)))
        return lambda v: (v - low) / (high - low), [(v, f"{v:.{digits}f}") for v in ticks]
    low, high = math.log10(min(values)), math.log10(max(values))
    margin = max(0.1, 0.08 * (high - low))
    low, high = low - margin, high + margin
    factors = (
        (1,) if high - low > 3 else (1, 3) if high - low > 1.2 else (1, 2, 5) if high - low > 0.6 else range(1, 10)
    )
    ticks = [k * 10.0**e for e in range(math.floor(low), math.ceil(high) + 1) for k in factors]
    inside = [v for v in ticks if low <= math.log10(v) <= high]
    return lambda v: (math.log10(v) - low) / (high - low), [(v, short(v)) for v in inside]


def pairs_of_bars(names: Sequence[str], a: Sequence[float], b: Sequence[float], title: str) -> Markup:
    """Two bars to the right for every name, on one scale, with their values."""
    left, width, each, most = 130.0, 300.0, 26.0, max([*a, *b, 1e-9])
    parts = []
    for i, (name, *values) in enumerate(zip(names, a, b, strict=True)):
        parts.append(_text(left - 6, i * each + 16, _cut(name, 20), "end"))
        for j, (value, fill) in enumerate(zip(values, (COLOURS[2], COLOURS[1]), strict=True)):
            y, wide = i * each + 3 + 10 * j, value / most * width
            parts.append(_tag("rect", x=left, y=y, width=wide, height=9, fill=fill))
            parts.append(_text(left + wide + 4, y + 8, short(value), font_size=9))
    parts.append(_tag("path", d=f"M{left} 0V{_number(len(names) * each)}", stroke="currentColor", opacity=0.6))
    return _svg(left + width + 60, len(names) * each + 2, parts, title)


def confusion(counts: Sequence[Sequence[int]]) -> Markup:
    """Table of many classes as a picture: true classes downward, chosen ones to the right, dark is often."""
    whole = np.asarray(counts, dtype=float)
    share = whole / np.maximum(1, whole.sum(axis=1, keepdims=True))
    shades = 16
    ramp = [f"#{r:02x}{g:02x}{b:02x}" for r, g, b in np.linspace((238, 243, 241), (12, 92, 78), shades).astype(int)]
    size = max(2.0, min(8.0, 480.0 / len(whole)))
    left, top, edge = 26.0, 20.0, len(whole) * size
    parts = [
        _tag("image", href=png(np.ceil(share * (shades - 1)), ramp), x=left, y=top, width=edge, height=edge,
             preserveAspectRatio="none", style="image-rendering:pixelated"),
        _text(left, 12, f"true class, 0 to {len(whole) - 1} downward", class_="soft"),
        _text(left + edge / 2, top + edge + 16, "class that was chosen, to the right", "middle", class_="soft"),
    ]  # fmt: skip
    return _svg(left + edge + 8, top + edge + 24, parts, "Which classes are taken for which")


# ---- memory -------------------------------------------------------------------------------------
def memory(buffers: Sequence[dict[str, Any]], labels: Sequence[str], used: int, colours: Sequence[str]) -> Markup:
    """Where every buffer lies (down: addresses), from the step that writes it to the last that reads it (to the right).

    buffers : as from `collect.memory_map`; first and last are indices of `labels`, which name the places along the time
    axis, -1 is before the run.
    """
    width, height, left, top = 640.0, 260.0, 58.0, 18.0
    step = width / (len(labels) + 1)
    parts = []
    for buffer, fill in zip(buffers, colours, strict=True):
        name = ", ".join(buffer["tensors"])
        x, y = left + (buffer["first"] + 1) * step, top + buffer["base"] / used * height
        wide, high = (buffer["last"] - buffer["first"] + 1) * step, buffer["size"] / used * height
        tip = f"{name}: bytes {buffer['base']:,} to {buffer['base'] + buffer['size'] - 1:,}"
        parts.append(
            f'<rect x="{_number(x)}" y="{_number(y)}" width="{_number(wide)}" height="{_number(max(high, 1))}" '
            f'fill="{fill}" stroke="currentColor" stroke-width=".5" fill-opacity=".75">{_tag("title", tip)}</rect>'
        )
        shown = buffer["tensors"][0] + (" …" if len(buffer["tensors"]) > 1 else "")
        if high >= 12 and wide >= 6.5 * len(shown):
            parts.append(_text(x + 4, y + min(high / 2 + 4, 13), shown, font_size=10))
    for share in (0, 0.25, 0.5, 0.75, 1):
        parts.append(_text(left - 6, top + share * height + 4, short(share * used), "end"))
    parts.append(_tag("path", d=f"M{left} {top}V{top + height}H{left + width}", fill="none", stroke="currentColor",
                      opacity=0.6))  # fmt: skip
    parts.append(_text(left - 6, 10, "byte", "end", class_="soft"))
    for i in range(0, len(labels), -(-len(labels) // 16)):
        parts.append(_text(left + (i + 1.5) * step, top + height + 14, labels[i], "middle"))
    parts.append(_text(left + width / 2, top + height + 30, "step", "middle", class_="soft"))
    return _svg(left + width + 8, top + height + 36, parts, "What lies where in the activation memory, and when")


def short(value: float) -> str:
    """A number with three significant digits and a decimal multiple: 1234567 -> 1.23 M."""
    value = float(value)
    for limit, suffix in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= 0.9995 * limit:
            return f"{value / limit:.3g}{suffix}"
    return f"{value:.3g}"
