"""COCO, VOC and YOLO: round trips of every box, what is broken, and files that are not what they seem."""

import json
import math
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from cnnray.config import BoxesConfig, SplitConfig
from cnnray.data.annotations import CODES, RawBox, RawImage, gather, sound
from cnnray.data.convert import convert_boxes, split_boxes
from cnnray.data.formats import FORMATS, read_annotations, write_annotations
from cnnray.errors import DataError, OptionError, QuarantineError, UnknownNameError

NAMES = ("cat", "dog & cat", "ü: 3")
SPLITS = ("train", "val", "test")
FOLDERS = {"coco": "images", "voc": "JPEGImages", "yolo": "images"}


def save_image(path, width, height):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(path)


def made(root, images, names=NAMES):
    """Annotations of (id, split, width, height, boxes) with pictures on disk."""
    raw = []
    for name, split, width, height, boxes in images:
        save_image(root / name, width, height)
        raw.append(RawImage(name, str(root / name), split, height, width, [RawBox(*box) for box in boxes]))
    return gather(raw, names, [], "coco")


def written(annotations, root, kind):
    write_annotations(annotations, str(root), kind)
    for name, path in zip(*(annotations.table[c].to_pylist() for c in ("id", "path")), strict=True):
        target = root / FOLDERS[kind] / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(path)
    return read_annotations(str(root))


def assert_same(found, expected, kind):
    assert found.format == kind and found.problems == ()
    rows = zip(found.table.to_pylist(), expected.table.to_pylist(), strict=True)
    for ours, theirs in rows:
        assert [ours[c] for c in ("id", "split", "height", "width")] == [
            theirs[c] for c in ("id", "split", "height", "width")
        ]
        assert len(ours["boxes"]) == len(theirs["boxes"])
        if ours["boxes"]:
            assert np.abs(np.array(ours["boxes"]) - np.array(theirs["boxes"])).max() <= 0.5
        names = [
            [part.categories[label] for label in row["labels"]] for part, row in ((found, ours), (expected, theirs))
        ]
        assert names[0] == names[1]
        assert (ours["crowd"], ours["difficult"]) == (theirs["crowd"], theirs["difficult"])


IMAGES = [
    ("a.png", "train", 640, 480, [(0, 0, 640, 480, 0, ""), (10.25, 20.5, 10.75, 400, 1, "")]),
    ("sub/b.png", "val", 33, 77, [(1, 1, 2, 2, 2, "", True, False), (3, 3, 30, 70, 2, "", False, True)]),
    ("c.png", "test", 5, 5, []),
    ("d.png", "train", 1, 1, [(0, 0, 1, 1, 0, "")]),
]


@pytest.mark.parametrize("kind", FORMATS)
def test_every_box_comes_back(tmp_path, kind):
    annotations = made(tmp_path / "photos", IMAGES)
    found = written(annotations, tmp_path / kind, kind)
    assert_same(found, annotations, kind)
    again = written(found, tmp_path / "again", kind)
    assert again.table["boxes"].to_pylist() == found.table["boxes"].to_pylist() or kind == "yolo"


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_boxes_come_back_from_any_format(tmp_path_factory, data):
    tmp_path = tmp_path_factory.mktemp("any")
    images = []
    for number in range(data.draw(st.integers(1, 3))):
        width, height = (data.draw(st.integers(1, 3000)) for _ in range(2))
        boxes = []
        for _ in range(data.draw(st.integers(0, 4))):
            x, y = (sorted(data.draw(st.lists(st.floats(0, side), min_size=2, max_size=2))) for side in (width, height))
            if x[1] - x[0] > 0.02 and y[1] - y[0] > 0.02:
                boxes.append((x[0], y[0], x[1], y[1], data.draw(st.integers(0, 2)), ""))
        images.append((f"{number}.png", "", width, height, boxes))
    if not any(boxes for *_, boxes in images):
        images.append(("z.png", "", 10, 10, [(1, 1, 5, 5, 0, "")]))
    annotations = made(tmp_path / "photos", images)
    for kind in FORMATS:
        assert_same(written(annotations, tmp_path / kind, kind), annotations, kind)


@pytest.mark.parametrize(
    "box, code",
    [
        ((math.nan, 0, 5, 5, 0), "not_a_number"),
        ((0, 0, math.inf, 5, 0), "not_a_number"),
        ((5, 0, 2, 5, 0), "swapped"),
        ((5, 5, 5, 9, 0), "empty"),
        ((200, 200, 210, 210, 0), "outside"),
        ((-20, -20, 0, 0, 0), "outside"),
        ((0, 0, 5, 5, None), "unknown_category"),
        ((-5, 2, 50, 120, 0), "clipped"),
        ((-0.005, 2, 50, 60, 0), ""),
    ],
)
def test_what_becomes_of_a_broken_box(box, code):
    problems = []
    image = RawImage("a.jpg", "a.jpg", "", 100, 100)
    kept = sound(RawBox(*box, "box 7"), image, problems)
    assert [problem.code for problem in problems] == ([code] if code else [])
    assert all(CODES[problem.code] in problem.message and "box 7" in problem.message for problem in problems)
    assert (kept is None) == (code not in ("clipped", ""))
    if code == "clipped":
        assert (kept.x1, kept.y1, kept.x2, kept.y2, kept.area) == (0, 2, 50, 100, 50 * 98)


def coco(tmp_path, **changes):
    save_image(tmp_path / "images" / "a.png", 100, 80)
    content = {
        "images": [{"id": 7, "file_name": "a.png", "width": 100, "height": 80}],
        "annotations": [{"id": 1, "image_id": 7, "category_id": 3, "bbox": [1, 2, 3, 4]}],
        "categories": [{"id": 3, "name": "cat"}, {"id": 90, "name": "dog"}],
    }
    (tmp_path / "labels.json").write_text(json.dumps(content | changes))
    return str(tmp_path / "labels.json")


def note(**changes):
    return {"id": 1, "image_id": 7, "category_id": 3, "bbox": [1, 2, 3, 4]} | changes


def test_coco_numbers_and_outlines_are_kept(tmp_path):
    source = coco(tmp_path, annotations=[note(category_id=90, area=5.5, iscrowd=1), note(id=2)])
    found = read_annotations(source)
    assert found.category_ids == (3, 90) and found.table["labels"].to_pylist() == [[1, 0]]
    assert found.table["areas"].to_pylist() == [[5.5, 12]] and found.table["crowd"].to_pylist() == [[True, False]]
    write_annotations(found, str(tmp_path / "out"), "coco")
    again = read_annotations(str(tmp_path / "out" / "annotations.json"), str(tmp_path / "images"))
    assert again.table.equals(found.table) and again.category_ids == (3, 90)


@pytest.mark.parametrize(
    "annotation, code, words",
    [
        (note(category_id=4), "unknown_category", "annotation 1 of category 4"),
        (note(image_id=99), "no_image", "annotation 1 is of image 99, which is not in the file"),
        (note(bbox=[5, 5, -3, 4]), "swapped", "negative size"),
        (note(bbox=[5, 5, None, 4]), "not_a_number", "annotation 1"),
        (note(bbox=[5, 5, 4]), "bad_line", "annotation 1 cannot be read"),
        (note(bbox="wide"), "bad_line", "annotation 1 cannot be read"),
        ("what", "bad_line", "'what'"),
    ],
)
def test_bad_coco_annotations_are_told_and_the_rest_is_read(tmp_path, annotation, code, words):
    found = read_annotations(coco(tmp_path, annotations=[note(id=5), annotation]))
    assert found.codes == {code: 1} and words in found.problems[0].message
    assert found.num_boxes == 1


@pytest.mark.parametrize(
    "content, words",
    [
        (b"\xff\xd8\xff\xe0 not json", "is no JSON"),
        (b"[1, 2]", "no list of images, annotations, categories"),
        (b'{"images": [], "annotations": []}', "no list of categories"),
        (b'{"images": [{"id": 1}], "annotations": [], "categories": []}', "file_name"),
        (b'{"images": [], "annotations": [], "categories": []}', "found none"),
        (
            b'{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "a"}]}',
            "different",
        ),
    ],
)
def test_what_is_no_coco_file_is_told(tmp_path, content, words):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(DataError, match=words):
        read_annotations(str(tmp_path / "a.json"))


def xml(*objects, size=(100, 80), filename="a.png"):
    root = ElementTree.Element("annotation")
    ElementTree.SubElement(root, "filename").text = filename
    sides = ElementTree.SubElement(root, "size")
    for name, value in zip(("width", "height"), size, strict=True):
        ElementTree.SubElement(sides, name).text = str(value)
    for label, *corners in objects:
        entry = ElementTree.SubElement(root, "object")
        ElementTree.SubElement(entry, "name").text = label
        box = ElementTree.SubElement(entry, "bndbox")
        for name, value in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True):
            ElementTree.SubElement(box, name).text = str(value)
    return ElementTree.tostring(root).decode()


def voc(tmp_path, *files):
    (tmp_path / "Annotations").mkdir()
    for name, text in files:
        (tmp_path / "Annotations" / name).write_text(text)
    save_image(tmp_path / "JPEGImages" / "a.png", 100, 80)
    return str(tmp_path)


def test_voc_counts_from_one_unless_a_zero_occurs(tmp_path):
    one = read_annotations(voc(tmp_path, ("a.xml", xml(("cat", 1, 1, 100, 80)))))
    assert one.table["boxes"].to_pylist() == [[[0, 0, 100, 80]]] and one.categories == ("cat",)
    (tmp_path / "Annotations" / "a.xml").write_text(xml(("cat", 0, 5, 100, 80), ("dog", 1, 1, 50, 50)))
    zero = read_annotations(str(tmp_path))
    assert zero.table["boxes"].to_pylist() == [[[0, 5, 100, 80], [1, 1, 50, 50]]]


@pytest.mark.parametrize(
    "text, code, words",
    [
        ("<annotation><object>", "bad_annotation", "no element found"),
        ("<html></html>", "bad_annotation", "<html>, not <annotation>"),
        ("not xml", "bad_annotation", "syntax error"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><annotation/>', "bad_annotation", "declares entities"),
        (xml(("cat", "x", 1, 2, 2), filename="b.png"), "no_image", "expected an image b.png"),
    ],
)
def test_bad_voc_files_are_told_and_the_rest_is_read(tmp_path, text, code, words):
    found = read_annotations(voc(tmp_path, ("a.xml", xml(("cat", 5, 5, 50, 50))), ("b.xml", text)))
    assert found.codes == {code: 1} and words in found.problems[0].message and found.num_boxes == 1


def test_bad_numbers_in_a_voc_file_cost_their_box(tmp_path):
    text = xml(("cat", 5, 5, 50, 50), ("cat", "x", 5, 50, 50), ("cat", 60, 5, 50, 50), ("", 5, 5, 50, 50))
    found = read_annotations(voc(tmp_path, ("a.xml", text)))
    assert found.codes == {"not_a_number": 1, "swapped": 1, "unknown_category": 1} and found.num_boxes == 1


def test_an_image_that_no_voc_file_speaks_of_is_told(tmp_path):
    source = voc(tmp_path, ("a.xml", xml(("cat", 5, 5, 50, 50))))
    save_image(tmp_path / "JPEGImages" / "lost.png", 10, 10)
    found = read_annotations(source)
    assert found.codes == {"no_annotation": 1} and found.problems[0].id == "lost.png"


def yolo(tmp_path, text, names="names: [cat, dog]"):
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text(text)
    (tmp_path / "data.yaml").write_text(names)
    save_image(tmp_path / "images" / "a.png", 100, 80)
    return str(tmp_path)


def test_yolo_lines_and_outlines(tmp_path):
    found = read_annotations(yolo(tmp_path, "0 0.5 0.5 1 1\n\n1 0.1 0.1 0.5 0.1 0.3 0.25\n"))
    assert np.allclose(found.table["boxes"].to_pylist()[0], [[0, 0, 100, 80], [10, 8, 50, 20]], atol=1e-3)


@pytest.mark.parametrize(
    "line, code",
    [
        ("0 0.5 0.5 1", "bad_line"),
        ("cat 0.5 0.5 1 1", "bad_line"),
        ("7 0.5 0.5 1 1", "unknown_category"),
        ("-1 0.5 0.5 1 1", "unknown_category"),
        ("0.5 0.5 0.5 1 1", "unknown_category"),
        ("0 nan 0.5 1 1", "not_a_number"),
        ("0 0.5 0.5 -0.2 0.1", "swapped"),
        ("inf 0.5 0.5 1 1", "bad_line"),
    ],
)
def test_bad_yolo_lines_are_told_and_the_rest_is_read(tmp_path, line, code):
    found = read_annotations(yolo(tmp_path, f"{line}\n1 0.5 0.5 0.5 0.5\n"))
    assert found.codes == {code: 1} and found.num_boxes == 1


@pytest.mark.parametrize(
    "names, words",
    [
        ("nc: 2", "a list names"),
        ("names: {0: a, 2: b}", "by numbers from 0 on"),
        ("- what", "cannot be read"),
        ("names: [", "cannot be read"),
        ("names: [cat, '', dog]", "a name for every class in .*, but number 1 has none"),
        ("names: {0: cat, 1: null, 2: dog}", "a name for every class in .*, but number 1 has none"),
    ],
)
def test_names_that_cannot_be_read_are_told(tmp_path, names, words):
    with pytest.raises(DataError, match=words):
        read_annotations(yolo(tmp_path, "0 0.5 0.5 1 1", names))


@pytest.mark.parametrize("kind", FORMATS)
def test_names_with_spaces_and_folders_called_images_keep_their_split(tmp_path, kind):
    images = [(f"my images/my photo {n}.png", split, 9, 9, [(1, 1, 5, 5, 0, "")]) for n, split in enumerate(SPLITS)]
    expected = made(tmp_path / "images" / "photos", images)
    found = written(expected, tmp_path / "my images" / "images" / "set", kind)
    assert_same(found, expected, kind)
    assert sorted(found.table["split"].to_pylist()) == sorted(SPLITS)


@pytest.mark.parametrize("kind", ["voc", "yolo"])
def test_folders_that_are_links_are_followed(tmp_path, kind):
    expected = made(tmp_path / "photos", [(f"{part}/{part}.png", "", 9, 9, [(1, 1, 5, 5, 0, "")]) for part in "ab"])
    written(expected, tmp_path / "set", kind)
    for folder in (FOLDERS[kind], "Annotations" if kind == "voc" else "labels"):
        (tmp_path / "set" / folder / "a").rename(tmp_path / f"a {folder}")
        (tmp_path / "set" / folder / "a").symlink_to(tmp_path / f"a {folder}")
    (tmp_path / "set" / FOLDERS[kind] / "a" / "back").symlink_to(tmp_path / "set")  # a way that never ends
    assert_same(read_annotations(str(tmp_path / "set")), expected, kind)


@pytest.mark.parametrize("what", ["images", "categories"])
def test_one_id_of_several_is_told(tmp_path, what):
    entries = {
        "images": [{"id": 7, "file_name": f"{name}.png", "width": 100, "height": 80} for name in "ab"],
        "categories": [{"id": 3, "name": name} for name in ("cat", "dog")],
    }
    with pytest.raises(DataError, match=f"expected different ids of the {what} of .*labels.json"):
        read_annotations(coco(tmp_path, **{what: entries[what]}))


def test_other_folders_are_told(tmp_path):
    with pytest.raises(DataError, match="there is nothing at"):
        read_annotations(str(tmp_path / "none"))
    (tmp_path / "cats").mkdir()
    with pytest.raises(DataError, match="expected a detection data set in .* it holds cats"):
        read_annotations(str(tmp_path))
    (tmp_path / "a.txt").write_text("0 0 0 0 0")
    with pytest.raises(DataError, match="a COCO file ending in .json, or a folder, got the file"):
        read_annotations(str(tmp_path / "a.txt"))
    with pytest.raises(UnknownNameError, match="format 'xls'; known: coco, voc, yolo"):
        write_annotations(made(tmp_path / "photos", IMAGES), str(tmp_path / "out"), "xls")


@pytest.mark.parametrize("kind", FORMATS)
def test_converted_with_images_and_what_was_wrong(tmp_path, kind):
    source = coco(tmp_path, annotations=[note(), note(id=2, bbox=[90, 70, 50, 50])])
    facts = convert_boxes(source, str(tmp_path / "out"), kind, BoxesConfig())
    assert facts["images"] == 1 and facts["boxes"] == 2 and facts["problems"] == {"clipped": 1}
    assert "clipped" in (tmp_path / "out" / "problems.csv").read_text()
    (tmp_path / "out" / "problems.csv").unlink()
    found = read_annotations(str(tmp_path / "out"))
    assert found.num_boxes == 2 and found.problems == () and found.format == kind
    with pytest.raises(OptionError, match="a new or empty folder"):
        convert_boxes(source, str(tmp_path / "out"), kind, BoxesConfig())


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("name", ["{root}/photos/deep/a.png", "../photos/deep/a.png"])
def test_images_that_lie_elsewhere_are_converted_into_the_new_folder_and_nowhere_else(tmp_path, kind, name):
    save_image(tmp_path / "photos" / "deep" / "a.png", 100, 80)
    source, out = tmp_path / "lists" / "all.json", tmp_path / "out"
    source.parent.mkdir()
    images = [{"id": 7, "file_name": name.format(root=tmp_path), "width": 100, "height": 80}]
    content = {"images": images, "annotations": [note()], "categories": [{"id": 3, "name": "cat"}]}
    source.write_text(json.dumps(content))
    before = set(tmp_path.rglob("*"))
    convert_boxes(str(source), str(out), kind, BoxesConfig())
    assert {path for path in tmp_path.rglob("*") if path != out and not path.is_relative_to(out)} == before
    found = read_annotations(str(out))
    (place,) = found.table["path"].to_pylist()
    assert found.num_boxes == 1 and found.problems == () and Path(place).is_relative_to(out)
    with Image.open(place) as copied:
        assert copied.size == (100, 80)


def test_a_list_without_copies_names_images_where_they_are(tmp_path):
    save_image(tmp_path / "photos" / "a.png", 100, 80)
    source = coco(tmp_path, images=[{"id": 7, "file_name": f"{tmp_path}/photos/a.png", "width": 100, "height": 80}])
    split_boxes(source, str(tmp_path / "out"), SplitConfig(split="train=1.0"), copy=False)
    assert read_annotations(str(tmp_path / "out")).table["path"].to_pylist() == [f"{tmp_path}/photos/a.png"]


def test_images_that_would_share_a_file_of_annotations_are_refused(tmp_path):
    images = [{"id": at, "file_name": name, "width": 100, "height": 80} for at, name in ((7, "a.png"), (8, "../a.png"))]
    save_image(tmp_path / "a.png", 100, 80)
    with pytest.raises(DataError, match=r"names differ in more than their suffix.*, got \.\./a\.png and a\.png"):
        convert_boxes(coco(tmp_path, images=images), str(tmp_path / "out"), "yolo", BoxesConfig())
    assert not (tmp_path / "out").exists()
    images[1]["file_name"] = "a.jpg"  # a COCO file has both
    save_image(tmp_path / "images" / "a.jpg", 100, 80)
    assert convert_boxes(coco(tmp_path, images=images), str(tmp_path / "out"), "coco", BoxesConfig())["images"] == 2


def test_too_much_that_is_broken_is_refused(tmp_path):
    source = coco(tmp_path, annotations=[note(), note(id=2, category_id=8)])
    with pytest.raises(
        QuarantineError, match=r"1 of 2 boxes \(50.0%\) cannot be used.*--max-bad 1.0%: 1 unknown_category"
    ):
        convert_boxes(source, str(tmp_path / "out"), "voc", BoxesConfig())
    assert convert_boxes(source, str(tmp_path / "out"), "voc", BoxesConfig(max_bad=0.5))["boxes"] == 1


def test_a_split_divides_every_class_alike_and_is_the_same_again(tmp_path):
    images = [
        (f"{n:03d}.png", "", 20, 20, [(1, 1, 9, 9, 0, "")] * (n % 4) + [(2, 2, 8, 8, 1, "")] * (n % 10 == 0))
        for n in range(100)
    ]
    write_annotations(made(tmp_path / "images", images, ("often", "seldom")), str(tmp_path), "coco")
    parts = []
    for out in ("one", "two"):
        facts = split_boxes(str(tmp_path), str(tmp_path / out), SplitConfig(split="train=0.7,val=0.3"), copy=False)
        assert facts["splits"] == {"train": 70, "val": 30}
        found = read_annotations(str(tmp_path / out), str(tmp_path / "images"))
        parts.append(found.table.select(["id", "split"]).to_pylist())
        seldom = [
            s
            for s, labels in zip(*(found.table[c].to_pylist() for c in ("split", "labels")), strict=True)
            if 1 in labels
        ]
        assert sorted(seldom) == ["train"] * 7 + ["val"] * 3
    assert parts[0] == parts[1]
    other = split_boxes(
        str(tmp_path), str(tmp_path / "three"), SplitConfig(split="train=0.7,val=0.3", seed=1), copy=False
    )
    assert other["splits"] == {"train": 70, "val": 30}
    three = (
        read_annotations(str(tmp_path / "three"), str(tmp_path / "images")).table.select(["id", "split"]).to_pylist()
    )
    assert three != parts[0]
