"""What a converter makes of every count, and how many decisions that takes; `--help` lists its registers."""

from __future__ import annotations

import argparse

import numpy as np

from golden_model import trq

parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
parser.add_argument("--bits", type=int, default=4, help="R, bits of the grid")
parser.add_argument("--rows", type=int, default=9, help="rows of an operation unit: the largest count")
parser.add_argument("--mode", default="twin", help="twin or uniform")
parser.add_argument("--n-r2", type=int, default=4, help="decisions of the search over the whole range")
parser.add_argument("--n-r1", type=int, default=0, help="decisions inside R1, a range of 2^n_r1 counts")
parser.add_argument("--m", type=int, default=0, help="a step outside R1 is 2^m steps inside")
parser.add_argument("--bias", type=int, default=0, help="where R1 begins, in lengths of R1")
parser.add_argument("--counts-per-lsb", type=float, default=1.0, help="lambda: counts in a step of the finest grid")
given = parser.parse_args()

registers = trq.AdcRegisters(mode=given.mode, n_r2=given.n_r2, n_r1=given.n_r1, m=given.m, bias=given.bias)
table = trq.min_count(given.bits, given.counts_per_lsb)
counts = np.arange(given.rows + 1)
found = trq.convert_counts(given.bits, given.rows, registers, table)
for name, row in (("count", counts), ("becomes", found.value), ("decisions", found.operations)):
    print(f"{name:10}" + "".join(f"{value:4}" for value in row))
