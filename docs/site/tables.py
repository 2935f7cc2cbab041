"""Pages of results that are tables of kept JSON: `python docs/site/tables.py` writes them.

docs/results/trained.md is of quant/trained/*/train.json, docs/results/blocks.md of rtl/baseline/*.json.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from golden_model.pages import lines_of

ROOT = Path(__file__).parents[2]
NAMES = ("tiny", "tiny-pairs")
HEAD = "Written by `python docs/site/tables.py`"


def trained() -> str:
    """Accuracy and widths of the networks that are kept."""
    rows = []
    for path in sorted((ROOT / "quant" / "trained").glob("*/train.json")):
        found = json.loads(path.read_text("utf-8"))
        accuracy, widths = found["accuracy"], found["widths"]
        bits = sorted(set(found["activation_bits"]))
        rows.append(
            (
                f"`{path.parent.name}`",
                f"{accuracy['float']:.2%}",
                f"{accuracy['integer']:.2%}",
                f"{found['test_images']:,}",
                f"{widths['mean_bits']:.3f}",
                "/".join(f"{value:.1f}" for value in widths["compression"].values()),
                " ".join(map(str, bits)),
            )
        )
    heads = ("network", "float", "integers", "test pictures", "bits a weight", "compression", "activation bits")
    table = "\n".join(lines_of([heads, *rows]))
    return f"""# Trained networks

{HEAD} from `quant/trained/*/train.json`, the records of their training.
Compression is 32 bits over magnitude bits / with sign bits / and width table ([numbers](../numbers.md)); activation
bits are the widths that occur. Recipes: [bwq.md](../bwq.md).

{table}
"""


def blocks() -> str:
    """Cells of the blocks of the two smallest machines, which every change is compared with."""
    kept = {name: json.loads((ROOT / "rtl" / "baseline" / f"{name}.json").read_text("utf-8")) for name in NAMES}
    by_block: dict[str, dict[str, dict[str, Any]]] = {}
    for name, report in kept.items():
        for block in report["blocks"]:
            by_block.setdefault(block["block"], {})[name] = block
    rows = []
    for block, found in by_block.items():
        cells = [f"[{block}](../blocks/{block}.md)"]
        for name in NAMES:
            one = found.get(name)
            cells += ["", "", ""] if one is None else [f"{one['area']:,.0f}", one["flip_flops"], one["depth"]]
        rows.append(cells)
    heads = ["block", *(f"{name}: {what}" for name in NAMES for what in ("NAND2 gates", "flip-flops", "depth"))]
    table = "\n".join(lines_of([heads, *rows]))
    return f"""# Size of the blocks

{HEAD} from `rtl/baseline`, which `python -m rtl.synthesis --hardware tiny --json FILE`
and the same with `tiny-pairs` made: generic gates, without memories, depth in gates. `--check FILE` compares a change
with them. Blocks of the machine of the papers in standard cells: [rtl/README.md](../../rtl/README.md).

{table}
"""


PAGES = {"results/trained.md": trained, "results/blocks.md": blocks}


def main() -> None:
    for name, page in PAGES.items():
        (ROOT / "docs" / name).write_text(page(), "utf-8")


if __name__ == "__main__":
    main()
