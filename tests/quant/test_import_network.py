"""Networks from PyTorch as integer graphs: exactly as plain torch computes them, and near the float network."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from golden_model.config import HardwareConfig
from golden_model.crossbar.layer import DynamicPrecision
from golden_model.engines.run_network import GraphRunner
from golden_model.graph.nodes import Add, AveragePool, Border, Concat, Crossbar, MaxPool, Reshape
from golden_model.graph.settings import with_settings
from golden_model.trq import AdcRegisters
from quant.capture.capture import from_torch, quantise_weights
from quant.capture.errors import UnsupportedOperator
from quant.networks.pixels import Normalisation, float_logits
from quant.reference import exact_logits

HARDWARE = HardwareConfig(rows=18, cols=8, ou_rows=9, ou_cols=4)
SHAPE = (3, 12, 12)


class Net(nn.Module):
    """A forward function of `self` and an image, with modules by name; ends in a linear layer unless told otherwise."""

    def __init__(self, forward: Callable[[Net, Tensor], Tensor], **modules: nn.Module) -> None:
        super().__init__()
        self.run = forward
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


def seeded(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random parameters and running statistics; maps keep a useful range."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            fan = module.weight[0].numel()
            module.weight.data = torch.randn(module.weight.shape, generator=generator) * (2 / fan) ** 0.5
            if module.bias is not None:
                module.bias.data = torch.randn(module.bias.shape, generator=generator) * 0.1
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            n = module.num_features
            module.weight.data = torch.rand(n, generator=generator) + 0.5
            module.bias.data = torch.randn(n, generator=generator) * 0.2
            module.running_mean = torch.randn(n, generator=generator) * 0.2
            module.running_var = torch.rand(n, generator=generator) + 0.5
    return model.eval()


def pictures(count: int = 24, shape=SHAPE, seed: int = 0) -> np.ndarray:
    """Images with structure: random squares on a random ground."""
    rng = np.random.default_rng(seed)
    images = np.repeat(rng.integers(0, 256, (count, shape[0], 1, 1)), shape[1], axis=2).repeat(shape[2], axis=3)
    for image in images:
        top, left = rng.integers(0, shape[1] // 2), rng.integers(0, shape[2] // 2)
        image[:, top : top + shape[1] // 2, left : left + shape[2] // 2] = rng.integers(0, 256, (shape[0], 1, 1))
    return np.clip(images + rng.integers(-20, 21, images.shape), 0, 255).astype(np.uint8)


def conv(inputs: int, outputs: int, kernel=3, **values) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, **{"padding": kernel // 2 if isinstance(kernel, int) else 0, **values})


def fc(features: int, classes: int = 5) -> nn.Linear:
    return nn.Linear(features, classes)


def residual(self, x):
    x = F.relu(self.a(x))
    y = self.c(F.relu(self.b(x)))
    return self.fc(torch.flatten(F.relu(y + x), 1))


def projection(self, x):
    x = torch.relu(self.a(x))
    y = self.bn(self.c(F.relu(self.b(x))))
    return self.fc(F.relu(self.p(x) + y).mean((2, 3)))


def option_a(self, x):
    x = self.a(x).relu()
    short = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 1), "constant", 0)
    y = self.b(x)
    y += short
    return self.fc(F.relu(y).flatten(1))


def preactivation(self, x):
    """Signed sums that are kept, and clamped only on their way into a convolution."""
    x = self.a(x)
    x = x + self.b(F.relu(x))
    x = torch.add(x, self.c(F.relu(x)))
    return self.fc(F.adaptive_avg_pool2d(F.relu(x), 1).flatten(1))


def bottleneck(self, x):
    """A signed map goes straight into the next convolution (MobileNet's linear bottleneck)."""
    x = F.relu6(self.a(x))
    x = self.d(x)
    y = self.b(x)
    return self.fc(F.relu6(y + x).mean(dim=[-1, -2]))


def fire(self, x):
    x = F.max_pool2d(F.relu(self.a(x)), 3, stride=2, ceil_mode=True)
    x = torch.cat([F.relu(self.b(x)), F.relu(self.c(x))], 1)
    x = torch.cat((x, F.max_pool2d(x, 3, 1, 1)), dim=1)
    return F.adaptive_avg_pool2d(F.relu(self.d(x)), (1, 1)).flatten(1)


def signed_cat(self, x):
    x = torch.cat([self.a(x), F.relu(self.b(x)), self.p(F.relu(self.b(x)))], 1)
    return self.fc(F.relu(self.c(x)).view(x.size(0), -1))


def shape_arithmetic(self, x):
    x = F.relu(self.a(x))
    x = F.avg_pool2d(x, x.size()[3] // 2)
    x = F.dropout(x, 0.5, self.training)
    return self.fc(x.reshape(x.shape[0], -1))


def shuffle(x, groups):
    """ShuffleNet's exchange of channels, as its authors write it."""
    count, channels, height, width = x.size()
    x = x.view(count, groups, channels // groups, height, width)
    return torch.transpose(x, 1, 2).contiguous().view(count, -1, height, width)


def shuffled(self, x):
    """Channels are picked for a convolution, for a depthwise one, and for nobody but a concatenation."""
    x = shuffle(torch.cat([F.relu(self.a(x)), F.relu(self.b(x))], 1), 2)
    first, second = x.chunk(2, dim=1)
    x = shuffle(torch.cat([first, F.relu(self.c(second)), F.relu(self.d(first))], 1), 3)
    low, middle, high = torch.split(x, [4, 6, 8], dim=1)
    x = torch.cat([low, self.e(high[:, 1::2]), middle[:, :3]], 1)
    return self.fc(F.relu(x).flatten(1))


def in_place(self, x):
    """The shortcut sees what the ReLU wrote into the map, as in torch."""
    x = self.a(x)
    y = self.b(self.relu(x))
    return self.fc(torch.flatten(F.relu(y + x), 1))


def clamped(self, x):
    """Ranges around 0: of a layer and its maximum, behind a ReLU and a wider range, of a sum, of several maps."""
    x = F.max_pool2d(self.a(x).clamp(-0.4, 0.5), 2)
    y = F.hardtanh(F.relu(self.b(x)), -0.3, 0.4)
    z = F.hardtanh(self.c(x), -0.5, 0.5).clamp(-0.2, 0.1)
    x = torch.clamp(x + self.d(x), max=0.3)
    return self.fc(torch.cat([x, y, z], 1).clamp(-0.35, 0.25).flatten(1))


def sequential(*modules: nn.Module) -> nn.Module:
    return nn.Sequential(*modules)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "chain": lambda: sequential(
        conv(3, 6), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), conv(6, 8, 3, stride=2), nn.ReLU(), nn.Dropout(),
        nn.Flatten(), nn.Linear(72, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Identity(), fc(16), nn.LogSoftmax(1),
    ),
    "pool before relu": lambda: sequential(conv(3, 6), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(), fc(216)),
    "residual": lambda: Net(residual, a=conv(3, 6), b=conv(6, 6), c=conv(6, 6), fc=fc(864)),
    "projection": lambda: Net(
        projection, a=conv(3, 6), b=conv(6, 8, stride=2), c=conv(8, 8), p=conv(6, 8, 1, stride=2),
        bn=nn.BatchNorm2d(8), fc=fc(8),
    ),
    "option A": lambda: Net(option_a, a=conv(3, 6), b=conv(6, 8, stride=2), fc=fc(288)),
    "preactivation": lambda: Net(preactivation, a=conv(3, 6), b=conv(6, 6), c=conv(6, 6), fc=fc(6)),
    "bottleneck": lambda: Net(bottleneck, a=conv(3, 6), d=conv(6, 6, groups=6), b=conv(6, 6, groups=3), fc=fc(6)),
    "fire": lambda: Net(fire, a=conv(3, 6), b=conv(6, 4, 1), c=conv(6, 4), d=conv(16, 5, 1)),
    "signed concatenation": lambda: Net(
        signed_cat, a=conv(3, 4), b=conv(3, 4), p=conv(4, 2, 1), c=conv(10, 4, stride=2), fc=fc(144)
    ),
    "shape arithmetic": lambda: Net(shape_arithmetic, a=conv(3, 6), fc=fc(24)),
    "shuffle": lambda: Net(
        shuffled, a=conv(3, 6), b=conv(3, 6), c=conv(6, 6), d=conv(6, 6, groups=6), e=conv(4, 4), fc=fc(11 * 144)
    ),
    "in place": lambda: Net(in_place, a=conv(3, 6), b=conv(6, 6), relu=nn.ReLU(inplace=True), fc=fc(864)),
    "lopsided": lambda: sequential(
        nn.Conv2d(3, 6, (1, 5), padding=(0, 2)), nn.ReLU(), nn.Conv2d(6, 6, 4, padding="same"), nn.ReLU(),
        nn.ZeroPad2d((1, 0, 2, 0)), nn.AvgPool2d(3, 2, 1), nn.Flatten(), fc(6 * 7 * 7),
    ),
    "fully convolutional": lambda: sequential(
        conv(3, 6), nn.Hardtanh(0, 2), nn.MaxPool2d(3, 2, 1), conv(6, 5, 1), nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten()
    ),
    "clamped": lambda: Net(clamped, a=conv(3, 4), b=conv(4, 4), c=conv(4, 4), d=conv(4, 4), fc=fc(12 * 36)),
    "linear on pixels": lambda: sequential(nn.Flatten(), nn.Linear(432, 20), nn.ReLU(), fc(20)),
    "relu at the end": lambda: sequential(conv(3, 6), nn.ReLU(), nn.AdaptiveMaxPool2d(2), nn.Flatten(), fc(24),
                                          nn.ReLU()),
}  # fmt: skip
NORMALISATION = Normalisation(mean=(0.49, 0.45, 0.41), std=(0.23, 0.21, 0.25))


@pytest.mark.parametrize("normalisation", [None, NORMALISATION], ids=["pixels", "normalised"])
@pytest.mark.parametrize("name", MODELS)
def test_a_network_is_computed_exactly_and_close_to_the_float_network(name, normalisation):
    model = seeded(MODELS[name]())
    images = pictures()
    made = from_torch(model, SHAPE, HARDWARE, images, normalisation=normalisation)
    logits, _ = GraphRunner(made, engine="direct").run(images[:4])
    exact = exact_logits(made, images)
    assert (logits == exact[:4]).all()
    wanted = float_logits(model, images, normalisation or Normalisation.none(3))
    if name == "chain":  # a softmax at the end does not change predictions and is left out
        wanted = wanted - wanted.mean(axis=1, keepdims=True)
        exact = exact - exact.mean(axis=1, keepdims=True)
    error = np.abs(exact * made.output.logit_scale - wanted).max()
    assert error < 0.04 * (wanted.max() - wanted.min())


def kinds(made) -> list[str]:
    return [type(node).__name__ for node in made.nodes[1:]]


def imported(name: str, **values):
    return from_torch(seeded(MODELS[name]()), SHAPE, HARDWARE, pictures(), **values)


def test_residuals_become_part_of_the_larger_convolution():
    made = imported("projection")
    assert kinds(made) == ["Crossbar"] * 4 + ["AveragePool", "Crossbar"]
    total = next(node for node in made.crossbars if len(node.inputs) == 2)
    assert (total.name, total.inputs) == ("c", ("b", "p"))
    signed = made.node("p").encoding
    assert signed.low < 0 < signed.zero


def test_a_range_around_0_is_a_clamp_and_no_table():
    made = imported("clamped")
    assert all(getattr(node, "lookup", None) is None for node in made.nodes)
    first, total = made.node("a").encoding, made.node("d").encoding
    assert made.layers[0].pool == 2
    assert (first.low, first.high) == (pytest.approx(-0.4, abs=0.002), pytest.approx(0.5, abs=0.002))
    assert total.high == pytest.approx(0.3)
    assert total.low < -0.4


def test_maximum_pooling_goes_into_the_layer_where_the_hardware_can_do_it():
    assert [layer.pool for layer in imported("chain").layers] == [2, 1, 1, 1]
    assert [layer.pool for layer in imported("pool before relu").layers] == [2, 1]
    assert MaxPool.__name__ in kinds(imported("fire"))


def test_concatenated_maps_share_one_scale_where_they_can():
    made = imported("fire")
    first, second = (node for node in made.nodes if isinstance(node, Concat))
    assert first.rescales == (None, None)
    assert made.node("b").encoding == made.node("c").encoding == first.encoding
    assert second.rescales == (None, None)  # a map and its maximum


def test_reshapes_in_front_of_linear_layers_are_free():
    for name in ("residual", "shape arithmetic", "linear on pixels"):
        assert Reshape.__name__ not in kinds(imported(name))


def test_groups_become_one_crossbar_layer_each():
    made = imported("bottleneck")
    node = made.node("d")
    assert isinstance(node, Crossbar)
    assert [layer.name for layer in node.layers] == [f"d.{g}" for g in range(6)]
    assert all((layer.channels, layer.k, layer.outputs) == (1, 9, 1) for layer in node.layers)


def test_the_end_of_a_fully_convolutional_network_is_a_sum_without_rounding():
    made = imported("fully convolutional")
    assert isinstance(made.output, AveragePool)
    assert made.output.sums


def test_signed_sums_are_stored_with_a_zero_point():
    made = imported("preactivation")
    assert Add.__name__ in kinds(made)
    for name in ("a", "b"):
        assert 0 < made.node(name).encoding.zero < 255
    assert made.node("c").encoding.zero == 0  # clamped by the ReLU that follows


def test_channels_that_are_picked_go_into_the_convolution_behind_or_are_passed_on_unchanged():
    made = imported("shuffle")
    second = made.node("c")
    assert isinstance(second, Crossbar)
    assert second.layers[0].channels == 12  # of both halves, with zeros for those that it does not see
    assert (np.abs(second.layers[0].weights).reshape(12, -1).sum(1) > 0).sum() == 6
    values = GraphRunner(made, engine="direct").outputs(pictures())
    picked, whole = made.node("getitem_4"), made.node("cat")
    assert isinstance(picked, Crossbar)
    assert picked.encoding == whole.encoding
    order = [int(np.argmax(column)) for column in picked.layers[0].weights.T]
    assert order == [0, 6, 1, 7, 2, 8]  # the first half of two groups that were shuffled
    assert (values["getitem_4"] == values["cat"][:, order]).all()


def test_channels_of_the_image_and_other_axes_are_not_exchanged():
    for forward, match in (
        (lambda s, x: s.fc(F.relu(s.a(x[:, 1:])).flatten(1)), "channels of the image itself cannot be picked"),
        (lambda s, x: s.fc(s.b(x).transpose(2, 3).flatten(1)), "axes can only be exchanged to shuffle channels"),
        (lambda s, x: s.fc(s.b(x).permute(0, 2, 3, 1).flatten(1)), "axes can only be exchanged to shuffle channels"),
        (lambda s, x: s.fc(s.b(x).chunk(2, dim=2)[0].flatten(1)), r"only channels \(dim=1\) can be split"),
        (lambda s, x: s.fc(s.b(x)[:, :3, ::2, ::2].flatten(1)), "channels are picked alone"),
    ):
        model = Net(forward, a=conv(2, 6), b=conv(3, 6), fc=nn.LazyLinear(5)).eval()
        model(torch.zeros(1, *SHAPE))
        with pytest.raises(UnsupportedOperator, match=match):
            from_torch(model, SHAPE, HARDWARE, pictures())


def test_a_lopsided_border_becomes_a_node():
    assert [n.border for n in imported("lopsided").nodes if isinstance(n, Border)] == [
        (0, 0, 2, 2), (1, 2, 1, 2), (2, 0, 1, 0)
    ]  # fmt: skip


def test_batch_norms_are_folded_before_weights_are_quantised():
    model = seeded(sequential(conv(3, 4, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), fc(576)))
    norm, weight = model[1], model[0].weight.detach().double()
    factor = (norm.weight / torch.sqrt(norm.running_var + norm.eps)).detach().double()
    made = from_torch(model, SHAPE, HARDWARE, pictures())
    folded = (weight * factor[:, None, None, None]).reshape(4, -1).numpy()
    layer = made.layers[0]
    assert np.abs(layer.weights).max() == 127
    assert np.abs(layer.weights.T * np.abs(folded).max() / 127 - folded).max() <= 0.5001 * np.abs(folded).max() / 127


def test_a_layer_with_a_lopsided_border_is_called_twice():
    layer = nn.Conv2d(3, 3, 2, padding="same")
    made = from_torch(
        seeded(Net(lambda s, x: s.fc(s.a(s.a(x)).flatten(1)), a=layer, fc=fc(432))), SHAPE, HARDWARE, pictures(4)
    )
    assert [n.name for n in made.nodes if isinstance(n, Border)] == ["a.border", "a.border#2"]


def test_the_border_of_a_normalised_image_is_its_mean():
    made = imported("chain", normalisation=NORMALISATION)
    assert made.layers[0].pad_values.tolist() == [125, 115, 105]  # floor(255 * mean + 1/2)
    assert all(layer.pad_values is None for layer in made.layers[1:])


def test_mean_subtraction_alone_leaves_the_weights_as_they_are():
    caffe = Normalisation(mean=(0.4, 0.4, 0.4), std=(1 / 255,) * 3)
    weights = [imported("chain", normalisation=n).layers[0].weights for n in (None, caffe)]
    assert (weights[0] == weights[1]).all()


def test_the_model_is_not_changed():
    model = seeded(MODELS["chain"]()).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    from_torch(model, SHAPE, HARDWARE, pictures())
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_module_that_is_called_twice_gets_two_names():
    model = seeded(Net(lambda self, x: self.fc(F.relu(self.a(F.relu(self.a(x)))).flatten(1)), a=conv(3, 3), fc=fc(432)))
    made = from_torch(model, SHAPE, HARDWARE, pictures())
    assert [node.name for node in made.crossbars] == ["a", "a#2", "fc"]


def test_functional_layers_use_their_parameters():
    def forward(self, x):
        x = F.conv2d(x, self.weight, self.bias, stride=2, padding=1)
        x = F.batch_norm(x, self.mean, self.var, self.scale, self.shift)
        return F.linear(F.relu(x).flatten(1), self.last)

    model = Net(forward)
    generator = torch.Generator().manual_seed(3)
    for name, shape in {"weight": (4, 3, 3, 3), "bias": (4,), "scale": (4,), "shift": (4,), "last": (5, 144)}.items():
        setattr(model, name, nn.Parameter(torch.randn(shape, generator=generator) * 0.3))
    model.register_buffer("mean", torch.randn(4, generator=generator) * 0.1)
    model.register_buffer("var", torch.rand(4, generator=generator) + 0.5)
    images = pictures()
    made = from_torch(model, SHAPE, HARDWARE, images)
    wanted = float_logits(model, images, Normalisation.none(3))
    assert np.abs(exact_logits(made, images) * made.output.logit_scale - wanted).max() < 0.03 * np.ptp(wanted)


def test_a_layer_without_weights_keeps_its_bias():
    model = seeded(sequential(conv(3, 4), nn.ReLU(), nn.Flatten(), fc(576)))
    model[0].weight.data.zero_()
    model[0].bias.data = torch.tensor([0.5, 1.0, -1.0, 0.25])
    made = from_torch(model, SHAPE, HARDWARE, pictures())
    q = GraphRunner(made).outputs(pictures(2))["0"]
    assert q[:, :, 3, 3].tolist() == [[128, 255, 0, 64]] * 2


def test_fewer_bits_are_used_when_asked_for():
    made = imported("residual", weight_bits=3, activation_bits=5)
    assert {np.abs(layer.weights).max() for layer in made.layers} == {7}
    assert [layer.input_bits for layer in made.layers] == [8, 5, 5, 5]
    images = pictures(3)
    assert (GraphRunner(made, engine="direct").run(images)[0] == exact_logits(made, images)).all()


def refused(match: str, forward_or_model, **modules: nn.Module) -> None:
    model = forward_or_model if isinstance(forward_or_model, nn.Module) else Net(forward_or_model, **modules)
    with pytest.raises(UnsupportedOperator, match=match):
        from_torch(seeded(model), SHAPE, HARDWARE, pictures(4))


def test_operators_that_are_not_supported_are_named_with_their_layer():
    norm = nn.GroupNorm(2, 4)
    refused("layer 'act': GroupNorm is not supported", Net(lambda s, x: s.act(s.a(x)), a=conv(3, 4), act=norm))
    refused("layer 'mul': mul: only a constant", lambda s, x: s.a(x) * s.a(x), a=conv(3, 4))
    refused("layer 'pow_1': pow: its first operand must be made from", lambda s, x: 2 ** s.a(x), a=conv(3, 4))
    both = "layer 'pow_1': pow: only of one tensor of the network"
    refused(both, lambda s, x: torch.exp(s.a(x)) ** s.a(x), a=conv(3, 4))
    refused(
        "layer 'softmax': softmax is supported only", lambda s, x: s.b(s.a(x).softmax(1)), a=conv(3, 4), b=conv(4, 4)
    )
    refused("layer '0': Conv2d: dilation", sequential(conv(3, 4, dilation=2)))
    refused("layer '0': ConvTranspose2d is not supported", sequential(nn.ConvTranspose2d(3, 4, 3)))
    refused("layer '0': Conv2d: padding mode must be 'zeros'", sequential(conv(3, 4, padding_mode="reflect")))
    refused("layer '0': Conv2d: stride must be equal", sequential(conv(3, 4, stride=(1, 2))))
    refused("layer '1': BatchNorm and .* not the image", sequential(nn.MaxPool2d(2), nn.BatchNorm2d(3), conv(3, 4)))
    refused("layer '1': AdaptiveAvgPool2d: its output size", sequential(conv(3, 4), nn.AdaptiveAvgPool2d(5)))
    refused("layer '1': AvgPool2d: count_include_pad", sequential(conv(3, 4), nn.AvgPool2d(2, 2, 1, False, False)))
    refused("layer '1': AvgPool2d: ceil_mode", sequential(conv(3, 4), nn.AvgPool2d(5, 5, ceil_mode=True)))
    refused("layer 'add': BatchNorm and arithmetic with a constant", lambda s, x: s.a(x + 1), a=conv(3, 4))
    refused("layer 'add': add: shapes differ", lambda s, x: s.a(x) + s.b(x), a=conv(3, 4), b=conv(3, 1))
    refused("layer 'cat': cat: only channels", lambda s, x: torch.cat([s.a(x), s.a(x)], 2), a=conv(3, 4))
    refused("layer 'getitem': getitem: only x", lambda s, x: s.a(x)[:, :, 1:], a=conv(3, 4))
    refused("layer 'mean': mean: only the mean over height", lambda s, x: s.a(x).mean(1), a=conv(3, 4))
    refused("layer 'clamp': clamp: only a clamp to a range", lambda s, x: s.a(x).clamp(0.1, 1), a=conv(3, 4))
    refused("layer 'clamp': .* of numbers", lambda s, x: s.a(x).clamp(None, x.abs()), a=conv(3, 3, padding=1))


def test_an_operator_inside_a_block_is_named_with_the_block():
    class Block(nn.Module):
        def forward(self, x):
            return torch.cumsum(x, 1)

    refused("layer 'block.cumsum': cumsum is not supported", lambda s, x: s.block(s.a(x)), a=conv(3, 4), block=Block())


def test_a_network_that_cannot_be_traced_is_refused():
    def forward(self, x):
        return self.a(x) if x.sum() > 0 else self.a(-x)

    refused("the network cannot be captured by torch.fx", forward, a=conv(3, 4))


def test_a_normalised_image_may_not_be_added():
    model = seeded(Net(lambda s, x: s.a(F.relu(x + x)), a=conv(3, 4)))
    from_torch(model, SHAPE, HARDWARE, pictures(4))
    with pytest.raises(UnsupportedOperator, match="layer 'add': an image that is normalised per channel"):
        from_torch(model, SHAPE, HARDWARE, pictures(4), normalisation=NORMALISATION)


def test_wrong_arguments_are_refused():
    model, images = seeded(MODELS["chain"]()), pictures(4)
    cases = [
        ({"calibration_images": images.astype(np.float32)}, "calibration images must be uint8"),
        ({"calibration_images": images[:0]}, "calibration images must be uint8"),
        ({"weight_bits": 9}, "weight_bits must be in 1..8, got 9"),
        ({"activation_bits": 0}, "activation_bits must be in 1..8, got 0"),
        ({"normalisation": Normalisation.none(1)}, "normalisation must have 3 channels"),
        ({"normalisation": Normalisation(mean=(2.0,) * 3, std=(1.0,) * 3)}, "means must be in 0..1"),
        ({"hardware": HardwareConfig(ou_rows=128, adc_bits=4)}, "128 rows need adc_bits = 8"),
    ]
    for values, message in cases:
        arguments = {"hardware": HARDWARE, "calibration_images": images, **values}
        with pytest.raises(ValueError, match=message):
            from_torch(model, SHAPE, **arguments)


def test_a_weight_that_is_not_finite_is_refused():
    model = seeded(MODELS["chain"]())
    model[0].weight.data[0] = float("nan")
    with pytest.raises(ValueError, match="layer '0': it gives a value that is not a finite number"):
        from_torch(model, SHAPE, HARDWARE, pictures(4))


def test_the_reference_refuses_what_it_cannot_compute():
    made = imported("residual")
    lossy = with_settings(made, registers={"b": AdcRegisters(mode="uniform", n_r2=2)})
    with pytest.raises(ValueError, match=r"layer 'b': its converter is lossy"):
        exact_logits(lossy, pictures(1))
    lossy = with_settings(made, dynamic={"b": DynamicPrecision(l_max=2, tau_sq=9)})
    with pytest.raises(ValueError, match=r"layer 'b': its dynamic precision is lossy"):
        exact_logits(lossy, pictures(1))
    lossless = with_settings(made, dynamic={"b": DynamicPrecision(l_max=2)})
    assert (exact_logits(lossless, pictures(1)) == exact_logits(made, pictures(1))).all()


def test_halves_are_rounded_away_from_zero():
    integers, step = quantise_weights(np.array([3.0, -3.0, 1.5, -1.5, 0.49, 0.0]), 2)
    assert step == 1.0
    assert integers.tolist() == [3, -3, 2, -2, 0, 0]


class Preactivated(nn.Module):
    """Batch norms in front of convolutions, one with a negative factor, behind a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.second = conv(3, 4), nn.BatchNorm2d(8), conv(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.cat([x, F.relu(x)], 1)
        return self.second(F.relu(self.norm(x))).mean((2, 3))


def test_a_batch_norm_in_front_of_a_convolution_is_a_depthwise_convolution_of_one_pixel():
    model = seeded(Preactivated())
    with torch.no_grad():
        model.norm.weight[0] = -0.7
    images = pictures(8)
    made = from_torch(model, SHAPE, HARDWARE, images)
    node = made.node("norm")
    assert isinstance(node, Crossbar)
    assert [layer.weights.item() for layer in node.layers] == [-1] + [1] * 7
    logits = GraphRunner(made).run(images)[0] * made.output.logit_scale
    real = float_logits(model, images, Normalisation.none(3))
    assert np.abs(logits - real).max() < 0.02 * (real.max() - real.min())
