"""The folder of painting jobs: taken once, painted to the end whatever dies, seen by everybody, gone when deleted."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cnnray.config import StylizeConfig
from cnnray.errors import ImageError, JobError, OptionError, StorageError
from cnnray.infer.stylize import StyleOptimizer
from cnnray.infer.stylize_job import paint_job
from cnnray.infer.stylize_jobs import PROGRESS, REQUEST, STATE, StylizeJobs, StylizeRequest
from cnnray.ops.decode import decode
from cnnray.ops.overlay import png
from tests.painters import draw_photo, draw_style

CONFIG = StylizeConfig(steps=3, pyramid=2, size=192, device="cpu")
PHOTO, STYLE = png(draw_photo(144, 192)), png(draw_style("dots"))
REQUESTED = StylizeRequest(PHOTO, (STYLE,), CONFIG)


@pytest.fixture
def jobs(tmp_path):
    return StylizeJobs(str(tmp_path / "jobs"))


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_job_is_painted_as_the_optimiser_paints(jobs):
    job = jobs.create(REQUESTED)
    assert (job.state, job.step, job.steps) == ("queued", 0, 6) and jobs.unfinished() == [job]
    with pytest.raises(JobError, match="step 0 of 6"):
        jobs.preview(job.id)
    paint_job(jobs.folder, job.id)
    done = jobs.get(job.id)
    alone = StyleOptimizer(decode(PHOTO), [decode(STYLE)], CONFIG).run()
    np.testing.assert_array_equal(decode(jobs.picture(job.id)), alone.image_HWC)
    assert (done.state, done.step, done.height, done.width, done.seconds_left) == ("done", 6, 144, 192, 0.0)
    assert done.loss == alone.losses.loss and done.finished and jobs.unfinished() == []
    assert decode(jobs.preview(job.id)).shape == (144, 192, 3)
    assert not Path(jobs.folder, job.id, STATE).exists()
    before = jobs.get(job.id)
    paint_job(jobs.folder, job.id)  # once more: nothing happens
    assert jobs.get(job.id) == before


def test_styles_weights_and_a_mask_travel_with_the_job(jobs):
    mask = np.zeros((96, 128, 3), np.uint8)
    mask[:, :60] = 255
    config = replace(CONFIG, style_weight=(1.0, 3.0), keep_colors=True)
    asked = StylizeRequest(PHOTO, (STYLE, png(draw_style("stripes"))), config, png(mask))
    job = jobs.create(asked)
    assert StylizeRequest.load(f"{jobs.folder}/{job.id}/{REQUEST}") == asked
    paint_job(jobs.folder, job.id)
    styles = [draw_style("dots"), draw_style("stripes")]
    alone = StyleOptimizer(decode(PHOTO), styles, config, mask_HW=mask[..., 0]).run()
    np.testing.assert_array_equal(decode(jobs.picture(job.id)), alone.image_HWC)


def test_a_killed_painter_costs_seconds_not_the_job(jobs):
    job = jobs.create(replace(REQUESTED, config=replace(CONFIG, steps=60)))
    code = (
        "import sys, torch; torch.set_num_threads(1)\n"
        "from cnnray.infer import stylize_job\n"
        "stylize_job.SECONDS = stylize_job.SAVE_SECONDS = 0.2\n"
        "stylize_job.paint_job(*sys.argv[1:])"
    )
    words, state = [sys.executable, "-c", code, jobs.folder, job.id, "cpu"], Path(jobs.folder, job.id, STATE)
    for _ in range(2):
        before = jobs.get(job.id).step
        process = subprocess.Popen(words)
        wait_for(lambda before=before: state.exists() and jobs.get(job.id).step > before + 5)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert jobs.get(job.id).state == "running" and decode(jobs.preview(job.id)).size
    # another keeper finds it, as after a restart of the service
    assert [found.id for found in StylizeJobs(jobs.folder).unfinished()] == [job.id]
    subprocess.run(words, check=True)
    alone = StyleOptimizer(decode(PHOTO), [decode(STYLE)], replace(CONFIG, steps=60)).run()
    np.testing.assert_array_equal(decode(jobs.picture(job.id)), alone.image_HWC)


def test_a_damaged_state_is_painted_again_from_the_start(jobs):
    job = jobs.create(REQUESTED)
    Path(jobs.folder, job.id, STATE).write_bytes(b"half of a sta")
    paint_job(jobs.folder, job.id)
    assert jobs.get(job.id).state == "done"


def test_a_damaged_request_fails_with_a_sentence(jobs):
    job = jobs.create(REQUESTED)
    path = Path(jobs.folder, job.id, REQUEST)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    paint_job(jobs.folder, job.id)
    failed = jobs.get(job.id)
    assert (failed.state, failed.code) == ("failed", "bad_checkpoint") and "changed; ask for it again" in failed.error
    with pytest.raises(JobError, match="it failed: the job's request"):
        jobs.picture(job.id)


def test_a_loss_that_explodes_fails_the_job(jobs):
    job = jobs.create(replace(REQUESTED, config=replace(CONFIG, style_loss=1e39)))
    paint_job(jobs.folder, job.id)
    failed = jobs.get(job.id)
    assert (failed.state, failed.code) == ("failed", "bad_option") and "expected a smaller lr" in failed.error


def test_a_key_asks_once(jobs):
    one, again = jobs.create(REQUESTED, "k"), jobs.create(REQUESTED, "k")
    assert one == again and len(jobs.jobs()) == 1
    with pytest.raises(JobError, match="same request as before") as caught:
        jobs.create(replace(REQUESTED, config=replace(CONFIG, seed=1)), "k")
    assert (caught.value.code, caught.value.http_status) == ("key_reused", 409)
    assert jobs.create(REQUESTED).id != jobs.create(REQUESTED).id


def test_many_threads_with_one_key_make_one_job(jobs):
    ids, threads = [], [threading.Thread(target=lambda: ids.append(jobs.create(REQUESTED, "k").id)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ids) == 8 and len(set(ids)) == 1


def test_no_more_than_so_many(tmp_path):
    jobs = StylizeJobs(str(tmp_path), most=2)
    first = jobs.create(REQUESTED)
    jobs.create(REQUESTED, "k")
    with pytest.raises(JobError, match="2 unfinished jobs") as caught:
        jobs.create(REQUESTED)
    assert caught.value.http_status == 503
    assert jobs.create(REQUESTED, "k").state == "queued"  # the one that is there
    jobs.delete(first.id)
    jobs.create(REQUESTED)


def test_a_deleted_job_stops_and_leaves_nothing(jobs):
    job = jobs.create(replace(REQUESTED, config=replace(CONFIG, steps=1000)))
    painter = threading.Thread(target=paint_job, args=(jobs.folder, job.id))
    painter.start()
    wait_for(lambda: jobs.get(job.id).step > 0)
    jobs.delete(job.id)
    painter.join(20)
    assert not painter.is_alive() and jobs.jobs() == []
    with pytest.raises(JobError, match="may have been deleted"):
        jobs.get(job.id)
    jobs.sweep()
    assert os.listdir(jobs.folder) == []


def test_the_younger_of_two_painters_goes_on(jobs):
    job = jobs.create(replace(REQUESTED, config=replace(CONFIG, steps=150)))
    older = threading.Thread(target=paint_job, args=(jobs.folder, job.id))
    older.start()
    wait_for(lambda: jobs.get(job.id).step > 0)
    Path(jobs.folder, job.id, "owner").write_text("another")
    older.join(20)
    assert not older.is_alive() and jobs.get(job.id).state == "running"


def test_finished_jobs_are_kept_for_a_while(tmp_path):
    jobs = StylizeJobs(str(tmp_path), keep_hours=1)
    done, young, open_ = (jobs.create(REQUESTED) for _ in range(3))
    for job in (done, young):
        jobs.fail(job.id, "crashed", "died")
    path = Path(jobs.folder, done.id, PROGRESS)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"changed": time.time() - 3700}))
    jobs.sweep()
    assert {job.id for job in jobs.jobs()} == {young.id, open_.id} and jobs.get(young.id).error == "died"
    jobs.fail(done.id, "crashed", "died")  # gone: nothing happens
    assert not Path(jobs.folder, done.id).exists()


@pytest.mark.parametrize(
    ("asked", "kind", "words"),
    [
        (replace(REQUESTED, content=b"what"), ImageError, "content: .*"),
        (replace(REQUESTED, styles=(STYLE, b"what")), ImageError, "style 2: .*"),
        (replace(REQUESTED, mask=b""), ImageError, "mask: .*"),
        (replace(REQUESTED, mask=png(np.zeros((9, 9, 3), np.uint8))), OptionError, "black all over"),
        (replace(REQUESTED, styles=(png(draw_style("dots", 8)),)), OptionError, "style of at least 16 px"),
        (replace(REQUESTED, content=png(draw_photo(9, 128))), OptionError, "content of at least 16 px"),
        (replace(REQUESTED, styles=()), OptionError, "style"),
        (replace(REQUESTED, config=replace(CONFIG, style_weight=(1.0, 2.0))), OptionError, "style_weight"),
    ],
)
def test_what_cannot_be_painted_is_refused_at_once(jobs, asked, kind, words):
    with pytest.raises(kind, match=words):
        jobs.create(asked)
    assert os.listdir(jobs.folder) == []


@pytest.mark.parametrize("id", ["", "..", "a" * 32, "../" + "a" * 32, "A" * 32, "/etc"])
def test_ids_that_are_none(jobs, id):
    for ask in (jobs.get, jobs.preview, jobs.picture, jobs.delete):
        with pytest.raises(JobError, match="there is no job"):
            ask(id)


@pytest.mark.parametrize("small_disk", ["300k"], indirect=True)
def test_a_full_disk_loses_nothing(small_disk):
    place, grow = small_disk
    jobs = StylizeJobs(str(place / "jobs"))
    job = jobs.create(REQUESTED)
    filler = place / "filler"
    with pytest.raises(OSError, match="space"):
        filler.write_bytes(bytes(300 * 1024))
    with pytest.raises(StorageError, match="no space left"):
        jobs.create(REQUESTED)
    with pytest.raises(StorageError, match="no space left"):
        paint_job(jobs.folder, job.id)
    assert [found.id for found in jobs.jobs()] == [job.id] and jobs.get(job.id).state in ("queued", "running")
    grow()
    filler.unlink()
    paint_job(jobs.folder, job.id)
    assert jobs.get(job.id).state == "done"
