"""The command that trains, on data that is easy to learn."""

from __future__ import annotations

import json
from dataclasses import fields
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from typer.testing import CliRunner

from golden_model.config import PAPER
from golden_model.engines.run_network import GraphRunner
from golden_model.image import archive as graph_file
from golden_model.image import program
from quant import stages, train
from quant.data import sets
from quant.reference import accuracy, exact_logits
from quant.training import loop
from quant.training.penalties import ActivityPenalty, BlockPenalty
from quant.training.phases import Augmentation, Objective, Settings, check_settings
from quant.training.restart import take_over
from tests.quant.conftest import toy_dataset, write_toy
from tests.quant.test_quantised import images, made

OWN = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, stride=2, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(72, 3)

    def forward(self, x):
        return self.head(torch.flatten(torch.relu(self.norm(self.conv(x))), 1))
"""


#: Forty steps are few, so widths are pushed hard.
PUSH = {"msq": ("--alpha", 0.3), "bitplane": ("--plane-lr", 0.08, "--alpha", 0.1)}


OWN += """
class Pair(Net):
    def forward(self, x):
        return super().forward(x), x

class Named(Net):
    def forward(self, x):
        return {"scores": super().forward(x)}

class Leaves(Net):
    def forward(self, x):
        raise SystemExit(0)

class Hooked(Net):
    def __init__(self):
        super().__init__()
        self.register_forward_hook(lambda module, given, result: 2 - result)
"""


@pytest.fixture
def folder(tmp_path):
    """Three kinds of stripes, easy to tell apart, and a network of the user's own."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 240)
    images = rng.integers(0, 90, (240, 1, 8, 8))
    for image, label in zip(images, labels, strict=True):
        image[0, :, label::3] += 150
    np.savez(
        tmp_path / "data.npz", train_images=images[:180].astype(np.uint8), train_labels=labels[:180],
        test_images=images[180:].astype(np.uint8), test_labels=labels[180:],
    )  # fmt: skip
    (tmp_path / "own.py").write_text(OWN)
    return tmp_path


def call(folder, *more):
    arguments = [
        "--model", f"{folder / 'own.py'}:Net", "--data", folder / "data.npz", "--float-epochs", 6, "--batch", 30,
        "--quantise-epochs", 8, "--finetune-epochs", 2, "--float-lr", 0.02, "--lr", 0.005, "--shift", 0, "--no-flip",
        "--no-half", "--distil", 0.7, "--lower-activations", 0, "--threads", 1, *more,
    ]  # fmt: skip
    return CliRunner().invoke(train.app, [str(a) for a in arguments])


@pytest.mark.parametrize("method", ["msq", "bitplane"])
def test_widths_fall_and_the_integer_network_keeps_its_accuracy(folder, method):
    work = folder / method
    done = call(folder, "--work", work, "--method", method, "--target-bits", 2, "--quantise-epochs", 12, *PUSH[method])
    assert done.exit_code == 0, done.output
    report = json.loads((work / "train.json").read_text())
    assert report["widths"]["mean_bits"] < 5
    assert report["accuracy"]["integer"] > 0.9
    graph = graph_file.load(work / "network.graph")
    with np.load(folder / "data.npz") as data:
        assert accuracy(exact_logits(graph, data["test_images"]), data["test_labels"]) == report["accuracy"]["integer"]
    planes = sum(int(node.layers[0].block_widths.sum()) for node in graph.crossbars)
    assert planes == sum(p * n for layer in report["widths"]["layers"] for p, n in _widths(layer))


def _widths(layer):
    return ((int(p), n) for p, n in layer["widths"].items())


def test_interrupted_training_goes_on_to_the_same_network(folder, monkeypatch):
    assert call(folder, "--work", folder / "whole").exit_code == 0
    real, calls = loop.run_epoch, []

    def broken(*arguments, **options):
        calls.append(1)
        if len(calls) in (4, 9, 16):
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(loop, "run_epoch", broken)
    codes = [call(folder, "--work", folder / "parts").exit_code for _ in range(4)]
    assert codes == [130, 130, 130, 0]
    whole, parts = (json.loads((folder / name / "train.json").read_text()) for name in ("whole", "parts"))
    for report in (whole, parts):
        for record in report["history"]:
            record.pop("seconds")
        report.pop("command")
    assert whole == parts
    assert (folder / "whole/network.graph").read_bytes() == (folder / "parts/network.graph").read_bytes()


def test_activation_widths_fall_when_any_loss_is_tolerated(folder):
    assert call(folder, "--work", folder / "w", "--lower-activations", 3, "--activation-tolerance", 1).exit_code == 0
    report = json.loads((folder / "w/train.json").read_text())
    assert report["activation_bits"] == [3]
    assert graph_file.load(folder / "w/network.graph").crossbars[0].encoding.bits == 3


def test_training_goes_on_from_another_one_and_widths_only_fall(folder):
    assert call(folder, "--work", folder / "one", "--target-bits", 4).exit_code == 0
    more = ("--start-from", folder / "one", "--quantise-epochs", 3, "--float-epochs", 1, "--target-bits", 2)
    done = call(folder, "--work", folder / "two", "--alpha", 0.3, *more)
    assert done.exit_code == 0, done.output
    one, two = (graph_file.load(folder / name / "network.graph") for name in ("one", "two"))
    for before, after in zip(one.layers, two.layers, strict=True):
        assert (after.block_widths <= before.block_widths).all()
    assert sum(a.block_widths.sum() for a in two.layers) < sum(b.block_widths.sum() for b in one.layers)


def test_training_goes_on_from_an_integer_network_alone(folder):
    """Without a step of training it is the same one again; with one, widths only fall."""
    assert call(folder, "--work", folder / "one", "--target-bits", 4).exit_code == 0
    more = ("--start-from", folder / "one/network.graph", "--quantise-epochs", 0, "--float-epochs", 0)
    weights = ("--weights", folder / "one/float.pt")
    content = torch.load(folder / "one/train.pt", weights_only=True)
    torch.save(content["float"], folder / "one/float.pt")
    for name, epochs in (("same", 0), ("on", 2)):
        done = call(folder, "--work", folder / name, *more, *weights, "--finetune-epochs", epochs)
        assert done.exit_code == 0, done.output
    one, same, on = (graph_file.load(folder / name / "network.graph") for name in ("one", "same", "on"))
    for before, unchanged, after in zip(one.crossbars, same.crossbars, on.crossbars, strict=True):
        assert np.array_equal(unchanged.layers[0].weights, before.layers[0].weights)
        assert np.allclose(unchanged.step, before.step, rtol=1e-4)
        assert np.allclose(unchanged.bias, before.bias, rtol=1e-3, atol=1e-4)
        assert unchanged.encoding.high == pytest.approx(before.encoding.high)
        assert (after.layers[0].block_widths <= before.layers[0].block_widths).all()
    assert any((a.weights != b.weights).any() for a, b in zip(on.layers, one.layers, strict=True))


def test_an_integer_network_of_other_layers_is_no_start(folder):
    assert call(folder, "--work", folder / "one").exit_code == 0
    graph = graph_file.load(folder / "one/network.graph")
    with pytest.raises(ValueError, match=r"the layers are conv1, conv2, conv3, head, those of .* conv, head"):
        take_over(made(), graph, torch.from_numpy(images()).float())


def test_lenet_trained_a_little_with_few_ones_runs_on_crossbars_as_in_plain_integers(tmp_path):
    data = write_toy(tmp_path / "data", train=120, test=12, size=28, classes=10)
    arguments = [
        "--model", "lenet5", "--data", data, "--work", tmp_path / "w", "--activation-ones", 2, "--float-epochs", 1,
        "--quantise-epochs", 1, "--finetune-epochs", 1, "--batch", 30, "--lower-activations", 0, "--threads", 1,
    ]  # fmt: skip
    done = CliRunner().invoke(train.app, [str(a) for a in arguments])
    assert done.exit_code == 0, done.output
    graph = graph_file.load(tmp_path / "w/network.graph")
    assert [layer.output_ones for layer in graph.layers] == [2, 2, 2, 2, 0]
    test = toy_dataset(train=120, test=12, size=28, classes=10).test_images
    np.testing.assert_array_equal(GraphRunner(graph).run(test)[0], exact_logits(graph, test))


@pytest.mark.parametrize("method", ["msq", "bitplane"])
def test_widths_fall_when_the_ous_of_the_pair_machine_are_penalised(folder, method):
    more = ("--weighting", "pair-ous", "--target-bits", 2, "--quantise-epochs", 12, *PUSH[method])
    done = call(folder, "--work", folder / "w", "--method", method, *more)
    assert done.exit_code == 0, done.output
    report = json.loads((folder / "w/train.json").read_text())
    assert report["widths"]["mean_bits"] < 5
    assert report["accuracy"]["integer"] > 0.9


def test_training_by_ous_that_was_interrupted_goes_on_to_the_same_network(folder, monkeypatch):
    more = ("--weighting", "pair-ous", "--quantise-epochs", 3)
    assert call(folder, "--work", folder / "whole", *more).exit_code == 0
    real, calls = loop.run_epoch, []

    def broken(*arguments, **options):
        calls.append(1)
        if len(calls) == 9:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(loop, "run_epoch", broken)
    assert [call(folder, "--work", folder / "parts", *more).exit_code for _ in range(2)] == [130, 0]
    assert (folder / "whole/network.graph").read_bytes() == (folder / "parts/network.graph").read_bytes()


def test_few_ones_are_trained_and_kept(folder):
    done = call(folder, "--work", folder / "w", "--activation-ones", 1)
    assert done.exit_code == 0, done.output
    graph = graph_file.load(folder / "w/network.graph")
    assert [layer.output_ones for layer in graph.layers] == [1, 0]
    report = json.loads((folder / "w/train.json").read_text())
    assert report["accuracy"]["integer"] > 0.9
    with np.load(folder / "data.npz") as data:
        logits = GraphRunner(graph).run(data["test_images"])[0]
        assert accuracy(logits, data["test_labels"]) == report["accuracy"]["integer"]


def test_a_start_that_is_not_finished_is_refused(folder):
    assert call(folder, "--work", folder / "one", "--finetune-epochs", 0).exit_code == 0
    done = call(folder, "--work", folder / "two", "--start-from", folder / "nowhere")
    assert (done.exit_code, "is missing" in done.output) == (2, True)
    (folder / "one/train.pt").write_bytes(b"something else")
    done = call(folder, "--work", folder / "two", "--start-from", folder / "one")
    assert (done.exit_code, "is damaged or not a checkpoint" in done.output) == (2, True)


def test_a_start_without_float_weights_names_the_recipe_that_makes_them(folder):
    kept = folder / "kept"
    kept.mkdir()
    (kept / "recipe.toml").write_text("")
    (kept / "network.graph").write_bytes(b"integers")
    for told in (True, False):
        done = call(folder, "--work", folder / "two", "--start-from", kept)
        assert (done.exit_code, f"{kept / 'train.pt'}, with the float weights, is missing" in done.output) == (2, True)
        assert (f"first, with `python -m quant.train --recipe {kept / 'recipe.toml'}`, and" in done.output) == told
        (kept / "recipe.toml").unlink(missing_ok=True)
    assert not (folder / "two").exists()


def test_finished_training_is_not_repeated(folder, monkeypatch):
    assert call(folder, "--work", folder / "w").exit_code == 0
    monkeypatch.setattr(loop, "run_epoch", None)
    assert "is up to date" in call(folder, "--work", folder / "w").output


@pytest.mark.parametrize("damage", ["deleted", "one bit"])
def test_a_network_that_was_damaged_or_deleted_is_made_again_without_training(folder, monkeypatch, damage):
    assert call(folder, "--work", folder / "w").exit_code == 0
    file = folder / "w/network.graph"
    content = file.read_bytes()
    file.unlink() if damage == "deleted" else file.write_bytes(flipped(content, len(content) // 2))
    monkeypatch.setattr(loop, "run_epoch", None)
    done = call(folder, "--work", folder / "w")
    assert (done.exit_code, "is up to date" in done.output) == (0, False)
    assert file.read_bytes() == content


def flipped(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :]


def test_a_flipped_bit_of_a_tensor_in_a_checkpoint_is_noticed(tmp_path):
    content = {"schema": train.SCHEMA, "version": train.VERSION, "float": {"w": torch.ones(999)}, "network": None}
    stages.save_tensors(tmp_path / "train.pt", content)
    assert train.read_checkpoint(tmp_path / "train.pt")["float"]["w"].sum() == 999
    whole = (tmp_path / "train.pt").read_bytes()
    place = whole.index(np.ones(9, dtype=np.float32).tobytes()) + 2
    (tmp_path / "train.pt").write_bytes(flipped(whole, place))
    with pytest.raises(ValueError, match=r"train\.pt is damaged or not a checkpoint"):
        train.read_checkpoint(tmp_path / "train.pt")


def test_a_checkpoint_with_nan_is_refused(tmp_path):
    content = {"schema": train.SCHEMA, "version": train.VERSION, "float": {"w": torch.tensor([float("nan")])}}
    stages.save_tensors(tmp_path / "train.pt", {**content, "network": None})
    with pytest.raises(ValueError, match="w holds NaN or infinity"):
        train.read_checkpoint(tmp_path / "train.pt")


def test_the_written_recipe_makes_the_same_network_again_and_flags_override_it(folder):
    assert call(folder, "--work", folder / "w", "--target-bits", 2.5).exit_code == 0
    recipe = folder / "w/recipe.toml"
    for name, more in (("again", ()), ("other", ("--seed", 1))):
        asked = ["--recipe", recipe, "--work", folder / name, *more]
        done = CliRunner().invoke(train.app, [str(a) for a in asked])
        assert done.exit_code == 0, done.output
    made = [(folder / name / "network.graph").read_bytes() for name in ("w", "again", "other")]
    assert made[0] == made[1] != made[2]
    assert train.read_recipe(recipe) == train.read_recipe(folder / "again/recipe.toml")
    assert train.read_recipe(folder / "other/recipe.toml")["seed"] == 1


@pytest.mark.parametrize("recipe", sorted((stages.PACKAGE / "recipes").glob("*.toml")), ids=lambda path: path.stem)
def test_kept_recipes_are_legal_and_go_on_from_kept_networks(recipe):
    asked = train.read_recipe(recipe)
    settings = {f.name: asked[f.name] for f in fields(Settings) if f.name in asked}
    check_settings(Settings(**settings), PAPER)
    start = graph_file.load(stages.PACKAGE.parent / asked["start_from"])
    assert {layer.output_bits for layer in start.layers if not layer.last} == {asked["activation_bits"]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bits = 3", "training has no option 'bits'"),
        ("batch = true", "batch must be of type int, got True"),
        ("batch = ", "is not readable TOML"),
    ],
)
def test_a_wrong_recipe_is_refused_in_one_sentence(folder, text, message):
    (folder / "r.toml").write_text(text)
    done = call(folder, "--work", folder / "w", "--recipe", folder / "r.toml")
    assert (done.exit_code, message in done.output) == (2, True)


def test_recipes_keep_every_kind_of_option(tmp_path):
    values = {"model": 'a "b"\\c.py:Net', "flip": True, "lr": 1e-3, "seed": 3, "lower_activations": 0}
    train.write_recipe(tmp_path / "r.toml", values, note="why: \u00e9")
    assert train.read_recipe(tmp_path / "r.toml") == values


def test_training_sees_no_image_that_choices_are_made_on(folder, monkeypatch):
    """Every twelfth image is held out; clips and widths see those alone."""
    dataset = sets.load(folder / "data.npz")
    held = {image.tobytes() for image in dataset.validation()[0]}
    seen: dict[str, set[bytes]] = {"trained": set(), "clips": set(), "widths": set()}

    def watch(kind, images):
        seen[kind] |= {image.byte().numpy().tobytes() for image in images}

    run, clip, lower = loop.run_epoch, loop.prepare, loop.lower_activation_widths
    monkeypatch.setattr(loop, "run_epoch", lambda p, e, x, *a: (watch("trained", x), run(p, e, x, *a))[1])
    monkeypatch.setattr(
        loop, "prepare", lambda *a, **k: (watch("clips", torch.from_numpy(k["calibration"])), clip(*a, **k))[1]
    )
    monkeypatch.setattr(
        loop, "lower_activation_widths", lambda n, x, *a, **k: (watch("widths", x), lower(n, x, *a, **k))[1]
    )
    assert call(folder, "--work", folder / "w", "--lower-activations", 6).exit_code == 0
    assert seen["clips"] == seen["widths"] == held
    assert len(seen["trained"]) == 165
    assert not seen["trained"] & held


def test_on_hardware_auto_the_trained_network_gets_a_machine_that_is_just_large_enough(folder):
    done = call(folder, "--work", folder / "w", "--method", "ptq", "--hardware", "auto")
    assert done.exit_code == 0, done.output
    network = graph_file.load(folder / "w/network.graph")
    assert network.hardware == program.fitting(network)
    assert json.loads((folder / "w/train.json").read_text())["options"]["hardware"] == PAPER.as_dict()


def test_after_training_only_no_width_is_trained(folder):
    done = call(folder, "--work", folder / "w", "--method", "ptq", "--quantise-epochs", 3)
    assert done.exit_code == 0, done.output
    report = json.loads((folder / "w/train.json").read_text())
    assert {record["phase"] for record in report["history"]} == {"float"}
    assert report["accuracy"]["integer"] > 0.9
    assert train.read_checkpoint(folder / "w/train.pt")["phase"] == "finetune"


def test_diverged_training_is_reported():
    phase = SimpleNamespace(
        name="finetune",
        epochs=1,
        objective=None,
        optimiser=torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0),
        set_rate=lambda fraction: None,
        loss=lambda pixels, labels: torch.full((), float("nan"), requires_grad=True),
        extra_loss=lambda fraction: None,
        after_step=lambda: None,
    )
    pixels, labels = torch.zeros(8, 1, 4, 4, dtype=torch.uint8), torch.zeros(8, dtype=torch.int64)
    with pytest.raises(ValueError, match="training diverged in phase finetune, epoch 1"):
        loop.run_epoch(phase, 0, pixels, labels, Settings(batch=4), torch.Generator())


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--block", "9by8"), "--block must be"),
        (("--weighting", "none"), "weighting must be"),
        (("--hardware", "none"), "--hardware must be"),
        (("--batch", "0"), "batch must be in 1..100000, got 0"),
        (("--device", "tpu"), "--device must be one of auto, cpu, cuda"),
        (("--distil", "2"), "distil must be in 0..1"),
        (("--model", "resnet20"), "images are (1, 8, 8), resnet20 takes (3, 32, 32)"),
    ],
)
def test_wrong_options_are_refused_in_one_sentence(folder, option, message):
    done = call(folder, "--work", folder / "w", *option)
    assert done.exit_code == 2
    assert message in done.output
    assert not (folder / "w").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Pair", "the network Pair must return one tensor, it returns a tuple"),
        ("Named", "the network Named must return one tensor, it returns a dict"),
        ("Leaves", "the network Leaves cannot be run on pictures of 1x8x8: SystemExit"),
        ("Hooked", "layer 'output': the captured network differs from the network itself"),
    ],
)
def test_a_network_that_capture_refuses_is_refused_before_it_is_trained(folder, name, message):
    work = folder / "work"
    done = call(folder, "--model", f"{folder / 'own.py'}:{name}", "--work", work)
    assert done.exit_code == 2, done.output
    assert message in done.stderr
    assert not (work / "network.graph").exists()
    assert not (work / "train.pt").exists()


def test_labels_beyond_the_outputs_are_refused_before_training(folder):
    np.savez(folder / "data.npz", images=np.zeros((40, 1, 8, 8), np.uint8), labels=np.arange(40) % 3 + 1)
    done = call(folder, "--work", folder / "work")
    assert done.exit_code == 2, done.output
    assert "a training image has label 3, but the network has 3 outputs" in done.stderr


def test_mirrored_images_are_mirrored_whole():
    pixels = torch.arange(12, dtype=torch.uint8).reshape(1, 1, 3, 4).repeat(64, 1, 1, 1)
    found = Augmentation(0, True, torch.Generator().manual_seed(0))(pixels)
    same = [torch.equal(image, pixels[0]) for image in found]
    other = [torch.equal(image, pixels[0].flip(2)) for image in found]
    assert all(a != b for a, b in zip(same, other, strict=True))
    assert 16 < sum(same) < 48


def test_without_distillation_the_objective_is_cross_entropy():
    network = nn.Linear(4, 3)
    x, labels = torch.randn(5, 4), torch.tensor([0, 1, 2, 1, 0])
    loss = Objective(nn.Linear(4, 3), Settings(distil=0.0))(network, x, labels)
    assert torch.equal(loss, F.cross_entropy(network(x), labels))


def test_a_network_that_equals_its_teacher_is_not_moved_by_it():
    network = nn.Linear(4, 3)
    Objective(network, Settings(distil=1.0))(network, torch.randn(5, 4), torch.tensor([0, 1, 2, 1, 0])).backward()
    assert network.weight.grad is not None
    assert float(network.weight.grad.abs().max()) < 1e-6


def test_a_penalty_on_both_is_the_mean_of_the_two():
    network = made()
    memory, work, both = (BlockPenalty(network, w)()[0] for w in ("memory", "activations", "both"))
    assert torch.isclose(both, (memory + work) / 2)
    assert not torch.isclose(memory, work)


def test_activations_shrink_when_their_bits_are_penalised(folder):
    bits = {}
    for factor in ("0.001", "20"):
        call(folder, "--work", str(folder / factor), "--activity", factor)
        history = json.loads((folder / factor / "train.json").read_text())["history"]
        bits[factor] = history[-1]["active_bits"]
    assert bits["20"] < 0.9 * bits["0.001"]


def test_the_activity_penalty_is_the_mean_bits_of_what_the_layers_read_by_their_products():
    network = made()
    penalty = ActivityPenalty(network)
    pixels = torch.from_numpy(images(4)).float()
    with torch.no_grad(), penalty.watching():
        network(pixels)
    read, products = [], []
    for activation, layer in network.inputs():
        activation.register_forward_hook(lambda module, _, y: read.append(torch.round(y[0] / module.clip * 255)))
        products.append(layer.geometry.windows * layer.geometry.k * layer.geometry.outputs)
    with torch.no_grad():
        network(pixels)
    wanted = sum(float(torch.log2(1 + q).mean()) * n for q, n in zip(read, products, strict=True)) / sum(products)
    assert len(products) == 3  # all but the layer that reads the image
    assert float(penalty()) == pytest.approx(wanted, rel=1e-4)
    assert len(network.inputs()[0][0]._forward_hooks) == 1  # the penalty's own are gone


def test_mixed_images_go_to_network_and_teacher_and_their_labels_weigh_by_their_shares():
    seen: list[torch.Tensor] = []

    def network(x: torch.Tensor) -> torch.Tensor:
        seen.append(x)
        return x.mean(dim=(2, 3))

    pixels = torch.stack([torch.zeros(2, 4, 4), torch.full((2, 4, 4), 200.0)])
    pixels[:, 1] = 255 - pixels[:, 1]
    labels = torch.tensor([0, 1])
    generator = torch.Generator().manual_seed(5)
    shares = 0.5 * torch.rand(2, generator=torch.Generator().manual_seed(5))
    teacher = nn.Identity()
    teacher.forward = network  # type: ignore[method-assign]
    for distil in (0.0, 1.0):
        generator.manual_seed(5)
        settings = Settings(mix=0.5, distil=distil, temperature=1.0)
        loss = Objective(teacher, settings, generator=generator)(network, pixels, labels)
        mixed = ((1 - shares)[:, None, None, None] * pixels + shares[:, None, None, None] * pixels.flip(0)).round()
        assert all(torch.equal(x, mixed) for x in seen)
        logits = mixed.mean(dim=(2, 3))
        by_hand = [
            (1 - s) * -logits.log_softmax(1)[n, labels[n]] + s * -logits.log_softmax(1)[n, labels[1 - n]]
            for n, s in enumerate(shares)
        ]
        soft = F.cross_entropy(logits, logits.softmax(1))
        assert float(loss) == pytest.approx(float(soft if distil else sum(by_hand) / 2), rel=1e-4)
    assert len(seen) == 3  # the teacher looked once


def test_mixing_images_is_repeated_exactly_by_the_same_seed(folder):
    states = []
    for name, mix in (("a", "0.5"), ("b", "0.5"), ("c", "0")):
        assert call(folder, "--work", folder / name, "--mix", mix).exit_code == 0
        states.append(torch.load(folder / name / "train.pt", weights_only=True)["network"])
    same = [all(torch.equal(states[0][key], other[key]) for key in states[0]) for other in states[1:]]
    assert same == [True, False]


def test_clips_move_in_training_only_when_they_are_learned(folder):
    clips = {}
    for name, options in (("fixed", ()), ("learned", ("--learn-clips",))):
        done = call(folder, "--work", folder / name, "--target-bits", 4, "--activation-bits", 4, *options)
        assert done.exit_code == 0, done.output
        state = torch.load(folder / name / "train.pt", weights_only=True)["network"]
        clips[name] = [float(v) for k, v in state.items() if k.endswith(".clip")]
    assert clips["fixed"] != clips["learned"]
