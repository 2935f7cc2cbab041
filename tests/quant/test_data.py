import gzip
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from golden_model.files import InputError
from quant.data import digits
from quant.data import idx as data
from tests.quant.conftest import toy_dataset, write_idx, write_toy


def test_default_digits_are_5000_split_4000_and_1000_with_a_fixed_seed():
    first, again = digits.load_digits(), digits.load_digits()
    assert first.train_images.shape == (4000, 1, 28, 28)
    assert first.test_images.shape == (1000, 1, 28, 28)
    assert first.sha256 == again.sha256
    assert set(first.train_labels) == set(first.test_labels) == set(range(10))


def test_idx_directory_gives_the_arrays_that_were_written(toy_directory: Path):
    loaded, toy = data.load_idx(toy_directory), toy_dataset()
    assert (loaded.train_images == toy.train_images).all()
    assert (loaded.test_labels == toy.test_labels).all()
    assert loaded.classes == 4
    assert loaded.shape == (1, 12, 12)


def test_gzip_files_are_read_like_plain_ones(toy_directory: Path):
    plain = data.load_idx(toy_directory)
    for path in list(toy_directory.iterdir()):
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    assert data.load_idx(toy_directory).sha256 == plain.sha256


def test_every_twelfth_training_image_is_held_out():
    toy = toy_dataset(train=240)
    learned, learned_labels = toy.learning()
    held, held_labels = toy.validation()
    assert len(learned) == len(learned_labels) == 220
    assert (held == toy.train_images[11::12]).all()
    assert (held_labels == toy.train_labels[11::12]).all()
    known = {image.tobytes() for image in learned}
    assert not any(image.tobytes() in known for image in held)


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("train-images-idx3-ubyte", lambda raw: raw[:-1], "is truncated"),
        ("train-images-idx3-ubyte", lambda raw: raw + b"\0", "is too long"),
        ("t10k-labels-idx1-ubyte", lambda raw: b"PK" + raw[2:], "must start with two zero bytes"),
        ("t10k-labels-idx1-ubyte", lambda raw: raw[:2] + b"\x0d" + raw[3:], "must hold unsigned bytes"),
        ("train-labels-idx1-ubyte", lambda raw: raw[:6], "broken idx header"),
        ("train-labels-idx1-ubyte", lambda raw: b"", "must start with two zero bytes"),
        ("train-labels-idx1-ubyte", lambda raw: raw[:3] + b"\2" + raw[4:], "must have 1 dimension, it has 2"),
        ("train-images-idx3-ubyte", lambda raw: raw[:4] + b"\xff" * 4 + raw[8:], "claims to hold 618475290480 bytes"),
    ],
)
def test_damaged_idx_file_is_refused_by_name(toy_directory: Path, name, damage, message):
    path = toy_directory / name
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=message) as caught:
        data.load_idx(toy_directory)
    assert name in str(caught.value)


def test_missing_file_is_named(toy_directory: Path):
    (toy_directory / "t10k-images-idx3-ubyte").unlink()
    with pytest.raises(InputError, match=r"has no file t10k-images-idx3-ubyte or t10k-images-idx3-ubyte\.gz"):
        data.load_idx(toy_directory)


def test_missing_directory_is_named(tmp_path: Path):
    with pytest.raises(InputError, match="is not a directory"):
        data.load_idx(tmp_path / "nowhere")


def test_broken_gzip_is_refused(toy_directory: Path):
    path = toy_directory / "train-images-idx3-ubyte"
    path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes())[:-20])
    path.unlink()
    with pytest.raises(InputError, match="cannot be read"):
        data.load_idx(toy_directory)


def test_no_more_of_a_compressed_file_is_unpacked_than_its_header_says(toy_directory: Path):
    path = toy_directory / "train-images-idx3-ubyte"
    bomb = path.with_name(path.name + ".gz")
    bomb.write_bytes(gzip.compress(path.read_bytes() + bytes(200 << 20), compresslevel=1))
    path.unlink()
    tracemalloc.start()
    with pytest.raises(InputError, match=r"ubyte\.gz is too long: its header says 240x12x12 bytes"):
        data.load_idx(toy_directory)
    assert tracemalloc.get_traced_memory()[1] < 20 << 20
    tracemalloc.stop()


def test_different_numbers_of_images_and_labels_are_refused(toy_directory: Path):
    write_idx(toy_directory / "train-labels-idx1-ubyte", np.zeros(17))
    with pytest.raises(InputError, match=r"240 images but .* 17 labels"):
        data.load_idx(toy_directory)


def test_test_images_of_another_size_are_refused(tmp_path: Path):
    directory = write_toy(tmp_path, size=12)
    write_idx(directory / "t10k-images-idx3-ubyte", np.zeros((60, 14, 14)))
    with pytest.raises(InputError, match=r"training images are \(1, 12, 12\), test images \(1, 14, 14\)"):
        data.load_idx(directory)


def test_test_label_beyond_the_training_classes_is_refused(toy_directory: Path):
    write_idx(toy_directory / "t10k-labels-idx1-ubyte", np.full(60, 9))
    with pytest.raises(InputError, match="a test image has label 9, but training labels end at 3"):
        data.load_idx(toy_directory)


def test_too_few_training_images_are_refused(tmp_path: Path):
    with pytest.raises(InputError, match="must hold at least 48 images, got 20"):
        data.load_idx(write_toy(tmp_path, train=20))
