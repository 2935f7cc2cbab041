"""How a matrix of signed weights is cut into planes of single bits, and what that computes."""

from __future__ import annotations

import numpy as np

from golden_model.config import PAPER
from golden_model.crossbar.mapping import block_widths
from golden_model.layer import matmul
from golden_model.trq import AdcRegisters

random = np.random.default_rng(0)
weights = random.integers(-7, 8, (18, 16))
weights[:9, 8:] //= 8  # a block of small weights
weights[9:, 8:] = 0  # and one without any
inputs = random.integers(0, 256, (4, 18))

print("planes of the blocks, 9 inputs × 8 outputs each:", block_widths(weights, PAPER).tolist())
sums, events = matmul(inputs, weights, PAPER, AdcRegisters(mode="uniform", n_r2=4))
print("equal to the integer product:", bool((sums == inputs @ weights).all()))
print("operation units that were on:", events.ou_activations, "of", events.ou_activations + events.skipped_planes)
