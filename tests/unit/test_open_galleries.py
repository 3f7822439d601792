"""The galleries of a replica while one of them is being opened, which takes minutes for a large one."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from cnnray import files
from cnnray.config import RecordConfig
from cnnray.errors import GalleryError, StorageError
from cnnray.infer.gallery.gallery import Gallery, create_gallery
from cnnray.infer.gallery.record import Record
from cnnray.infer.gallery.rows import Contract
from cnnray.serve import galleries as module
from cnnray.serve.galleries import OpenGalleries


@pytest.fixture
def slow(tmp_path, monkeypatch):
    """Galleries of which "large" opens when the event is set, and how often each was opened."""
    place = str(tmp_path / "g.db")
    record = Record(place)
    for name in ("large", "small"):
        create_gallery(record, name, Contract("m", 4, 0.5))
    record.close()
    go, opened = threading.Event(), []
    real = Gallery.open

    def open_slowly(record, name, config):
        opened.append(name)
        assert name != "large" or go.wait(20)
        return real(record, name, config)

    monkeypatch.setattr(Gallery, "open", open_slowly)
    monkeypatch.setattr(module, "_OPENING_SECONDS", 0.1)
    found = OpenGalleries(RecordConfig(record=place))
    yield found, go, opened
    found.close()


def test_others_are_answered_while_a_large_gallery_is_opened(slow):
    galleries, go, opened = slow
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(galleries.use, "large", "describe")
        while not opened:
            time.sleep(0.01)
        waiting = [pool.submit(galleries.use, "large", "describe") for _ in range(12)]
        for request in waiting:
            with pytest.raises(GalleryError, match="gallery 'large' is being opened") as caught:
                request.result(10)
            assert (caught.value.code, caught.value.http_status) == ("gallery_opening", 503)
        assert pool.submit(galleries.use, "small", "describe").result(10)["identities"] == 0
        go.set()
        assert first.result(10)["name"] == "large"
    assert galleries.use("large", "describe")["name"] == "large" and opened == ["large", "small"]


def test_a_gallery_is_dropped_even_if_its_snapshot_cannot_be_removed_now(slow, monkeypatch):
    galleries, _, _ = slow
    place = galleries.use("small", "describe") and galleries._opened["small"]._snapshot
    galleries._opened["small"].save_snapshot()
    assert files.exists(place)

    def fail(folder):
        raise StorageError("the disk is away")

    with monkeypatch.context() as patch:
        patch.setattr("cnnray.infer.gallery.gallery.delete_snapshot", fail)
        patch.setattr("cnnray.infer.gallery.opening.delete_snapshot", fail)
        assert len(galleries.drop("small")) == 64
        galleries.maintain()
    assert files.exists(place)
    galleries.maintain()
    assert not files.exists(place)


def test_a_name_that_is_no_gallery_leaves_nothing(slow):
    galleries, _, opened = slow
    for number in range(20):
        with pytest.raises(GalleryError, match="no gallery 'none"):
            galleries.use(f"none{number}", "describe")
    assert not opened and not galleries._opening
