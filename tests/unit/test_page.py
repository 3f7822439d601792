"""Report pages and the pictures in them."""

import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from cnnray.ops.costs import LayerCosts
from cnnray.page import Gallery, Numbers, Picture, Section, Table, Text, render_page, write_page
from cnnray.report import (
    classification_sections,
    confusion_picture,
    cost_section,
    picture_grid,
    precision_recall_picture,
    training_curves,
)

EVIL = '<script>alert("x")</script> & "quotes"'


def png(size=(4, 3)):
    sink = io.BytesIO()
    Image.new("RGB", size, (200, 30, 30)).save(sink, "PNG")
    return sink.getvalue()


def opened(content):
    image = Image.open(io.BytesIO(content))
    image.load()
    return image


class Balance(HTMLParser):
    """Fails on a tag that is closed in the wrong place."""

    VOID = frozenset({"meta", "img", "link", "br"})

    def __init__(self):
        super().__init__()
        self.stack = []

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag


def test_a_page_holds_every_kind_of_part_and_nothing_from_elsewhere(tmp_path):
    parts = [
        Text("a paragraph"),
        Numbers({"accuracy": 0.98765, "images": 12345, "network": "lite0", "rate": 1234.5}),
        Picture(png(), "a caption"),
        Gallery([Picture(png(), "one"), Picture(b"\xff\xd8 jpeg", "two")]),
        Table(("class", "F1", "images"), [("cat", 0.5, 3), ("dog", "–", 0)], frozenset({"F1"})),
    ]
    write_page(str(tmp_path / "page.html"), "Title", [Section("First", parts), Section("", [Text("end")])], "subtitle")
    page = (tmp_path / "page.html").read_text()
    balance = Balance()
    balance.feed(page)
    assert balance.stack == []
    for expected in (
        "a paragraph",
        "0.9877",
        "12,345",
        "1,234.5",
        "lite0",
        "a caption",
        "width:50.0%",
        "–",
        "subtitle",
    ):
        assert expected in page
    assert page.count("data:image/png;base64,") == 2 and page.count("data:image/jpeg;base64,") == 1
    assert page.count("<h2>") == 1
    assert not re.search(r"(src|href)=\"(?!data:)|url\(|@import|<script", page)


def test_names_from_a_data_set_cannot_become_markup():
    parts = [Text(EVIL), Numbers({EVIL: EVIL}), Picture(png(), EVIL), Table((EVIL,), [(EVIL,)])]
    page = render_page(EVIL, [Section(EVIL, parts)], EVIL)
    assert "<script" not in page
    assert page.count("&lt;script&gt;") == 4 + 1 + 2 + 2 + 2  # heads, text, numbers, alt and caption, table


def test_a_table_without_rows_is_a_header():
    assert "<th>class</th>" in render_page("t", [Section("s", [Table(("class",), [])])])


@pytest.mark.parametrize("num", [1, 2, 50])
def test_curves_are_pictures(num):
    rows = [{"train_loss": 1 / (i + 1), "val_loss": 1.0, "train_score": 0.5, "val_score": 0.5} for i in range(num)]
    assert opened(training_curves(rows, num - 1)).width > 800


@pytest.mark.parametrize("num", [2, 10, 81, 130])
def test_confusions_are_drawn_for_few_and_many_classes(num):
    matrix = np.diag(np.arange(num)) + 1
    image = opened(confusion_picture(matrix, [f"class {i}" for i in range(num)]))
    assert 600 < image.width < 2000 and 600 < image.height < 2000


def test_a_sure_diagonal_is_dark_and_the_rest_is_light():
    image = np.asarray(opened(confusion_picture(np.eye(30, dtype=np.int64) * 5, ["x"] * 30)).convert("L"))
    dark = (image < 80).mean()
    light = (image > 200).mean()
    assert 0.005 < dark < 0.1 and light > 0.8


def test_the_sections_say_what_the_metrics_say():
    # class c has no images; a was taken for b once
    probabilities = np.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0], [0.1, 0.9, 0.0], [0.3, 0.7, 0.0]])
    sections = {s.title: s.parts[0] for s in classification_sections(probabilities, np.array([0, 0, 1, 1]), "abc")}
    assert sections["Result"].values["accuracy"] == 0.75
    assert sections["Most frequent confusions"].rows == [("a", "b", 1)]
    assert sections["Classes"].rows[0] == ("a", 1.0, 0.5, pytest.approx(2 / 3), 2)
    assert sections["Classes"].rows[2] == ("c", "–", "–", "–", 0)
    assert "Surest mistakes" not in sections


def test_a_perfect_classifier_has_no_confusions():
    titles = [s.title for s in classification_sections(np.eye(3), np.arange(3), "abc", [Picture(png())])]
    assert titles == ["Result", "Confusion matrix", "Surest mistakes", "Classes"]


# --- costs of a network --------------------------------------------------------------------------------------------


def layer(name, output=(8, 4, 4), params=1_000, macs=2_000_000, size=5_000):
    return LayerCosts(name, "Conv2d", output, params, macs, size, 32_000)


def test_costs_are_summed_by_stage():
    rows = [
        layer("stem.0"),
        layer("stage1.0.conv", macs=6_000_000),
        layer("stage1.1", params=3_000),
        layer("logits", (10,)),
    ]
    section = cost_section(rows)
    numbers, *_, table = section.parts
    assert numbers.values == {
        "parameters": "6 k", "multiply-accumulates": "12 M", "weights": "0.0 MB", "activations": "0.1 MB",
        "layers": 4, "stages": 3,
    }  # fmt: skip
    assert [row[0] for row in table.rows] == ["stem", "stage1", "logits", "all"]
    assert table.rows[1][1:5] == ["8 x 4 x 4", 2, 4_000, 8_000_000]
    assert table.rows[1][5:] == [0.01, 0.064, pytest.approx(8 / 12)]
    assert table.rows[-1][1:5] == ["10", 4, 6_000, 12_000_000] and table.rows[-1][-1] == 1
    assert render_page("t", [section]).count("<figure>") == 2


@pytest.mark.parametrize("num", [1, 2, 15, 150])
def test_costs_are_drawn_for_few_and_many_stages(num):
    rows = [layer(f"stage{stage}.{part}", macs=0 if num == 1 else 1_000) for stage in range(num) for part in range(3)]
    pictures = [opened(part.content) for part in cost_section(rows).parts if isinstance(part, Picture)]
    assert len(pictures) == 2
    assert all(image.width == 1200 and 60 < image.height <= 2200 for image in pictures)


@pytest.mark.parametrize("num", [4, 30])
def test_names_are_no_formulas(num):
    names = [f"{name}{at}" for at, name in zip(range(num), ["$5_$10", "a$_$", "$$", "$\\frac$"] * 8, strict=False)]
    opened(confusion_picture(np.eye(num, dtype=np.int64), names))
    opened(precision_recall_picture(np.ones((num, 11)), names))
    opened(picture_grid([[np.zeros((8, 8, 3), np.uint8)] * num], names))
