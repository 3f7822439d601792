import pytest
import torch

from cnnray.ops.assign import CROWD, PADDING
from cnnray.ops.detections import Candidates, Found, match, pick, picture_precision, to_rows


def found(*rows):
    boxes = torch.tensor([row[:4] for row in rows], dtype=torch.float32).reshape(-1, 4)
    return Found(boxes, torch.tensor([float(row[4]) for row in rows]), torch.tensor([row[5] for row in rows]).long())


def objects(*rows):
    boxes = torch.tensor([row[:4] for row in rows], dtype=torch.float32).reshape(-1, 4)
    return boxes, torch.tensor([row[4] for row in rows]).long()


TRUTH = objects((0, 0, 10, 10, 0), (20, 0, 30, 10, 1))


@pytest.mark.parametrize(
    "answers, expected",
    [
        ([(0, 0, 10, 10, 0.9, 0), (20, 0, 30, 10, 0.8, 1)], 1.0),
        ([(0, 0, 10, 10, 0.9, 0)], 0.5),  # one of two is found
        ([(50, 50, 60, 60, 0.95, 0), (0, 0, 10, 10, 0.9, 0)], 0.25),  # precision 1/2 at recall 1/2
        ([(0, 0, 10, 10, 0.9, 1)], 0.0),  # another class
        ([(0, 0, 10, 10, 0.9, 0), (0, 0, 10, 10, 0.8, 0)], 0.5),  # found twice counts once
        ([(0, 0, 10, 5, 0.9, 0)], 0.5),  # IoU exactly 0.5
        ([(0, 0, 10, 4.9, 0.9, 0)], 0.0),
        ([], 0.0),
    ],
)
def test_precision_of_a_picture_that_can_be_counted_by_hand(answers, expected):
    assert picture_precision(found(*answers), *TRUTH) == pytest.approx(expected)


def test_a_picture_without_objects():
    nothing = objects()
    assert picture_precision(found(), *nothing) == 1
    assert picture_precision(found((0, 0, 5, 5, 0.25, 0)), *nothing) == pytest.approx(0.75)
    assert picture_precision(found(), *objects((0, 0, 0, 0, PADDING))) == 1


def test_answers_in_a_crowd_do_not_count():
    truth = objects((0, 0, 10, 10, 0), (50, 50, 100, 100, CROWD))
    answers = found((60, 60, 70, 70, 0.99, 0), (0, 0, 10, 10, 0.9, 0))
    assert picture_precision(answers, *truth) == 1
    assert picture_precision(answers, *objects((0, 0, 10, 10, 0))) == 0.5


def test_the_best_answer_takes_the_object_that_fits_best():
    truth = objects((0, 0, 10, 10, 0), (0, 0, 10, 8, 0))
    answers = found((0, 0, 10, 8, 0.9, 0), (0, 0, 10, 10, 0.8, 0), (0, 0, 10, 9, 0.7, 0))
    assert match(answers, *truth).tolist() == [1, 0, -1]


def test_a_cell_may_stand_for_several_classes():
    scores = torch.tensor([[0.9, 0.6], [0.8, 0.1]])
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9]])
    assert pick(Candidates(scores, boxes), 0.5, 0.5).labels_N.tolist() == [0, 1]
    assert pick(Candidates(scores, boxes), 0.5, 0.5, class_wise=False).labels_N.tolist() == [0]
    assert pick(Candidates(scores, boxes), 0.5, 0.95).scores_N.tolist() == pytest.approx([0.9, 0.8, 0.6])
    assert len(pick(Candidates(scores, boxes), 0.0, 1.0, most=2).scores_N) == 2
    assert pick(Candidates(scores, boxes), 0.95, 0.5).boxes_N4.shape == (0, 4)


def test_very_many_cells_are_cut_to_the_best():
    scores = torch.rand(20_000, 1, generator=torch.Generator().manual_seed(0))
    boxes = torch.arange(20_000.0)[:, None] + torch.tensor([0.0, 0, 0.5, 0.5])
    assert pick(Candidates(scores, boxes), 0.0, 0.5).scores_N.tolist() == scores.flatten().topk(300).values.tolist()


def test_rows_are_plain_values():
    rows = to_rows(found((0, 0, 5, 5, 0.5, 1)), ("cat", "dog"))
    assert rows == [{"label": "dog", "score": 0.5, "box": [0, 0, 5, 5]}]
