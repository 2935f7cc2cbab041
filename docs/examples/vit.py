"""A small vision transformer, from training to counted work: `python docs/examples/vit.py FILE [EPOCHS]`."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import nn

from golden_model.config import PAPER
from golden_model.cost import machines
from golden_model.cost.energy import energy
from golden_model.graph.host import total_work, work_of
from golden_model.image import archive
from quant.capture.capture import from_torch
from quant.data import sets
from quant.data.image_set import ImageSet
from quant.networks.pixels import Normalisation, float_logits
from quant.networks.tokens import ViT
from quant.reference import accuracy, exact_logits


def trained(digits: ImageSet, epochs: int) -> ViT:
    """16 patches of 7 x 7 pixels, two encoders of 32 channels and 2 heads; pictures moved by up to 2 pixels."""
    torch.manual_seed(0)
    model = ViT(digits.shape, 10, patch=7, width=32, depth=2, heads=2)
    pictures, labels = torch.tensor(digits.train_images) / 255, torch.tensor(digits.train_labels).long()
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    rounds = epochs * -(-len(pictures) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=rounds)
    for _ in range(epochs):
        for some in torch.randperm(len(pictures)).split(64):
            y, x = torch.randint(-2, 3, (2,)).tolist()
            loss = nn.functional.cross_entropy(model(pictures[some].roll((y, x), (2, 3))), labels[some])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return model.eval()


def main(path: str, epochs: int = 60) -> None:
    digits = sets.load()
    model = trained(digits, epochs)
    network = from_torch(model, digits.shape, PAPER, digits.calibration(), name="vit")
    archive.save(network, Path(path))
    test, labels = digits.test_images, digits.test_labels
    share = accuracy(float_logits(model, test, Normalisation.none(1)), labels)
    whole = accuracy(exact_logits(network, test), labels)
    print(f"accuracy on {len(test)} digits: float {share:.2%}, integers {whole:.2%}")
    for machine in (machines.baseline(network), machines.block_widths(network)):
        print(f"energy of a picture, {machine.name}: {energy(machine).total_pj / 1e6:.3f} uJ")
    macs = sum(layer.windows * layer.weights.size for layer in network.layers)
    print(
        f"on crossbars: {macs:,} multiplications; on the host, not in the energy: {total_work(work_of(network.nodes))}"
    )


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
