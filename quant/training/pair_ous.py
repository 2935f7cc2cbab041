"""Operation units (OUs) of the pair machine that a network is expected to form (*ours*; docs/pair-machine.md).

A group of the machine is one block column and one weight plane of a pack, `grid_rows` consecutive segments. For an
input bit it forms as many OUs as its ones need, ou_rows at a time, where only segments count whose block is wider than
the plane. With A the mean ones of the group, and their number X taken to be Poisson distributed,

    ous(A) = E[ceil(X / ou_rows)] = sum over m >= 0 of P(X > m ou_rows)
    d ous / dA = sum over m >= 0 of P(X = m ou_rows)

so another 1 forms an OU where those before it fill whole ones: always in an empty group, one time in ou_rows in one
with many.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from golden_model.config import HardwareConfig
from golden_model.engines.pair_runner import PairRunner
from quant.networks.layers import Block, QuantMatrix
from quant.training.prepare import QuantisedNetwork


def mean_ones(network: QuantisedNetwork, images: np.ndarray) -> list[Tensor]:
    """For each layer, mean ones of a segment in a window by input bit, float32 (bits, segments).

    images : uint8 (B, C, H, W).
    """
    found = []
    for step in PairRunner(network.to_graph(images[:2], "ones")).steps(images):
        rows = np.stack([(step.windows >> bit & 1).mean(axis=0) for bit in range(step.layer.input_bits)])
        first = np.arange(0, step.layer.k, network.hardware.ou_rows)
        found.append(torch.from_numpy(np.add.reduceat(rows, first, axis=1)).float())
    return found


def expected_ous(ones: Tensor, hardware: HardwareConfig) -> Tensor:
    """ous(A) of mean ones A of any shape."""
    return torch.special.gammainc(_multiples(ones, hardware) + 1, ones[..., None]).sum(-1)


def ous_of_another_one(ones: Tensor, hardware: HardwareConfig) -> Tensor:
    """d ous / dA at mean ones A of any shape, 0..1."""
    whole, ones = _multiples(ones, hardware), ones[..., None]
    return torch.exp(torch.xlogy(whole, ones) - ones - torch.lgamma(whole + 1)).sum(-1)


def _multiples(ones: Tensor, hardware: HardwareConfig) -> Tensor:
    """Ones of 0, 1, 2, ... full OUs of a pack."""
    return torch.arange(hardware.grid_rows).to(ones) * hardware.ou_rows


class LayerOus:
    """OUs of one image in one layer, as a function of the widths of its blocks.

    ones : of `mean_ones`. Raises ValueError if blocks are no operation units.
    """

    def __init__(self, layer: QuantMatrix, ones: Tensor, hardware: HardwareConfig) -> None:
        if layer.source.block != Block(hardware.ou_rows, hardware.ou_cols):
            raise ValueError("--weighting pair-ous needs --block ou")
        self.hardware, self.windows = hardware, layer.geometry.windows
        self.ones = self._packs(ones.t()).transpose(1, 2).to(layer.bias.device)  # (packs, bits, segments of a pack)

    def _packs(self, values: Tensor) -> Tensor:
        """(segments, n) -> (packs, segments of a pack, n), filled with 0."""
        grid = self.hardware.grid_rows
        filled = F.pad(values, (0, 0, 0, -len(values) % grid))
        return filled.reshape(-1, grid, values.shape[1])

    @torch.no_grad()
    def __call__(self, widths: Tensor) -> tuple[Tensor, Tensor]:
        """(what each block's ones add to the OUs of its highest plane, (segments, block_cols); OUs of all planes).

        widths : int64 (segments, block_cols).
        """
        packed = self._packs(widths)
        added = torch.zeros(packed.shape, device=widths.device)
        total = torch.zeros((), device=widths.device)
        for plane in range(int(widths.max())):
            ones = self.ones @ (packed > plane).to(self.ones)  # (packs, bits, block_cols)
            total = total + expected_ous(ones, self.hardware).sum()
            another = self.ones.transpose(1, 2) @ ous_of_another_one(ones, self.hardware)
            added = torch.where(packed == plane + 1, another, added)
        return added.flatten(0, 1)[: len(widths)] * self.windows, total * self.windows
