from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from quant.capture.chain import LeNet5, UnsupportedOperator, build, capture
from tests.quant.conftest import SmallNet


def test_lenet5_is_captured_as_five_stages():
    stages = capture(LeNet5(), (1, 28, 28))
    assert [s.name for s in stages] == ["conv1", "conv2", "fc1", "fc2", "fc3"]
    assert [s.k for s in stages] == [25, 150, 400, 120, 84]
    assert [s.outputs for s in stages] == [6, 16, 120, 84, 10]
    assert [s.windows for s in stages] == [784, 100, 1, 1, 1]
    assert [s.pool for s in stages] == [2, 2, 1, 1, 1]
    assert [s.relu for s in stages] == [True, True, True, True, False]


def test_first_fully_connected_layer_has_the_whole_map_as_kernel():
    stage = capture(LeNet5(), (1, 28, 28))[2]
    assert (stage.channels, stage.kernel_height, stage.kernel_width) == (16, 5, 5)


@pytest.mark.parametrize(("height", "width"), [(12, 12), (17, 30), (28, 20)])
def test_lenet5_takes_other_image_sizes(height: int, width: int):
    model = LeNet5(1, height, width, 3)
    assert capture(model, (1, height, width))[-1].outputs == 3
    assert model(torch.zeros(2, 1, height, width)).shape == (2, 3)


def test_too_small_images_are_refused():
    with pytest.raises(ValueError, match="at least 12 x 12 pixels, got 11 x 28"):
        LeNet5(1, 11, 28)


def test_functional_relu_and_flatten_are_captured():
    stages = capture(SmallNet(), (2, 9, 8))
    assert [(s.kind, s.stride, s.pad, s.pool) for s in stages] == [
        ("conv", 1, 1, 2),
        ("conv", 2, 0, 1),
        ("linear", 1, 0, 1),
    ]


def test_build_depends_on_the_generator_only():
    torch.manual_seed(5)
    first = build("lenet5", (1, 28, 28), 10, torch.Generator().manual_seed(3))
    torch.manual_seed(6)
    again = build("lenet5", (1, 28, 28), 10, torch.Generator().manual_seed(3))
    other = build("lenet5", (1, 28, 28), 10, torch.Generator().manual_seed(4))
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True))
    assert not torch.equal(first.get_parameter("conv1.weight"), other.get_parameter("conv1.weight"))


class _Chain(nn.Module):
    def __init__(self, **layers: nn.Module) -> None:
        super().__init__()
        self.order = list(layers)
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        for name in self.order:
            x = getattr(self, name)(x)
        return x


class _Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) + x


class _Sigmoid(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.conv(x))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: _Chain(conv=nn.Conv2d(2, 2, 3), odd=nn.GELU()), "layer 'odd': GELU is not supported"),
        (lambda: _Chain(conv=nn.Conv2d(2, 2, 3), mean=nn.AvgPool2d(2)), "layer 'mean': AvgPool2d is not supported"),
        (lambda: _Chain(conv=nn.Conv2d(2, 2, 3), big=nn.MaxPool2d(3, 2)), "layer 'big': overlapping pooling"),
        (
            lambda: _Chain(conv=nn.Conv2d(2, 2, 3), up=nn.MaxPool2d(2, ceil_mode=True)),
            "layer 'up': ceil_mode must be False",
        ),
        (lambda: _Chain(wide=nn.Conv2d(2, 2, 3, groups=2)), "layer 'wide': groups must be 1, got 2"),
        (lambda: _Chain(far=nn.Conv2d(2, 2, 3, dilation=2)), "layer 'far': dilation"),
        (lambda: _Chain(odd=nn.Conv2d(2, 2, 3, padding=(1, 0))), "layer 'odd': stride and padding must be equal"),
        (lambda: _Chain(a=nn.Conv2d(2, 2, 3), b=nn.Conv2d(2, 2, 3)), "layer 'b': its input is signed"),
        (
            lambda: _Chain(flat=nn.Flatten(), a=nn.Linear(144, 3), r=nn.ReLU()),
            "layer 'a': the last layer must give signed",
        ),
        (lambda: _Chain(a=nn.Linear(8, 3)), "layer 'a': a fully connected layer needs Flatten"),
        (lambda: _Chain(flat=nn.Flatten(), a=nn.Linear(8, 3)), "layer 'a': input features must be 144, got 8"),
        (lambda: _Chain(a=nn.Conv2d(3, 2, 3)), "layer 'a': input channels must be 2, got 3"),
        (lambda: _Chain(a=nn.Conv2d(2, 2, 3)), "layer 'a': the last layer must give one value per class"),
        (lambda: _Chain(r=nn.ReLU()), "layer 'r': ReLU must follow"),
        (lambda: _Chain(a=nn.Conv2d(2, 2, 30)), "layer 'a': the kernel is larger"),
        (lambda: _Chain(i=nn.Identity()), "no convolution or fully connected layer"),
        (_Residual, "layer 'add': add is not supported; layers must form one chain"),
        (_Sigmoid, "layer 'sigmoid': sigmoid is not supported"),
    ],
)
def test_unsupported_network_is_refused_with_the_layer_named(make: Callable[[], nn.Module], message: str):
    with pytest.raises(UnsupportedOperator, match=message):
        capture(make(), (2, 9, 8))
