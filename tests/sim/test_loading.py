"""Files for a host in C, and what loading takes, counted on a small machine."""

from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from golden_model.image import image as deployment
from sim.backends.compiled import CompiledBus
from sim.host import loading
from sim.host.bus import run_now
from sim.host.sections import cells_of, picture_of, stream_of, tables_of
from tests.end_to_end.networks import library, loaded
from tests.golden_model.random_graphs import SMALL, encoder, random_images, random_network

pytestmark = pytest.mark.rtl


@pytest.fixture(scope="module")
def image():
    network = random_network(11, SMALL)
    return loaded(network, random_images(11, network, 2))


def test_work_of_the_host_does_not_go_into_files(tmp_path):
    image = loaded(encoder(), random_images(0, encoder(), 1))
    with pytest.raises(ValueError, match="step constant2 is work of the host, of which the files of an image hold"):
        loading.write_files(image, tmp_path)
    assert not list(tmp_path.iterdir())


def test_both_ways_load_the_same_and_the_stream_takes_a_word_a_clock(image):
    with CompiledBus(library(SMALL, False)) as bus:
        rows = run_now(loading.measure(bus, image))
    tables, program = image.program.tables, image.program
    written = sum(len(section.words) for section in tables_of(tables, SMALL)) + tables.cell_words.size
    by_bus, by_stream = rows[:3], rows[3:]
    assert by_bus[0].writes >= written, "the checksums are asked for beside it"
    assert by_bus[0].words == by_bus[2].words == 0
    packets = len(stream_of(tables_of(tables, SMALL))) + len(stream_of(cells_of(tables.cell_words)))
    assert (by_stream[0].packets, by_stream[0].words) == (2, packets)
    picture = len(stream_of([picture_of(image.vectors.images[0], program.image_base, SMALL)]))
    assert by_stream[2].words == picture
    assert picture < by_stream[2].clocks < picture + 15
    assert by_stream[2].clocks < by_bus[2].clocks
    assert by_stream[0].clocks < by_bus[0].clocks
    assert by_stream[1].clocks == by_bus[1].clocks, "the check of cells is the same"


def test_the_command_writes_a_file_of_the_image_and_of_every_picture(tmp_path):
    network = random_network(11, SMALL)
    deployment.write(tmp_path / "image", network, random_images(11, network, 2))
    done = CliRunner().invoke(loading.app, [str(tmp_path / "image"), "--output", str(tmp_path / "files")])
    assert done.exit_code == 0, done.output
    assert {path.name for path in (tmp_path / "files").iterdir()} == {"image.load", "picture-0.load", "picture-1.load"}
    words = np.fromfile(tmp_path / "files" / "image.load", dtype="<u4")
    assert words[1] == SMALL.hash_word


def test_an_image_without_pictures_cannot_be_measured(image, tmp_path, monkeypatch):
    empty = replace(image, vectors=replace(image.vectors, images=image.vectors.images[:0]))
    monkeypatch.setattr(loading, "read", lambda path: empty)
    (tmp_path / "image").mkdir()
    done = CliRunner().invoke(loading.app, [str(tmp_path / "image")])
    assert done.exit_code == 2
    assert "has no test picture" in done.output
