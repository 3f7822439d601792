"""Figures and pages of embeddings that are made up."""

import io

import numpy as np
import pytest
from PIL import Image

from cnnray.data.face_judges import GalleryJudge, PairJudge, in_unit, to_unit
from cnnray.data.face_pairs import FacePairs
from cnnray.data.face_sections import gallery_sections, pair_sections, side_by_side
from cnnray.data.meant_faces import MeantFaces
from cnnray.errors import DataError
from cnnray.nn.embedders import VerificationHead
from cnnray.page import render_page


def made_up(angles, labels):
    """Embeddings on a circle, in degrees; NaN is an image without a face."""
    radians = np.radians(np.array(angles, np.float32))
    ids = tuple(f"{label}/{at}.jpg" for at, label in enumerate(labels))
    points = np.stack([np.cos(radians), np.sin(radians)], 1)
    nowhere = np.full((len(ids), 5, 2), np.nan, np.float32)
    return MeantFaces(ids, ids, np.array(labels), points, nowhere, {}, {})


def made_pairs(faces, pairs):
    a, b, same = zip(*pairs, strict=True)
    names_a, names_b = (tuple(faces.ids[at] for at in side) for side in (a, b))
    folds = np.arange(len(a)) % 2
    return FacePairs(names_a, names_b, names_a, names_b, np.array(same), folds)


FACES = made_up([0, 5, 90, 100, 92, np.nan], ["a", "a", "b", "b", "c", "c"])
PAIRS = [(0, 1, True), (2, 3, True), (4, 5, True), (0, 2, False), (2, 4, False), (1, 3, False)]


def test_pairs_are_ordered_by_how_wrong_they_are():
    judge = PairJudge(FACES, made_pairs(FACES, PAIRS), None)
    assert judge.worst(9, same=True) == [1, 0]  # the third has no face
    assert judge.worst(2, same=False) == [4, 3]
    assert judge.measured(1) == f"distance {2 * np.sin(np.radians(5)):.3f}"
    assert judge.figures["num_not_found"] == 1 and judge.figures["auc"] == pytest.approx((2 + 2 + 0) / 9)


def test_a_head_gives_probabilities():
    head = VerificationHead(2).requires_grad_(False)
    judge = PairJudge(FACES, made_pairs(FACES, PAIRS), head)
    logit = 4 - 4 * np.abs(FACES.embeddings_ND[0] - FACES.embeddings_ND[1]).sum()
    assert judge.measured(0) == f"probability {1 / (1 + np.exp(-logit)):.3f}"
    page = render_page("x", pair_sections(judge, FACES, "name", 2))
    assert "probability from" in page and "logit" not in page.split("data:image")[0]


def test_units():
    assert in_unit({"threshold": -0.4, "tar_threshold": None, "tar": 0.5}, "distance") == {
        "threshold": 0.4,
        "tar_threshold": None,
        "tar": 0.5,
    }
    assert to_unit(0.0, "probability") == 0.5 and 0 <= to_unit(-900.0, "probability") < 1e-9


def test_images_that_the_run_does_not_know():
    with pytest.raises(DataError, match="1 of 2 are others, such as a/7.jpg"):
        others = FacePairs(("a/0.jpg",), ("a/7.jpg",), ("a/0.jpg",), ("a/7.jpg",), np.array([True]), np.array([0]))
        PairJudge(FACES, others, None)


def test_who_was_taken_for_whom():
    faces = made_up([0, 30, 40, 90, 91, 95], ["a", "b", "a", "c", "b", "c"])
    judge = GalleryJudge(faces, 0.5, 0)
    # of a's second image b is nearer; of b's second c is, by more
    assert judge.mistaken(9) == [(4, 3, 1, 2), (2, 1, 0, 2)] and judge.mistaken(1) == [(4, 3, 1, 2)]
    assert judge.closed["rank_1"] == pytest.approx(1 / 3) and judge.closed["rank_5"] == 1
    assert judge.distance(0, 3) == pytest.approx(np.sqrt(2))


def test_people_without_a_face_in_the_gallery_are_never_found():
    judge = GalleryJudge(made_up([np.nan, 0, 0, 50, 51], ["a", "a", "a", "b", "b"]), 0.5, 0)
    assert judge.closed["num_not_enrolled"] == 1 and judge.closed["rank_5"] == pytest.approx(1 / 3)
    assert judge.mistaken(9) == []


def test_a_page_about_nobody_missed_has_no_empty_picture():
    faces = made_up([0, 1, 90, 91, 180, 181, 270, 271], list("aabbccdd"))
    page = render_page("x", gallery_sections(GalleryJudge(faces, 0.5, 0), faces, "name", 4))
    assert "Who is it, or a stranger?" in page and "<img" not in page


def test_faces_stand_side_by_side():
    crops = [np.full((150, 150, 3), value, np.uint8) for value in (10, 120, 240)]
    picture = np.asarray(Image.open(io.BytesIO(side_by_side(crops))))
    assert picture.shape == (150, 458, 3)
    assert [int(picture[75, x].mean()) for x in (75, 229, 383)] == pytest.approx([10, 120, 240], abs=3)
