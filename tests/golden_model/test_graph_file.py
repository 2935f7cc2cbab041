"""Graph files: round trips of everything a graph can hold, and one sentence for everything that is wrong."""

import io
import json
import subprocess
import sys
import zipfile
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from golden_model.crossbar.layer import DynamicPrecision
from golden_model.engines.run_network import GraphRunner
from golden_model.files import InputError
from golden_model.graph import network as graph
from golden_model.graph.host import Host
from golden_model.graph.nodes import AveragePool, Crossbar, MaxPool
from golden_model.graph.numbers import Encoding, Window
from golden_model.graph.settings import with_settings
from golden_model.image import archive as graph_file
from golden_model.image.archive import load, save
from golden_model.image.describe import describe
from golden_model.trq import AdcRegisters
from tests.golden_model.test_graph import SMALL, TWIN, convolution, everything, image, pixels
from tests.strategies import adc_registers

ROOT = Path(__file__).resolve().parents[2]
TRAINED = sorted((ROOT / "quant/trained").glob("*/network.graph"))


def same(a, b) -> bool:
    """Whether two objects hold the same, field by field, with the same types of arrays."""
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype.kind == b.dtype.kind and np.array_equal(a, b)
    if hasattr(a, "__dataclass_fields__"):
        return type(a) is type(b) and all(same(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))
    if isinstance(a, (tuple, list)):
        return isinstance(b, type(a)) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return a == b


def again(made: graph.Graph, folder: Path) -> graph.Graph:
    save(made, folder / "graph.npz")
    return load(folder / "graph.npz")


# ---- round trips --------------------------------------------------------------------------------
def test_every_kind_of_node_comes_back(tmp_path):
    made = everything()
    made = replace(
        made, classes=("a", "b", "c", "d"), info={"accuracy": {"float": 0.5}, "note": "é", "list": [1, None]}
    )
    hosts = {one for one in graph_file.KINDS.values() if issubclass(one, Host)}  # tests/golden_model/test_host.py
    assert {type(node) for node in made.nodes} == set(graph_file.KINDS.values()) - hosts
    back = again(made, tmp_path)
    assert same(back, made)
    images = pixels(0, made, 3)
    logits, events = GraphRunner(made).run(images)
    got, counted = GraphRunner(back).run(images)
    assert (got == logits).all()
    assert counted == events


@pytest.mark.parametrize(
    "values",
    [
        {"registers": TWIN, "skip_zero_slices": True},
        {"dynamic": DynamicPrecision(l_max=3, tau_sq=300)},
        {"registers": AdcRegisters(mode="twin", n_r2=2, n_r1=1, m=1, bias=1)},
        {"registers": AdcRegisters(mode="bounded", n_r2=3, column_bound_bits="full")},
        {"registers": AdcRegisters(mode="bounded", n_r2=3, column_bound_bits="ou")},
        {"registers": AdcRegisters(mode="tree", n_r2=3, trees=((1,), (1, 2, 4, 3, 5)), column_bound_bits=1)},
    ],
)
def test_settings_of_layers_come_back(values, tmp_path):
    made = everything(1, **values)
    made = with_settings(made, activation_bits={"stem": 5, "mean": 3})
    back = again(made, tmp_path)
    assert same(back, made)
    assert back.layers[0].registers == made.layers[0].registers


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), adc_registers(SMALL.adc_bits), st.floats(0.1, 7), st.integers(1, 8))
def test_any_legal_setting_comes_back(tmp_path_factory, seed, registers, scale, bits):
    made = everything(seed)
    made = with_settings(
        made, registers={"sum": registers}, counts_per_lsb={"sum": scale}, activation_bits={"groups": bits}
    )
    assert same(again(made, tmp_path_factory.mktemp("graph")), made)


def test_steps_and_biases_per_channel_keep_all_their_bits(tmp_path):
    rng = np.random.default_rng(3)
    made = everything()
    nodes = [
        replace(n, step=rng.uniform(0.01, 0.03, len(n.step)), bias=rng.normal(0, 1, len(n.step)))
        if isinstance(n, Crossbar)
        else n
        for n in made.nodes
    ]
    made = graph.build("steps", SMALL, nodes)
    assert same(again(made, tmp_path), made)


def test_logits_from_sums_of_an_average_come_back(tmp_path):
    rng = np.random.default_rng(4)
    stem = convolution(rng, "stem", ("image",), (2, 6, 6), 4, low=-2.0)
    mean = AveragePool(
        name="mean", inputs=("stem",), shape=(4, 1, 1), encoding=Encoding(high=1.0),
        window=Window(kernel=(6, 6), stride=(6, 6), pad=(0, 0)), sums=True,
    )  # fmt: skip
    made = graph.build("sums", SMALL, [image(), stem, mean])
    assert same(again(made, tmp_path), made)


def test_names_with_dots_do_not_mix_up_arrays(tmp_path):
    rng = np.random.default_rng(5)
    first = convolution(rng, "x", ("image",), (2, 6, 6), 4)
    second = convolution(rng, "x.layers.0", ("x",), (4, 6, 6), 4)
    made = graph.build("names", SMALL, [image(), first, second])
    assert same(again(made, tmp_path), made)


def test_the_same_graph_makes_the_same_bytes():
    assert graph_file.to_bytes(everything(2)) == graph_file.to_bytes(everything(2))
    assert graph_file.to_bytes(everything(2)) != graph_file.to_bytes(everything(3))


def test_weights_take_a_byte_or_less(tmp_path):
    made = everything()
    save(made, tmp_path / "g")
    with zipfile.ZipFile(tmp_path / "g") as archive:
        names = [n for n in archive.namelist() if n.endswith(".weights.npy")]
        assert len(names) == len(made.layers)
        assert all(np.load(io.BytesIO(archive.read(n))).dtype == np.int8 for n in names)


def test_numpy_opens_the_file(tmp_path):
    save(everything(), tmp_path / "graph.npz")
    with np.load(tmp_path / "graph.npz") as arrays:
        assert "node 1 stem.layers.0.weights" in arrays.files


# ---- writing ------------------------------------------------------------------------------------
def test_an_old_file_stays_when_a_graph_cannot_be_written(tmp_path):
    path = tmp_path / "graph.npz"
    save(everything(), path)
    before = path.read_bytes()
    made = everything(1)
    with pytest.raises(ValueError, match=r"its info must be plain finite JSON data"):
        save(replace(made, info={"loss": float("nan")}), path)
    node = replace(made.nodes[1], step=np.full(4, np.nan))
    with pytest.raises(ValueError, match=r"stem.step must be finite, it holds NaN"):
        save(replace(made, nodes=(made.nodes[0], node, *made.nodes[2:])), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["graph.npz"]


def test_a_graph_whose_integers_do_not_follow_is_not_written():
    made = everything()
    stem = made.nodes[1]
    nodes = (made.nodes[0], replace(stem, bias=stem.bias + 1), *made.nodes[2:])
    with pytest.raises(ValueError, match=r"^node 1 stem.layers.0.bias does not follow from the real numbers$"):
        graph_file.to_bytes(replace(made, nodes=nodes))


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file/graph.npz: cannot be written \(.*\)$"):
        save(everything(), tmp_path / "file" / "graph.npz")


def test_an_unknown_kind_of_node_is_not_written():
    class Other(MaxPool):
        pass

    made = everything()
    nodes = [Other(**{f.name: getattr(n, f.name) for f in fields(n)}) if n.name == "max" else n for n in made.nodes]
    with pytest.raises(TypeError, match="node max: a Other cannot be stored"):
        graph_file.to_bytes(replace(made, nodes=tuple(nodes)))


# ---- refusals -----------------------------------------------------------------------------------
def tampered(tmp_path, change, *, seal=True, made=None) -> Path:
    """A file whose manifest (and arrays, by name) went through `change`; sealed: all checksums fit again."""
    path = tmp_path / "graph.npz"
    save(made or everything(), path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    manifest = json.loads(members.pop("manifest.json"))
    arrays = {name: np.load(io.BytesIO(data)) for name, data in members.items()}
    change(manifest, arrays)
    members = {name: graph_file._npy(array) for name, array in arrays.items()}
    if seal:
        manifest["arrays"] = {
            n: {"sha256": graph_file._sha256(data), "bytes": len(data)} for n, data in members.items()
        }
        manifest["manifest_sha256"] = graph_file.manifest_hash(manifest)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("manifest.json", json.dumps(manifest))
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def node(manifest, name):
    return next(n for n in manifest["nodes"] if n["name"] == name)


STEM = "node 1 stem"


def edit(**changes):
    return lambda manifest, arrays: manifest.update(changes)


def edit_node(name, **changes):
    return lambda manifest, arrays: node(manifest, name).update(changes)


def edit_array(name, values):
    return lambda manifest, arrays: arrays.update({f"{STEM}.{name}.npy": values(arrays[f"{STEM}.{name}.npy"])})


def edit_layer(**changes):
    return lambda manifest, arrays: node(manifest, "stem")["layers"][0].update(changes)


def put(array, index, value):
    array = array.copy()
    array[index] = value
    return array


BAD = [
    (edit(version=2), "version must be 1, got 2"),
    (edit(schema="ohmloom-image"), "schema must be 'ohmloom-graph', got 'ohmloom-image'"),
    (edit(more=1), "parts of manifest.json differ, more"),
    (edit(hardware_hash="0" * 64), "hardware_hash does not match the hardware configuration"),
    (edit(hardware={"rows": 8}), "hardware configuration: missing fields"),
    (edit(name=5), "name must be str, got 5"),
    (edit(classes=["a"]), "graph everything: 1 class names for 4 outputs"),
    (edit(info=[1, 2]), "info must be an object"),
    (edit(derived=False), "derived must be True, got False"),
    (edit(derived=1), "derived must be True, got 1"),
    (edit_node("max", kind="softmax"), "node 7 max: this version does not know the kind 'softmax'"),
    (edit_node("max", colour=1), "node 7 max has the unknown field 'colour'"),
    (lambda m, a: node(m, "max").pop("window"), "node 7 max.window is missing"),
    (edit_node("max", shape=[4, 3]), "node 7 max.shape must have 3 entries, got 2"),
    (edit_node("max", shape=[4, 3, 4]), "node max: its output has shape (4, 3, 3), it states (4, 3, 4)"),
    (edit_node("max", inputs=["groups", "nobody"]), "node max: every input must be an earlier node, got groups, no"),
    (edit_node("max", inputs="sum"), "node 7 max.inputs must be a list, got 'sum'"),
    (edit_node("mean", sums=1), "node 9 mean.sums must be bool, got 1"),
    (edit_node("stem", encoding={"high": "9", "low": 0.0, "bits": 8, "zeros": []}), "stem.encoding.high must be float"),
    (edit_node("stem", encoding={"high": -9.0, "low": 0.0, "bits": 8, "zeros": []}), "range must be finite with low"),
    (edit_node("relu", rescale=None), "node 5 relu.rescale must be an object, got None"),
    (edit_node("sum", residual_multiplier=7), "node 3 sum.residual_multiplier does not follow from the real numbers"),
    (edit_node("sum", residual_multiplier=True), "node 3 sum.residual_multiplier must be int, got True"),
    (edit_node("cat", rescales=[None, None]), "node 8 cat.rescales.0 does not follow from the real numbers"),
    (edit_layer(class_registers={}), f"{STEM}.layers.0 has the unknown field 'class_registers'"),
    (edit_layer(shift=3), f"{STEM}.layers.0.shift does not follow from the real numbers"),
    (edit_layer(registers={"mode": "three", "n_r2": 3}), f"{STEM}.layers.0.registers.mode must be "),
    (
        edit_layer(registers={"mode": "bounded", "n_r2": 3, "column_bound_bits": True}),
        "registers.column_bound_bits must be 0 or 1 or 'full' or 'ou', got True",
    ),
    (edit_layer(registers={"mode": "uniform", "n_r2": 9}), "layer stem.0: AdcRegisters.n_r2 must be in 1..3, got 9"),
    (edit_layer(dynamic={"l_max": 9, "tau_sq": 0}), "layer stem.0: DynamicPrecision.l_max must be in 0..7"),
    (edit_layer(outputs=5), "layer stem.0: weights must have shape (18, 5), got (18, 4)"),
    (edit_array("step", lambda a: put(a, 1, np.nan)), f"{STEM}.step must be finite, it holds NaN or infinity"),
    (edit_array("bias", lambda a: a[:2]), "node stem: bias must be 4 real numbers, got shape (2,)"),
    (edit_array("bias", lambda a: a + 1.0), f"{STEM}.layers.0.bias does not follow from the real numbers"),
    (edit_array("step", lambda a: a > 0), f"{STEM}.step must hold integers or real numbers, its dtype is bool"),
    (edit_array("layers.0.weights", lambda a: a[1:]), "layer stem.0: weights must have shape (18, 4), got (17, 4)"),
    (edit_array("layers.0.weights", lambda a: a * 0.5), "layer stem.0: weights must be integers, got dtype float64"),
    (edit_array("layers.0.weights", lambda a: put(a, (0, 0), 99)), "layer stem.0: weights must be in -15..15"),
    (edit_array("layers.0.multipliers", lambda a: a + 1), f"{STEM}.layers.0.multipliers does not follow"),
    (edit_array("layers.0.block_widths", lambda a: a * 0), "layer stem.0: "),
    (lambda m, a: a.pop(f"{STEM}.step.npy"), f"the array {STEM}.step is missing"),
    (lambda m, a: a.update({"more.npy": np.zeros(1)}), "more belongs to no node"),
    (edit_node("stem", step={"array": "node 2 signed.step"}), f"the array {STEM}.step is missing"),
]


@pytest.mark.parametrize(("change", "message"), BAD, ids=[message for _, message in BAD])
def test_contents_that_do_not_fit_are_refused_with_one_sentence(change, message, tmp_path):
    path = tampered(tmp_path, change)
    with pytest.raises(InputError) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (edit(name="other"), "its own sha256 does not match, manifest.json was changed"),
        (edit_array("step", lambda a: a * 2), f"{STEM}.step.npy was changed, its sha256 does not match"),
        (edit_array("step", lambda a: a[1:]), f"{STEM}.step.npy has 152 bytes instead of 160"),
        (lambda m, a: a.pop(f"{STEM}.step.npy"), f"{STEM}.step.npy is missing"),
        (lambda m, a: a.update({"more.npy": np.zeros(1)}), "more.npy does not belong to the file"),
    ],
)
def test_files_that_were_changed_are_refused(change, message, tmp_path):
    path = tampered(tmp_path, change, seal=False)
    with pytest.raises(InputError) as caught:
        load(path)
    assert message in str(caught.value)


def test_a_retired_field_that_says_nothing_is_passed_over(tmp_path):
    assert same(load(tampered(tmp_path, edit_layer(class_registers=None))), everything())


def test_a_field_that_a_file_lacks_gets_its_default(tmp_path):
    path = tampered(tmp_path, lambda m, a: [layer.pop("skip_zero_slices") for layer in node(m, "stem")["layers"]])
    assert same(load(path), everything())


def test_min_count_that_does_not_follow_from_lambda_is_refused(tmp_path):
    def change(manifest, arrays):
        node(manifest, "stem")["layers"][0]["counts_per_lsb"] = 2.0

    with pytest.raises(InputError, match=r"layer stem.0: min_count does not follow from counts_per_lsb = 2.0$"):
        load(tampered(tmp_path, change))


@pytest.mark.parametrize("path", TRAINED, ids=lambda path: path.parent.name)
def test_kept_networks_load(path):
    assert load(path).name in {"lenet5", "resnet20"}


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"graph.npz: there is no such file$"):
        load(tmp_path / "graph.npz")
    with pytest.raises(InputError, match=r"cannot be read \(Is a directory\)$"):
        load(tmp_path)


@pytest.mark.parametrize(
    "data", [b"", b"PK", b"hello" * 100, b"\x93NUMPY" + bytes(80)], ids=["empty", "short", "text", "npy"]
)
def test_other_files_are_refused(data, tmp_path):
    (tmp_path / "graph.npz").write_bytes(data)
    with pytest.raises(InputError, match=r"not a graph file$"):
        load(tmp_path / "graph.npz")


def test_another_npz_file_is_refused(tmp_path):
    np.savez(tmp_path / "graph.npz", a=np.zeros(3))
    with pytest.raises(InputError, match=r"not a graph file, manifest.json is missing$"):
        load(tmp_path / "graph.npz")


def test_a_truncated_file_is_refused(tmp_path):
    path = tmp_path / "graph.npz"
    data = graph_file.to_bytes(everything())
    for size in (5, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:size])
        with pytest.raises(InputError, match="truncated or damaged"):
            load(path)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 255))
def test_a_changed_byte_is_noticed_or_does_not_matter(tmp_path_factory, place, change):
    data = bytearray(graph_file.to_bytes(everything()))
    data[place % len(data)] ^= change
    path = tmp_path_factory.mktemp("graph") / "graph.npz"
    path.write_bytes(data)
    try:
        back = load(path)
    except InputError:
        return
    assert same(back, everything())  # dates and the like in the archive's headers


# ---- description --------------------------------------------------------------------------------
def test_a_description_counts_bits_and_blocks():
    made = everything()
    what = describe(made)
    weights = sum(layer.weights.size for layer in made.layers)
    bits, full = 0, 0
    for layer in made.layers:
        for (row, col), width in np.ndenumerate(layer.block_widths):
            block = layer.weights[row * 5 : row * 5 + 5, col * 3 : col * 3 + 3]
            bits += width * block.size
            full += (width + (width > 0)) * block.size + 4
    assert what["weights"] == weights
    assert what["bits_per_weight"] == pytest.approx(bits / weights)
    assert what["compression"]["magnitude"] == pytest.approx(32 * weights / bits)
    assert what["compression"]["with_sign_and_table"] == pytest.approx(32 * weights / full)
    assert sum(what["block_widths"].values()) == sum(layer.block_widths.size for layer in made.layers)
    groups = next(n for n in what["nodes"] if n["name"] == "groups")
    assert (groups["groups"], groups["weights"]) == (2, 72)
    json.dumps(what)


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "golden_model.image.describe", *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def test_the_command_describes_a_file(tmp_path):
    save(replace(everything(), info={"trained": "never"}), tmp_path / "graph.npz")
    done = command(tmp_path / "graph.npz", "--json", tmp_path / "what.json")
    assert done.returncode == 0, done.stderr
    assert "everything: 12 nodes, 5 of them on crossbars" in done.stdout
    assert "conv, 2 groups" in done.stdout
    assert "trained: never" in done.stdout
    assert json.loads((tmp_path / "what.json").read_text())["name"] == "everything"


def test_the_command_refuses_a_bad_file_with_one_sentence(tmp_path):
    done = command(tmp_path / "none.npz")
    assert done.returncode == 2
    assert done.stderr.strip() == f"error: {tmp_path / 'none.npz'}: there is no such file"
