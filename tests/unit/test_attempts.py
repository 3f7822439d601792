"""A worker that dies at an image: the unit is tried again, then image by image, then without the image."""

import threading
import time

import pyarrow as pa
import pytest

from cnnray import files
from cnnray.data.attempts import ATTEMPTS, Cautious, Turns, forget_attempts
from cnnray.data.feature_store import Outputs, read_quarantine


class Death(BaseException):
    """Stands for the end of the process: nothing catches it, and what was to follow does not happen."""


def make_unit(*ids):
    return pa.table({"id": list(ids), "path": [f"/p/{item}" for item in ids]})


class Stage:
    def __init__(self, poison):
        self.poison, self.seen = poison, []

    def __call__(self, unit):
        self.seen.append(unit["id"].to_pylist())
        if self.poison in self.seen[-1]:
            raise Death
        return pa.table({"images": [unit.num_rows], "quarantined": [0]})


def until_it_ends(cautious, unit):
    deaths = 0
    while deaths < 10:
        try:
            return cautious(unit).to_pylist(), deaths
        except Death:
            deaths += 1
    raise AssertionError("it never ended")


def test_the_image_that_kills_is_quarantined_and_the_others_are_done(tmp_path):
    stage = Stage("c")
    rows, deaths = until_it_ends(Cautious(stage, Outputs(str(tmp_path))), make_unit("a", "b", "c", "d"))
    assert deaths == 4
    assert [row["images"] for row in rows] == [1, 1, 1, 1]
    assert [row["quarantined"] for row in rows] == [0, 0, 1, 0]
    (bad,) = read_quarantine(str(tmp_path)).to_pylist()
    assert (bad["id"], bad["path"], bad["code"]) == ("c", "/p/c", "crash")
    assert stage.seen[:2] == [["a", "b", "c", "d"]] * 2 and stage.seen[-1] == ["d"]
    assert not files.list_files(str(tmp_path / ATTEMPTS))


def test_harmless_work_is_done_at_once_and_leaves_no_note(tmp_path):
    stage = Stage("none")
    assert until_it_ends(Cautious(stage, Outputs(str(tmp_path))), make_unit("a", "b"))[1] == 0
    assert stage.seen == [["a", "b"]]
    assert not files.list_files(str(tmp_path / ATTEMPTS))


def test_a_new_command_counts_anew(tmp_path):
    stage = Stage("b")
    cautious = Cautious(stage, Outputs(str(tmp_path)))
    for _ in range(3):
        with pytest.raises(Death):
            cautious(make_unit("a", "b"))
        forget_attempts(str(tmp_path))
    assert stage.seen == [["a", "b"]] * 3


def test_a_suspect_is_worked_on_alone():
    turns, order = Turns(), []
    began = threading.Event()

    def suspect():
        began.set()
        with turns.alone():
            order.append("alone")
            time.sleep(0.05)
            order.append("alone ended")

    def unit():
        began.wait()
        time.sleep(0.02)
        with turns.beside_others():
            order.append("late unit")

    with turns.beside_others():
        threads = [threading.Thread(target=work) for work in (suspect, unit)]
        for thread in threads:
            thread.start()
        time.sleep(0.05)
        order.append("first unit ended")
    for thread in threads:
        thread.join(5)
        assert not thread.is_alive()
    assert order == ["first unit ended", "alone", "alone ended", "late unit"]
