import hashlib
import io
import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest

from golden_model import network, trq
from golden_model.config import PAPER, TINY
from golden_model.crossbar import mapping
from golden_model.engines.chain import Runner
from golden_model.image import image
from golden_model.image.image import ImageError
from golden_model.registers import descriptor_words, unpack_descriptor
from tests.strategies import make_images, make_network

LABELS = np.array([0, 2, -1])


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    directory = tmp_path_factory.mktemp("images") / "tiny"
    net = make_network(4, TINY)
    return directory, image.write(directory, net, make_images(5, net, 3), LABELS)


@pytest.fixture
def directory(original, tmp_path):
    return shutil.copytree(original[0], tmp_path / "copy")


def edit_manifest(directory, change, *, sign=True):
    path = directory / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    if sign:
        manifest["manifest_sha256"] = image.manifest_hash(manifest)
    path.write_text(json.dumps(manifest))


def replace_file(directory, name, data):
    """Change a file and every checksum with it, as a careful forger would."""
    (directory / name).write_bytes(data)

    def change(manifest):
        manifest["files"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}

    edit_manifest(directory, change)


def edit_npz(directory, name, change):
    with np.load(directory / name) as stored:
        arrays = dict(stored)
    change(arrays)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    replace_file(directory, name, buffer.getvalue())


def refused(directory, words, hardware=None):
    with pytest.raises(ImageError, match=words) as error:
        image.read(directory, hardware)
    assert "\n" not in str(error.value)


# ---- round trip ---------------------------------------------------------------------------------
@pytest.mark.parametrize("hardware", [TINY, PAPER])
def test_an_image_reads_back_as_the_network_that_was_written(tmp_path, hardware):
    net = make_network(4, hardware)
    images = make_images(5, net, 3)
    image.write(tmp_path / "i", net, images, LABELS)
    read = image.read(tmp_path / "i", hardware)
    assert (read.network.name, read.network.classes, read.network.info) == (net.name, net.classes, net.info)
    assert read.network.hardware == hardware
    for before, after in zip(net.layers, read.network.layers, strict=True):
        for name in before.__dataclass_fields__:
            first, second = getattr(before, name), getattr(after, name)
            assert (np.array_equal(first, second)) if isinstance(first, np.ndarray) else first == second, name
    logits, events = Runner(net).run(images)
    assert (read.vectors.images == images).all()
    assert (read.vectors.labels == LABELS).all()
    assert (read.vectors.logits == logits).all()
    assert read.vectors.events == events
    assert (read.vectors.cycles == Runner(net).cycles(events)).all()


def test_a_loaded_network_runs(original):
    directory, written = original
    logits, events = network.load(directory, TINY).run(written.vectors.images)
    assert (logits == written.vectors.logits).all()
    assert events == written.vectors.events


def test_the_same_network_gives_the_same_files(original, tmp_path):
    directory, written = original
    image.write(tmp_path / "again", make_network(4, TINY), written.vectors.images, LABELS)
    for name in image.FILES:
        assert (tmp_path / "again" / name).read_bytes() == (directory / name).read_bytes(), name


def test_an_image_may_hold_no_vectors(tmp_path):
    written = image.write(tmp_path / "i", make_network(4, TINY), np.zeros((0, 1, 6, 6), np.uint8))
    assert written.vectors.logits.shape == (0, 3)


def test_unknown_labels_are_minus_one(tmp_path):
    net = make_network(4, TINY)
    assert image.write(tmp_path / "i", net, make_images(5, net, 2)).vectors.labels.tolist() == [-1, -1]


# ---- contents -----------------------------------------------------------------------------------
def test_descriptors_hold_what_the_layer_says(original):
    directory, written = original
    lines = [int(line, 16) for line in (directory / "program.hex").read_text().split()]
    assert lines == written.tables.program.ravel().tolist()
    for index, layer in enumerate(written.network.layers):
        words = lines[32 * index : 32 * (index + 1)]
        assert not any(words[descriptor_words(TINY) :])
        fields = unpack_descriptor(TINY, words)
        assert fields == image.descriptor(layer, written.placement.layers[index], TINY)
        assert fields["segments"] * TINY.ou_rows - (TINY.ou_rows - fields["last_rows"]) == layer.k
        assert fields["block_cols"] * TINY.ou_cols - (TINY.ou_cols - fields["last_cols"]) == layer.outputs
        assert fields["in_plane"] == layer.height * layer.width
        assert fields["out_plane"] == layer.out_height * layer.out_width
        assert (fields["stream_bits"], fields["out_bits"], fields["shift"]) == (4, 4, layer.shift)
        assert fields["adc_mode"] == (layer.registers.mode == "twin")
        assert (fields["n_r1"], fields["n_r2"], fields["m"]) == tuple(
            getattr(layer.registers, n) for n in ("n_r1", "n_r2", "m")
        )
        assert fields["adc_bias"] == layer.registers.bias
        assert fields["dynamic"] == (layer.dynamic is not None)
    flags = [unpack_descriptor(TINY, lines[32 * i : 32 * i + 32]) for i in range(3)]
    assert [f["pad_enable"] for f in flags] == [1, 0, 0]
    assert [f["skip_zero_slices"] for f in flags] == [1, 0, 0]
    assert [f["last"] for f in flags] == [0, 0, 1]
    assert [(f["l_max"], f["tau_sq"]) for f in flags] == [(0, 0), (2, 400), (0, 0)]
    assert [f["channel_base"] for f in flags] == [0, 3, 6]
    assert [f["crossbar_base"] for f in flags] == [p.crossbar_base for p in written.placement.layers]


def test_hex_files_hold_the_tables_in_placement_order(original):
    directory, written = original
    layers = written.network.layers

    def lines(name):
        return [int(line, 16) for line in (directory / name).read_text().split()]

    assert lines("widths.hex") == [int(p) for layer in layers for p in layer.block_widths.ravel()]
    assert lines("bias.hex") == [int(b) % 2**32 for layer in layers for b in layer.bias]
    assert lines("multipliers.hex") == [int(m) for layer in layers for m in layer.multipliers]
    assert lines("pads.hex") == [5]
    expected = [sum(t <= c for t in layer.min_count) for layer in layers for c in range(TINY.ou_rows + 1)]
    assert lines("reference.hex") == expected


def test_cells_hex_has_one_line_per_ou_of_the_used_pairs(original):
    directory, written = original
    lines = [int(line, 16) for line in (directory / "cells.hex").read_text().split()]
    assert len(lines) == written.placement.pairs * TINY.ous_per_crossbar
    assert mapping.cells_from_words(np.array(lines)[:, None], TINY).tolist() == written.tables.cells.tolist()
    assert written.manifest["cell_checksum"] == mapping.checksum(written.tables.cells, TINY)


# ---- refusals -----------------------------------------------------------------------------------
def test_a_directory_that_does_not_exist_is_refused(tmp_path):
    refused(tmp_path / "none", "there is no such directory")


def test_a_directory_without_manifest_is_refused(directory):
    (directory / "manifest.json").unlink()
    refused(directory, "not a deployment image, manifest.json is missing")


@pytest.mark.parametrize("text", ["", "{", '{"schema": "ohml', "\xff"])
def test_a_manifest_that_is_no_json_is_refused(directory, text):
    (directory / "manifest.json").write_text(text, encoding="latin-1")
    refused(directory, "manifest.json: not valid JSON")


@pytest.mark.parametrize("text", ["[]", "3", '{"schema": "other"}'])
def test_a_manifest_of_another_schema_is_refused(directory, text):
    (directory / "manifest.json").write_text(text)
    refused(directory, "schema must be 'ohmloom-image', got ")


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_another_version_is_refused(directory, version):
    edit_manifest(directory, lambda m: m.update(version=version))
    refused(directory, f"version must be 1, got {version!r}")


def test_a_changed_manifest_is_refused(directory):
    edit_manifest(directory, lambda m: m["layers"][0].update(shift=5), sign=False)
    refused(directory, "its own checksum does not match")


def test_layers_in_another_order_are_refused(directory):
    edit_manifest(directory, lambda m: m["layers"].reverse())
    refused(directory, "layer linear: ")


@pytest.mark.parametrize("name", image.FILES)
def test_a_missing_file_is_refused(directory, name):
    (directory / name).unlink()
    refused(directory, f"{name} is missing")


@pytest.mark.parametrize("name", image.FILES)
def test_a_truncated_file_is_refused(directory, name):
    os.truncate(directory / name, (directory / name).stat().st_size - 1)
    refused(directory, f"{name} is truncated")


@pytest.mark.parametrize("name", image.FILES)
def test_an_oversized_file_is_refused(directory, name):
    with open(directory / name, "ab") as file:
        file.write(b"0")
    refused(directory, f"{name} is oversized")


@pytest.mark.parametrize("name", image.FILES)
def test_a_changed_file_is_refused(directory, name):
    data = bytearray((directory / name).read_bytes())
    data[len(data) // 2] ^= 1
    (directory / name).write_bytes(data)
    refused(directory, f"{name} was changed, its sha256 does not match")


def test_lines_in_another_order_are_refused(directory):
    path = directory / "bias.hex"
    path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))
    refused(directory, "bias.hex was changed")


def test_files_that_changed_places_are_refused(directory):
    bias, multipliers = directory / "bias.hex", directory / "multipliers.hex"
    data = bias.read_bytes()
    bias.write_bytes(multipliers.read_bytes())
    multipliers.write_bytes(data)
    refused(directory, "bias.hex is truncated|multipliers.hex is oversized")


@pytest.mark.parametrize("name", ["notes.txt", "layer9.npz", ".hidden"])
def test_a_file_that_does_not_belong_is_refused(directory, name):
    (directory / name).write_text("")
    refused(directory, f"{name} does not belong to the image")


def test_a_manifest_that_lists_other_files_is_refused(directory):
    edit_manifest(directory, lambda m: m["files"].pop("pads.hex"))
    refused(directory, "`files` must list")


def test_other_hardware_is_refused_naming_what_differs(directory):
    refused(
        directory,
        "for other hardware, cols = 8 instead of 16, adc_bits = 3 instead of 4$",
        replace(TINY, cols=16, adc_bits=4),
    )


def test_a_wrong_hardware_hash_is_refused(directory):
    edit_manifest(directory, lambda m: m.update(hardware_hash="0" * 64))
    refused(directory, "hardware_hash does not match")


@pytest.mark.parametrize(
    ("change", "words"),
    [({"adc_bits": 99}, r"adc_bits must be in 1\.\.8, got 99"), ({"colour": 1}, r"unknown fields \['colour'\]")],
)
def test_an_illegal_hardware_configuration_is_refused(directory, change, words):
    edit_manifest(directory, lambda m: m["hardware"].update(change))
    refused(directory, words)


@pytest.mark.parametrize("key", ["hardware", "layers", "name", "classes", "info", "cell_checksum"])
def test_a_manifest_without_a_key_is_refused(directory, key):
    edit_manifest(directory, lambda m: m.pop(key))
    refused(directory, f"{key} is missing")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"residual": True}, "layer conv1: this version does not support residual addition"),
        ({"average_pool": True}, "layer conv1: this version does not support average pooling"),
        ({"colour": 1}, "layer conv1: fields differ, colour"),
        ({"stride": 0}, r"layer conv1: stride must be in 1\.\.255, got 0"),
        ({"last": True}, "layer conv1: `last` must be set"),
        ({"dynamic": {"l_max": 9, "tau_sq": 0}}, r"l_max must be in 0\.\.7, got 9"),
        ({"dynamic": {"l_min": 9}}, "unexpected keyword argument 'l_min'"),
        ({"registers": {"mode": "twin", "n_r2": 3, "n_r1": 3}}, r"AdcRegisters\.n_r1 must be in 0\.\.2, got 3"),
        ({"shift": 5}, "program.hex does not follow from tables.npz"),
    ],
)
def test_layer_records_that_make_no_sense_are_refused(directory, change, words):
    edit_manifest(directory, lambda m: m["layers"][0].update(change))
    refused(directory, words)


def test_a_wrong_placement_is_refused(directory):
    edit_manifest(directory, lambda m: m["layers"][1]["placement"].update(crossbar_base=0))
    refused(directory, "layer conv2: its placement does not follow")


def test_a_wrong_cell_checksum_is_refused(directory):
    edit_manifest(directory, lambda m: m.update(cell_checksum=0))
    refused(directory, "cell_checksum or cell_pairs does not match")


@pytest.mark.parametrize("name", ["tables.npz", "cells.npz", "vectors.npz"])
def test_an_archive_that_is_none_is_refused(directory, name):
    replace_file(directory, name, b"not a zip file")
    refused(directory, f"{name} cannot be read")


def test_an_archive_with_pickled_objects_is_refused(directory):
    edit_npz(directory, "tables.npz", lambda arrays: arrays.update({"layer0.bias": np.array([object()] * 3)}))
    refused(directory, "tables.npz cannot be read")


def test_tables_of_missing_or_extra_layers_are_refused(directory):
    edit_npz(directory, "tables.npz", lambda arrays: arrays.pop("layer1.bias"))
    refused(directory, "tables.npz: layer1.bias is missing")
    edit_npz(directory, "tables.npz", lambda a: a.update({"layer1.bias": np.zeros(3, int), "layer7.bias": np.zeros(1)}))
    refused(directory, "tables.npz: layer7.bias belongs to no layer")


def test_weights_with_nan_are_refused(directory):
    edit_npz(directory, "tables.npz", lambda arrays: arrays.update({"layer0.weights": np.full((6, 3), np.nan)}))
    refused(directory, "layer conv1: weights holds NaN")


def test_cells_of_another_network_are_refused(directory):
    def flip(arrays):
        arrays["cells"][0] ^= 1

    edit_npz(directory, "cells.npz", flip)
    refused(directory, "cells.npz does not hold the weights")


def test_hex_files_of_another_network_are_refused(directory):
    text = (directory / "cells.hex").read_text().splitlines(keepends=True)
    replace_file(directory, "cells.hex", "".join(reversed(text)).encode())
    refused(directory, "cells.hex does not follow from tables.npz")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"images": np.zeros((3, 1, 6, 5), np.uint8)}, r"images must be uint8 of shape \(3, 1, 6, 6\)"),
        ({"images": np.zeros((3, 1, 6, 6))}, "images must be uint8 .*, got float64"),
        ({"labels": np.zeros(2, int)}, r"labels must be int64 of shape \(3,\)"),
        ({"extra": np.zeros(2, int)}, "vectors.npz: arrays differ, extra"),
    ],
)
def test_vectors_of_a_wrong_shape_are_refused(directory, change, words):
    edit_npz(directory, "vectors.npz", lambda arrays: arrays.update(change))
    refused(directory, words)


# ---- writing ------------------------------------------------------------------------------------
@pytest.mark.parametrize("labels", [[0], [0, 1, 3], [0, 1, -2], [0.0, 1.0, 2.0]])
def test_bad_labels_are_refused(tmp_path, labels):
    net = make_network(4, TINY)
    with pytest.raises(ValueError, match="labels must be"):
        image.write(tmp_path / "i", net, make_images(5, net, 3), labels)
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_cannot_run_leaves_nothing_behind(tmp_path):
    net = make_network(4, TINY)
    with pytest.raises(ValueError, match="it has no layers"):
        image.write(tmp_path / "i", replace(net, layers=()), make_images(5, net, 1))
    assert list(tmp_path.iterdir()) == []


def test_an_old_image_is_replaced_whole(directory):
    net = make_network(9, TINY)
    (directory / "pads.hex").unlink()
    image.write(directory, net, make_images(5, net, 1))
    assert image.read(directory).network.info == {"seed": 9}
    assert [p.name for p in directory.parent.iterdir()] == ["copy"]


@pytest.mark.parametrize("failing", ["fsync", "rename"])
def test_an_interrupted_write_keeps_the_old_image(directory, monkeypatch, failing):
    def stop(*_):
        raise KeyboardInterrupt

    net = make_network(9, TINY)
    if failing == "fsync":
        monkeypatch.setattr(os, "fsync", stop)
    else:
        rename = image.Path.rename
        monkeypatch.setattr(
            image.Path, "rename", lambda self, to: stop() if "partial" in self.name else rename(self, to)
        )
    with pytest.raises(KeyboardInterrupt):
        image.write(directory, net, make_images(5, net, 1))
    assert image.read(directory).network.info == {"seed": 4}
    assert [p.name for p in directory.parent.iterdir()] == ["copy"]


def test_a_directory_that_is_no_image_is_never_replaced(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    net = make_network(4, TINY)
    with pytest.raises(ImageError, match="not empty and not a deployment image"):
        image.write(tmp_path, net, make_images(5, net, 1))
    with pytest.raises(ImageError, match="exists and is not a directory"):
        image.write(tmp_path / "thesis.txt", net, make_images(5, net, 1))
    assert (tmp_path / "thesis.txt").read_text() == "precious"


def test_the_reference_follows_the_scale_of_the_layer(tmp_path):
    net = make_network(4, TINY)
    layers = list(net.layers)
    layers[0] = replace(layers[0], counts_per_lsb=1.7, min_count=trq.min_count(3, 1.7))
    written = image.write(tmp_path / "i", replace(net, layers=tuple(layers)), make_images(5, net, 1))
    assert written.tables.levels[0].tolist() == [0, 1, 1, 2, 2]
    assert image.read(tmp_path / "i").network.layers[0].counts_per_lsb == 1.7
