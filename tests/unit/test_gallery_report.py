"""The page of a calibration, on people who are made up."""

import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

from cnnray.data.gallery_report import (
    calibration_sections,
    fnir_picture,
    fpir_picture,
    size_picture,
    write_gallery_report,
)
from cnnray.infer.gallery.calibrate import CalibrationPlan, calibrate
from cnnray.page import Picture, Table, render_page


def calibrated(count=200, faces=2, fpir=0.1, twice=0):
    rng = np.random.default_rng(0)
    points = np.repeat(rng.standard_normal((count, 32)), faces, axis=0)
    points += 0.4 * rng.standard_normal(points.shape)
    points = np.concatenate([points, points[:twice]])
    ids = np.concatenate([np.repeat(np.arange(count), faces), 1000 + np.arange(twice)])
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    return calibrate(points.astype(np.float32), ids, CalibrationPlan(fpir=fpir), at="2026-01-02")


CASES = {
    "plain": calibrated(),
    "no_mated": calibrated(faces=1),
    "extrapolated": calibrated(fpir=0.001),
    "two_people": calibrated(count=2, faces=1),
    "twice": calibrated(twice=3),
    "nobody_missed": dataclasses.replace(
        calibrated(), curve=tuple(dataclasses.replace(row, fnir=0.0, fnir_low=0.0) for row in calibrated().curve)
    ),
}


def tables(sections, title):
    return [part for section in sections if section.title == title for part in section.parts if isinstance(part, Table)]


@pytest.mark.parametrize("case", CASES)
def test_pages_of_all_kinds(case):
    sections = calibration_sections(CASES[case], {})
    page = render_page("x", sections)
    assert f"{CASES[case].threshold:.4f}" in page and ">nan" not in page
    for section in sections:
        for part in section.parts:
            if isinstance(part, Picture):
                assert Image.open(io.BytesIO(part.content)).size == (960, 504)
            if isinstance(part, Table):
                assert all(len(row) == len(part.header) for row in part.rows)
    titles = [section.title for section in sections]
    assert ("People missed" in titles) == (case not in ("no_mated", "two_people"))
    assert ("cannot be measured" in page) == (case in ("extrapolated", "two_people"))
    assert ("Join such entries" in page) == (case == "twice")


def test_pictures_show_what_changes():
    own = CASES["plain"]
    moved = dataclasses.replace(own, threshold=own.threshold + 0.05, high=own.high + 0.06)
    assert fpir_picture(own) != fpir_picture(moved) and size_picture(own) != size_picture(moved)
    assert fnir_picture(own.curve) != fnir_picture(own.curve[:-1])
    assert fpir_picture(own) == fpir_picture(own)


def test_table_has_a_row_for_each_of_the_curve():
    own = CASES["plain"]
    (table,) = tables(calibration_sections(own, {}), "People missed")
    assert len(table.rows) == len(own.curve)
    assert table.rows[0][:2] == (200, "0.1") and table.rows[0][4] == own.curve[-3].fnir


def test_suspects_have_names(tmp_path):
    own = CASES["twice"]
    (table,) = tables(calibration_sections(own, {0: "Ann <Lee>", 1000: "A. Lee"}), "May be one person")
    assert any({"Ann <Lee>", "A. Lee"} == set(row[:2]) and row[-1] == "doubtful" for row in table.rows)
    assert any({"1", "1001"} & set(row[:2]) for row in table.rows)
    uri = str(tmp_path / "report.html")
    write_gallery_report(uri, own, {0: "Ann <Lee>"}, "staff")
    text = (tmp_path / "report.html").read_text()
    assert "Threshold of the gallery staff" in text and "2026-01-02" in text
    assert "Ann &lt;Lee&gt;" in text and "<Lee>" not in text
