"""The pictures of docs/how-it-computes.md: `python docs/images/draw.py`. Every number in them is computed here."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from golden_model import trq
from golden_model.config import PAPER, HardwareConfig
from golden_model.image import archive
from golden_model.layer import matmul
from golden_model.pairs.search import outward
from golden_model.searches.histograms import graph_counts
from golden_model.trq import AdcRegisters
from quant.data import sets

OUT = Path(__file__).parent
ROOT = OUT.parents[1]
INK, MUTED, LINE, PAPER_COLOUR, WHITE = "#1d2430", "#46505e", "#c4cad3", "#fbfbfa", "#ffffff"
TEAL, RUST, SAND = "#12806d", "#b4531f", "#e9c46a"
#: The example that goes through the pictures: two columns of signed weights, one window of activations.
WEIGHTS = np.array([[3, 0], [-1, 1], [2, -2], [1, 0]])
INPUTS = np.array([5, 2, 0, 7])
PLANES, INPUT_BITS = 2, 3


class Picture:
    """An SVG on a light card of its own, so that it reads on a dark page too."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self.parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" aria-label="{title}"'
            ' font-family="system-ui, -apple-system, Segoe UI, Roboto, Helvetica, Arial, sans-serif">',
            '<defs><marker id="a" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
            f'<path d="M0 0 8 4 0 8z" fill="{MUTED}"/></marker></defs>',
            f'<rect width="{width}" height="{height}" rx="14" fill="{PAPER_COLOUR}"/>',
        ]

    def text(self, x, y, text, size=14, colour=INK, anchor="middle", bold=False) -> None:
        weight = ' font-weight="600"' if bold else ""
        text = re.sub(r"(?<!\w)-(?=\d)", "−", str(text)).replace("<", "&lt;")
        self.parts.append(
            f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" font-size="{size}" fill="{colour}"{weight}>{text}</text>'
        )

    def box(self, x, y, width, height, fill=WHITE, stroke=LINE, rounded=4) -> None:
        place = f'x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{rounded}"'
        self.parts.append(f'<rect {place} fill="{fill}" stroke="{stroke}"/>')

    def line(self, x1, y1, x2, y2, colour=MUTED, width=1.5, arrow=False, dashed=False) -> None:
        more = ' marker-end="url(#a)"' if arrow else ""
        more += ' stroke-dasharray="5 4"' if dashed else ""
        self.parts.append(
            f'<path d="M{x1:g} {y1:g}L{x2:g} {y2:g}" fill="none" stroke="{colour}" stroke-width="{width:g}"{more}/>'
        )

    def save(self, name: str) -> None:
        (OUT / f"{name}.svg").write_text("\n".join([*self.parts, "</svg>", ""]), "utf-8")


def cells_of(plane: int, sign: int) -> np.ndarray:
    """Cells of one plane of one array: 1 where the weight has that sign and its magnitude that bit."""
    return ((np.sign(WEIGHTS) == sign) & (abs(WEIGHTS) >> plane & 1 == 1)).astype(int)


def grid(picture: Picture, x, y, cells, colour, size=30, live=None) -> None:
    for (row, column), cell in np.ndenumerate(cells):
        dim = live is not None and not live[row]
        fill = WHITE if not cell else colour if not dim else "#cfd8d6"
        picture.box(x + size * column, y + size * row, size - 4, size - 4, fill)
        picture.text(
            x + size * column + size / 2 - 2,
            y + size * row + size / 2 + 3,
            cell,
            13,
            WHITE if cell and not dim else MUTED,
        )


def cells() -> None:
    p = Picture(860, 330, "Signed weights become cells: positive and negative array, one grid per bit plane")
    p.text(95, 40, "weights", 16, bold=True)
    for (row, column), weight in np.ndenumerate(WEIGHTS):
        p.box(45 + 52 * column, 75 + 40 * row, 48, 36)
        p.text(69 + 52 * column, 99 + 40 * row, weight, 16, TEAL if weight > 0 else RUST if weight < 0 else MUTED)
    p.text(69, 66, "A", 13, MUTED)
    p.text(121, 66, "B", 13, MUTED)
    p.line(175, 150, 240, 150, arrow=True)
    for plane in (1, 0):
        x = 280 + 160 * (1 - plane)
        p.text(x + 28, 40, f"plane {plane}: counts {1 << plane}", 14, bold=True)
        p.text(x + 13, 66, "A", 13, MUTED)
        p.text(x + 43, 66, "B", 13, MUTED)
        grid(p, x, 75, cells_of(plane, 1), TEAL)
        grid(p, x, 205, cells_of(plane, -1), RUST)
    p.text(570, 122, "positive array:", 14, TEAL, "start", bold=True)
    p.text(570, 144, "magnitude bits of weights above 0", 14, TEAL, "start")
    p.text(570, 252, "negative array:", 14, RUST, "start", bold=True)
    p.text(570, 274, "magnitude bits of weights below 0", 14, RUST, "start")
    p.save("cells")


def unit() -> None:
    p = Picture(860, 340, "One operation unit: the input bits switch word lines on, bit lines carry counts")
    bits = INPUTS & 1
    p.text(90, 40, "input", 14, bold=True)
    p.text(160, 40, "its bit 0", 14, bold=True)
    for row, (value, bit) in enumerate(zip(INPUTS, bits, strict=True)):
        y = 88 + 38 * row
        p.text(90, y + 5, value, 16)
        p.box(143, y - 15, 34, 30, SAND if bit else WHITE)
        p.text(160, y + 5, bit, 15)
        p.line(180, y, 640, y, SAND if bit else LINE, 4 if bit else 1.5)
    for sign, x, colour, name in ((1, 290, TEAL, "positive array"), (-1, 500, RUST, "negative array")):
        p.text(x + 55, 40, f"{name}, plane 0", 14, colour, bold=True)
        array = cells_of(0, sign)
        for column in range(2):
            xc = x + 20 + 70 * column
            p.line(xc, 66, xc, 250, colour, 2)
            for row in range(4):
                y = 88 + 38 * row
                on = bits[row] and array[row, column]
                p.box(xc - 13, y - 13, 26, 26, colour if on else "#cfd8d6" if array[row, column] else WHITE)
                p.text(xc, y + 5, array[row, column], 13, WHITE if on else MUTED)
            p.text(xc, 276, "AB"[column], 13, MUTED)
            p.text(xc, 306, int(bits @ array[:, column]), 22, colour, bold=True)
    p.text(668, 152, "word lines: on if 1", 14, MUTED, "start")
    p.text(668, 306, "counts on bit lines", 14, MUTED, "start")
    p.save("unit")


def shift_add() -> None:
    small = HardwareConfig(rows=4, cols=2, ou_rows=4, ou_cols=2, adc_bits=3, input_bits=INPUT_BITS, weight_bits=PLANES)
    sums, _ = matmul(INPUTS[None], WEIGHTS, small, AdcRegisters(mode="uniform", n_r2=3))
    p = Picture(860, 330, "Shift and add: the differences of counts, each times its significance, give the product")
    heads = ("input bit i", "plane b", "count +", "count −", "difference", "× 2^(i + b)", "sum so far")
    for k, head in enumerate(heads):
        p.text(80 + 115 * k, 42, head, 14, bold=True)
    total = 0
    steps = [(i, b) for i in range(INPUT_BITS) for b in range(PLANES)]
    for row, (i, b) in enumerate(steps):
        bits = INPUTS >> i & 1
        plus, minus = (int(bits @ cells_of(b, sign)[:, 0]) for sign in (1, -1))
        total += (plus - minus) << (i + b)
        y = 76 + 34 * row
        if row % 2 == 0:
            p.box(22, y - 22, 816, 32, WHITE, "none")
        for k, value in enumerate((i, b, plus, minus, plus - minus, (plus - minus) << (i + b), total)):
            p.text(80 + 115 * k, y, value, 15, (INK, INK, TEAL, RUST, INK, INK, INK)[k], bold=k == 6)
    assert total == sums[0, 0] == INPUTS @ WEIGHTS[:, 0]
    product = " + ".join(f"{x}·{w}" if w >= 0 else f"{x}·({w})" for x, w in zip(INPUTS, WEIGHTS[:, 0], strict=True))
    p.text(430, 300, f"column A: {product} = {total}", 16, TEAL, bold=True)
    p.save("shift-add")


def histogram() -> np.ndarray:
    graph = archive.load(ROOT / "quant/trained/lenet5-s0/network.graph")
    counts = graph_counts(graph, sets.load().test_images[:8], threads=1)
    return counts["conv2"].used(False).sum((0, 1))


def convert() -> None:
    counts = histogram()
    share = counts / counts.sum()
    found = np.arange(PAPER.ou_rows + 1)
    uniform, twin = AdcRegisters(mode="uniform", n_r2=4), AdcRegisters(mode="twin", n_r2=4)
    costs = [trq.convert(found, PAPER.adc_bits, r).operations for r in (uniform, twin)]
    p = Picture(860, 350, "How often each count occurs, and how many decisions uniform and twin-range conversion take")
    p.text(215, 36, "how often a bit line carries a count", 15, bold=True)
    p.text(645, 36, "decisions to find the count", 15, bold=True)
    for c in found:
        x = 40 + 36 * c
        p.box(x, 270 - 210 * share[c], 28, 210 * share[c] + 0.1, TEAL, "none", 1)
        p.text(x + 14, 262 - 210 * share[c], f"{share[c]:.0%}" if share[c] >= 0.005 else "", 12, MUTED)
        p.text(x + 14, 292, c, 14)
        x = 470 + 36 * c
        for k, (cost, colour) in enumerate(zip(costs, (LINE, RUST), strict=True)):
            p.box(x + 13 * k, 270 - 40 * cost[c], 12, 40 * cost[c], colour, "none", 1)
        p.text(x + 13, 292, c, 14)
        p.text(x + 19, 262 - 40 * costs[1][c], costs[1][c], 12, RUST)
    mean = [float(share @ cost) for cost in costs]
    p.text(215, 326, "second layer of LeNet-5, 9 rows at once", 13, MUTED)
    p.text(645, 326, f"grey: uniform, mean {mean[0]:.2f}; brown: “is it 0?” first, mean {mean[1]:.2f}", 13, MUTED)
    p.save("convert")


def widths() -> None:
    graph = archive.load(ROOT / "quant/trained/lenet5-s0/network.graph")
    layer = next(n for n in graph.crossbars if n.name == "conv2").layers[0]
    table = np.asarray(layer.block_widths)
    p = Picture(860, 120 + 34 * len(table[0]), "Bit planes of every block of a layer of LeNet-5")
    colours = ("#e6e9ed", "#bfe3da", "#63b9a5", TEAL, "#0a5548", INK)
    p.text(430, 36, "planes that each block of 9 × 8 weights stores: second layer of LeNet-5, trained", 15, bold=True)
    size = min(40, 640 // len(table))
    for (segment, column), planes in np.ndenumerate(table):
        p.box(110 + size * segment, 62 + 34 * column, size - 3, 30, colours[planes], "none", 2)
        p.text(110 + size * segment + size / 2 - 1, 82 + 34 * column, planes, 13, WHITE if planes > 2 else INK)
    y = 86 + 34 * len(table[0])
    p.text(110, y, "inputs, 9 at a time →", 13, MUTED, "start")
    p.text(60, 84, "outputs,", 13, MUTED)
    p.text(60, 102, "8 at a time", 13, MUTED)
    p.text(750, y, f"mean {table.mean():.2f} of 7 planes", 13, MUTED, "end")
    p.save("widths")


def dynamic() -> None:
    group = np.array([12, 3, 0, 9, 6])
    high = int(group.max()).bit_length()
    p = Picture(860, 290, "Dynamic precision: bits above the largest activation of a group are not streamed")
    p.text(110, 40, "group", 15, bold=True)
    p.text(376, 40, "its 8 bits", 15, bold=True)
    for row, value in enumerate(group):
        y = 62 + 34 * row
        p.text(110, y + 21, value, 15)
        for bit in reversed(range(8)):
            kept = bit < high
            on = value >> bit & 1
            fill = (SAND if bit else "#f4dfb0") if kept and on else WHITE if kept else "#e6e9ed"
            p.box(200 + 44 * (7 - bit), y, 38, 30, fill)
            p.text(219 + 44 * (7 - bit), y + 20, on, 14, INK if kept else LINE)
    p.text(290, 262, f"all 0: {8 - high} bits are not streamed, nothing is lost", 13, MUTED)
    for row, line in enumerate(
        (
            "The lowest bits can be",
            "rounded away, too, if the",
            "group's spread allows it;",
            "calibration says how many.",
        )
    ):
        p.text(600, 100 + 24 * row, line, 14, MUTED, "start")
    p.save("dynamic")


def gather() -> None:
    on = (0, 4, 8)
    p = Picture(860, 330, "Gathering: only rows whose input bit is 1 are switched on, in one operation unit")
    p.text(200, 36, "before: 3 units, 3 conversions", 15, bold=True)
    p.text(600, 36, "gathered: 1 unit, 1 conversion", 15, bold=True)
    for side, x in ((0, 90), (1, 480)):
        for row in range(9):
            y = 58 + 27 * row
            bit = int(row in on)
            p.box(x, y, 22, 22, SAND if bit else WHITE)
            p.text(x + 11, y + 16, bit, 13)
            live = bit or not side
            p.line(x + 24, y + 11, x + 190, y + 11, (SAND if bit else LINE), 3 if bit else 1, dashed=not live)
        if side:
            p.text(x + 210, 180, "k = 3 rows are on", 14, TEAL, "start", bold=True)
            p.text(x + 210, 202, "so a count is at most 3", 13, MUTED, "start")
        else:
            for part in range(3):
                p.box(x + 40, 53 + 81 * part, 140, 79, "none", TEAL, 6)
                p.text(x + 196, 97 + 81 * part, f"unit {part + 1}", 13, TEAL, "start")
    p.save("gather")


def pair() -> None:
    p = Picture(860, 250, "Two bit lines of a column: converted apart, or subtracted and converted once")
    p.text(215, 36, "two conversions", 15, bold=True)
    p.text(645, 36, "one conversion of the difference", 15, bold=True)
    for x, colour, name in ((130, TEAL, "c+ = 2"), (300, RUST, "c− = 1")):
        p.line(x, 60, x, 130, colour, 3, arrow=True)
        p.text(x + 12, 84, name, 14, colour, "start")
        p.box(x - 55, 135, 110, 42)
        p.text(x, 161, "A/D: 4 decisions", 13)
    p.text(215, 214, "8 decisions, then 2 − 1", 14, MUTED)
    for x, colour, name in ((590, TEAL, "c+ = 2"), (700, RUST, "c− = 1")):
        p.line(x, 60, 645 + (x - 645) * 0.3, 104, colour, 3, arrow=True)
        p.text(x + (14 if x > 645 else -14), 76, name, 14, colour, "start" if x > 645 else "end")
    p.box(615, 106, 60, 30)
    p.text(645, 126, "+ −", 15)
    p.line(645, 137, 645, 152, arrow=True)
    p.box(580, 154, 130, 36)
    decisions = int(outward(PAPER).operations[3, PAPER.ou_rows + 1])
    p.text(645, 177, f"A/D: {decisions} decisions", 13)
    p.text(645, 214, "c+ + c− ≤ k: the difference lies in −k..k", 14, MUTED)
    p.save("pair")


def outwards() -> None:
    search, k = outward(PAPER), 3
    p = Picture(860, 270, "Outward search: small differences are asked for first")
    p.text(430, 36, f"how many decisions each difference takes, {k} rows on", 15, bold=True)
    for d in range(-k, k + 1):
        cost = int(search.operations[k, PAPER.ou_rows + d])
        x = 160 + 90 * (d + k)
        p.box(x - 22, 200 - 28 * cost, 44, 28 * cost, TEAL if abs(d) < 2 else "#9fd2c6", "none", 2)
        p.text(x, 192 - 28 * cost, cost, 15, bold=True)
        p.text(x, 222, d, 15)
    p.text(430, 252, "d ≥ 1? if so d ≥ 2, d ≥ 3; if not d ≥ 0, then −1, −2. Nothing is stored.", 14, MUTED)
    p.save("outward")


def beats() -> None:
    p = Picture(860, 220, "Windows side by side: the next one is loaded and the last one written while one converts")
    for row, name in enumerate(("load", "convert", "write")):
        p.text(80, 74 + 46 * row, name, 15, anchor="end")
        for window in range(4):
            beat = window + row
            x, width = 100 + 120 * beat, (70, 112, 50)[row]
            p.box(x, 52 + 46 * row, width, 34, (SAND, TEAL, "#d9b8a5")[row], "none")
            p.text(
                x + width / 2,
                74 + 46 * row,
                f"window {window + 1}" if width > 60 else window + 1,
                13,
                WHITE if row == 1 else INK,
            )
    for beat in range(7):
        p.line(98 + 120 * beat, 44, 98 + 120 * beat, 190, LINE, 1, dashed=True)
    p.text(430, 210, "time → each beat lasts as long as its slowest part", 13, MUTED)
    p.save("beats")


def stop() -> None:
    weights = np.array([-3, 1, -2, 1])
    positive = int(weights[weights > 0].sum())
    p = Picture(860, 250, "Early stop: an output that can only become 0 converts no more")
    p.text(430, 36, "weights −3, 1, −2, 1; inputs 5, 2, 0, 7; negative sums become 0", 15, bold=True)
    total, stopped = 0, False
    for row, bit in enumerate(reversed(range(INPUT_BITS))):
        y = 80 + 44 * row
        total += int((INPUTS >> bit & 1) @ weights) << bit
        most = total + ((1 << bit) - 1) * positive
        p.text(60, y, f"after input bit {bit}", 14, anchor="start")
        if stopped:
            p.text(240, y, "not converted", 14, MUTED, "start")
            continue
        p.text(240, y, f"sum {total}", 14, anchor="start")
        p.text(360, y, f"can still gain {(1 << bit) - 1} × {positive} = {most - total}", 14, anchor="start")
        p.text(590, y, f"at most {most}", 14, TEAL if most <= 0 else INK, "start", bold=most <= 0)
        if most <= 0:
            stopped = True
            p.text(700, y, "→ certainly 0", 14, TEAL, "start", bold=True)
    assert stopped
    assert INPUTS @ weights <= 0
    p.text(430, 222, f"the sum would have been {INPUTS @ weights}", 13, MUTED)
    p.save("early-stop")


def main() -> None:
    for draw in (cells, unit, shift_add, convert, widths, dynamic, gather, pair, outwards, beats, stop):
        draw()


if __name__ == "__main__":
    main()
