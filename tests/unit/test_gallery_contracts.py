"""What a new gallery is bound to, by its embedder."""

import numpy as np
import pytest

from cnnray.errors import GalleryError
from cnnray.infer.faces import FacePipeline
from cnnray.infer.gallery.contracts import NOBODY, contract_of, open_contract
from cnnray.infer.gallery.gallery import Gallery, create_gallery
from cnnray.infer.gallery.record import Record
from cnnray.infer.gallery.rows import Contract
from tests.unit.test_gallery import person


@pytest.fixture
def pipeline():
    return FacePipeline.load(device="cpu")


@pytest.fixture
def with_head(pipeline, monkeypatch):
    monkeypatch.setattr(pipeline._net, "head", object())  # as one that was trained with it
    return pipeline


def test_the_embedders_own_threshold_as_a_cosine(pipeline):
    largest = pipeline.spec.threshold  # distance of two points on the unit sphere
    assert contract_of(pipeline) == (pipeline.name, 128, pytest.approx(1 - largest**2 / 2))
    assert contract_of(pipeline, 0.5).threshold == 0.5


def test_with_a_verification_head_nobody_is_recognised_until_told_how_alike_is_alike(with_head, tmp_path):
    assert contract_of(with_head).threshold == NOBODY > 1
    assert contract_of(with_head, 0.5).threshold == 0.5
    record = Record(str(tmp_path / "r.db"))
    create_gallery(record, "g", contract_of(with_head))
    gallery = Gallery.open(record, "g")
    point = np.eye(128, dtype=np.float32)[:1]
    gallery.enroll(person("ada", *point))
    assert gallery.recognize(point).matches[0].decision == "unknown"
    assert gallery.recognize(point, threshold=0.9).matches[0].identity.key == "ada"
    gallery.enroll(person("bob", *point))  # no conflict is seen
    record.close()


def test_a_gallery_that_is_there_keeps_its_contract(pipeline, record):
    create_gallery(record, "mine", contract_of(pipeline, 0.7))
    assert open_contract(record, "mine", pipeline).threshold == 0.7
    create_gallery(record, "theirs", Contract("another@1", 128, 0.9))
    for name, code in (("theirs", "model_mismatch"), ("../x", "bad_name")):
        with pytest.raises(GalleryError) as caught:
            open_contract(record, name, pipeline)
        assert caught.value.code == code
    assert open_contract(record, "new", pipeline) == contract_of(pipeline)
