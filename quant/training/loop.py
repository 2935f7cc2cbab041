"""BWQ-A: block-wise mixed-precision training (Wu et al., IEEE TCAD 43(12), 2024; system.md §8).

Two formulations, both ending in a finetune with frozen block widths:

`msq` (default, after MSQ 2025): one float weight and one learned log-step per layer; the width p of a
block is read from its largest magnitude at every step; penalty n_blk * ||relu(|w/s| - (2**(p-1) - 1/2))||_2
/ 2**(p-1); alpha is steered so that the mean width follows a schedule.

`bitplane` (reference of the paper's family, after BSQ): continuous bit planes in [0, 2], group Lasso per
block and plane weighted by memory, periodic requantisation and stripping of empty high planes, optimiser
state recreated each time.
Deviation: the shortened CPU recipe of system.md §8 (pretrained start, few epochs), not the papers' 350 epochs.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from golden_model.config import HardwareConfig
from quant.training.layers import (
    BitPlaneWeight,
    Block,
    FloatWeight,
    QuantLayer,
    QuantNetwork,
    bit_length,
    block_sizes,
    to_blocks,
)
from quant.training.prepare import QuantisedNetwork

Weighting = Literal["memory", "activations", "both"]
#: Networks that can be trained: chains, and anything that quant.training.prepare.prepare takes.
Trainable = QuantNetwork | QuantisedNetwork


# ---- statistics -----------------------------------------------------------------------------------
def width_statistics(network: Trainable) -> dict[str, Any]:
    """Mean magnitude bits and compression, all layers included.

    mean_bits : planes x weights in the block, over weights; a pruned block counts 0, padding does not count.
    compression : 32 x weights / bits of the magnitudes alone (`magnitude`), plus one sign bit for every weight
    of a block that is not pruned (`with_sign`), plus 4 bits per block of width table (`with_sign_and_table`).
    """
    layers, totals = [], np.zeros(3)
    weights = 0
    for layer in network:
        n, k = layer.stage.outputs, layer.stage.k
        widths = layer.source.block_widths()
        sizes = block_sizes((n, k), layer.source.ou_rows, layer.source.ou_cols)
        magnitude = int((widths * sizes).sum())
        signs = int(sizes[widths > 0].sum())
        table = 4 * widths.numel()
        totals += magnitude, signs, table
        weights += n * k
        layers.append(
            {
                "name": layer.stage.name,
                "weights": n * k,
                "mean_bits": magnitude / (n * k),
                "pruned_blocks": int((widths == 0).sum()),
                "blocks": widths.numel(),
                "widths": {str(p): int((widths == p).sum()) for p in range(int(widths.max()) + 1)},
                "activation_bits": layer.bits if isinstance(layer, QuantLayer) and layer.stage.relu else None,
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


@torch.no_grad()
def mean_bits(network: Trainable) -> float:
    """Mean magnitude bits per weight, pruned blocks counting 0."""
    bits = weights = 0
    for layer in network:
        n, k = layer.stage.outputs, layer.stage.k
        sizes = block_sizes((n, k), layer.source.ou_rows, layer.source.ou_cols)
        bits += int((layer.source.block_widths() * sizes).sum())
        weights += n * k
    return bits / weights


# ---- penalties ------------------------------------------------------------------------------------
class BlockPenalty:
    """Penalty on the width of blocks, and the mean width with the same weights.

    Bit planes: a block's share times its planes, times the norms of its planes (system.md §8). One float weight: its
    share times what exceeds the next smaller width, over that width's range (deviation: not times its planes).

    weighting "memory": a block weighs its share of all weights (BWQ); "activations": that share times
    the windows of its layer, scaled to the same total, so that OU activations are saved (*ours*); "both":
    the mean of the two.
    """

    def __init__(self, network: Trainable, weighting: Weighting = "memory") -> None:
        self.network = network
        self.sizes = [
            block_sizes((layer.stage.outputs, layer.stage.k), layer.source.ou_rows, layer.source.ou_cols).to(
                layer.bias.device, torch.float32
            )
            for layer in network
        ]
        total = float(sum(s.sum() for s in self.sizes))
        memory = [s / total for s in self.sizes]
        work = [s * float(layer.stage.windows) for s, layer in zip(self.sizes, network, strict=True)]
        activations = [w / float(sum(x.sum() for x in work)) for w in work]
        both = [(m + a) / 2 for m, a in zip(memory, activations, strict=True)]
        self.weights = {"memory": memory, "activations": activations, "both": both}[weighting]

    def __call__(self) -> tuple[Tensor, float]:
        """(penalty, mean magnitude bits now); a block counts as much in the mean as in the penalty."""
        loss: Tensor = torch.zeros((), device=self.sizes[0].device)
        bits: Any = 0.0
        for layer, weights in zip(self.network, self.weights, strict=True):
            source = layer.source
            if isinstance(source, BitPlaneWeight):
                widths = source.block_widths()
                loss = loss + (source.group_norms().sum(0) * weights * source.block_planes()).sum()
            else:
                assert isinstance(source, FloatWeight)
                magnitude = source.scaled().abs()
                magnitude = to_blocks(torch.minimum(magnitude, source.limits), source.ou_rows, source.ou_cols)
                with torch.no_grad():
                    largest = torch.floor(magnitude.amax((1, 3)) + 0.5)
                    widths = bit_length(largest)
                    half = torch.pow(2.0, widths.to(torch.float32) - 1)
                    threshold = torch.where(widths > 0, half - 0.5, largest + 1)[:, None, :, None]
                excess = F.relu(magnitude - threshold)
                norms = (excess.square().sum((1, 3)) + 1e-12).sqrt()
                loss = loss + (norms / half * weights * (widths > 0)).sum()
            bits += (widths * weights).sum()
        return loss, float(bits)


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
        products = [layer.stage.products for _, layer in pairs]
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


# ---- activation widths ----------------------------------------------------------------------------
@torch.no_grad()
def logits_of(network: nn.Module, pixels: Tensor, *, chunk: int = 500) -> Tensor:
    """(B, classes) of the (fake-quantised) forward on uint8 pixels (B, C, H, W)."""
    return torch.cat([network(part.float()) for part in pixels.split(chunk)])


def evaluate(network: nn.Module, pixels: Tensor, labels: Tensor) -> float:
    """Accuracy of the (fake-quantised) forward on uint8 pixels (B, C, H, W)."""
    return int((logits_of(network, pixels).argmax(1) == labels).sum()) / max(1, len(pixels))


def hidden_activations(network: Trainable) -> list[Any]:
    """Everything with a `bits` and a `set_bits` that quantises a hidden activation, first to last."""
    if isinstance(network, QuantisedNetwork):
        return list(network.activations())
    return [layer for layer in network if layer.stage.relu]


def lower_activation_widths(
    network: Trainable, pixels: Tensor, labels: Tensor, *, tolerance: float, minimum: int
) -> list[int]:
    """Lower the widths of hidden activations while accuracy on the given images holds.

    One bit of one activation at a time, always the one with the least change of the logits (mean square) per OU
    activation saved (*ours*; each is tried alone, and again after it was lowered), as long as accuracy stays above that
    of the unchanged network minus `tolerance` (a share, shared by all) and the width above `minimum`. Activations that
    no block reads keep their width. Returns the widths of `hidden_activations`.
    """
    floor = evaluate(network, pixels, labels) - tolerance
    activations = hidden_activations(network)
    work = bit_products(network)

    def change(index: int, logits: Tensor) -> tuple[float, int]:
        activation = activations[index]
        activation.set_bits(activation.bits - 1)
        error = float((logits_of(network, pixels) - logits).square().mean())
        activation.set_bits(activation.bits + 1)
        return error / work[index], index

    logits = logits_of(network, pixels)
    waiting = [change(i, logits) for i, a in enumerate(activations) if a.bits > minimum and work[i]]
    while waiting:
        index = min(waiting)[1]
        waiting = [entry for entry in waiting if entry[1] != index]
        activation = activations[index]
        activation.set_bits(activation.bits - 1)
        if evaluate(network, pixels, labels) < floor:
            activation.set_bits(activation.bits + 1)
        elif activation.bits > minimum:
            waiting.append(change(index, logits_of(network, pixels)))
    return [activation.bits for activation in activations]


def bit_products(network: Trainable) -> list[float]:
    """Work that one streamed bit of each of `hidden_activations` causes: products x mean width of a block, summed
    over the layers that read it."""
    activations = hidden_activations(network)
    pairs = network.inputs() if isinstance(network, QuantisedNetwork) else list(itertools.pairwise(network))

    def work(layer: Any) -> float:
        return layer.stage.products * float(layer.source.block_widths().float().mean())

    return [sum(work(layer) for source, layer in pairs if source is activation) for activation in activations]


# ---- training -------------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that decides the result of training, besides data and hardware.

    method : "msq", "bitplane" or "ptq" (post-training only). seed : of every random draw.
    float_epochs, quantise_epochs, finetune_epochs : 0 skips the phase. batch : images per step.
    float_lr : peak of the one-cycle schedule. lr : of quantised training; finetune decays it to 0 by a
    cosine. step_lr : of the log-steps. plane_lr : of bit planes, which must travel by about 1.
    target_bits : mean magnitude bits at which the schedule of `msq` ends, weighted as the penalty.
    start_bits : width at the start.
    weight_bits : largest width of a block. alpha : first (msq) or constant (bitplane) penalty factor.
    weighting : "memory", "activations" or "both". interval : epochs between requantisations (bitplane).
    activation_bits : width of hidden activations. learn_clips : train their clips at any width (not of chains).
    lower_activations : lowest width that may be tried for one layer before the finetune (None: leave them);
    activation_tolerance : accuracy that this may cost.
    shift : training images are moved by up to this many pixels in both directions, filled with 0.
    flip : every second training image, drawn at random, is mirrored.
    distil : weight of the float network's outputs in the loss, 0..1, instead of the labels; softened by
    `temperature` (Hinton et al., 2015). activity : factor of `ActivityPenalty` (not of chains).
    mix : largest share of a second image in a training image, 0..0.5 (Zhang et al., 2018); labels are mixed likewise,
    and the teacher sees the mixture (not of chains, not of the float network).
    half : activations and products in bfloat16 while training.
    normalise : the float network sees (pixel / 255 - mean) / std of the training images.
    """

    method: Literal["msq", "bitplane", "ptq"] = "msq"
    model: str = "lenet5"
    seed: int = 0
    float_epochs: int = 6
    quantise_epochs: int = 6
    finetune_epochs: int = 6
    batch: int = 128
    float_lr: float = 4e-3
    lr: float = 2e-3
    step_lr: float = 5e-3
    plane_lr: float = 2e-2
    target_bits: float = 0.4
    start_bits: int = 7
    weight_bits: int = 8
    alpha: float = 1e-2
    weighting: Weighting = "memory"
    interval: int = 2
    activation_bits: int = 8
    learn_clips: bool = False
    lower_activations: int | None = 4
    activation_tolerance: float = 0.003
    shift: int = 1
    flip: bool = False
    distil: float = 0.0
    temperature: float = 4.0
    activity: float = 0.0
    mix: float = 0.0
    half: bool = False
    normalise: bool = False


class Augmentation:
    """Moves and mirrors every image by its own draw, on the device of the images.

    shift : most pixels in each direction, filled with 0. flip : mirror every second image, drawn at random.
    """

    def __init__(self, shift: int, flip: bool, generator: torch.Generator) -> None:
        self.shift, self.flip, self.generator = shift, flip, generator

    def __call__(self, pixels: Tensor) -> Tensor:
        batch, _, height, width = pixels.shape
        if not (self.shift or self.flip):
            return pixels
        span = 2 * self.shift + 1
        offsets = torch.randint(0, span, (2, batch), generator=self.generator)
        rows = torch.arange(height) + offsets[0][:, None]
        columns = torch.arange(width) + offsets[1][:, None]
        if self.flip:
            mirrored = torch.rand(batch, generator=self.generator) < 0.5
            columns = torch.where(mirrored[:, None], columns.flip(1), columns)
        device = pixels.device
        rows, columns = rows[:, :, None].to(device), columns[:, None, :].to(device)
        padded = F.pad(pixels, (self.shift,) * 4)
        return padded[torch.arange(batch, device=device)[:, None, None], :, rows, columns].permute(0, 3, 1, 2)


def one_cycle(fraction: float) -> float:
    """Learning rate over its peak: linear up over the first 30 %, then a cosine to 0."""
    return fraction / 0.3 if fraction < 0.3 else 0.5 * (1 + math.cos(math.pi * (fraction - 0.3) / 0.7))


def cosine(fraction: float) -> float:
    """Learning rate over its start: a cosine to 0."""
    return 0.5 * (1 + math.cos(math.pi * fraction))


def constant(fraction: float) -> float:
    return 1.0


class Objective:
    """Cross-entropy and, if there is a teacher, the divergence from its softened outputs; the activity, if it counts.

    teacher : takes pixels like the network, None for labels alone. distil, temperature, activity, half, mix : see
    `Settings`. network : what is trained, needed for its activity alone. generator : draws the shares of mixed images.
    """

    def __init__(
        self,
        teacher: nn.Module | None,
        settings: Settings,
        network: QuantisedNetwork | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        self.teacher = teacher if settings.distil else None
        self.distil, self.temperature, self.half = settings.distil, settings.temperature, settings.half
        self.mix, self.generator = settings.mix, generator
        self.factor = settings.activity
        self.activity = ActivityPenalty(network) if network is not None and settings.activity else None
        self.active_bits: list[float] = []

    def __call__(self, network: Callable[[Tensor], Tensor], pixels: Tensor, labels: Tensor) -> Tensor:
        if self.activity is None:
            return self._error(network, pixels, labels)
        with self.activity.watching():
            loss = self._error(network, pixels, labels)
        penalty = self.activity()
        self.active_bits.append(penalty.item())
        return loss + self.factor * penalty

    def record(self) -> dict[str, float]:
        """Mean bits that streamed activations needed since the last call, if they count."""
        seen, self.active_bits = self.active_bits, []
        return {"active_bits": float(np.mean(seen))} if seen else {}

    def _error(self, network: Callable[[Tensor], Tensor], pixels: Tensor, labels: Tensor) -> Tensor:
        shares = torch.zeros(len(pixels), device=pixels.device)
        if self.mix:  # The partner is the image at the mirrored place of the batch, which is in random order.
            shares = (self.mix * torch.rand(len(pixels), generator=self.generator)).to(pixels.device)
            pixels = torch.lerp(pixels, pixels.flip(0), shares[:, None, None, None]).round()
        with torch.autocast(pixels.device.type, dtype=torch.bfloat16, enabled=self.half):
            logits = network(pixels).float()
            errors = [F.cross_entropy(logits, target, reduction="none") for target in (labels, labels.flip(0))]
            loss = torch.lerp(errors[0], errors[1], shares).mean()
            if self.teacher is None:
                return loss
            with torch.no_grad():
                wanted = F.softmax(self.teacher(pixels).float() / self.temperature, 1)
        soft = F.cross_entropy(logits / self.temperature, wanted) * self.temperature**2
        return (1 - self.distil) * loss + self.distil * soft


class Phase:
    """One phase of training: a module, an optimiser, a learning-rate schedule and an extra loss.

    Subclasses change `extra_loss` (called with the share of the phase that is done), `after_step` and
    `after_epoch`. `state` / `load` carry what a resumed run needs beside module and generator.
    """

    name = "float"
    objective: Objective | None = None

    def __init__(self, module: nn.Module, epochs: int, groups: list[dict[str, Any]], schedule: Callable) -> None:
        self.module, self.epochs, self.schedule = module, epochs, schedule
        self._optimise(groups)

    def _optimise(self, groups: list[dict[str, Any]]) -> None:
        self.optimiser = torch.optim.Adam(groups)
        self._peaks = [group["lr"] for group in self.optimiser.param_groups]

    def set_rate(self, fraction: float) -> None:
        for group, peak in zip(self.optimiser.param_groups, self._peaks, strict=True):
            group["lr"] = peak * self.schedule(fraction)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.module(pixels)

    def loss(self, pixels: Tensor, labels: Tensor) -> Tensor:
        """Loss of the predictions, pixels 0..255 float (B, C, H, W)."""
        if self.objective is not None:
            return self.objective(self.forward, pixels, labels)
        return F.cross_entropy(self.forward(pixels), labels)

    def extra_loss(self, fraction: float) -> Tensor | None:
        return None

    def after_step(self) -> None: ...

    def after_epoch(self, epoch: int) -> None: ...

    def record(self) -> dict[str, float]:
        """Figures for the history, after an epoch."""
        return {}

    def state(self) -> dict[str, Any]:
        return {"optimiser": self.optimiser.state_dict()}

    def load(self, state: dict[str, Any]) -> None:
        self.optimiser.load_state_dict(state["optimiser"])


class FloatPhase(Phase):
    """Cross-entropy training of the float network, one-cycle learning rate."""

    def __init__(self, module: nn.Module, settings: Settings, prepare: Callable[[Tensor], Tensor]) -> None:
        groups = [{"params": list(module.parameters()), "lr": settings.float_lr}]
        super().__init__(module, settings.float_epochs, groups, one_cycle)
        self.prepare = prepare

    def forward(self, pixels: Tensor) -> Tensor:
        return self.module(self.prepare(pixels))


def _groups(network: Trainable, settings: Settings) -> list[dict[str, Any]]:
    """Parameters with their learning rates: log-steps, bit planes, everything else."""
    steps = [s.log_step for s in network.sources() if isinstance(s, FloatWeight)]
    planes = [p for s in network.sources() if isinstance(s, BitPlaneWeight) for p in (s.positive, s.negative)]
    known = {id(p) for p in (*steps, *planes)}
    rest = [p for p in network.parameters() if p.requires_grad and id(p) not in known]
    groups = ((rest, settings.lr), (steps, settings.step_lr), (planes, settings.plane_lr))
    return [{"params": parameters, "lr": rate} for parameters, rate in groups if parameters]


class MsqPhase(Phase):
    """The cheap formulation of system.md §8; the schedule falls geometrically and ends at 80 % of the phase."""

    name = "quantise"

    def __init__(self, network: Trainable, settings: Settings) -> None:
        super().__init__(network, settings.quantise_epochs, _groups(network, settings), constant)
        self.penalty = BlockPenalty(network, settings.weighting)
        self.controller = AlphaController(settings.alpha)
        with torch.no_grad():
            self.first_bits = self.bits = self.penalty()[1]
        self.target = min(settings.target_bits, self.first_bits)

    def extra_loss(self, fraction: float) -> Tensor | None:
        penalty, self.bits = self.penalty()
        wanted = self.first_bits * (self.target / self.first_bits) ** min(1.0, fraction / 0.8)
        self.controller.update(self.bits, wanted)
        return self.controller.alpha * penalty

    def record(self) -> dict[str, float]:
        return {"mean_bits": self.bits, "alpha": self.controller.alpha}

    def state(self) -> dict[str, Any]:
        controller = {"alpha": self.controller.alpha, "error": self.controller.error}
        return super().state() | controller | {"first_bits": self.first_bits, "bits": self.bits}

    def load(self, state: dict[str, Any]) -> None:
        super().load(state)
        self.controller.alpha, self.controller.error = state["alpha"], state["error"]
        self.first_bits, self.bits = state["first_bits"], state["bits"]


class BitPlanePhase(Phase):
    """Bit planes with group Lasso; requantised and stripped every `interval` epochs and at the end."""

    name = "quantise"

    def __init__(self, network: Trainable, settings: Settings) -> None:
        self.network, self.settings = network, settings
        super().__init__(network, settings.quantise_epochs, _groups(network, settings), constant)
        self.penalty = BlockPenalty(network, settings.weighting)

    def extra_loss(self, fraction: float) -> Tensor | None:
        return self.settings.alpha * self.penalty()[0]

    def _planes(self) -> list[BitPlaneWeight]:
        return [s for s in self.network.sources() if isinstance(s, BitPlaneWeight)]

    def after_step(self) -> None:
        for source in self._planes():
            source.clamp_planes()

    def after_epoch(self, epoch: int) -> None:
        if (epoch + 1) % self.settings.interval == 0 or epoch + 1 == self.epochs:
            for source in self._planes():
                source.requantise()
            self._optimise(_groups(self.network, self.settings))

    def record(self) -> dict[str, float]:
        return {"mean_bits": mean_bits(self.network), "alpha": self.settings.alpha}


class FinetunePhase(Phase):
    """Cross-entropy training with frozen block widths, cosine learning rate."""

    name = "finetune"

    def __init__(self, network: Trainable, settings: Settings) -> None:
        super().__init__(network, settings.finetune_epochs, _groups(network, settings), cosine)


#: Called after every epoch with (phase name, epochs done in it, record).
Report = Callable[[str, int, dict[str, float]], None]
#: Called during an epoch with the number of images of the last step.
Tick = Callable[[int], None]


def run_epoch(
    phase: Phase,
    epoch: int,
    pixels: Tensor,
    labels: Tensor,
    settings: Settings,
    generator: torch.Generator,
    tick: Tick | None = None,
) -> dict[str, float]:
    """One epoch of a phase over uint8 pixels (N, C, H, W); returns its record (loss and the phase's figures).

    ValueError if the loss stops being a finite number.
    """
    count = len(pixels)
    batch = min(settings.batch, count)
    steps = count // batch
    order = torch.randperm(count, generator=generator)
    augment = Augmentation(settings.shift, settings.flip, generator)
    total = 0.0
    for step in range(steps):
        fraction = (epoch * steps + step) / (phase.epochs * steps)
        phase.set_rate(fraction)
        index = order[step * batch : (step + 1) * batch]
        index = index.to(pixels.device)
        loss = phase.loss(augment(pixels[index]).float(), labels[index])
        total += loss.item()
        extra = phase.extra_loss(fraction)
        phase.optimiser.zero_grad()
        (loss if extra is None else loss + extra).backward()
        phase.optimiser.step()
        phase.after_step()
        if tick is not None:
            tick(batch)
    if not math.isfinite(total):
        raise ValueError(f"training diverged in phase {phase.name}, epoch {epoch + 1}: the loss is not a finite number")
    phase.after_epoch(epoch)
    return {"loss": total / steps, **phase.record(), **({} if phase.objective is None else phase.objective.record())}


def bit_plane_network(network: Trainable) -> None:
    """Change `network`: the same integers as continuous bit planes."""
    with torch.no_grad():
        for layer in network:
            source = layer.source
            layer.source = BitPlaneWeight(
                source.integers().detach(),
                float(source.step()),
                Block(source.ou_rows, source.ou_cols),
                network.weight_bits,
            )


def check_settings(settings: Settings, hardware: HardwareConfig) -> None:
    """ValueError naming the first setting out of its range."""
    limits: dict[str, tuple[float, float]] = {
        "float_epochs": (0, 10_000),
        "quantise_epochs": (0, 10_000),
        "finetune_epochs": (0, 10_000),
        "batch": (1, 100_000),
        "interval": (1, 10_000),
        "shift": (0, 8),
        "float_lr": (0, 10),
        "lr": (0, 10),
        "step_lr": (0, 10),
        "plane_lr": (0, 10),
        "alpha": (0, 1e3),
        "target_bits": (0.01, hardware.weight_bits),
        "weight_bits": (1, hardware.weight_bits),
        "start_bits": (1, settings.weight_bits),
        "activation_bits": (1, hardware.input_bits),
        "activation_tolerance": (0, 1),
        "distil": (0, 1),
        "temperature": (0.1, 100),
        "activity": (0, 100),
        "mix": (0, 0.5),
    }
    for name, (low, high) in limits.items():
        value = getattr(settings, name)
        if not low <= value <= high:
            raise ValueError(f"{name.replace('_', '-')} must be in {low:g}..{high:g}, got {value}")
    if settings.lower_activations is not None and not 1 <= settings.lower_activations <= settings.activation_bits:
        raise ValueError(
            f"lower-activations must be in 1..{settings.activation_bits}, got {settings.lower_activations}"
        )
    for name, allowed in (("method", ("msq", "bitplane", "ptq")), ("weighting", ("memory", "activations", "both"))):
        if getattr(settings, name) not in allowed:
            raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {getattr(settings, name)!r}")
