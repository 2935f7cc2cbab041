"""Small networks of every family that users bring, for whole runs from PyTorch to simulated hardware.

`python -m quant.compile tests/end_to_end/small_networks.py:mobile ...` takes them as it takes a user's own file.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CLASSES = 4


class Vgg(nn.Module):
    """Convolutions with batch norm, maximum pooling, dropout in front of the classifier."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for outputs in (8, 16):
            for _ in range(2):
                layers += [nn.Conv2d(channels, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
                channels = outputs
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Flatten(), nn.Linear(16 * 7 * 7, 32), nn.ReLU(), nn.Dropout(), nn.Linear(32, CLASSES)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))


class Inverted(nn.Module):
    """MobileNet-v2's block: widen, depthwise convolution, project; the sum of its ends can be negative."""

    def __init__(self, inputs: int, outputs: int, stride: int, expand: int = 2) -> None:
        super().__init__()
        inner = inputs * expand
        self.widen = nn.Sequential(nn.Conv2d(inputs, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU6())
        self.depthwise = nn.Sequential(
            nn.Conv2d(inner, inner, 3, stride, 1, groups=inner, bias=False), nn.BatchNorm2d(inner), nn.ReLU6()
        )
        self.project = nn.Sequential(nn.Conv2d(inner, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.depthwise(self.widen(x)))
        return x + y if self.adds else y


class Mobile(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1, bias=False), nn.BatchNorm2d(6), nn.ReLU6())
        self.blocks = nn.Sequential(Inverted(6, 8, 2), Inverted(8, 8, 1))
        self.head = nn.Sequential(nn.Conv2d(8, 16, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6())
        self.classifier = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(self.blocks(self.stem(x)))
        return self.classifier(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Fire(nn.Module):
    def __init__(self, inputs: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeeze, 1)
        self.expand1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3 = nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.squeeze(x))
        return torch.cat([F.relu(self.expand1(x)), F.relu(self.expand3(x))], 1)


class Squeeze(nn.Module):
    """Fire modules, overlapping pooling that reaches over the edge, a classifier that ends in average pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, 2)
        self.fires = nn.Sequential(Fire(8, 4, 6), nn.MaxPool2d(3, 2, ceil_mode=True), Fire(12, 4, 8))
        self.last = nn.Conv2d(16, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv(x)), 3, 2, ceil_mode=True)
        return F.adaptive_avg_pool2d(F.relu(self.last(self.fires(x))), 1).flatten(1)


class Dense(nn.Module):
    """Every layer reads what all layers before it wrote; average pooling between the blocks."""

    def __init__(self, growth: int = 4) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, 2, 1)
        self.layers = nn.ModuleList(nn.Conv2d(6 + i * growth, growth, 3, padding=1) for i in range(3))
        self.between = nn.Conv2d(6 + 3 * growth, 8, 1)
        self.more = nn.ModuleList(nn.Conv2d(8 + i * growth, growth, 3, padding=1) for i in range(2))
        self.classifier = nn.Linear(8 + 2 * growth, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.stem(x)), 3, 2, 1)
        for layer in self.layers:
            x = torch.cat([x, F.relu(layer(x))], 1)
        x = F.avg_pool2d(F.relu(self.between(x)), 2)
        for layer in self.more:
            x = torch.cat([x, F.relu(layer(x))], 1)
        return self.classifier(x.mean((2, 3)))


class Residual(nn.Module):
    """Shortcuts by projection (option B) and as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1, bias=False), nn.BatchNorm2d(6), nn.ReLU())
        self.a = nn.Sequential(nn.Conv2d(6, 6, 3, 1, 1, bias=False), nn.BatchNorm2d(6))
        self.b = nn.Sequential(nn.Conv2d(6, 10, 3, 2, 1, bias=False), nn.BatchNorm2d(10))
        self.short = nn.Sequential(nn.Conv2d(6, 10, 1, 2, bias=False), nn.BatchNorm2d(10))
        self.classifier = nn.Linear(10, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = F.relu(self.a(x) + x)
        x = F.relu(self.b(x) + self.short(x))
        return self.classifier(F.avg_pool2d(x, x.shape[-1]).flatten(1))


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(3 * 28 * 28, 24), nn.ReLU(), nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, CLASSES)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Curves(nn.Module):
    """Activation functions other than ReLU: behind a batch norm, with pooling, of a sum, written as a formula."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.SiLU())
        self.body, self.pool = nn.Conv2d(8, 8, 3, padding=1), nn.MaxPool2d(2)
        self.narrow = nn.Sequential(nn.Conv2d(8, 16, 3), nn.LeakyReLU(0.1), nn.MaxPool2d(2))
        self.classifier = nn.Linear(16 * 2 * 2, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.body(x) + x
        return self.classifier(self.narrow(self.pool(y * torch.sigmoid(1.5 * y))).flatten(1))


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    """A network with random weights and batch norms as after training; the same every time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make().train()
        with torch.no_grad():
            for _ in range(4):  # running statistics
                model(torch.rand(16, 3, 28, 28))
            for module in model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.weight.uniform_(0.5, 1.5)
                    module.bias.uniform_(-0.3, 0.3)
    return model.eval()


def vgg() -> nn.Module:
    return seeded(Vgg)


def mobile() -> nn.Module:
    return seeded(Mobile)


def squeeze() -> nn.Module:
    return seeded(Squeeze)


def dense() -> nn.Module:
    return seeded(Dense)


def residual() -> nn.Module:
    return seeded(Residual)


def mlp() -> nn.Module:
    return seeded(Mlp)


def curves() -> nn.Module:
    return seeded(Curves)


NAMES = ("vgg", "mobile", "squeeze", "dense", "residual", "mlp", "curves")
