"""The example in C, compiled against the generated header, on the compiled tile."""

import subprocess
from pathlib import Path

import numpy as np
import pytest

from golden_model.registers import REGISTER
from sim.host import loading, sections
from tests.end_to_end.networks import library, loaded
from tests.golden_model.random_graphs import SMALL, SMALL_PAIRS, random_images, random_network

pytestmark = pytest.mark.rtl

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "sim/host/example"


@pytest.fixture(scope="module", params=[SMALL, SMALL_PAIRS], ids=["planes", "pairs"])
def example(request, tmp_path_factory):
    """(an image, the example for its hardware, the folder of its files)."""
    folder = tmp_path_factory.mktemp("example")
    network = random_network(11, request.param)
    image = loaded(network, random_images(11, network, 2))
    loading.write_files(image, folder)
    library_path = library(request.param, False).path
    sources = [EXAMPLE / "run_image.c", EXAMPLE / "simulated_bus.c"]
    options = ["-std=c99", "-O1", "-Wall", "-Wextra", "-Wconversion", "-pedantic", "-Werror", f"-I{ROOT / 'rtl'}"]
    binary = folder / "run_image"
    command = ["cc", *options, *sources, library_path, f"-Wl,-rpath,{library_path.parent}", "-o", binary]
    subprocess.run([str(part) for part in command], check=True)
    return image, binary, folder


def call(binary, *arguments):
    return subprocess.run([binary, *arguments], capture_output=True, text=True, timeout=120, check=False)


def test_a_host_in_c_loads_an_image_and_gets_the_golden_scores_and_clocks(example):
    image, binary, folder = example
    for number, (logits, cycles) in enumerate(zip(image.vectors.logits, image.vectors.cycles, strict=True)):
        done = call(binary, folder / "image.load", folder / f"picture-{number}.load")
        assert done.stderr == ""
        assert done.stdout.split() == [*map(str, logits), str(cycles), "clocks"]


def _changed(path, index, change):
    """The file with one word changed."""
    words = np.fromfile(path, dtype="<u4")
    words[index] ^= change
    other = path.with_suffix(".changed")
    words.tofile(other)
    return other


@pytest.mark.parametrize(
    ("index", "change", "message"),
    [
        (0, 1, "another version of the register map"),
        (1, 1, "another hardware configuration"),
        (7, 1, "file is not whole"),
        (8, 1 << 27, "refused a word of a table"),
        (10, 1, "the tables that arrived are not those of the file"),
        (-1, 1 << 3, "the array does not hold the cells that were written"),
    ],
)
def test_a_host_in_c_names_what_is_wrong_with_a_file(example, index, change, message):
    _, binary, folder = example
    done = call(binary, _changed(folder / "image.load", index, change), folder / "picture-0.load")
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_section_of_a_memory_goes_upward_and_one_of_a_register_stays():
    first, second = sections.cells_of(np.array([[5, 6], [7, 8]], dtype=np.uint32))
    assert first.addresses() == [REGISTER["CELL_PAIR"].offset]
    assert second.addresses() == [REGISTER["CELL_DATA"].offset] * 4
    picture = sections.picture_of(np.arange(1, 7, dtype=np.uint8), 5, SMALL)
    assert picture.addresses() == [0x7000004, 0x7000008]
    empty = sections.Section(0x2000000, np.zeros(0, dtype=np.uint32))
    stream = sections.stream_of([first, empty, second, picture])
    assert stream.tolist() == [0x1C, 1, 0, 0x20, 4, 5, 6, 7, 8, 0x7000004, 2, 0x03020100, 0x00060504]
