"""Activation functions of PyTorch and ONNX networks become tables, where they stand and whatever they are."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from golden_model.config import HardwareConfig
from golden_model.engines.run_network import GraphRunner
from golden_model.graph.network import Graph
from golden_model.graph.nodes import Add, Crossbar
from golden_model.image.program import fitting
from quant.capture.capture import from_torch
from quant.capture.errors import UnsupportedOperator
from quant.capture.operators.tables import FUNCTIONS
from quant.data import sets
from quant.networks.pixels import Normalisation, float_logits
from quant.reference import accuracy, exact_logits
from quant.training.prepare import prepare
from tests.quant.test_import_network import HARDWARE, SHAPE, Net, conv, fc, pictures, seeded

PLAIN = Normalisation.none(3)


def network(function, *, pool=False, **modules):
    """Two convolutions with a function behind each, and a linear layer."""

    def forward(self, x):
        x = function(self, self.a(x))
        x = function(self, self.bn(self.b(F.max_pool2d(x, 2) if pool else x)))
        return self.fc(x.mean((2, 3)))

    return seeded(Net(forward, a=conv(3, 8), b=conv(8, 8), bn=nn.BatchNorm2d(8), fc=fc(8), **modules))


def close(model, *, share=0.03, hardware=HARDWARE) -> Graph:
    """The integer network, near the float one; the golden model agrees with plain operators."""
    images = pictures()
    made = from_torch(model, SHAPE, hardware, images)
    exact = exact_logits(made, images)
    assert (GraphRunner(made, engine="direct").run(images[:2])[0] == exact[:2]).all()
    wanted = float_logits(model, images, PLAIN)
    assert np.abs(exact * made.output.logit_scale - wanted).max() < share * np.ptp(wanted)
    return made


def lookups(made):
    return [node.name for node in made.nodes if isinstance(node, Crossbar | Add) and node.lookup is not None]


# ---- every function -----------------------------------------------------------------------------
@pytest.mark.parametrize("module", FUNCTIONS, ids=lambda module: module.__name__)
def test_every_module_becomes_tables_of_its_layers(module):
    threshold = (0.1, -0.2) if module is nn.Threshold else ()
    made = close(network(lambda s, x: s.act(x), act=module(*threshold)))
    assert lookups(made) == ["a", "b"]
    assert [type(node).__name__ for node in made.nodes] == ["Image", "Crossbar", "Crossbar", "AveragePool", "Crossbar"]


FORMS = {
    "leaky relu in place": lambda s, x: F.leaky_relu(x, 0.2, inplace=True),
    "prelu": lambda s, x: F.prelu(x, s.slope.weight),
    "tanh gelu": lambda s, x: F.gelu(x, approximate="tanh"),
    "method": lambda s, x: x.sigmoid(),
    "elu": lambda s, x: F.elu(x, alpha=0.7),
    "swish": lambda s, x: x * torch.sigmoid(x),
    "swish with a factor": lambda s, x: x * torch.sigmoid(1.702 * x),
    "hard swish of parts": lambda s, x: x * F.relu6(x + 3) / 6,
    "hard swish of hard sigmoid": lambda s, x: x * F.hardsigmoid(x),
    "mish of parts": lambda s, x: x * torch.tanh(F.softplus(x)),
    "gelu by erf": lambda s, x: x * 0.5 * (1 + torch.erf(x / math.sqrt(2))),
    "gelu by tanh": lambda s, x: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * torch.pow(x, 3)))),
    "square": lambda s, x: x**2 - 1,
}


@pytest.mark.parametrize("function", FORMS.values(), ids=FORMS)
def test_functions_and_what_is_written_as_a_formula_become_tables(function):
    made = close(network(function, slope=nn.PReLU(1)), share=0.04)
    assert lookups(made) == ["a", "b"]
    assert len(made.nodes) == 5


def test_a_hard_sigmoid_of_parts_needs_no_table():
    made = close(network(lambda s, x: F.relu6(x + 3) / 6))
    assert lookups(made) == []


def test_two_slopes_of_one_network_are_two_functions():
    model = seeded(nn.Sequential(conv(3, 4), nn.PReLU(1, 0.3), conv(4, 4), nn.PReLU(1, -0.5), nn.Flatten(), fc(576)))
    made = close(model)
    tables = [layer.table for layer in made.layers[:2]]
    assert np.diff(tables[0]).min() >= 0 > np.diff(tables[1]).min()


SLOPES = torch.tensor([0.25, -0.5, 0.0, 1.0, 1.5, 0.1, -1.0, 0.3])


def with_slopes(function=lambda s, x: F.prelu(x, s.act.weight), **changed):
    model = network(function, act=nn.PReLU(8), **changed)
    model.act.weight.data = SLOPES.clone()
    return model


@pytest.mark.parametrize("call", [lambda s, x: s.act(x), lambda s, x: F.prelu(x, s.act.weight)])
def test_a_slope_per_channel_is_two_layers_of_one_pixel(call):
    made = close(with_slopes(call))
    assert lookups(made) == []
    assert [node.name for node in made.crossbars[:3]] == [
        "a",
        f"{made.crossbars[2].name}.sides",
        made.crossbars[2].name,
    ]
    sides, joined = (node.layers[0].weights for node in made.crossbars[1:3])
    one, sign = np.eye(8), np.diag(np.sign(SLOPES.numpy()))
    assert (sides == np.hstack([one, -np.abs(sign)])).all()
    assert (joined == np.vstack([one, -sign])).all()


# ---- where it stands ----------------------------------------------------------------------------
def test_pooling_behind_a_function_stays_in_the_layer_and_comes_after_the_table():
    made = close(network(lambda s, x: F.silu(-2 * x), pool=True))
    node = made.node("a")
    assert isinstance(node, Crossbar)
    assert node.layers[0].pool == 2
    assert np.diff(node.layers[0].table).min() < 0 < np.diff(node.layers[0].table).max()


def test_a_function_behind_pooling_is_a_step_of_its_own():
    def forward(self, x):
        return self.fc(F.silu(F.max_pool2d(self.a(x), 2)).flatten(1))

    made = close(seeded(Net(forward, a=conv(3, 8), fc=fc(8 * 36))))
    assert lookups(made) == ["silu"]
    assert isinstance(made.node("silu"), Add)


def test_a_function_of_a_sum_looks_up_after_the_residual():
    def forward(self, x):
        x = F.hardswish(self.a(x))
        return self.fc(F.hardswish(self.b(x) + x).mean((2, 3)))

    made = close(seeded(Net(forward, a=conv(3, 8), b=conv(8, 8), fc=fc(8))))
    assert lookups(made) == ["a", "b"]
    assert len(made.node("b").inputs) == 2


def test_a_layer_with_a_function_of_its_own_does_not_take_up_a_sum():
    def forward(self, x):
        x = self.a(x)
        return self.fc((F.silu(self.b(x)) + x).mean((2, 3)))

    made = close(seeded(Net(forward, a=conv(3, 8), b=conv(8, 8), fc=fc(8))))
    assert lookups(made) == ["b"]


def test_a_function_of_a_tensor_that_others_read_too_is_a_step():
    def forward(self, x):
        x = self.a(x)
        return self.fc(torch.cat([x, F.silu(x)], 1).mean((2, 3)))

    made = close(seeded(Net(forward, a=conv(3, 8), fc=fc(16))))
    assert lookups(made) == ["silu"]


def test_a_function_of_an_average_and_of_the_image():
    def forward(self, x):
        x = self.a(torch.tanh(2 * torch.tanh(x)))
        return self.fc(F.gelu(x.mean((2, 3))))

    made = close(seeded(Net(forward, a=conv(3, 8), fc=fc(8))))
    assert lookups(made) == ["tanh_1", "gelu"]


def test_a_function_that_ends_the_network_is_computed():
    made = close(seeded(Net(lambda s, x: torch.sigmoid(s.fc(x.flatten(1))), fc=fc(432))))
    assert lookups(made) == ["fc"]
    assert not made.crossbars[0].last


def test_a_border_behind_a_signed_function_is_its_zero():
    made = close(network(lambda s, x: F.leaky_relu(x, 0.3)))
    node = made.node("b")
    assert isinstance(node, Crossbar)
    zero = made.node("a").encoding.zero
    assert zero > 0
    assert set(node.layers[0].pad_values.tolist()) == {zero}


def test_codes_do_not_cover_where_a_function_no_longer_changes():
    model = network(lambda s, x: F.hardswish(x))
    with torch.no_grad():
        model.a.weight *= 8
    node = from_torch(model, SHAPE, HARDWARE, pictures()).node("a")
    assert isinstance(node, Crossbar)
    assert -3.1 < node.lookup.code.low < -2.5
    assert node.lookup.code.high > 6


def test_narrow_activations_have_codes_of_all_bits():
    made = from_torch(network(lambda s, x: F.silu(x)), SHAPE, HARDWARE, pictures(), activation_bits=4)
    assert [layer.input_bits for layer in made.layers] == [8, 4, 4]
    assert [len(layer.table) for layer in made.layers[:2]] == [256, 256]


def test_a_machine_that_fits_has_as_many_tables_as_the_network_has_functions():
    made = from_torch(network(lambda s, x: F.silu(x)), SHAPE, HARDWARE, pictures())
    assert fitting(made).activation_tables == 2


# ---- what is refused ----------------------------------------------------------------------------
def refused(match, model):
    with pytest.raises(UnsupportedOperator, match=match):
        from_torch(model, SHAPE, HARDWARE, pictures(4))


def test_a_number_per_channel_makes_no_function():
    words = "^layer '.*': pow: a number per channel makes no function of one number; one for all channels is supported"
    exponents = nn.ParameterList([torch.full((8, 1, 1), 2.0)])
    refused(words, network(lambda s, x: torch.pow(x, s.exponents[0]), exponents=exponents))


def test_a_slope_per_token_is_refused():
    def forward(self, x):
        return self.fc(self.act(self.a(x).flatten(2).transpose(1, 2)).mean(1))

    model = Net(forward, a=conv(3, 8), act=nn.PReLU(144), fc=fc(8))
    nn.init.uniform_(model.act.weight)
    refused("^layer 'act': PReLU: of tokens", seeded(model))


def test_squeeze_and_excitation_is_refused_by_name():
    def forward(self, x):
        x = self.a(x)
        return self.fc((x * torch.sigmoid(self.b(F.adaptive_avg_pool2d(x, 1)))).mean((2, 3)))

    words = "^layer 'mul': mul: only a constant, not a second tensor of the network that is no function of the first$"
    refused(words, seeded(Net(forward, a=conv(3, 8), b=conv(8, 8, 1), fc=fc(8))))


def test_a_function_without_a_value_is_refused_by_name():
    words = "^layer 'a': its function has no value for some inputs between 0 and "
    with torch.no_grad():
        model = seeded(Net(lambda s, x: s.fc((s.a(x) ** -1).flatten(1)), a=conv(3, 2), fc=fc(288)))
        model.a.bias += 30
    refused(words, model)


def test_training_refuses_functions_by_name():
    words = "^layer 'act': networks whose activation function is not a ReLU cannot be trained here, only quantised"
    with pytest.raises(UnsupportedOperator, match=words):
        prepare(
            network(lambda s, x: s.act(x), act=nn.SiLU()), SHAPE, HARDWARE, calibration=pictures(), normalisation=PLAIN
        )


def test_a_capture_that_finds_another_function_is_noticed(monkeypatch):
    from quant.capture.operators import functions

    monkeypatch.setattr(functions, "after", lambda second, first: second)
    refused("^layer '.*': the captured network differs from the network itself", network(FORMS["gelu by erf"]))


# ---- accuracy -----------------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.parametrize("function", [nn.Hardswish, nn.SiLU, nn.Tanh], ids=lambda module: module.__name__)
def test_digits_keep_their_accuracy(function):
    """A small network, trained in a few seconds; integers within a point of the float network."""
    torch.manual_seed(0)
    digits = sets.load()
    model = nn.Sequential(
        nn.Conv2d(1, 8, 5, 2), function(), nn.Conv2d(8, 16, 3), nn.BatchNorm2d(16), function(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(400, 10),
    )  # fmt: skip
    images, labels = (
        torch.from_numpy(np.array(digits.train_images)).float() / 255,
        torch.from_numpy(np.array(digits.train_labels)),
    )
    optimiser = torch.optim.Adam(model.parameters(), 2e-3)
    for _ in range(4):
        for part in torch.randperm(len(images)).split(64):
            optimiser.zero_grad()
            F.cross_entropy(model(images[part]), labels[part]).backward()
            optimiser.step()
    model.eval()
    made = from_torch(model, digits.shape, HardwareConfig(), digits.calibration())
    test, classes = digits.test_images, digits.test_labels
    real = accuracy(float_logits(model, test, Normalisation.none(1)), classes)
    assert real > 0.9
    assert abs(accuracy(exact_logits(made, test), classes) - real) < 0.01
