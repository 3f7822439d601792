"""Public data sets: brought from a server on loopback that breaks, laid out, and read by what they are for."""

import dataclasses
import io
import os
import pickle
import shlex
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import numpy as np
import pytest
import torchvision.datasets as published
from PIL import Image
from sklearn.datasets import _lfw as scikit_lfw
from torchvision.datasets.lfw import _LFW
from torchvision.datasets.voc import DATASET_YEAR_DICT

from cnnray import files
from cnnray.cli import app
from cnnray.config import ManifestConfig, PairsConfig
from cnnray.data import download, readers
from cnnray.data.archives import read_tar
from cnnray.data.dataset_layouts import CIFAR_CLASSES, link_or_copy
from cnnray.data.datasets import DATASETS
from cnnray.data.face_pairs import list_people, read_face_pairs
from cnnray.data.fetch_datasets import fetch_dataset
from cnnray.data.formats import read_annotations
from cnnray.data.inspect import count_boxes
from cnnray.data.pairs import build_pairs, look_at_pair
from cnnray.data.readers import build_index
from cnnray.errors import DataError, OptionError, StorageError
from cnnray.ops.decode import decode
from cnnray.ops.masks import LabelSpace
from tests.commands import run_command
from tests.public_archives import CONTENTS, PETS, SIZE, Server, pack, tiny, with_content

ROOT = Path(__file__).resolve().parents[2]
FLOWERS = "/~vgg/data/flowers/102/102flowers.tgz"


@pytest.fixture(autouse=True)
def short_delays(monkeypatch):
    monkeypatch.setattr(download, "DELAYS", (0.01, 0.02, 0.04))


@pytest.fixture
def server():
    server = Server()
    yield server
    server.close()


@pytest.fixture
def flowers(server):
    dataset, served = tiny("flowers102")
    server.served |= served
    return dataset


@pytest.fixture
def without_ray(monkeypatch):
    """The tasks that list folders run here."""

    class Plain:
        def __init__(self, call):
            self.remote = call

    class Tasks:
        remote = staticmethod(lambda **options: Plain)
        get = staticmethod(list)

    monkeypatch.setattr(readers, "ray", Tasks)


def fetch(name, server, out, contents=None):
    dataset, served = tiny(name, contents)
    server.served |= served
    return fetch_dataset(dataset, str(out), mirror=server.url)


def message(kind, *arguments, **options):
    with pytest.raises(kind) as caught:
        fetch_dataset(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def labelled(source):
    rows = build_index(str(source), ManifestConfig()).to_pylist()
    assert all(decode(files.read_bytes(row["path"])).ndim == 3 for row in rows)
    return {(row["split"], row["label"], os.path.basename(row["path"])) for row in rows}


def test_flowers_become_class_folders_in_the_authors_parts(server, tmp_path, without_ray):
    facts = fetch("flowers102", server, tmp_path)
    assert labelled(tmp_path / "flowers102") == {
        ("train", "english marigold", "image_00001.jpg"),
        ("train", "pink primrose", "image_00006.jpg"),
        ("val", "pink primrose", "image_00002.jpg"),
        ("test", "blackberry lily", "image_00003.jpg"),
        ("test", "english marigold", "image_00004.jpg"),
        ("test", "pink-yellow dahlia", "image_00005.jpg"),
    }
    sizes = [path.stat().st_size for path in tmp_path.glob("flowers102/*/*/*.jpg")]
    assert (facts["images"], facts["classes"], facts["bytes"]) == (6, 4, sum(sizes))
    assert facts["next"] == f"cnnray features build {tmp_path}/flowers102 --out runs/flowers102"


def test_pets_become_class_folders_and_masks(server, tmp_path, without_ray):
    facts = fetch("oxford_iiit_pet", server, tmp_path)
    place = tmp_path / "oxford_iiit_pet"
    assert labelled(place / "classify") == {
        ("train" if part == "trainval" else "test", stem.rpartition("_")[0], f"{stem}.jpg")
        for part, stems in PETS.items()
        for stem in stems
    }
    space = LabelSpace.parse(
        shlex.split(facts["commands"][1])[shlex.split(facts["commands"][1]).index("--classes") + 1]
    )
    for split, count in (("train", 3), ("test", 1)):
        rows = build_pairs(str(place / "segment" / split), PairsConfig()).to_pylist()
        looked = [look_at_pair(row) for row in rows]
        assert len(rows) == count and all(not space.undeclared(facts["values"]) for facts in looked)
        assert all(facts["image"] == facts["mask"] == [SIZE[1], SIZE[0]] for facts in looked)
    photo = "train/images/Abyssinian_1.jpg"
    assert (place / "segment" / photo).samefile(place / "classify/train/Abyssinian/Abyssinian_1.jpg")
    assert (facts["images"], facts["classes"]) == (4, 2)


@pytest.mark.parametrize(("name", "splits"), [("voc2007", {"train", "val", "test"}), ("voc2012", {"train", "val"})])
def test_voc_is_what_data_inspect_reads(server, tmp_path, name, splits):
    facts = fetch(name, server, tmp_path)
    annotations = read_annotations(str(tmp_path / name))
    found = count_boxes(annotations)
    assert (found["format"], set(found["splits"]), found["boxes"]) == ("voc", splits, len(splits))
    assert annotations.categories == ("cat", "dog") and annotations.problems == ()
    assert all(decode(files.read_bytes(path)).shape == (64, 96, 3) for path in annotations.table["path"].to_pylist())
    assert annotations.table["boxes"][0].as_py() == [[0, 1, 30, 40]]
    assert (facts["images"], facts["classes"]) == (len(splits), 2)
    assert (tmp_path / name / "ImageSets" / "Main" / "dog_train.txt").exists()


def test_faces_become_a_folder_for_every_person_and_the_pairs_find_them(server, tmp_path):
    facts = fetch("lfw_people", server, tmp_path)
    root = str(tmp_path / "lfw_people")
    assert {name: len(images) for name, images in list_people(root).items()} == {"Ann_Lee": 3, "Bob": 2, "Cy_de_Vos": 1}
    pairs = read_face_pairs(f"{root}/pairs.txt", root)
    assert pairs.ids_b == ("Ann_Lee/Ann_Lee_0003.jpg", "Bob/Bob_0001.jpg", "Bob/Bob_0002.jpg",
                           "Cy_de_Vos/Cy_de_Vos_0001.jpg")  # fmt: skip
    assert pairs.folds_N.tolist() == [0, 0, 1, 1]
    assert (facts["images"], facts["classes"]) == (6, 3)


def test_cifar_becomes_class_folders_of_png_with_its_planes_in_order(server, tmp_path, without_ray):
    facts = fetch("cifar10", server, tmp_path)
    rows = labelled(tmp_path / "cifar10")
    assert {(split, label) for split, label, _ in rows} == {
        (s, name) for s in ("train", "test") for name in CIFAR_CLASSES
    }
    assert len(rows) == facts["images"] == 60 and facts["classes"] == 10
    batch = dict(read_tar(tmp_path / "archives" / "cifar-10-binary.tar.gz", 10**6))[
        "cifar-10-batches-bin/test_batch.bin"
    ]
    row = np.frombuffer(batch, np.uint8).reshape(10, -1)[6]
    pixels = np.asarray(Image.open(tmp_path / "cifar10" / "test" / "frog" / "test_batch_00006.png"))
    assert pixels.shape == (32, 32, 3) and (pixels[..., 0] == 200).all()
    assert pixels[3, 7, 2] == row[1 + 2 * 1024 + 3 * 32 + 7]


@pytest.mark.parametrize("name", CONTENTS)
def test_the_same_command_again_says_that_it_is_complete_and_asks_nobody(server, tmp_path, name):
    first = fetch(name, server, tmp_path)
    asked = len(server.asked)
    again = fetch(name, server, tmp_path)
    assert len(server.asked) == asked == len(DATASETS[name].archives)
    assert (first.pop("new"), again.pop("new")) == (True, False) and first == again


def test_a_connection_that_breaks_is_gone_on_with_where_it_broke(server, flowers, tmp_path):
    half = flowers.archives[0].num_bytes // 2
    server.cuts = [half, half // 2]
    fetch_dataset(flowers, str(tmp_path), mirror=server.url)
    begins = [wanted for path, wanted in server.asked if path == FLOWERS]
    assert begins == [None, f"bytes={half}-", f"bytes={half + half // 2}-"]
    assert (tmp_path / "archives" / "102flowers.tgz").read_bytes() == server.served[FLOWERS]
    assert sorted(os.listdir(tmp_path / "archives")) == [".lock", "102flowers.tgz", "imagelabels.mat", "setid.mat"]


def test_a_server_without_ranges_sends_all_again(server, flowers, tmp_path):
    server.ranges, server.cuts = False, [flowers.archives[0].num_bytes // 2]
    assert fetch_dataset(flowers, str(tmp_path), mirror=server.url)["images"] == 6
    assert [wanted is None for path, wanted in server.asked if path == FLOWERS] == [True, False]


def test_a_server_that_ends_early_for_ever_is_given_up_and_what_came_is_kept(server, flowers, tmp_path):
    server.cuts = [1000, 0, 0, 0]
    text = message(StorageError, flowers, str(tmp_path), mirror=server.url)
    assert "cannot download 102flowers.tgz" in text and "--mirror" not in text and "another mirror" in text
    assert len(server.asked) == 4  # one that brought something, and as many more as there are delays
    assert (tmp_path / "archives" / "102flowers.tgz.part").stat().st_size == 1000
    assert not (tmp_path / "flowers102").exists()
    fetch_dataset(flowers, str(tmp_path), mirror=server.url)
    assert server.asked[4] == (FLOWERS, "bytes=1000-")


def test_a_server_that_goes_away_is_waited_for(flowers, server, tmp_path, monkeypatch):
    """The line breaks, nobody answers for a while, and the same place is served again."""
    half = flowers.archives[0].num_bytes // 2
    server.cuts = [half]
    pauses = []

    def pause(seconds):
        pauses.append(seconds)
        if len(pauses) == 1:
            server.close()
        if len(pauses) == 3:
            again.append(Server(server.served, server.server_port))

    again = []
    monkeypatch.setattr(download, "time", SimpleNamespace(sleep=pause))
    try:
        assert fetch_dataset(flowers, str(tmp_path), mirror=server.url)["images"] == 6
    finally:
        again[0].close()
    assert pauses == [0.01, 0.02, 0.04] and again[0].asked[0] == (FLOWERS, f"bytes={half}-")


def test_a_busy_server_is_asked_again(server, flowers, tmp_path):
    server.statuses = [503, 429]
    assert fetch_dataset(flowers, str(tmp_path), mirror=server.url)["images"] == 6
    assert [path for path, _ in server.asked[:3]] == [FLOWERS] * 3


def test_a_part_that_does_not_fit_begins_again(server, flowers, tmp_path):
    part = tmp_path / "archives" / "102flowers.tgz.part"
    part.parent.mkdir()
    part.write_bytes(b"x" * (flowers.archives[0].num_bytes + 9))
    assert fetch_dataset(flowers, str(tmp_path), mirror=server.url)["images"] == 6
    assert [wanted is None for path, wanted in server.asked if path == FLOWERS] == [False, True]


def test_another_piece_than_was_asked_for_is_not_taken(server, flowers, tmp_path):
    server.cuts, server.begins = [1000], [500]
    assert fetch_dataset(flowers, str(tmp_path), mirror=server.url)["images"] == 6
    assert [wanted for path, wanted in server.asked if path == FLOWERS] == [None, "bytes=1000-", None]


def test_a_file_that_has_moved_is_followed_and_gone_on_with(server, flowers, tmp_path):
    server.served["/moved"] = server.served[FLOWERS]
    server.served[FLOWERS] = f"{server.url}/moved"
    server.cuts = [None, 1000]
    assert fetch_dataset(flowers, str(tmp_path), mirror=server.url)["images"] == 6
    assert server.asked[:4] == [(path, wanted) for wanted in (None, "bytes=1000-") for path in (FLOWERS, "/moved")]


def test_a_file_that_is_not_there_is_asked_for_once_and_the_ways_out_are_named(server, flowers, tmp_path):
    del server.served[FLOWERS]
    text = message(StorageError, flowers, str(tmp_path), mirror=f"{server.url}/")
    assert f"{server.url}{FLOWERS} (404 Not Found)" in text and len(server.asked) == 1
    assert f"{tmp_path}/archives by hand: https://www.robots.ox.ac.uk{FLOWERS}, " in text


def test_the_next_address_is_tried_where_the_first_has_nothing(server, tmp_path):
    dataset, served = tiny("lfw_people")
    first, second = (urlsplit(url).path for url in dataset.archives[0].urls)
    server.served |= served
    server.served[second] = server.served.pop(first)
    assert fetch_dataset(dataset, str(tmp_path), mirror=server.url)["images"] == 6
    assert [path for path, _ in server.asked[:2]] == [first, second]


def test_a_machine_without_internet_gets_one_sentence(flowers, tmp_path, free_port, capsys, caplog):
    here = f"http://127.0.0.1:{free_port}"
    archives = tuple(dataclasses.replace(a, urls=(f"{here}/{a.name}",)) for a in flowers.archives)
    text = message(StorageError, dataclasses.replace(flowers, archives=archives), str(tmp_path))
    assert f"tried {here}/102flowers.tgz (" in text and "refused" in text and "--mirror URL" in text
    for name in ("102flowers.tgz", "imagelabels.mat", "setid.mat"):
        assert f"{here}/{name}" in text.partition("by hand")[2]
    assert capsys.readouterr().err == "" and caplog.text.count("trying again") == 0


def test_archives_put_there_by_hand_are_taken(flowers, server, tmp_path):
    (tmp_path / "archives").mkdir()
    for archive in flowers.archives:
        (tmp_path / "archives" / archive.name).write_bytes(server.served[urlsplit(archive.urls[0]).path])
    assert fetch_dataset(flowers, str(tmp_path), mirror=server.url)["images"] == 6
    assert server.asked == []


@pytest.mark.parametrize("by_hand", [False, True])
def test_a_flipped_byte_is_found_and_the_file_removed(flowers, server, tmp_path, by_hand):
    sound = server.served[FLOWERS]
    damaged = bytearray(sound)
    damaged[len(sound) // 2] ^= 1
    place = tmp_path / "archives" / "102flowers.tgz"
    if by_hand:
        place.parent.mkdir()
        place.write_bytes(damaged)
    else:
        server.served[FLOWERS] = bytes(damaged)
    text = message(DataError, flowers, str(tmp_path), mirror=server.url)
    got = with_content(flowers.archives[0], bytes(damaged)).md5
    assert f"{place}" in text and f"md5 {flowers.archives[0].md5}, got {got}" in text
    assert os.listdir(place.parent) == [".lock"] and os.listdir(tmp_path) == ["archives"]
    server.served[FLOWERS] = sound
    assert fetch_dataset(flowers, str(tmp_path), mirror=server.url)["images"] == 6


def test_another_file_than_was_published_is_not_taken_for_what_is_here(flowers, server, tmp_path):
    part = tmp_path / "archives" / "102flowers.tgz.part"
    part.parent.mkdir()
    part.write_bytes(server.served[FLOWERS][:1000])
    server.served[FLOWERS], server.ranges = b"<html>Log in</html>", False
    text = message(StorageError, flowers, str(tmp_path), mirror=server.url)
    assert f"its file has 19 bytes, the published one {flowers.archives[0].num_bytes}" in text
    assert part.stat().st_size == 1000 and len(server.asked) == 1


def test_an_answer_without_a_length_is_taken_when_it_is_whole(flowers, server, tmp_path):
    server.lengths, server.cuts = False, [1000]
    assert fetch_dataset(flowers, str(tmp_path), mirror=server.url)["images"] == 6
    assert [wanted for path, wanted in server.asked if path == FLOWERS] == [None, "bytes=1000-"]


def test_an_answer_without_a_length_is_not_read_for_ever(flowers, server, tmp_path):
    size = flowers.archives[0].num_bytes
    server.lengths = False
    server.served[FLOWERS] += b"x" * 10**8
    assert f"md5 {flowers.archives[0].md5}" in message(DataError, flowers, str(tmp_path), mirror=server.url)
    assert 0 < server.sent[0] - size < 5 * 10**7


# A command of its own that can be killed: with the small data set of the file, and killed by itself when it is told.
COMMAND = """
import dataclasses, os, pickle, signal, sys
from cnnray.data.fetch_datasets import fetch_dataset
dataset = pickle.load(open(sys.argv[1], "rb"))
def lay_out_and_die(*arguments):
    dataset.lay_out(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)
chosen = dataclasses.replace(dataset, lay_out=lay_out_and_die) if sys.argv[4:] else dataset
print(fetch_dataset(chosen, sys.argv[2], mirror=sys.argv[3])["images"])
"""


def start(dataset, tmp_path, server, *more):
    (tmp_path / "dataset").write_bytes(pickle.dumps(dataset))
    words = [sys.executable, "-c", COMMAND, tmp_path / "dataset", tmp_path / "out", server.url, *more]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=ROOT)


def test_a_command_that_is_killed_while_it_downloads_is_gone_on_with(flowers, server, tmp_path):
    half = flowers.archives[0].num_bytes // 2
    server.cuts = [half]
    server.held.clear()
    command = start(flowers, tmp_path, server)
    part, deadline = tmp_path / "out" / "archives" / "102flowers.tgz.part", time.monotonic() + 60
    # what the command has read but not written yet is at most one buffer of a file
    while not part.exists() or part.stat().st_size < half - io.DEFAULT_BUFFER_SIZE:
        assert command.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    with pytest.raises(OptionError, match="another command is fetching into"):
        fetch_dataset(flowers, str(tmp_path / "out"), mirror=server.url)
    command.kill()
    command.communicate()
    kept = part.stat().st_size
    server.held.set()
    assert fetch_dataset(flowers, str(tmp_path / "out"), mirror=server.url)["images"] == 6
    assert server.asked[1] == (FLOWERS, f"bytes={kept}-") and half - io.DEFAULT_BUFFER_SIZE <= kept <= half


def test_a_command_that_is_killed_while_it_unpacks_leaves_nothing_that_looks_complete(server, tmp_path):
    dataset, served = tiny("cifar10")
    server.served |= served
    command = start(dataset, tmp_path, server, "die")
    command.communicate(timeout=60)
    assert command.returncode == -9
    assert sorted(os.listdir(tmp_path / "out")) == [".cifar10.tmp", "archives"]
    assert fetch_dataset(dataset, str(tmp_path / "out"), mirror=server.url)["images"] == 60
    assert len(server.asked) == 1 and sorted(os.listdir(tmp_path / "out")) == ["archives", "cifar10"]


@pytest.mark.parametrize("small_disk", ["40k", "80k"], indirect=True)  # full of the archive, or of the images
def test_a_full_disk_is_said_and_the_same_command_goes_on(flowers, server, small_disk, monkeypatch):
    place, grow = small_disk
    monkeypatch.setattr("cnnray.data.fetch_datasets._check_space", lambda *_: None)  # as when others fill it meanwhile
    text = message(StorageError, flowers, str(place), mirror=server.url)
    assert "no space left" in text and "run the same command again" in text
    assert os.listdir(place) == ["archives"]
    asked = len(server.asked)
    grow()
    assert fetch_dataset(flowers, str(place), mirror=server.url)["images"] == 6
    begins = [wanted for path, wanted in server.asked[asked:] if path == FLOWERS]
    assert all(wanted is not None for wanted in begins)


def test_a_disk_that_is_too_small_is_refused_before_anything_is_asked_for(flowers, server, small_disk):
    text = message(StorageError, flowers, str(small_disk[0]), mirror=server.url)
    assert "flowers102 takes about 1.0 MB in" in text and "0.1 MB are free" in text and server.asked == []


def link(name, target, kind=tarfile.SYMTYPE):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info, b""


def sparse():
    """Old GNU format: a map of no data, and a size that only the unpacked file would have."""
    info = tarfile.TarInfo("jpg/image_00001.jpg")
    info.type = tarfile.GNUTYPE_SPARSE
    return info, b""


@pytest.mark.parametrize(
    ("member", "expected"),
    [
        (("../outside.jpg", b"x"), "outside"),
        (("/jpg/image_00001.jpg", b"x"), "'/jpg/image_00001.jpg'"),
        (("//jpg/image_00001.jpg", b"x"), "'//jpg/image_00001.jpg'"),
        (("jpg/../../outside.jpg", b"x"), "outside"),
        (("jpg/../image_00001.jpg", b"x"), "'jpg/../image_00001.jpg'"),
        (link("jpg/image_00001.jpg", "/etc/passwd"), "absolute path"),
        (link("jpg/image_00001.jpg", "../../outside"), "outside"),
        (link("jpg/image_00001.jpg", "", tarfile.CHRTYPE), "special file"),
        (sparse(), "sparse"),
        (("jpg/image_00001.jpg", bytes(3 * 10**6)), "at most 2,000,000 bytes"),
    ],
)  # fmt: skip
def test_what_an_archive_must_not_hold_is_refused(server, tmp_path, member, expected):
    contents = (pack([member]), *CONTENTS["flowers102"]()[1:])
    dataset, served = tiny("flowers102", contents)
    server.served |= served
    out = tmp_path / "in" / "out"
    assert expected in message(DataError, dataset, str(out), mirror=server.url)
    assert os.listdir(out) == ["archives"] and os.listdir(tmp_path) == ["in"] and os.listdir(tmp_path / "in") == ["out"]


def read_bytes(archive):
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        yield from ((member.name, tar.extractfile(member).read()) for member in tar if member.isfile())


@pytest.mark.parametrize("share", [0.2, 0.9])
def test_an_archive_that_is_cut_short_is_an_error(server, tmp_path, share):
    photos, *rest = CONTENTS["flowers102"]()
    dataset, served = tiny("flowers102", (photos[: int(share * len(photos))], *rest))
    server.served |= served
    assert "it is damaged" in message(DataError, dataset, str(tmp_path), mirror=server.url)


@pytest.mark.parametrize(("name", "at", "lost", "expected"), [
    ("flowers102", 0, "image_00004", "1 more files in"),
    ("oxford_iiit_pet", 0, "Abyssinian_3.jpg", "such as images/Abyssinian_3.jpg"),
    ("oxford_iiit_pet", 1, "trimaps/Abyssinian_3", "such as annotations/trimaps/Abyssinian_3.png"),
    ("oxford_iiit_pet", 1, "test.txt", "such as annotations/test.txt"),
    ("lfw_people", 0, "Bob_0002", "number 2 of Bob"),
    ("cifar10", 0, "data_batch_4", "such as data_batch_4.bin"),
])  # fmt: skip
def test_a_file_that_an_archive_lacks_is_named(server, tmp_path, name, at, lost, expected):
    contents = list(CONTENTS[name]())
    contents[at] = pack([(inner, data) for inner, data in read_bytes(contents[at]) if lost not in inner])
    dataset, served = tiny(name, tuple(contents))
    server.served |= served
    assert expected in message(DataError, dataset, str(tmp_path), mirror=server.url)
    assert os.listdir(tmp_path) == ["archives"]


def test_archives_can_be_thrown_away(flowers, server, tmp_path):
    fetch_dataset(flowers, str(tmp_path), mirror=server.url, keep_archives=False)
    assert os.listdir(tmp_path / "archives") == [".lock"]
    assert not fetch_dataset(flowers, str(tmp_path))["new"]


def test_what_is_there_by_that_name_is_not_touched(flowers, server, tmp_path):
    (tmp_path / "flowers102").mkdir()
    (tmp_path / "flowers102" / "mine.txt").write_text("mine")
    assert "did not make" in message(OptionError, flowers, str(tmp_path), mirror=server.url)
    assert os.listdir(tmp_path / "flowers102") == ["mine.txt"] and server.asked == []


def test_options_that_cannot_be_are_refused(flowers, tmp_path):
    assert "on a disk of this machine" in message(OptionError, flowers, "memory://x")
    for mirror in ("example.org", "ftp://example.org", "http:///x"):
        assert repr(mirror) in message(OptionError, flowers, str(tmp_path), mirror=mirror)


def test_a_disk_without_hard_links_holds_a_copy(small_disk, tmp_path):
    (tmp_path / "a").write_bytes(b"photo")
    link_or_copy(tmp_path / "a", small_disk[0] / "in" / "b")  # another disk: no link can lead there
    assert (small_disk[0] / "in" / "b").read_bytes() == b"photo"


def test_the_command_prints_one_object(flowers, server, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(DATASETS, "flowers102", flowers)
    monkeypatch.setenv("CNNRAY_DATA_MIRROR", server.url)
    monkeypatch.setenv("CNNRAY_MIRROR", "no")  # meant for another command, whose pictures it mirrors
    found, shown = run_command(["data", "fetch", "flowers102", "--out", tmp_path / "a b"], capsys)
    assert {"name", "out", "images", "classes", "bytes", "next", "licence", "citation"} <= found.keys()
    assert found["next"] == f"cnnray features build '{tmp_path}/a b/flowers102' --out runs/flowers102"
    assert f"6 images of 4 classes in {tmp_path}/a b/flowers102" in shown and "next: cnnray features" in shown
    _, shown = run_command(["data", "fetch", "flowers102", "--out", tmp_path / "a b"], capsys)
    assert "complete already" in shown


def test_an_unknown_name_lists_the_known_ones(capsys):
    _, shown = run_command(["data", "fetch", "imagenet", "--out", "x"], capsys, code=2)
    assert "known: flowers102, oxford_iiit_pet, voc2007, voc2012, lfw_people, cifar10" in shown


def test_the_catalogue_is_what_others_publish():
    flowers = published.Flowers102
    known = {f"{flowers._download_url_prefix}{name}": md5 for name, md5 in flowers._file_dict.values()}
    known |= dict(published.OxfordIIITPet._RESOURCES)
    known |= {entry["url"]: entry["md5"] for entry in DATASET_YEAR_DICT.values()}
    known |= {f"{_LFW.download_url_prefix}{name}": md5 for _, name, md5 in _LFW.file_dict.values()}
    known |= {f"{_LFW.download_url_prefix}{name}": md5 for name, md5 in _LFW.checksums.items()}
    archives = [archive for dataset in DATASETS.values() for archive in dataset.archives]
    # torchvision has CIFAR-10 as a pickle only: its page states the md5 of this one
    compared = [archive for archive in archives if archive.name != "cifar-10-binary.tar.gz"]
    assert [archive.md5 for archive in compared] == [known[archive.urls[-1]] for archive in compared]
    lfw = {entry.url: entry.checksum for entry in (scikit_lfw.ARCHIVE, *scikit_lfw.TARGETS)}
    people = DATASETS["lfw_people"].archives
    assert [archive.sha256 for archive in people] == [lfw[archive.urls[0]] for archive in people]


@pytest.mark.parametrize("name", DATASETS)
def test_an_entry_of_the_catalogue_is_whole(name):
    dataset = DATASETS[name]
    assert dataset.name == name and dataset.licence and dataset.citation
    assert dataset.unpacked_bytes > sum(archive.num_bytes for archive in dataset.archives)
    for archive in dataset.archives:
        assert all(urlsplit(url).scheme in ("https", "http") for url in archive.urls)
        assert (len(archive.md5), len(archive.sha256)) == (32, 64) and int(archive.md5 + archive.sha256, 16)
    for command in dataset.commands:
        words = shlex.split(command.format(out="data/set"))
        assert words[0] == "cnnray"
        app.parse_args(words[1:], exit_on_error=False, print_error=False)
