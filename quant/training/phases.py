"""Phases of block-wise mixed-precision training (BWQ-A; Wu et al., IEEE TCAD 43(12), 2024; system.md §8).

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

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from golden_model.config import HardwareConfig
from quant.networks.layers import BitPlaneWeight, FloatWeight
from quant.settings import check, setting
from quant.training.penalties import ActivityPenalty, AlphaController, BlockPenalty, width_statistics
from quant.training.prepare import QuantisedNetwork


# ---- settings -----------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that decides the result of training, besides data and hardware.

    float_epochs, quantise_epochs, finetune_epochs : 0 skips the phase. float_lr is the peak of a one-cycle schedule;
    finetune decays lr to 0 by a cosine; bit planes must travel by about 1.
    distil : instead of the labels, softened (Hinton et al., 2015). activity : of `ActivityPenalty`. mix : labels are
    mixed likewise, and the teacher sees the mixture (Zhang et al., 2018; not of the float network). shift : filled with
    0. weight_bits : largest width of a block, which follows from the hardware.
    """

    model: str = setting("lenet5", "")
    method: str = setting("msq", "msq, bitplane, or ptq (not trained further).", among=("msq", "bitplane", "ptq"))
    weighting: str = setting(
        "memory",
        "Penalty by memory, activations, both or pair-ous (OUs of the pair machine).",
        among=("memory", "activations", "both", "pair-ous"),
    )
    target_bits: float = setting(
        0.4, "Mean magnitude bits at which the schedule ends, weighted as the penalty (msq).", 0.01, 8
    )
    start_bits: int = setting(7, "Magnitude bits at the start.")
    weight_bits: int = setting(8, "")
    activation_bits: int = setting(8, "Width of hidden activations.")
    activation_ones: int = setting(0, "Most ones of a hidden activation, which stream word lines; 0 for any.", 0, 8)
    learn_clips: bool = setting(False, "Train the clips of activations of any width, not just 3 bits.")
    lower_activations: int = setting(4, "Lowest width tried per layer before the finetune; 0 leaves the widths.")
    activation_tolerance: float = setting(0.003, "Accuracy (a share) that lowering may cost on held-out images.", 0, 1)
    float_epochs: int = setting(6, "Of the float network; default 0 with --weights or in colour.", 0, 10_000)
    quantise_epochs: int = setting(6, "While widths fall.", 0, 10_000)
    finetune_epochs: int = setting(6, "With frozen widths.", 0, 10_000)
    batch: int = setting(128, "Images per step.", 1, 100_000)
    float_lr: float = setting(4e-3, "Peak learning rate of float training.", 0, 10)
    lr: float = setting(2e-3, "Learning rate of quantised training (Adam).", 0, 10)
    step_lr: float = setting(5e-3, "Learning rate of the weight steps, in logarithms.", 0, 10)
    plane_lr: float = setting(2e-2, "Learning rate of bit planes (bitplane).", 0, 10)
    alpha: float = setting(1e-2, "Penalty: first (msq) or constant (bitplane).", 0, 1e3)
    interval: int = setting(2, "Epochs between requantisations (bitplane).", 1, 10_000)
    distil: float = setting(0.0, "Weight of the float network's outputs in the loss, 0..1.", 0, 1)
    temperature: float = setting(4.0, "Softening of these outputs.", 0.1, 100)
    activity: float = setting(0.0, "Factor of a penalty on the bits that streamed activations need.", 0, 100)
    mix: float = setting(0.0, "Largest share of a second image mixed into a training image, 0..0.5.", 0, 0.5)
    shift: int = setting(1, "Move training images by up to so many pixels in both directions.", 0, 8)
    flip: bool = setting(False, "Mirror every second training image, drawn at random.")
    half: bool = setting(False, "Train with activations and products in bfloat16.")
    normalise: bool = setting(False, "Train on images normalised by their own mean and deviation.")
    seed: int = setting(0, "Of every random draw.")


def check_settings(settings: Settings, hardware: HardwareConfig) -> None:
    """ValueError naming the first setting out of its range."""
    check(
        settings,
        target_bits=(0.01, hardware.weight_bits),
        weight_bits=(1, hardware.weight_bits),
        start_bits=(1, settings.weight_bits),
        activation_bits=(1, hardware.input_bits),
        lower_activations=(0, settings.activation_bits),
    )


# ---- images and losses --------------------------------------------------------------------------
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

    objective: Objective | None = None

    def __init__(
        self, name: str, module: nn.Module, epochs: int, groups: list[dict[str, Any]], schedule: Callable
    ) -> None:
        self.name, self.module, self.epochs, self.schedule = name, module, epochs, schedule
        self._optimise(groups)

    def _optimise(self, groups: list[dict[str, Any]]) -> None:
        self.optimiser = torch.optim.Adam(groups)
        self._peaks = [group["lr"] for group in self.optimiser.param_groups]

    def set_rate(self, fraction: float) -> None:
        for group, peak in zip(self.optimiser.param_groups, self._peaks, strict=True):
            group["lr"] = peak * self.schedule(fraction)

    def loss(self, pixels: Tensor, labels: Tensor) -> Tensor:
        """Loss of the predictions, pixels 0..255 float (B, C, H, W)."""
        if self.objective is not None:
            return self.objective(self.module, pixels, labels)
        return F.cross_entropy(self.module(pixels), labels)

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


def float_phase(module: nn.Module, settings: Settings) -> Phase:
    """Cross-entropy training of the float network, which takes pixels; one-cycle learning rate."""
    groups = [{"params": list(module.parameters()), "lr": settings.float_lr}]
    return Phase("float", module, settings.float_epochs, groups, one_cycle)


def finetune_phase(network: QuantisedNetwork, settings: Settings) -> Phase:
    """Cross-entropy training with frozen block widths, cosine learning rate."""
    return Phase("finetune", network, settings.finetune_epochs, _groups(network, settings), cosine)


def _groups(network: QuantisedNetwork, settings: Settings) -> list[dict[str, Any]]:
    """Parameters with their learning rates: log-steps, bit planes, everything else."""
    steps = [s.log_step for s in network.sources() if isinstance(s, FloatWeight)]
    planes = [p for s in network.sources() if isinstance(s, BitPlaneWeight) for p in (s.positive, s.negative)]
    known = {id(p) for p in (*steps, *planes)}
    rest = [p for p in network.parameters() if p.requires_grad and id(p) not in known]
    groups = ((rest, settings.lr), (steps, settings.step_lr), (planes, settings.plane_lr))
    return [{"params": parameters, "lr": rate} for parameters, rate in groups if parameters]


class MsqPhase(Phase):
    """The cheap formulation of system.md §8; the schedule falls geometrically and ends at 80 % of the phase."""

    def __init__(self, network: QuantisedNetwork, settings: Settings, ones: Sequence[Tensor] | None = None) -> None:
        """ones : for the weighting "pair-ous", as `BlockPenalty` takes it."""
        super().__init__("quantise", network, settings.quantise_epochs, _groups(network, settings), constant)
        self.penalty = BlockPenalty(network, settings.weighting, ones)
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

    def __init__(self, network: QuantisedNetwork, settings: Settings, ones: Sequence[Tensor] | None = None) -> None:
        """ones : for the weighting "pair-ous", as `BlockPenalty` takes it."""
        self.network, self.settings = network, settings
        super().__init__("quantise", network, settings.quantise_epochs, _groups(network, settings), constant)
        self.penalty = BlockPenalty(network, settings.weighting, ones)

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
        return {"mean_bits": width_statistics(self.network)["mean_bits"], "alpha": self.settings.alpha}


def bit_plane_network(network: QuantisedNetwork) -> None:
    """Change `network`: the same integers as continuous bit planes."""
    with torch.no_grad():
        for layer in network:
            source = layer.source
            layer.source = BitPlaneWeight(
                source.integers().detach(),
                float(source.step()),
                source.block,
                network.weight_bits,
            )
