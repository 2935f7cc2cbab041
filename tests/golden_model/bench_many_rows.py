"""Conversions per second of the engine for whole columns: `python -m tests.golden_model.bench_many_rows [--json FILE]`.

One thread, processor time (other users of the machine do not count), the best of several runs; random dense
8-bit activations, random sign + 7-bit weights with all planes, 128 rows. The plain NumPy model runs beside it.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

from golden_model import layer, trq
from golden_model.config import HardwareConfig
from golden_model.crossbar.prepared import prepare
from golden_model.engines import many_rows
from golden_model.trq import AdcRegisters

HARDWARE = HardwareConfig(ou_rows=128, adc_bits=8, weight_bits=7)
TWIN = AdcRegisters(mode="twin", n_r2=4, m=2, n_r1=3)
LOSSLESS = AdcRegisters(mode="uniform", n_r2=8)


def seconds(work, repeat: int) -> float:
    """Least processor time of one call."""
    best = float("inf")
    for _ in range(repeat):
        start = time.thread_time()
        work()
        best = min(best, time.thread_time() - start)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=256, help="K")
    parser.add_argument("--columns", type=int, default=64, help="N")
    parser.add_argument("--windows", type=int, default=2048)
    parser.add_argument("--repeat", type=int, default=8)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    weights = rng.integers(-127, 128, (options.rows, options.columns))
    q = rng.integers(0, 256, (options.windows, options.rows)).astype(np.uint8)
    random_table = np.sort(rng.integers(1, 70, 255))
    settings = {
        "lossless (identity)": (LOSSLESS, None),
        "uniform 4 bit, full scale": (AdcRegisters(mode="uniform", n_r2=4), None),
        "twin n_r2=4 m=2 n_r1=3": (TWIN, None),
        "twin n_r2=4 m=2 n_r1=3 bias=1": (AdcRegisters(mode="twin", n_r2=4, m=2, n_r1=3, bias=1), None),
        "twin n_r2=4 n_r1=3, 0.37 counts/LSB": (AdcRegisters(mode="twin", n_r2=4, n_r1=3), trq.min_count(8, 0.37)),
        "not monotone, random min_count": (AdcRegisters(mode="twin", n_r2=4, m=4, n_r1=3, bias=2), random_table),
        "8 bit, random min_count": (LOSSLESS, random_table),
    }
    results = []
    print(f"{'setting':38}{'G conv/s':>10}{'NumPy':>8}{'ratio':>7}{'tables ms':>11}")
    for name, (registers, table) in settings.items():
        prepared = prepare(weights, HARDWARE, registers, min_count=table)
        start = time.thread_time()
        tables = many_rows.layer_tables(prepared)
        making = time.thread_time() - start
        conversions = int(many_rows.run_windows(prepared, tables, q)[1][:, 4:6].sum())
        fast = conversions / seconds(lambda p=prepared, t=tables: many_rows.run_windows(p, t, q), options.repeat) / 1e9
        part = q[:256]
        plain = conversions * len(part) / len(q) / 1e9
        plain /= seconds(lambda p=prepared, x=part: layer.run(p, x, engine="direct"), 2)
        results.append({"setting": name, "compiled": fast, "numpy": plain, "ratio": fast / plain})
        print(f"{name:38}{fast:10.1f}{plain:8.3f}{fast / plain:7.0f}{1e3 * making:11.1f}", flush=True)
    if options.json:
        options.json.write_text(json.dumps({"unit": "1e9 conversions per second of one core", "results": results}))


if __name__ == "__main__":
    main()
