"""A capture either computes what the network computes, or names the first layer that it does not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from golden_model.engines.run_network import GraphRunner
from golden_model.graph.network import build
from golden_model.graph.nodes import Add
from quant.capture.capture import from_torch
from quant.capture.errors import UnsupportedOperator
from quant.capture.op import Op
from quant.capture.trace import network_hash
from quant.networks.pixels import Normalisation, float_logits
from quant.reference import exact_logits
from tests.quant.test_import_network import HARDWARE, SHAPE, Net, conv, fc, pictures, seeded


def network(forward, **more: nn.Module) -> nn.Module:
    layers = {"a": conv(3, 8), "b": conv(8, 8), "fc": fc(8 * 144), **more}
    return seeded(Net(forward, **layers))


def refused(match: str, model: nn.Module) -> None:
    with pytest.raises(UnsupportedOperator, match=match) as error:
        from_torch(model, SHAPE, HARDWARE, pictures(8))
    assert "\n" not in str(error.value)


def close(model: nn.Module, images: np.ndarray | None = None) -> None:
    """The integers are near the float network, and the golden model agrees with them."""
    images = pictures() if images is None else images
    made = from_torch(model, SHAPE, HARDWARE, images)
    exact = exact_logits(made, images)
    assert (GraphRunner(made, engine="direct").run(images[:2])[0] == exact[:2]).all()
    wanted = float_logits(model, images, Normalisation.none(3))
    assert np.abs(exact * made.output.logit_scale - wanted).max() < 0.04 * max(np.ptp(wanted), 1e-6)


def end(self, x: Tensor) -> Tensor:
    return self.fc(F.relu(x).flatten(1))


# ---- what eager PyTorch does and a graph does not show -------------------------------------------
def test_a_dropout_that_is_always_active_is_refused():
    refused("layer 'dropout': dropout: it drops values in evaluation", network(lambda s, x: end(s, F.dropout(s.a(x)))))
    close(network(lambda s, x: end(s, F.dropout(s.a(x), training=s.training))))


def test_a_batch_norm_on_the_statistics_of_the_batch_is_refused():
    def forward(s, x):
        return end(s, F.batch_norm(s.a(x), s.bn.running_mean, s.bn.running_var, training=True))

    refused("layer 'batch_norm': batch_norm: training=True", network(forward, bn=nn.BatchNorm2d(8)))


def test_writing_into_a_part_of_a_map_is_refused():
    def slices(s, x):
        x = s.a(x)
        x[:, :, ::2, ::2].relu_()
        return end(s, s.b(x))

    refused(
        "layer 'relu_': relu_: it writes in place into a part or another view of the tensor of 'a'", network(slices)
    )

    def channels(s, x):
        x = s.a(x)
        x[:, :4].relu_()
        return end(s, s.b(x))

    refused("layer 'relu_': relu_: it writes in place into a part", network(channels))


def test_writing_into_another_view_of_a_map_is_refused():
    def forward(s, x):
        x = s.a(x)
        x.view(x.size(0), -1).mul_(2)
        return end(s, s.b(x))

    refused("layer 'mul_': mul_: it writes in place into a part or another view", network(forward))


def test_a_view_that_nobody_sees_again_may_be_written():
    def forward(s, x):
        return s.fc(s.a(x).flatten(1).relu_())

    close(network(forward))


@pytest.mark.parametrize("relu", [lambda x: F.relu(x, True), F.relu_, lambda x: x.clamp_(min=0)])
def test_a_relu_in_place_changes_every_name_of_the_map(relu):
    def forward(s, x):
        old = s.a(x)
        same = F.dropout(old, training=False)
        relu(same)
        return end(s, s.b(F.relu6(old)) - 0.5)

    close(network(forward))


def test_an_addition_in_place_changes_every_name_of_the_map():
    def forward(s, x):
        old = x = s.a(x)
        x += s.b(x)
        return end(s, x + old)

    close(network(forward))


def test_a_multiplication_in_place_changes_every_name_of_the_map():
    def forward(s, x):
        old = s.b(F.relu(s.a(x)))
        new = old.mul_(3)
        return end(s, old + new)

    close(network(forward))


@pytest.mark.parametrize("kind", ["forward", "pre"])
def test_a_hook_that_changes_a_layer_is_refused_with_its_name(kind):
    model = network(lambda s, x: end(s, s.b(F.relu(s.a(x)))))
    if kind == "forward":
        model.b.register_forward_hook(lambda m, given, result: result * 2)
    else:
        model.b.register_forward_pre_hook(lambda m, given: (given[0] * 2,))
    refused("layer 'b': the captured network differs .*; it has a hook, which is not captured", model)


def test_a_hook_that_only_looks_is_allowed():
    model, seen = network(lambda s, x: end(s, s.b(F.relu(s.a(x))))), []
    model.b.register_forward_hook(lambda m, given, result: seen.append(result.shape))
    close(model)
    assert seen


def test_a_hook_of_the_whole_network_is_refused():
    model = network(lambda s, x: end(s, s.b(F.relu(s.a(x)))))
    model.register_forward_hook(lambda m, given, result: result.flip(1))
    refused("layer 'output': the captured network differs", model)


def test_pruned_and_normalised_weights_are_what_their_hooks_make():
    from torch.nn.utils import prune

    model = network(lambda s, x: end(s, s.b(F.relu(s.a(x)))))
    prune.l1_unstructured(model.b, "weight", 0.5)
    nn.utils.parametrizations.weight_norm(model.a)
    close(model)


def test_random_numbers_are_refused():
    refused("layer 'fc': the captured network differs", network(lambda s, x: end(s, s.a(x) + torch.randn(8, 1, 1))))


def test_a_parameter_that_changes_while_the_network_runs_is_refused():
    def forward(s, x):
        s.shift.add_(1)
        return end(s, s.a(x) + s.shift)

    model = network(forward)
    model.register_buffer("shift", torch.zeros(1, 8, 1, 1))
    refused("the network changes its 'shift' while it runs", model)


@pytest.mark.parametrize("kind", ["matrix", "cat", "max", "relu"])
def test_a_translation_that_is_wrong_is_found(monkeypatch, kind):
    right = Op.compute
    monkeypatch.setattr(
        Op,
        "compute",
        lambda op, x: right(op, x) * (1.01 if op.kind == kind or (kind == "relu" and op.relu) else 1),
    )

    def forward(s, x):
        x = F.relu(s.a(x))
        return s.fc(F.max_pool2d(torch.cat([x, s.b(x)], 1), 3, 1, 1).flatten(1))

    refused("the captured network differs", network(forward, fc=fc(16 * 144)))


# ---- constants ----------------------------------------------------------------------------------
def with_constant(forward, shape: tuple[int, ...]) -> nn.Module:
    model = network(forward)
    model.w = nn.Parameter(torch.linspace(0.5, 2, int(np.prod(shape))).reshape(shape))
    return model


def test_arithmetic_with_one_number_per_channel_goes_into_the_layer():
    close(with_constant(lambda s, x: end(s, s.a(x) + s.w.view(1, -1, 1, 1)), (8,)))
    close(with_constant(lambda s, x: end(s, s.w[:, None, None] * s.a(x) - 0.1), (8,)))
    close(with_constant(lambda s, x: end(s, 0.2 - s.a(x) / s.w), (1, 8, 1, 1)))
    close(with_constant(lambda s, x: s.fc(F.relu(s.a(x)).flatten(1)) * s.w, (5,)))


def test_a_constant_for_every_pixel_is_refused():
    refused("add: a constant must hold one value per channel", with_constant(lambda s, x: end(s, s.a(x) + s.w), (12,)))


def test_weights_may_be_computed():
    def standardised(s, x):
        w = s.b.weight
        w = (w - w.mean((1, 2, 3), keepdim=True)) / w.std((1, 2, 3), keepdim=True)
        return end(s, F.conv2d(F.relu(s.a(x)), w * 0.1, s.b.bias, padding=1))

    close(network(standardised))

    class Rounded(nn.Module):
        def forward(self, w):
            return (w * 16).round() / 16

    close(network(lambda s, x: end(s, F.conv2d(F.relu(s.a(x)), s.q(s.b.weight), padding=1)), q=Rounded()))


def test_arguments_may_be_given_by_name():
    def forward(s, x):
        x = s.a(input=x)
        x = F.relu(input=torch.add(input=x, other=F.conv2d(input=x, weight=s.b.weight, padding=1)))
        return s.fc(input=torch.flatten(input=x, start_dim=1))

    close(network(forward))


def test_weights_made_from_the_image_are_refused():
    def forward(s, x):
        x = s.a(x)
        return end(s, F.conv2d(x, s.b.weight, x.mean((0, 2, 3)), padding=1))

    refused("layer 'mean'", network(forward))
    refused("linear: its weights must be parameters", network(lambda s, x: F.linear(x.flatten(1), x.flatten(1))))


class _Tokens(nn.Module):
    """A layer of sequences on the pixels of a map."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.conv, self.layer, self.fc = nn.Conv2d(SHAPE[0], 8, 3, stride=2), layer, nn.Linear(8, 3)

    def forward(self, x):
        x = self.conv(x).flatten(2).transpose(1, 2)
        made = self.layer(x, x, x) if isinstance(self.layer, nn.MultiheadAttention) else self.layer(x)
        return self.fc(made[0].mean(1))


@pytest.mark.parametrize(
    ("layer", "why"),
    [
        (nn.MultiheadAttention(8, 2, batch_first=True), "two tensors of the network cannot be multiplied"),
        (nn.LSTM(8, 8, batch_first=True), "nothing is kept from one picture to the next"),
    ],
)
def test_a_layer_that_gives_several_tensors_is_refused_with_its_reason(layer, why):
    refused(rf"layer 'layer': .* is not supported: .*{why}", _Tokens(layer))


# ---- nothing left of a layer --------------------------------------------------------------------
@pytest.mark.parametrize("bias", [0.0, 0.3, -0.3])
def test_a_layer_whose_weights_are_all_zero_works(bias):
    def forward(s, x):
        x = F.relu(s.a(x))
        return end(s, s.b(x) + x)

    model = network(forward)
    model.b.weight.data.zero_()
    model.b.bias.data.fill_(bias)
    close(model)
    alone = network(lambda s, x: end(s, s.c(s.b(F.relu(s.a(x))) + s.c(F.relu(s.a(x))))), c=conv(8, 8))
    alone.b.weight.data.zero_()
    alone.b.bias.data.fill_(bias)
    close(alone)


def test_weights_that_are_nearly_zero_work():
    model = network(lambda s, x: end(s, s.b(F.relu(s.a(x))) + s.a(x)))
    model.b.weight.data *= 1e-14
    model.b.bias.data.fill_(3.0)
    close(model)


def test_a_map_that_is_always_zero_works():
    def forward(s, x):
        x = F.relu(s.a(x))
        dead = F.max_pool2d(F.relu(s.b(x)), 3, 1, 1)
        return s.fc(torch.cat([x, F.relu(s.c(dead)) + dead], 1).flatten(1))

    model = network(forward, c=conv(8, 8), fc=fc(16 * 144))
    model.b.weight.data *= 1e3
    model.b.bias.data.fill_(-1e5)
    model.c.bias.data.fill_(-1.0)
    close(model)


def test_a_network_whose_last_layer_is_zero_gives_zeros():
    model = network(lambda s, x: end(s, s.a(x)))
    model.fc.weight.data.zero_()
    model.fc.bias.data.zero_()
    made = from_torch(model, SHAPE, HARDWARE, pictures(4))
    assert not GraphRunner(made, engine="direct").run(pictures(2))[0].any()


def test_an_addition_of_three_maps_is_refused_by_the_graph():
    made = from_torch(network(lambda s, x: end(s, F.relu(s.a(x)) + F.relu(s.b(s.a(x))))), SHAPE, HARDWARE, pictures(4))
    nodes = list(made.nodes)
    place = next(i for i, node in enumerate(nodes) if isinstance(node, Add))
    node = nodes[place]
    nodes[place] = Add(name=node.name, inputs=(*node.inputs, node.inputs[0]), shape=node.shape, encoding=node.encoding)
    with pytest.raises(ValueError, match="an addition has at most two inputs, got 3"):
        build("three", HARDWARE, nodes)


# ---- what makes a capture stale --------------------------------------------------------------------
def test_what_forward_computes_is_part_of_a_networks_hash():
    def hashed(forward):
        return network_hash(network(forward))

    constant = torch.arange(8.0).reshape(1, 8, 1, 1)
    forwards = (
        lambda s, x: end(s, s.a(x)),
        lambda s, x: end(s, s.b(s.a(x))),
        lambda s, x: end(s, s.a(x) * 2),
        lambda s, x: end(s, s.a(x) * 3),
        lambda s, x: end(s, s.a(x) + constant),
        lambda s, x: end(s, s.a(x) + 2 * constant),
    )
    assert len({hashed(forward) for forward in forwards}) == len(forwards)
    assert hashed(forwards[4]) == hashed(forwards[4])


# ---- softmax ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("module", [nn.Softmax(0), nn.LogSoftmax(0)])
def test_a_softmax_over_the_batch_is_refused(module):
    refused(
        "layer 'last': .*Softmax: it must be over the classes",
        network(lambda s, x: s.last(end(s, s.a(x))), last=module),
    )
    refused("layer 'softmax'.*over the classes", network(lambda s, x: F.softmax(end(s, s.a(x)), 0)))


@pytest.mark.parametrize("dim", [1, -1])
def test_a_softmax_over_the_classes_is_left_out(dim):
    plain = from_torch(network(lambda s, x: end(s, s.a(x))), SHAPE, HARDWARE, pictures(8))
    for last in (torch.softmax, torch.log_softmax):
        made = from_torch(network(lambda s, x, f=last: f(end(s, s.a(x)), dim)), SHAPE, HARDWARE, pictures(8))
        assert (exact_logits(made, pictures()) == exact_logits(plain, pictures())).all()


def test_a_map_of_one_pixel_and_a_vector_are_not_added():
    def forward(s, x):
        pooled = F.adaptive_avg_pool2d(s.a(x), 1)
        return (pooled + pooled.flatten(1)).mean((2, 3))

    refused("layer 'add': add: a map .* and a vector .* do not add up", network(forward))


def test_a_weight_that_is_not_finite_is_refused_in_one_sentence():
    model = network(lambda s, x: end(s, s.a(x)))
    with torch.no_grad():
        model.get_parameter("a.weight")[0] = float("nan")
    with pytest.raises(ValueError, match=r"^layer 'a': it gives a value that is not a finite number$"):
        from_torch(model, SHAPE, HARDWARE, pictures(8))


class Remembering(nn.Identity):
    def get_extra_state(self):
        return {"any": "thing"}

    def set_extra_state(self, state):
        pass


def test_what_a_network_keeps_besides_numbers_is_not_looked_at():
    close(network(lambda s, x: end(s, s.i(s.a(x))), i=Remembering()))
