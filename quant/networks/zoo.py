"""Ready-made float networks.

Names and shapes of the parameters are those under which pretrained weights are usually found: ResNet-20/32 as
in akamaster's CIFAR collection, SqueezeNet 1.1 and ResNet-18 as in torchvision. Weights are never downloaded;
quant.networks.weights reads them from files.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quant.networks.pixels import Normalisation


# ---- networks -----------------------------------------------------------------------------------
class LeNet5(nn.Module):
    """LeNet-5: conv 6@5x5 (pad 2), pool 2, conv 16@5x5, pool 2, 120, 84, classes; ReLU between.

    Parameters
    ----------
    channels, height, width : shape of an input image; at least 12 x 12 pixels.
    classes : number of outputs, at least 2.
    """

    def __init__(self, channels: int = 1, height: int = 28, width: int = 28, classes: int = 10) -> None:
        super().__init__()
        if min(height, width) < 12:
            raise ValueError(f"LeNet-5 needs images of at least 12 x 12 pixels, got {height} x {width}")
        if classes < 2:
            raise ValueError(f"LeNet-5 needs at least 2 classes, got {classes}")
        features = 16 * ((height // 2 - 4) // 2) * ((width // 2 - 4) // 2)
        self.conv1 = nn.Conv2d(channels, 6, 5, padding=2)
        self.relu1 = nn.ReLU()
        self.pool1 = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.relu2 = nn.ReLU()
        self.pool2 = nn.MaxPool2d(2)
        self.flatten = nn.Flatten()
        self.fc1 = nn.Linear(features, 120)
        self.relu3 = nn.ReLU()
        self.fc2 = nn.Linear(120, 84)
        self.relu4 = nn.ReLU()
        self.fc3 = nn.Linear(84, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool1(self.relu1(self.conv1(x)))
        x = self.pool2(self.relu2(self.conv2(x)))
        x = self.flatten(x)
        return self.fc3(self.relu4(self.fc2(self.relu3(self.fc1(x)))))


class CifarBlock(nn.Module):
    """Two 3x3 convolutions and an option-A shortcut: every second pixel, new channels are zeros (He et al., 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.added = stride, outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.added:
            half = self.added // 2
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, self.added - half))
        return F.relu(y + x)


class CifarResNet(nn.Module):
    """ResNet of depth 6 * blocks + 2 for 32 x 32 images: 16, 32 and 64 channels, option-A shortcuts."""

    def __init__(self, blocks: int, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(blocks, 16, 16, 1)
        self.layer2 = self._stage(blocks, 16, 32, 2)
        self.layer3 = self._stage(blocks, 32, 64, 2)
        self.linear = nn.Linear(64, classes)

    @staticmethod
    def _stage(blocks: int, inputs: int, outputs: int, stride: int) -> nn.Sequential:
        return nn.Sequential(
            *(CifarBlock(inputs if i == 0 else outputs, outputs, stride if i == 0 else 1) for i in range(blocks))
        )

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


class CifarVgg(nn.Module):
    """VGG-style network for 32 x 32 images: pairs of 3x3 convolutions, each pair followed by 2x2 maximum pooling."""

    def __init__(self, classes: int = 10, widths: tuple[int, ...] = (64, 128, 256)) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for width in widths:
            for _ in range(2):
                layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
                inputs = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        side = 32 >> len(widths)
        self.classifier = nn.Sequential(
            nn.Linear(inputs * side * side, 256), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(256, classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.features(x), 1))


class Fire(nn.Module):
    """SqueezeNet's block: a 1x1 squeeze, then 1x1 and 3x3 expansions side by side (Iandola et al., 2016)."""

    def __init__(self, inputs: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeeze, 1)
        self.squeeze_activation = nn.ReLU(inplace=True)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand1x1_activation = nn.ReLU(inplace=True)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)
        self.expand3x3_activation = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.squeeze_activation(self.squeeze(x))
        return torch.cat(
            [self.expand1x1_activation(self.expand1x1(x)), self.expand3x3_activation(self.expand3x3(x))], 1
        )


class SqueezeNet(nn.Module):
    """SqueezeNet 1.1: a convolution without padding, eight fire modules, pooling that reaches over the edge."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 3, 2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            Fire(64, 16, 64),
            Fire(128, 16, 64),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            Fire(128, 32, 128),
            Fire(256, 32, 128),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            Fire(256, 48, 192),
            Fire(384, 48, 192),
            Fire(384, 64, 256),
            Fire(512, 64, 256),
        )
        self.classifier = nn.Sequential(
            nn.Dropout(), nn.Conv2d(512, classes, 1), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.flatten(self.classifier(self.features(x)), 1)


class BasicBlock(nn.Module):
    """ResNet's block of two 3x3 convolutions; a 1x1 projection where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet18(nn.Module):
    """ResNet-18 for images of 224 x 224 (He et al., 2016)."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = nn.Sequential(BasicBlock(64, 64, 1), BasicBlock(64, 64, 1))
        self.layer2 = nn.Sequential(BasicBlock(64, 128, 2), BasicBlock(128, 128, 1))
        self.layer3 = nn.Sequential(BasicBlock(128, 256, 2), BasicBlock(256, 256, 1))
        self.layer4 = nn.Sequential(BasicBlock(256, 512, 2), BasicBlock(512, 512, 1))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(512, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


@dataclass(frozen=True, kw_only=True)
class Ready:
    """A ready-made network. make : from the number of classes. shape : (C, H, W) of an image.

    normalisation : what the usual pretrained weights expect of their input. sized : from the shape of an image and the
    number of classes, for networks that come in every size.
    """

    make: Callable[[int], nn.Module]
    shape: tuple[int, int, int]
    classes: int
    normalisation: Normalisation
    sized: Callable[[tuple[int, int, int], int], nn.Module] | None = None

    def network(self, shape: tuple[int, int, int], outputs: int) -> nn.Module:
        """One with random weights for images of this shape."""
        return self.make(outputs) if self.sized is None else self.sized(shape, outputs)


_IMAGENET = Normalisation(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
_CIFAR = Normalisation(mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616))
#: Caffe: pixels 0..255 minus the mean, not scaled.
_CAFFE = Normalisation(mean=(123.68 / 255, 116.779 / 255, 103.939 / 255), std=(1 / 255,) * 3)

READY: dict[str, Ready] = {
    "lenet5": Ready(
        make=lambda classes: LeNet5(classes=classes),
        shape=(1, 28, 28),
        classes=10,
        normalisation=Normalisation.none(1),
        sized=lambda shape, classes: LeNet5(*shape, classes),
    ),
    "resnet20": Ready(
        make=lambda classes: CifarResNet(3, classes), shape=(3, 32, 32), classes=10, normalisation=_IMAGENET
    ),
    "resnet32": Ready(
        make=lambda classes: CifarResNet(5, classes), shape=(3, 32, 32), classes=10, normalisation=_IMAGENET
    ),
    "vgg": Ready(make=CifarVgg, shape=(3, 32, 32), classes=10, normalisation=_CIFAR),
    "squeezenet": Ready(make=SqueezeNet, shape=(3, 224, 224), classes=1000, normalisation=_CAFFE),
    "resnet18": Ready(make=ResNet18, shape=(3, 224, 224), classes=1000, normalisation=_IMAGENET),
}


def ready(name: str) -> Ready:
    """A ready-made network by name, or ValueError with the names there are."""
    if name not in READY:
        raise ValueError(f"unknown network {name!r}; there are {', '.join(READY)}, and FILE.py:NAME for yours")
    return READY[name]
