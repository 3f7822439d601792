"""Public data sets in the layouts that the commands read, from their archives as their authors made them.

Each function takes the paths of the archives, a new folder to fill, and how many bytes an archive may hold at most,
see `read_tar`; what an archive lacks is a DataError. The archives were compared with their checksums before.
"""

import os
import posixpath
import shutil
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cnnray.data.archives import read_tar, write_file
from cnnray.errors import DataError

# Names of the classes by number, https://www.cs.toronto.edu/~kriz/cifar.html
CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_CIFAR_BATCHES = {f"data_batch_{number}": "train" for number in range(1, 6)} | {"test_batch": "test"}
_FLOWER_SETS = {"trnid": "train", "valid": "val", "tstid": "test"}
_PET_SETS = {"trainval": "train", "test": "test"}


class Counts(NamedTuple):
    """What a layout holds; classes are people in LFW."""

    images: int
    classes: int


def lay_out_flowers(archives: Sequence[Path], out: Path, most_bytes: int) -> Counts:
    """Class folders in OUT/train, OUT/val and OUT/test, divided as the authors did; archives: images, labels, sets."""
    photos, labels, sets = archives
    names = _flower_names()
    label_N, parts = _read_mat(labels)["labels"].ravel(), _read_mat(sets)
    wanted = {
        f"jpg/image_{number:05d}.jpg": f"{split}/{names[label_N[number - 1] - 1]}"
        for key, split in _FLOWER_SETS.items()
        for number in parts[key].ravel().tolist()
    }
    found = set()
    for name, content in read_tar(photos, most_bytes):
        if name in wanted:
            write_file(out / wanted[name] / posixpath.basename(name), content)
            found.add(name)
    _refuse_missing(wanted.keys() - found, photos)
    return Counts(len(found), len({posixpath.basename(folder) for folder in wanted.values()}))


def lay_out_pets(archives: Sequence[Path], out: Path, most_bytes: int) -> Counts:
    """Breeds as class folders in OUT/classify/train and test; images and masks in OUT/segment/train and test.

    In the masks 1 is the pet, 2 the background and 3 the border between them, which the authors leave open. The
    photos lie on the disk once where it has hard links. Archives: images, annotations.
    """
    photos, annotations = archives
    about = dict(read_tar(annotations, most_bytes))
    lists = {split: _text(about, f"annotations/{name}.txt", annotations) for name, split in _PET_SETS.items()}
    split_of = {line.split()[0]: split for split, text in lists.items() for line in text.splitlines() if line.strip()}
    masks = {stem: f"annotations/trimaps/{stem}.png" for stem in split_of}
    _refuse_missing(set(masks.values()) - about.keys(), annotations)
    found = set()
    for name, content in read_tar(photos, most_bytes):
        stem, suffix = posixpath.splitext(posixpath.basename(name))
        if suffix != ".jpg" or stem not in split_of:
            continue
        split, breed = split_of[stem], stem.rpartition("_")[0]
        photo = write_file(out / "classify" / split / breed / f"{stem}.jpg", content)
        link_or_copy(photo, out / "segment" / split / "images" / photo.name)
        write_file(out / "segment" / split / "masks" / f"{stem}.png", about[masks[stem]])
        found.add(stem)
    _refuse_missing({f"images/{stem}.jpg" for stem in split_of.keys() - found}, photos)
    return Counts(len(found), len({stem.rpartition("_")[0] for stem in found}))


def lay_out_voc(edition: str, archives: Sequence[Path], out: Path, most_bytes: int) -> Counts:
    """OUT/Annotations, JPEGImages, ImageSets and what else is there, of all archives in one.

    Args:
        edition: its folder in the archives, such as "VOC2007".
        archives, out, most_bytes: as of the others.
    """
    from cnnray.data.formats import read_annotations  # takes seconds to import: Ray is behind it

    prefix = f"VOCdevkit/{edition}/"
    for archive in archives:
        for name, content in read_tar(archive, most_bytes):
            if name.startswith(prefix):
                write_file(out / name.removeprefix(prefix), content)
    found = read_annotations(str(out))
    return Counts(found.table.num_rows, len(found.categories))


def lay_out_lfw(archives: Sequence[Path], out: Path, most_bytes: int) -> Counts:
    """A folder for every person, and OUT/pairs.txt; archives: images, pairs."""
    from cnnray.data.face_pairs import read_face_pairs  # as above

    photos, pairs = archives
    images, people = 0, set()
    for name, content in read_tar(photos, most_bytes):
        person, file = posixpath.split(name.removeprefix("lfw/"))
        if file.endswith(".jpg"):
            write_file(out / person / file, content)
            images += 1
            people.add(person)
    shutil.copyfile(pairs, out / "pairs.txt")
    read_face_pairs(str(out / "pairs.txt"), str(out))  # refuses pairs whose images are not there
    return Counts(images, len(people))


def lay_out_cifar(archives: Sequence[Path], out: Path, most_bytes: int) -> Counts:
    """Class folders of PNG in OUT/train and OUT/test; archive: the binary version."""
    (archive,) = archives
    images, found = 0, set()
    for name, content in read_tar(archive, most_bytes):
        batch, suffix = posixpath.splitext(posixpath.basename(name))
        if suffix == ".bin" and batch in _CIFAR_BATCHES:
            images += _write_batch(out / _CIFAR_BATCHES[batch], batch, content)
            found.add(batch)
    _refuse_missing({f"{batch}.bin" for batch in _CIFAR_BATCHES.keys() - found}, archive)
    return Counts(images, len(CIFAR_CLASSES))


def _write_batch(folder: Path, batch: str, data: bytes) -> int:
    """The images of a batch: of each a byte that is its class, and its planes red, green, blue, 32 x 32 px."""
    rows_NB = np.frombuffer(data, np.uint8).reshape(-1, 1 + 3 * 32 * 32)
    for name in CIFAR_CLASSES:
        (folder / name).mkdir(parents=True, exist_ok=True)
    for at, row_B in enumerate(rows_NB):
        pixels_HWC = np.ascontiguousarray(row_B[1:].reshape(3, 32, 32).transpose(1, 2, 0))
        Image.fromarray(pixels_HWC).save(folder / CIFAR_CLASSES[row_B[0]] / f"{batch}_{at:05d}.png")
    return len(rows_NB)


def link_or_copy(source: Path, target: Path) -> None:
    """The same file under another name; a copy where the disk has no hard links."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _flower_names() -> list[str]:
    """Of the 102 classes, in the order of their numbers; without the question mark of one, which is no name for a
    folder everywhere."""
    from torchvision.datasets import Flowers102  # as above

    return [str(name).rstrip("?") for name in Flowers102.classes]


def _read_mat(path: Path) -> dict[str, NDArray[Any]]:
    from scipy.io import loadmat  # needed here alone

    return dict(loadmat(path))


def _text(files: dict[str, bytes], name: str, archive: Path) -> str:
    _refuse_missing({name} - files.keys(), archive)
    return files[name].decode()


def _refuse_missing(missing: Collection[str], archive: Path) -> None:
    if missing:
        raise DataError(f"expected {len(missing):,} more files in {archive}, such as {min(missing)}")
