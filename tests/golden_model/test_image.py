"""Deployment images: round trips, contents, and one sentence for everything that is wrong."""

import io
import json
import os
import shutil
import struct
import zipfile
from dataclasses import replace

import numpy as np
import pytest

from golden_model import network
from golden_model.crossbar import mapping
from golden_model.engines.run_network import GraphRunner
from golden_model.files import InputError
from golden_model.image import archive, image
from golden_model.image.interpreter import Interpreter
from golden_model.image.program import plan
from golden_model.registers import COUNTER_NAMES, descriptor_words, unpack_descriptor
from tests.golden_model.random_graphs import (
    NINE,
    NINE_PAIRS,
    SMALL,
    SMALL_PAIRS,
    SMALL_STOP,
    SMALL_TABLES,
    encoder,
    random_images,
    random_network,
)

LABELS = np.array([0, 2, -1])


def sample(seed=4, hardware=SMALL):
    """A network with crossbar and element steps, at least three logits, border vectors and a residual."""
    while True:
        made = random_network(seed, hardware)
        program = plan(made)
        fields = [step.fields for step in program.steps]
        if (
            3 <= program.logits <= 9
            and 4 <= len(fields) <= 12
            and any(f["residual"] for f in fields)
            and any(step.layer is None for step in program.steps)
        ):
            return replace(made, name="tiny", info={"seed": seed}, classes=tuple("abcdefghi"[: program.logits]))
        seed += 1000


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    directory = tmp_path_factory.mktemp("images") / "tiny"
    net = sample()
    return directory, image.write(directory, net, random_images(5, net, 3), LABELS)


@pytest.fixture(scope="module")
def of_pairs(tmp_path_factory):
    """As `original`, of the pair machine."""
    directory = tmp_path_factory.mktemp("images") / "pairs"
    net = sample(hardware=SMALL_PAIRS)
    return directory, image.write(directory, net, random_images(5, net, 3), LABELS)


@pytest.fixture
def directory(original, tmp_path):
    return shutil.copytree(original[0], tmp_path / "copy")


def members(path):
    with zipfile.ZipFile(path) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def forge(directory, change, *, seal=True):
    """Change manifest and arrays (by name), and every checksum with them, as a careful forger would."""
    path = directory / image.ARCHIVE
    content = members(path)
    manifest = json.loads(content.pop("manifest.json"))
    arrays = {name.removesuffix(".npy"): np.load(io.BytesIO(data)) for name, data in content.items()}
    change(manifest, arrays)
    content = {f"{name}.npy": archive._npy(array) for name, array in arrays.items()}
    if seal:
        manifest["arrays"] = {
            name: {"sha256": archive._sha256(data), "bytes": len(data)} for name, data in content.items()
        }
        manifest["manifest_sha256"] = archive.manifest_hash(manifest)
    write_members(path, {"manifest.json": json.dumps(manifest).encode(), **content})


def write_members(path, content, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as opened:
        for name, data in content.items():
            opened.writestr(name, data)


def edit(**changes):
    return lambda manifest, arrays: manifest.update(changes)


def edit_array(name, values):
    return lambda manifest, arrays: arrays.update({name: values(arrays[name].copy())})


def put(index, value):
    def change(array):
        array = array.astype(np.int64)
        array[index] = value
        return array

    return change


CYCLES = COUNTER_NAMES.index("cycles")


def refused(directory, words, hardware=None):
    with pytest.raises(InputError, match=words) as error:
        image.read(directory, hardware)
    assert "\n" not in str(error.value)
    assert str(error.value).isprintable()


# ---- round trip ---------------------------------------------------------------------------------
@pytest.mark.parametrize("hardware", [SMALL, NINE, SMALL_PAIRS, NINE_PAIRS, SMALL_STOP])
def test_an_image_reads_back_as_the_network_that_was_written(tmp_path, hardware):
    net = sample(4, hardware)
    images = random_images(5, net, 3)
    image.write(tmp_path / "i", net, images, LABELS)
    read = image.read(tmp_path / "i", hardware)
    assert archive.to_bytes(read.network) == archive.to_bytes(net)
    logits, events = GraphRunner(net).run(images)
    assert (read.vectors.images == images).all()
    assert (read.vectors.labels == LABELS).all()
    assert (read.vectors.logits == logits).all()
    assert (read.vectors.cycles == read.program.cycles(events)).all()
    assert (read.program.tables.program == plan(net).tables.program).all()


def test_a_loaded_network_runs(original):
    directory, written = original
    runner = network.load(directory, SMALL)
    logits, events = runner.run(written.vectors.images)
    assert (logits == written.vectors.logits).all()
    assert events.shape == (3, len(written.network.crossbars))
    assert (runner.cycles(events) == written.vectors.cycles).all()


def test_the_same_network_gives_the_same_files(original, tmp_path):
    directory, written = original
    image.write(tmp_path / "again", sample(), written.vectors.images, LABELS)
    for name in image.FILES:
        assert (tmp_path / "again" / name).read_bytes() == (directory / name).read_bytes(), name


def test_an_image_may_hold_no_vectors(tmp_path):
    net = sample()
    written = image.write(tmp_path / "i", net, random_images(5, net, 0))
    assert written.vectors.logits.shape == (0, written.program.logits)


def test_unknown_labels_are_minus_one(tmp_path):
    net = sample()
    assert image.write(tmp_path / "i", net, random_images(5, net, 2)).vectors.labels.tolist() == [-1, -1]


# ---- contents -----------------------------------------------------------------------------------
def lines(directory, name):
    return [int(line, 16) for line in (directory / name).read_text().split()]


def test_the_program_holds_the_fields_of_its_steps(original):
    directory, written = original
    found = lines(directory, "program.hex")
    assert found == written.program.tables.program.ravel().tolist()
    for index, step in enumerate(written.program.steps):
        words = found[32 * index : 32 * (index + 1)]
        assert not any(words[descriptor_words(SMALL) :])
        assert unpack_descriptor(SMALL, words) == step.fields


def test_hex_files_hold_the_tables_in_placement_order(original):
    directory, written = original
    layers = [step.layer for step in written.program.steps if step.layer is not None]
    assert lines(directory, "widths.hex") == [int(p) for layer in layers for p in layer.block_widths.ravel()]
    assert lines(directory, "bias.hex") == [int(b) % 2**32 for layer in layers for b in layer.bias]
    assert lines(directory, "multipliers.hex") == [int(m) for layer in layers for m in layer.multipliers]
    expected = []
    for step in written.program.steps:
        counts = range(SMALL.ou_rows + 1)
        expected += [0 if step.layer is None else sum(t <= c for t in step.layer.min_count) for c in counts]
    assert lines(directory, "reference.hex") == expected


def test_cells_hex_has_one_line_per_ou_of_the_used_pairs(original):
    directory, written = original
    found = lines(directory, "cells.hex")
    tables = written.program.tables
    assert len(found) == written.program.placement.pairs * SMALL.ous_per_crossbar
    assert found == mapping.cell_words(tables.cells, SMALL).ravel().tolist()
    assert written.manifest["cell_checksum"] == mapping.checksum(tables.cells, SMALL)


# ---- refusals: the directory --------------------------------------------------------------------
def test_a_directory_that_does_not_exist_is_refused(tmp_path):
    refused(tmp_path / "none", "there is no such directory")
    (tmp_path / "file").write_text("")
    refused(tmp_path / "file", "it is a file, a deployment image is a directory")


def test_an_image_of_version_1_says_how_to_export_it_again(tmp_path):
    (tmp_path / "manifest.json").write_text('{\n "schema": "ohmloom-image",\n "version": 1}')
    refused(tmp_path, r"its format is version 1, this one reads 4: export it again \(`python -m quant.export`\)$")


GONE = 4194305  # no process has this number


def test_an_image_that_a_killed_export_set_aside_is_put_back(original, directory):
    old = directory.rename(directory.with_name(f".{directory.name}.{GONE}.old"))
    made = directory.with_name(f".{directory.name}.{GONE}.partial")
    made.mkdir()
    assert (image.read(directory).vectors.logits == original[1].vectors.logits).all()
    assert (old.exists(), made.exists()) == (False, False)


def test_an_export_removes_what_a_killed_one_left_and_not_what_another_writes(directory):
    left = [directory.with_name(f".{directory.name}.{GONE}.{kind}") for kind in ("old", "partial")]
    busy = directory.with_name(f".{directory.name}.{os.getppid()}.partial")
    for folder in (*left, busy):
        folder.mkdir()
    image.write(directory, sample(), np.zeros((0, *sample().image.shape), np.uint8))
    assert [folder.exists() for folder in (*left, busy)] == [False, False, True]


def test_an_image_has_the_permissions_that_the_user_asks_for(tmp_path):
    before = os.umask(0o077)
    try:
        image.write(tmp_path / "image", sample(), np.zeros((0, *sample().image.shape), np.uint8))
    finally:
        os.umask(before)
    assert (tmp_path / "image").stat().st_mode & 0o777 == 0o700


def test_a_directory_without_archive_is_refused(directory):
    (directory / image.ARCHIVE).unlink()
    refused(directory, "not a deployment image, image.archive is missing")


@pytest.mark.parametrize("name", image.HEX_FILES)
def test_a_missing_file_is_refused(directory, name):
    (directory / name).unlink()
    refused(directory, f"{name} is missing")


def test_a_pipe_is_not_waited_for(directory):
    (directory / "bias.hex").unlink()
    os.mkfifo(directory / "bias.hex")
    refused(directory, "bias.hex is missing")


@pytest.mark.parametrize("name", [name for name in image.HEX_FILES if name != "pads.hex"])
def test_a_truncated_oversized_or_changed_file_is_refused(directory, name):
    data = bytearray((directory / name).read_bytes())
    (directory / name).write_bytes(data[:-1])
    refused(directory, f"{name} is truncated")
    (directory / name).write_bytes(data + b"0")
    refused(directory, f"{name} is oversized")
    data[len(data) // 2] ^= 1
    (directory / name).write_bytes(data)
    refused(directory, f"{name} was changed, it does not follow from image.archive")


@pytest.mark.parametrize("name", ["notes.txt", "layer9.npz", ".hidden"])
def test_a_file_that_does_not_belong_is_refused(directory, name):
    (directory / name).write_text("")
    refused(directory, f"{name} does not belong to the image")


# ---- tables of activation functions -------------------------------------------------------------
@pytest.fixture
def with_tables(tmp_path):
    """An image of a network that looks up activation functions."""
    network, seed = sample(hardware=SMALL_TABLES), 4
    while not len(plan(network).tables.lookups):
        seed += 1
        network = sample(seed, SMALL_TABLES)
    image.write(tmp_path / "tables", network, random_images(5, network, 3), LABELS)
    return tmp_path / "tables"


def test_tables_come_back_and_are_there_as_text(with_tables):
    tables = image.read(with_tables).program.tables.lookups
    lines = (with_tables / "lookups.hex").read_text().split()
    assert [int(line, 16) for line in lines] == tables.ravel().tolist()


def test_a_table_that_does_not_follow_from_the_network_is_refused(with_tables):
    def change(manifest, arrays):
        arrays["tables.lookups"][0, 0] ^= 1

    forge(with_tables, change)
    refused(with_tables, "image.archive: tables.lookups does not follow from the network")


def test_a_missing_or_changed_file_of_tables_is_refused(with_tables):
    data = bytearray((with_tables / "lookups.hex").read_bytes())
    data[0] ^= 1
    (with_tables / "lookups.hex").write_bytes(data)
    refused(with_tables, "lookups.hex was changed, it does not follow from image.archive")
    (with_tables / "lookups.hex").unlink()
    refused(with_tables, "lookups.hex is missing")


def test_a_file_of_tables_does_not_belong_to_an_image_without_them(directory):
    (directory / "lookups.hex").write_text("")
    refused(directory, "lookups.hex does not belong to the image")


@pytest.fixture(scope="module", params=[SMALL, SMALL_PAIRS], ids=["planes", "pairs"])
def of_host(request, tmp_path_factory):
    """As `original`, with work of the host between the steps."""
    directory = tmp_path_factory.mktemp("images") / "host"
    net = encoder(request.param)
    return directory, image.write(directory, net, random_images(5, net, 3))


@pytest.fixture
def host_directory(of_host, tmp_path):
    return shutil.copytree(of_host[0], tmp_path / "copy")


def test_work_of_the_host_is_read_back_and_runs(of_host):
    directory, written = of_host
    read = image.read(directory)
    assert read.manifest["version"] == image.VERSION
    program = read.program
    stated = [(step["node"], step["before"], step["source"], step["target"]) for step in read.manifest["host_steps"]]
    assert stated == [(step.name, step.before, step.read_base, step.write_base) for step in program.host_steps]
    assert stated[-1][:2] == ("norm10", 5)
    logits, events = Interpreter.of(program).run(read.vectors.images)
    assert np.array_equal(logits, written.vectors.logits)
    assert np.array_equal(events.counts, written.vectors.events.counts)
    assert np.array_equal(events.cycles.sum(axis=1), written.vectors.cycles)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m, a: m.pop("host_steps"), "host_steps is missing"),
        (edit(host_steps=[]), "host_steps does not follow from the network"),
        (edit(host_steps=3), "host_steps does not follow from the network"),
        (lambda m, a: m["host_steps"][0].update(before=2), "host_steps does not follow from the network"),
        (lambda m, a: m["host_steps"][0].update(target=0), "host_steps does not follow from the network"),
        (lambda m, a: m["host_steps"].reverse(), "host_steps does not follow from the network"),
        (lambda m, a: m["nodes"][3].update(eps=-1.0), "node norm3: .*eps must be above 0, got -1"),
        (lambda m, a: m["nodes"][5].update(heads=4), "node attention5: its 18 channels must be q, k and v of 4 heads"),
        (lambda m, a: m["nodes"][5].update(heads="2"), "heads must be int, got '2'"),
        (edit_array("node 3 norm3.gain", lambda x: x[1:]), "node norm3: gain and bias must have 6 values"),
        (edit_array("node 3 norm3.gain", lambda x: x * np.nan), "node 3 norm3.gain must be finite"),
        (edit_array("node 2 constant2.values", lambda x: x[:, 1:]), "node constant2: its constant must have shape"),
        (lambda m, a: a.pop("node 2 constant2.values"), "the array node 2 constant2.values is missing"),
    ],
)
def test_bad_work_of_the_host_is_refused_with_one_sentence(host_directory, change, words):
    forge(host_directory, change)
    refused(host_directory, words)


def test_a_changed_array_of_the_host_is_refused(host_directory):
    forge(host_directory, edit_array("node 3 norm3.gain", lambda x: x + 1), seal=False)
    refused(host_directory, "norm3.gain.npy was changed, its sha256 does not match")


def test_work_of_the_host_does_not_belong_to_an_image_without_it(directory):
    assert "host_steps" not in image.read(directory).manifest
    forge(directory, edit(host_steps=[]))
    refused(directory, "host_steps does not belong to an image without work of a host")


def test_an_image_without_tables_does_not_speak_of_them(directory):
    content = members(directory / image.ARCHIVE)
    assert not any("lookup" in name for name in content)
    assert b"lookup" not in content["manifest.json"]


# ---- refusals: the archive ----------------------------------------------------------------------
@pytest.mark.parametrize("data", [b"", b"hello", b"PK\x03\x04" + bytes(100)])
def test_an_archive_that_is_none_is_refused(directory, data):
    (directory / image.ARCHIVE).write_bytes(data)
    refused(directory, "image.archive: (not the archive of a deployment image|truncated or damaged)")


@pytest.mark.parametrize("text", ["", "{", '{"schema": "ohml', "\xff", "[" * 200_000, '{"a": 1, "a": 2}', '{"a": NaN}'])
def test_a_manifest_that_is_no_json_is_refused(directory, text):
    content = members(directory / image.ARCHIVE)
    write_members(directory / image.ARCHIVE, content | {"manifest.json": text.encode("latin-1")})
    refused(directory, "image.archive: manifest.json is not valid JSON")


@pytest.mark.parametrize("text", ["[]", "3", '{"schema": "other"}', '{"schema": "\\u001b[31m"}', '{"schema": [1]}'])
def test_a_manifest_of_another_schema_is_refused(directory, text):
    content = members(directory / image.ARCHIVE)
    write_members(directory / image.ARCHIVE, content | {"manifest.json": text.encode()})
    refused(directory, "schema must be 'ohmloom-image', got ")


@pytest.mark.parametrize("version", [0, 5, "4", None, True, 4.0])
def test_another_version_is_refused(directory, version):
    forge(directory, edit(version=version))
    refused(directory, f"version must be 4, got {version!r}")


def test_an_image_whose_clocks_were_others_says_how_to_export_it_again(directory):
    forge(directory, edit(version=3))
    refused(directory, r"its format is version 3, this one reads 4: export it again \(`python -m quant.export`\)$")


def nested(levels):
    made = []
    for _ in range(levels):
        made = [made]
    return made


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (edit(info={"deep": nested(100)}), "nested more than 64 levels deep"),
        (edit(info={"deep": nested(600)}), "nested more than 64 levels deep"),
        (edit(info={"large": 10**400}), "info must hold integers of at most 64 bits"),
        (edit(info={"huge": "9" * 10}, vectors=10**30), "vectors must hold integers of at most 64 bits"),
        (edit(info=[1]), "info must be an object"),
        (edit(info={"a\x1b[2J": 1}), "info must hold text without control characters"),
        (edit(name="a\x1b[31mred"), "name must hold text without control characters"),
        (edit(name="two\nlines"), "names must have at most 1000 printable characters"),
        (edit(name="n" * 5000), "names must have at most 1000 printable characters"),
        (edit(name="\ud800"), "name must hold text without control characters"),
        (edit(name=["a"]), r"name must be str, got \['a'\]"),
        (edit(classes="abc"), "classes must be a list, got 'abc'"),
        (edit(classes=["a"]), "1 class names for"),
        (edit(hardware=[1]), "hardware must be an object"),
        (edit(hardware={"rows": 8}), "hardware configuration: missing fields"),
        (edit(hardware_hash="0" * 64), "hardware_hash does not match"),
        (edit(nodes={}), "nodes must be a list"),
        (edit(nodes=[3]), "node 0 must be an object"),
        (edit(derived="yes"), "derived must be True, got 'yes'"),
        (edit(steps=[]), "steps does not follow from the network"),
        (edit(image_base=4), "image_base does not follow"),
        (edit(logits=[3]), "logits does not follow"),
        (edit(cell_checksum=0), "cell_checksum does not follow"),
        (edit(cell_pairs=None), "cell_pairs does not follow"),
        (edit(counters=["cycles"]), "counters does not follow"),
        (edit(vectors="3"), "vectors must be a number of images, got '3'"),
        (edit(vectors=2), r"vectors.images must be integers of shape \(2, "),
        (edit(more=1), "parts of manifest.json differ, more"),
        (lambda m, a: m["hardware"].update(adc_bits=99), r"adc_bits must be in 1\.\.8, got 99"),
        (lambda m, a: m["steps"][0]["fields"].update(source=1), "steps does not follow from the network"),
        (lambda m, a: m["nodes"][1].update(name="\x07"), "must hold text without control characters"),
        (edit_array("tables.program", lambda x: x ^ 1), "tables.program does not follow from the network"),
        (edit_array("tables.cells", lambda x: x ^ 1), "tables.cells does not follow from the network"),
        (edit_array("tables.bias", lambda x: x.astype(float)), "tables.bias does not follow from the network"),
        (edit_array("tables.widths", lambda x: x[1:]), r"tables.widths must have shape \("),
        (lambda m, a: a.pop("tables.levels"), "tables.levels is missing"),
        (lambda m, a: a.update({"tables.more": np.zeros(1)}), "tables.more does not belong to the image"),
        (lambda m, a: a.update({"more": np.zeros(1)}), "more belongs to no node"),
        (lambda m, a: a.pop("vectors.logits"), "vectors.logits is missing"),
        (edit_array("vectors.images", lambda x: x.astype(float)), "vectors.images must be integers of shape"),
        (edit_array("vectors.images", lambda x: x + 100), r"vectors.images must be in 0\.\.15, got 100\.\.115"),
        (edit_array("vectors.labels", put(0, 9)), r"labels must be in -1\.\."),
        (edit_array("vectors.labels", put(0, -2)), r"labels must be in -1\.\."),
        (edit_array("vectors.logits", lambda x: x[:, 1:]), "vectors.logits must be integers of shape"),
        (edit_array("vectors.logits", put((0, 0), 2**40)), "vectors.logits must fit 32 bits"),
        (edit_array("vectors.events", put((0, 0, 0), -1)), "vectors.events must be at least 0"),
        (
            edit_array("vectors.events", put((0, 0, CYCLES), 0)),
            "vectors.events must be at least 0, with clocks",
        ),
        (edit_array("vectors.cycles", put(1, -1)), "vectors.cycles must be the sum of the steps' cycles"),
        (edit_array("vectors.cycles", lambda x: x + 1), "vectors.cycles must be the sum of the steps' cycles"),
    ],
)
def test_contents_that_do_not_fit_are_refused_with_one_sentence(directory, change, words):
    forge(directory, change)
    refused(directory, words)


@pytest.mark.parametrize(
    "entry", [3, [1], "x", None, {"bytes": 1}, {"bytes": "1", "sha256": ""}, {"bytes": True, "sha256": ""}]
)
def test_an_entry_of_the_manifest_of_another_type_is_refused(directory, entry):
    def change(manifest, arrays):
        manifest["arrays"]["tables.bias.npy"] = entry
        manifest["manifest_sha256"] = archive.manifest_hash(manifest)

    forge(directory, change, seal=False)
    refused(directory, "`arrays` must list bytes and sha256 of every array")


def first_layer(manifest):
    return next(node for node in manifest["nodes"] if node["kind"] == "crossbar")["layers"][0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: x.update(stride=0), r"stride must be in 1\.\.255, got 0"),
        (lambda x: x.update(channels=10**9), r"channels must be in 1\.\.65535"),
        (lambda x: x.update(scales="x"), "scales must be .*, got 'x'"),
        (lambda x: x.update(counts_per_lsb=2.5), "min_count does not follow from counts_per_lsb = 2.5"),
        (lambda x: x.update(counts_per_lsb=0.0), "counts_per_lsb must be above 0 and at most 2.{2}32, got 0"),
        (lambda x: x.update(counts_per_lsb=1e300), "counts_per_lsb must be above 0 and at most 2.{2}32, got 1e.300"),
        (lambda x: x.update(counts_per_lsb=10**30), "must hold integers of at most 64 bits"),
        (lambda x: x.update(colour=1), "has the unknown field 'colour'"),
        (lambda x: x.update(class_registers={"table": []}), "class_registers"),
        (lambda x: x.update(dynamic={"l_min": 9}), "has the unknown field 'l_min'"),
        (lambda x: x.update(registers=7), "registers must be an object, got 7"),
        (lambda x: x.update(shift=77), "shift"),
    ],
)
def test_layers_that_make_no_sense_are_refused(directory, change, words):
    forge(directory, lambda manifest, arrays: change(first_layer(manifest)))
    refused(directory, words)


def test_a_layer_of_another_type_is_refused(directory):
    def change(manifest, arrays):
        next(node for node in manifest["nodes"] if node["kind"] == "crossbar")["layers"][0] = 0

    forge(directory, change)
    refused(directory, "layers.0 must be an object, got 0")


def test_a_network_without_room_on_its_hardware_is_refused(directory):
    def change(manifest, arrays):
        manifest["hardware"]["max_layers"] = 1
        manifest["hardware_hash"] = replace(SMALL, max_layers=1).hash

    forge(directory, change)
    refused(directory, "image.archive: network tiny: it needs max_layers = ")


def test_the_other_machine_is_refused_by_name(original, of_pairs):
    for (directory, _), hardware, words in (
        (original, SMALL_PAIRS, "machine = planes instead of pairs"),
        (of_pairs, SMALL, "machine = pairs instead of planes"),
    ):
        refused(directory, f"the image is for other hardware, {words}$", hardware)


def test_other_hardware_is_refused_naming_what_differs(directory):
    refused(
        directory,
        "for other hardware, cols = 8 instead of 16, adc_bits = 3 instead of 4$",
        replace(SMALL, cols=16, adc_bits=4),
    )


def test_a_changed_manifest_or_array_is_refused(directory):
    forge(directory, edit(name="other"), seal=False)
    refused(directory, "its own sha256 does not match")


def test_a_changed_array_is_refused(directory):
    forge(directory, edit_array("vectors.images", lambda x: x ^ 1), seal=False)
    refused(directory, "vectors.images.npy was changed, its sha256 does not match")


# ---- refusals: sizes ----------------------------------------------------------------------------
def bomb(directory, name, header, data, *, stated=None):
    """The archive with one array replaced by a header and data, its sizes and checksums as stated."""
    content = members(directory / image.ARCHIVE)
    manifest = json.loads(content["manifest.json"])
    content[name] = header + data
    manifest["arrays"][name] = {"bytes": stated or len(content[name]), "sha256": archive._sha256(content[name])}
    manifest["manifest_sha256"] = archive.manifest_hash(manifest)
    content["manifest.json"] = json.dumps(manifest).encode()
    write_members(directory / image.ARCHIVE, content)


def header(dtype, shape):
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": dtype, "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def test_an_array_that_states_eight_tebibytes_is_refused(directory):
    bomb(directory, "vectors.logits.npy", header("<i8", (1 << 40,)), bytes(8))
    refused(directory, r"vectors.logits.npy has 136 bytes, its header states 8796093022336$")


@pytest.mark.parametrize("name", ["vectors.images.npy", "tables.bias.npy"])
def test_an_array_that_unpacks_to_more_than_its_shape_is_refused_before(directory, name, monkeypatch):
    size = 100 << 20
    bomb(directory, name, header("|u1", (size,)), bytes(size))
    assert (directory / image.ARCHIVE).stat().st_size < 1 << 20
    unpacked = []
    whole = archive.Archive._unpack
    monkeypatch.setattr(
        archive.Archive, "_unpack", lambda self, n, most=None: unpacked.append(len(x := whole(self, n, most))) or x
    )
    refused(directory, f"{name.removesuffix('.npy')} must (be|have) ")
    assert max(unpacked) < 1 << 20


def test_arrays_of_more_than_a_gibibyte_are_refused_unseen(directory, monkeypatch):
    monkeypatch.setattr(archive, "_ARRAY_BYTES", 10_000)
    bomb(directory, "tables.bias.npy", header("|u1", (20_000,)), bytes(20_000))
    refused(directory, "its arrays must take at most 10000 bytes, got")


def test_a_member_that_lies_about_its_size_is_not_unpacked(directory):
    """The directory of the archive states few bytes, the data unpack to many."""
    path, name = directory / image.ARCHIVE, "vectors.images.npy"
    small = members(path)[name]
    bomb(directory, name, small, bytes(50 << 20), stated=len(small))
    data = bytearray(path.read_bytes())
    large = struct.pack("<I", len(small) + (50 << 20))
    assert data.count(large) == 2
    path.write_bytes(data.replace(large, struct.pack("<I", len(small))))
    refused(directory, "damaged|was changed|longer than it states")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_unusual_compression_is_refused(directory, method):
    write_members(directory / image.ARCHIVE, members(directory / image.ARCHIVE), method)
    refused(directory, f"is compressed with method {method}, not 0 or 8")


@pytest.mark.parametrize(("offset", "value", "words"), [(8, 1, "encrypted"), (10, 99, "compressed with method 99")])
def test_encrypted_members_and_unknown_methods_are_refused(directory, offset, value, words):
    path = directory / image.ARCHIVE
    data = bytearray(path.read_bytes())
    at = data.find(b"PK\x01\x02") + offset
    data[at : at + 2] = struct.pack("<H", value)
    path.write_bytes(data)
    refused(directory, words)


def test_an_array_of_objects_is_refused(directory):
    bomb(directory, "tables.bias.npy", header("|O", (1,)), bytes(8))
    refused(directory, "tables.bias.npy must hold numbers, its dtype is object")


# ---- writing ------------------------------------------------------------------------------------
@pytest.mark.parametrize("labels", [[0], [0, 1, 9], [0, 1, -2], [0.0, 1.0, 2.0]])
def test_bad_labels_are_refused(tmp_path, labels):
    net = sample()
    with pytest.raises(ValueError, match="labels must be"):
        image.write(tmp_path / "i", net, random_images(5, net, 3), labels)
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_does_not_fit_leaves_nothing_behind(tmp_path):
    net = sample()
    with pytest.raises(ValueError, match="it needs activation_bytes = "):
        image.write(
            tmp_path / "i", replace(net, hardware=replace(SMALL, activation_bytes=16)), random_images(5, net, 1)
        )
    assert list(tmp_path.iterdir()) == []


def test_a_program_that_computes_something_else_is_not_written(tmp_path, monkeypatch):
    net = sample()
    program = plan(net)
    program.tables.bias[-1] += 1
    program.tables.multipliers[:] //= 2
    monkeypatch.setattr(image, "plan", lambda network: program)
    with pytest.raises(ValueError, match="its program does not compute what the network does"):
        image.write(tmp_path / "i", net, random_images(5, net, 3))
    assert list(tmp_path.iterdir()) == []


def test_an_old_image_is_replaced_whole(directory):
    net = sample(9)
    (directory / "pads.hex").unlink()
    image.write(directory, net, random_images(5, net, 1))
    assert image.read(directory).network.info == net.info
    assert [p.name for p in directory.parent.iterdir()] == ["copy"]


def test_an_image_of_version_1_is_replaced(tmp_path):
    (tmp_path / "i").mkdir()
    (tmp_path / "i" / "manifest.json").write_text('{"schema": "ohmloom-image", "version": 1}')
    net = sample()
    image.write(tmp_path / "i", net, random_images(5, net, 1))
    assert sorted(p.name for p in (tmp_path / "i").iterdir()) == sorted(image.FILES)


@pytest.mark.parametrize("failing", ["fsync", "rename"])
def test_an_interrupted_write_keeps_the_old_image(original, directory, monkeypatch, failing):
    def stop(*_):
        raise KeyboardInterrupt

    net = sample(9)
    if failing == "fsync":
        monkeypatch.setattr(os, "fsync", stop)
    else:
        rename = image.Path.rename
        monkeypatch.setattr(
            image.Path, "rename", lambda self, to: stop() if "partial" in self.name else rename(self, to)
        )
    with pytest.raises(KeyboardInterrupt):
        image.write(directory, net, random_images(5, net, 1))
    assert image.read(directory).network.info == original[1].network.info
    assert [p.name for p in directory.parent.iterdir()] == ["copy"]


def test_a_directory_that_is_no_image_is_never_replaced(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    net = sample()
    with pytest.raises(InputError, match="not empty and not a deployment image"):
        image.write(tmp_path, net, random_images(5, net, 1))
    with pytest.raises(InputError, match="exists and is not a directory"):
        image.write(tmp_path / "thesis.txt", net, random_images(5, net, 1))
    assert (tmp_path / "thesis.txt").read_text() == "precious"


# ---- corruption ---------------------------------------------------------------------------------
STRANGE = (
    None, True, 0, 1, -1, 2, 255, 65536, 10**12, 2**63, 10**400, 0.5, 1e308, "", "x", "a\x1b[1m", [], [0], {}, {"a": 1},
)  # fmt: skip


def places(value, path=()):
    """Every place of JSON data, as a path of keys."""
    yield path
    if isinstance(value, dict):
        for key, x in value.items():
            yield from places(x, (*path, key))
    elif isinstance(value, list):
        for index, x in enumerate(value):
            yield from places(x, (*path, index))


def corrupt(rng, directory, content):
    """One seeded corruption of an image: raw bytes, or manifest or an array with all checksums made to fit."""
    path = directory / image.ARCHIVE
    way = rng.integers(0, 4)
    if way == 0:
        data = bytearray(content)
        for _ in range(int(rng.integers(1, 4))):
            data[int(rng.integers(0, len(data)))] = int(rng.integers(0, 256))
        path.write_bytes(data[: int(rng.integers(0, len(data)))] if rng.random() < 0.2 else data)
        return
    if way == 1:
        name = str(rng.choice(image.HEX_FILES))
        data = bytearray((directory / name).read_bytes() or b"0")
        data[int(rng.integers(0, len(data)))] = int(rng.integers(0, 256))
        (directory / name).write_bytes(data)
        return

    def change(manifest, arrays):
        if way == 2:
            found = [x for x in places(manifest) if x]
            *parents, last = found[int(rng.integers(0, len(found)))]
            target = manifest
            for key in parents:
                target = target[key]
            if rng.random() < 0.2 and isinstance(target, dict):
                target.pop(last)
            else:
                target[last] = STRANGE[int(rng.integers(0, len(STRANGE)))]
        else:
            name = str(rng.choice(sorted(arrays)))
            array = arrays[name].copy()
            kind = rng.integers(0, 4)
            if kind == 0 and array.size:
                flat = array.reshape(-1).view(np.uint8)
                flat[int(rng.integers(0, flat.size))] ^= 1 << int(rng.integers(0, 8))
            elif kind == 1:
                array = array.astype(rng.choice(["f8", "i8", "u1", "?", "c16"]))
            elif kind == 2:
                array = array.reshape(-1)[: int(rng.integers(0, array.size + 1))]
            else:
                array = array[None]
            arrays[name] = array

    try:
        forge(directory, change)
    except (KeyError, TypeError, ValueError, AttributeError):  # the forger's own checksums need a manifest
        path.write_bytes(b"PK\x03\x04")


def corrupted(original, folder, seeds):
    content = (original[0] / image.ARCHIVE).read_bytes()
    accepted, sentences = 0, []
    for seed in seeds:
        directory = folder / str(seed)
        shutil.copytree(original[0], directory)
        corrupt(np.random.default_rng(seed), directory, content)
        try:
            found = image.read(directory)
        except InputError as error:
            sentences.append(f"{seed}: {error}")
        else:  # equal, or a legal other network
            assert plan(found.network).steps
            accepted += 1
        shutil.rmtree(directory)
    # None is a corner that the schema check missed.
    assert [text for text in sentences if not text.isprintable() or "do not fit together (" in text] == []
    return accepted


@pytest.mark.parametrize("kind", ["original", "of_pairs"])
def test_corrupted_images_are_refused_in_one_sentence_or_legal(kind, request, tmp_path):
    assert corrupted(request.getfixturevalue(kind), tmp_path, range(200)) < 70


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("kind", ["original", "of_pairs"])
def test_ten_thousand_corrupted_images_are_refused_or_legal(kind, request, tmp_path):
    assert corrupted(request.getfixturevalue(kind), tmp_path, range(1000, 11000)) < 3000
