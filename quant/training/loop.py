"""The training of one network: float, widths falling, widths frozen; one checkpoint after every epoch."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from golden_model.config import HardwareConfig
from golden_model.graph.network import Graph
from quant.capture.capture import from_torch
from quant.data.sets import ImageSet
from quant.networks.pixels import Normalisation, PixelNetwork
from quant.reference import accuracy, exact_logits
from quant.training.pair_ous import mean_ones
from quant.training.penalties import width_statistics
from quant.training.phases import (
    Augmentation,
    BitPlanePhase,
    MsqPhase,
    Objective,
    Phase,
    Settings,
    bit_plane_network,
    check_settings,
    finetune_phase,
    float_phase,
)
from quant.training.prepare import QuantisedNetwork, calibrate_clips, prepare
from quant.training.restart import take_over

#: Called during an epoch with the number of images of the last step.
Tick = Callable[[int], None]


# ---- activation widths ----------------------------------------------------------------------------
@torch.no_grad()
def logits_of(network: nn.Module, pixels: Tensor) -> Tensor:
    """(B, classes) of the (fake-quantised) forward on uint8 pixels (B, C, H, W)."""
    return torch.cat([network(part.float()) for part in pixels.split(500)])


def evaluate(network: nn.Module, pixels: Tensor, labels: Tensor) -> float:
    """Accuracy of the (fake-quantised) forward on uint8 pixels (B, C, H, W)."""
    return int((logits_of(network, pixels).argmax(1) == labels).sum()) / max(1, len(pixels))


def lower_activation_widths(
    network: QuantisedNetwork, pixels: Tensor, labels: Tensor, *, tolerance: float, minimum: int
) -> list[int]:
    """Lower the widths of hidden activations while accuracy on the given images holds.

    One bit of one activation at a time, always the one with the least change of the logits (mean square) per OU
    activation saved (*ours*; each is tried alone, and again after it was lowered), as long as accuracy stays above that
    of the unchanged network minus `tolerance` (a share, shared by all) and the width above `minimum`. Activations that
    no block reads keep their width. Returns the widths of the activations.
    """
    floor = evaluate(network, pixels, labels) - tolerance
    activations = network.activations()
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


def bit_products(network: QuantisedNetwork) -> list[float]:
    """Work that one streamed bit of each of the activations causes: products x mean width of a block, summed
    over the layers that read it."""
    activations = network.activations()

    def work(layer: Any) -> float:
        return layer.geometry.products * float(layer.source.block_widths().float().mean())

    return [
        sum(work(layer) for source, layer in network.inputs() if source is activation) for activation in activations
    ]


# ---- training ------------------------------------------------------------------------------------
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


SCHEMA, VERSION = "ohmloom-training", 3
PHASES = ("float", "quantise", "finetune")
#: Images held out from training that set the clips, and that lowered activation widths are checked on.
CALIBRATION_IMAGES = 256
LOWERING_IMAGES = 1000
#: Training images whose ones are counted for the OUs of the pair machine.
ONES_IMAGES = 16
#: Magnitude bits of the 8-bit symmetric setting after training (sign + 7).
EIGHT_BIT_PLANES = 7


class Watcher:
    """Receives what training reports; does nothing by itself."""

    def phase(self, name: str, images: int, done: int) -> None:
        """A phase of `images` images starts, `done` of them are finished already."""

    def tick(self, images: int) -> None: ...

    def epoch(self, name: str, epoch: int, epochs: int, record: dict[str, float]) -> None: ...


class Training:
    """The state of one training: float network, quantised network, phase, history; saved after every epoch.

    Images that the data set holds out (`ImageSet.validation`) are never trained on; clips and activation widths are
    chosen on them. All draws come from one generator seeded with settings.seed.
    """

    def __init__(
        self,
        model: nn.Module,
        dataset: ImageSet,
        settings: Settings,
        hardware: HardwareConfig,
        *,
        normalisation: Normalisation,
        name: str,
        block: str = "ou",
        device: str = "cpu",
        start: Mapping[str, Any] | Graph | None = None,
    ) -> None:
        """block : as for `Block.named`. start : checkpoint of a finished training to go on from, or its integer
        network: its weights, widths (which can only fall) and activations, if those have the same widths and ones now.
        """
        check_settings(settings, hardware)
        self.settings, self.hardware, self.block = settings, hardware, block
        self.dataset, self.name, self.device = dataset, name, torch.device(device)
        self.normalisation, self.start = normalisation, start
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.float_network = PixelNetwork(model, normalisation).to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        images, labels = dataset.learning()
        self.pixels = torch.from_numpy(np.ascontiguousarray(images)).to(self.device)
        self.labels = torch.from_numpy(np.asarray(labels, dtype=np.int64)).to(self.device)
        self.network: QuantisedNetwork | None = None
        self.history: list[dict[str, Any]] = []
        self.phase, self.epochs, self.phase_state = "float", 0, None

    # ---- checkpoints ------------------------------------------------------------------------------
    def content(self, phase: Phase | None) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "version": VERSION,
            "model": self.settings.model,
            "phase": self.phase,
            "epochs": self.epochs,
            "float": self.float_network.model.state_dict(),
            "network": None if self.network is None else self.network.state_dict(),
            "activation_bits": [] if self.network is None else [a.bits for a in self.network.activations()],
            "activation_ones": [] if self.network is None else [a.ones for a in self.network.activations()],
            "phase_state": None if phase is None else phase.state(),
            "generator": self.generator.get_state(),
            "history": self.history,
        }

    def load(self, content: dict[str, Any]) -> None:
        self.phase, self.epochs, self.history = content["phase"], content["epochs"], list(content["history"])
        self.float_network.model.load_state_dict(content["float"])
        self.phase_state = content["phase_state"]
        if content["network"] is not None:
            self.network = self._quantised()
            self.network.load_state(content["network"])
            for activation, bits in zip(self.network.activations(), content["activation_bits"], strict=True):
                activation.set_bits(bits)
            self.network.to(self.device)
        self.generator.set_state(content["generator"])

    # ---- phases -----------------------------------------------------------------------------------
    def _quantised(self) -> QuantisedNetwork:
        settings = self.settings
        calibration = np.array(self.dataset.validation(CALIBRATION_IMAGES)[0])
        network = prepare(
            self.float_network.model,
            self.dataset.shape,
            self.hardware,
            calibration=calibration,
            normalisation=self.normalisation,
            start_bits=settings.start_bits,
            activation_bits=settings.activation_bits,
            activation_ones=settings.activation_ones,
            block=self.block,
            learn_clips=settings.learn_clips,
        )
        if isinstance(self.start, Graph):
            pixels = torch.from_numpy(calibration).float()
            if not take_over(network, self.start, pixels):
                calibrate_clips(network, pixels)
        elif self.start is not None:
            clips = {name: clip for name, clip in network.state_dict().items() if name.endswith(".clip")}
            activations = [(a.bits, a.ones) for a in network.activations()]
            same = list(zip(self.start["activation_bits"], self.start["activation_ones"], strict=True)) == activations
            network.load_state({**self.start["network"], **({} if same else clips)})
        return network.to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _make_phase(self) -> Phase:
        settings = self.settings
        if self.phase == "float":
            if settings.float_epochs:
                self._quantised()  # refuses before anything is trained
            return float_phase(self.float_network, settings)
        if self.network is None:
            self.network = self._quantised()
            if settings.method == "bitplane":
                bit_plane_network(self.network)
        if self.phase == "quantise":
            kind = BitPlanePhase if settings.method == "bitplane" else MsqPhase
            return kind(self.network, settings, self._ones() if settings.weighting == "pair-ous" else None)
        if self.epochs == 0 and self.phase_state is None:
            self.network = self.network.float_weights()
            for source in self.network.sources():
                source.freeze()  # type: ignore[operator]
            if settings.lower_activations:
                self.network.eval()
                images, labels = self.dataset.validation(LOWERING_IMAGES)
                lower_activation_widths(
                    self.network,
                    _tensor(images).to(self.device),
                    _tensor(labels).to(self.device),
                    tolerance=settings.activation_tolerance,
                    minimum=settings.lower_activations,
                )
        return finetune_phase(self.network, settings)

    def _ones(self) -> list[torch.Tensor]:
        """What training pictures stream before widths fall; the same when training goes on from a checkpoint."""
        return mean_ones(self._quantised(), self.pixels[:ONES_IMAGES].cpu().numpy())

    def run(self, keep: Callable[[dict[str, Any]], None], watcher: Watcher) -> None:
        """All phases that are left; `keep` is called with a checkpoint's content after every epoch."""
        for name in PHASES[PHASES.index(self.phase) :]:
            if name != self.phase:
                self.phase, self.epochs, self.phase_state = name, 0, None
            phase = self._make_phase()
            if self.phase_state is not None:
                phase.load(self.phase_state)
            if name != "float":
                teacher = copy.deepcopy(self.float_network).eval().requires_grad_(False)
                phase.objective = Objective(teacher, self.settings, self.network, self.generator)
            count = len(self.pixels)
            watcher.phase(name, phase.epochs * count, self.epochs * count)
            phase.module.train()
            while self.epochs < phase.epochs:
                began = time.perf_counter()
                record = run_epoch(
                    phase, self.epochs, self.pixels, self.labels, self.settings, self.generator, watcher.tick
                )
                self.epochs += 1
                record["seconds"] = time.perf_counter() - began
                self.history.append({"phase": name, "epoch": self.epochs, **record})
                watcher.epoch(name, self.epochs, phase.epochs, record)
                keep(self.content(phase))
            if name == PHASES[-1] and not phase.epochs:
                keep(self.content(phase))

    # ---- results ----------------------------------------------------------------------------------
    def float_accuracy(self) -> float:
        """On the test images."""
        self.float_network.eval()
        images, labels = (_tensor(a).to(self.device) for a in (self.dataset.test_images, self.dataset.test_labels))
        return evaluate(self.float_network, images, labels)

    def eight_bit_accuracy(self) -> float:
        """Of the float network quantised after training, 8 bits or what the hardware has, on the test images."""
        graph = from_torch(
            copy.deepcopy(self.float_network.model).cpu().float(),
            self.dataset.shape,
            self.hardware,
            self.dataset.validation(CALIBRATION_IMAGES)[0],
            normalisation=self.normalisation,
            weight_bits=min(EIGHT_BIT_PLANES, self.hardware.weight_bits),
            activation_bits=self.hardware.input_bits,
            name=self.name,
        )
        return accuracy(exact_logits(graph, self.dataset.test_images), self.dataset.test_labels)

    def graph(self) -> Graph:
        """The integer network; its widths are those of the hardware's operation units."""
        assert self.network is not None
        graph = self.network.to_graph(self.dataset.train_images[:2], self.name, self.dataset.names)
        return replace(graph, info={**graph.info, "pictures": self.dataset.pictures})

    def results(self, graph: Graph) -> dict[str, Any]:
        """Accuracies, widths and history, JSON-able. graph : what `graph` returns."""
        assert self.network is not None
        logits = exact_logits(graph, self.dataset.test_images)
        return {
            "accuracy": {
                "float": self.float_accuracy(),
                "eight_bit": self.eight_bit_accuracy(),
                "integer": accuracy(logits, self.dataset.test_labels),
            },
            "widths": width_statistics(self.network),
            "activation_bits": [a.bits for a in self.network.activations()],
            "test_images": len(logits),
            "train_images": len(self.pixels),
            "history": self.history,
        }


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(array))
