"""Penalties on widths and activations, and the statistics of widths (BWQ-A; system.md §8).

The width p of a block is read from its largest magnitude at every step; `BlockPenalty` pushes what needs the highest
plane below it, `ActivityPenalty` what activations stream, and `AlphaController` steers the first along a schedule.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from golden_model.registers import WIDTH_BITS
from quant.networks.layers import BitPlaneWeight, FloatWeight, bit_length
from quant.training.pair_ous import LayerOus
from quant.training.prepare import QuantisedNetwork


# ---- statistics -----------------------------------------------------------------------------------
def width_statistics(network: QuantisedNetwork) -> dict[str, Any]:
    """Mean magnitude bits and compression, all layers included.

    mean_bits : planes x weights in the block, over weights; a pruned block counts 0, padding does not count.
    compression : 32 x weights / bits of the magnitudes alone (`magnitude`), plus one sign bit for every weight
    of a block that is not pruned (`with_sign`), plus 4 bits per block of width table (`with_sign_and_table`).
    """
    layers, totals = [], np.zeros(3)
    weights = 0
    for layer in network:
        n, k = layer.geometry.outputs, layer.geometry.k
        widths = layer.source.block_widths()
        sizes = layer.source.block.sizes((n, k))
        magnitude = int((widths * sizes).sum())
        signs = int(sizes[widths > 0].sum())
        table = WIDTH_BITS * widths.numel()
        totals += magnitude, signs, table
        weights += n * k
        layers.append(
            {
                "name": layer.geometry.name,
                "weights": n * k,
                "mean_bits": magnitude / (n * k),
                "pruned_blocks": int((widths == 0).sum()),
                "blocks": widths.numel(),
                "widths": {str(p): int((widths == p).sum()) for p in range(int(widths.max()) + 1)},
            }
        )
    bits = np.cumsum(totals)
    names = ("magnitude", "with_sign", "with_sign_and_table")
    return {
        "weights": weights,
        "mean_bits": float(totals[0] / weights),
        "compression": {name: (float(32 * weights / b) if b else None) for name, b in zip(names, bits, strict=True)},
        "layers": layers,
    }


# ---- penalties ------------------------------------------------------------------------------------
class BlockPenalty:
    """Penalty on the width of blocks, and the mean width with the same weights.

    Bit planes: a block's share times its planes, times the norms of its planes (system.md §8). One float weight: its
    share times what exceeds the next smaller width, over that width's range (deviation: not times its planes).

    weighting "memory": a block weighs its share of all weights (BWQ); "activations": that share times
    the windows of its layer, scaled to the same total, so that OU activations are saved (*ours*); "both":
    the mean of the two; "pair-ous": what its ones add to the OUs that the pair machine is expected to form for its
    highest plane, over those of a network whose blocks all have one plane (*ours*; pair_ous.py). The mean width is then
    the OUs of all planes over the same.
    ones : for "pair-ous", of `pair_ous.mean_ones`.
    """

    def __init__(
        self, network: QuantisedNetwork, weighting: str = "memory", ones: Sequence[Tensor] | None = None
    ) -> None:
        self.network = network
        self.charges: list[Callable[[Tensor], tuple[Tensor, Tensor]]]
        if weighting == "pair-ous":
            assert ones is not None
            self.charges = self._pair_ous(ones)
            return
        sizes = [
            layer.source.block.sizes((layer.geometry.outputs, layer.geometry.k)).to(layer.bias.device, torch.float32)
            for layer in network
        ]
        total = float(sum(s.sum() for s in sizes))
        memory = [s / total for s in sizes]
        work = [s * float(layer.geometry.windows) for s, layer in zip(sizes, network, strict=True)]
        activations = [w / float(sum(x.sum() for x in work)) for w in work]
        both = [(m + a) / 2 for m, a in zip(memory, activations, strict=True)]
        weights = {"memory": memory, "activations": activations, "both": both}[weighting]
        self.charges = [partial(_share, w) for w in weights]

    def _pair_ous(self, ones: Sequence[Tensor]) -> list[Callable[[Tensor], tuple[Tensor, Tensor]]]:
        layers = [LayerOus(layer, own, self.network.hardware) for layer, own in zip(self.network, ones, strict=True)]
        plane = [torch.ones_like(source.block_widths()) for source in self.network.sources()]
        whole = float(sum(layer(widths)[1] for layer, widths in zip(layers, plane, strict=True)))

        def charge(layer: LayerOus, widths: Tensor) -> tuple[Tensor, Tensor]:
            added, ous = layer(widths)
            return added / whole, ous / whole

        return [partial(charge, layer) for layer in layers]

    def __call__(self) -> tuple[Tensor, float]:
        """(penalty, mean magnitude bits now); a block counts as much in the mean as in the penalty."""
        loss, bits = torch.zeros(2, device=next(self.network.parameters()).device)
        for layer, charge in zip(self.network, self.charges, strict=True):
            source = layer.source
            if isinstance(source, BitPlaneWeight):
                weights, planes = charge(source.block_widths())
                loss = loss + (source.group_norms().sum(0) * weights * source.block_planes()).sum()
            else:
                assert isinstance(source, FloatWeight)
                magnitude = source.scaled().abs()
                magnitude = source.block.split(torch.minimum(magnitude, source.limits))
                with torch.no_grad():
                    largest = torch.floor(magnitude.amax((1, 3)) + 0.5)
                    widths = bit_length(largest)
                    half = torch.pow(2.0, widths.to(torch.float32) - 1)
                    threshold = torch.where(widths > 0, half - 0.5, largest + 1)[:, None, :, None]
                    weights, planes = charge(widths)
                excess = F.relu(magnitude - threshold)
                norms = (excess.square().sum((1, 3)) + 1e-12).sqrt()
                loss = loss + (norms / half * weights * (widths > 0)).sum()
            bits = bits + planes
        return loss, float(bits)


def _share(weights: Tensor, widths: Tensor) -> tuple[Tensor, Tensor]:
    """(weights of the blocks, planes that they have, weighed likewise)."""
    return weights, (weights * widths).sum()


class ActivityPenalty:
    """Bits that the streamed activations need, so that training can lower them (*ours*).

    Sum over layers of (share of all products) x mean of log2(1 + q), q the integer activation that the layer reads
    (before a pooling that lies between; the parts of a concatenation count one by one):
    about twice the number of 1s in q, each of which switches a word line on. Batch norms let activations shrink
    at no other cost than their rounding. Every fourth image of a batch is looked at.
    """

    def __init__(self, network: QuantisedNetwork) -> None:
        pairs = network.inputs()
        if not pairs:
            raise ValueError("activity: no layer of the network reads a hidden activation")
        products = [layer.geometry.products for _, layer in pairs]
        self.shares = [
            (activation, mine / sum(products)) for (activation, _), mine in zip(pairs, products, strict=True)
        ]
        self.terms: list[Tensor] = []

    def _watch(self, activation: Any, _: Any, values: Tensor, *, share: float) -> None:
        integers = values[::4].float() * ((2**activation.bits - 1) / activation.clip)
        self.terms.append(share * torch.log2(1 + integers).mean())

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Forward passes inside are what the penalty is about."""
        self.terms = []
        handles = [a.register_forward_hook(partial(self._watch, share=share)) for a, share in self.shares]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def __call__(self) -> Tensor:
        """The penalty, a scalar."""
        return torch.stack(self.terms).sum()


class AlphaController:
    """Steers alpha so that the mean width follows a falling schedule.

    A proportional-differential rule in logarithms: e = log(width / wanted), smoothed over about 10 steps;
    log(alpha) grows by gain * (e + lead * change of e per step), at most 10 % a step. The differential
    part answers the delay between alpha and width: planes fall off a cliff when alpha is large
    (system.md §8), so alpha is bounded, too.
    """

    def __init__(
        self, alpha: float, gain: float = 0.2, lead: float = 50.0, bounds: tuple[float, float] = (1e-6, 1e3)
    ) -> None:
        self.alpha, self.gain, self.lead, self.bounds = alpha, gain, lead, bounds
        self.error: float | None = None

    def update(self, bits: float, wanted: float) -> None:
        now = math.log(max(bits, 1e-3) / wanted)
        before = now if self.error is None else self.error
        self.error = before + 0.1 * (now - before)
        change = self.gain * (self.error + self.lead * (self.error - before))
        self.alpha *= math.exp(min(max(change, -0.1), 0.1))
        self.alpha = min(max(self.alpha, self.bounds[0]), self.bounds[1])
