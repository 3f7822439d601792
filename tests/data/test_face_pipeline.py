"""Photos to faces to answers, on real photos: who is in them, how they lie, and what is no face."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from cnnray.config import EmbedderConfig, FaceSearchConfig, VerifyConfig
from cnnray.errors import FaceError, ImageError, OptionError
from cnnray.infer.face_results import pick_face, to_json
from cnnray.infer.faces import FacePipeline
from cnnray.nn.face_weights import load_published
from cnnray.ops.align import align_faces
from cnnray.ops.decode import decode
from tests.threads import watch


@pytest.fixture(scope="module")
def pipeline():
    return FacePipeline.load(precision="float32")


@pytest.fixture(scope="module")
def people(data_dir):
    """Encoded photos by person: six people, four photos of each."""
    folders = sorted(path for path in (data_dir / "lfw_dev").iterdir() if path.is_dir())[10:16]
    return {folder.name: [path.read_bytes() for path in sorted(folder.glob("*.jpg"))[:4]] for folder in folders}


@pytest.fixture(scope="module")
def group(data_dir):
    """Seven people, none of whom has a face of 80 px."""
    return decode((data_dir / "faces" / "2007_007763.jpg").read_bytes())


def subjects(pipeline, photos, **search):
    return [pick_face(found, "central") for found in pipeline.predict(photos, FaceSearchConfig(**search))]


def test_people_are_told_apart(pipeline, people):
    names = [name for name, photos in people.items() for _ in photos]
    faces = subjects(pipeline, [photo for photos in people.values() for photo in photos])
    embeddings = np.stack([face.embedding_D for face in faces])
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)
    distances = np.linalg.norm(embeddings[:, None] - embeddings[None], axis=2)
    np.fill_diagonal(distances, 9)
    assert np.mean([names[near] == name for near, name in zip(distances.argmin(1), names, strict=True)]) > 0.95
    same = np.equal.outer(names, names) & (distances < 9)
    assert np.mean(distances[same] <= pipeline.spec.threshold) > 0.9
    assert np.mean(distances[~np.equal.outer(names, names)] <= pipeline.spec.threshold) < 0.01


def test_warmed_up_each_thread_has_found_and_embedded(monkeypatch):
    pipeline = FacePipeline.load(threads=2)
    found, embedded = watch(monkeypatch, pipeline, "_find"), watch(monkeypatch, pipeline, "_forward")
    pipeline.warm_up()
    # two that look through a photo each, and one that does it with two cores
    assert len({thread for thread, _ in found}) == len(found) == 3
    assert len({thread for thread, _ in embedded}) == len(embedded) == 2


def test_an_embedding_is_the_mean_of_its_views(pipeline, people):
    """By hand: a wider crop as it is, a narrower one mirrored, dlib's network."""
    photo = people[sorted(people)[0]][0]
    (face,) = subjects(pipeline, [photo])
    image = torch.from_numpy(decode(photo)).permute(2, 0, 1)
    landmarks = torch.from_numpy(face.landmarks_52)[None]
    net = load_published("embedder")
    views = [net(align_faces(image, landmarks, 150, 0.3)), net(align_faces(image, landmarks, 150, 0.2).flip(3))]
    mean = sum(view / view.norm() for view in views)
    np.testing.assert_allclose(face.embedding_D, (mean / mean.norm())[0].numpy(), atol=1e-5)
    assert face.crop_HWC.shape == (150, 150, 3) and face.crop_HWC.std() > 20


def test_bfloat16_says_the_same(pipeline, people, group):
    low = FacePipeline.load(precision="bfloat16")
    photos = [photo for photos in people.values() for photo in photos[:2]]
    for ours, theirs in zip(subjects(low, photos), subjects(pipeline, photos), strict=True):
        assert np.linalg.norm(ours.embedding_D - theirs.embedding_D) < 0.06  # of 0.38 between two people
    assert len(low.predict([group])[0].faces) == 7


def test_small_faces_are_found_where_they_are_asked_for(pipeline, group):
    counts = [
        len(pipeline.predict([group], FaceSearchConfig(smallest_face=px), embed=False)[0].faces) for px in (80, 40)
    ]
    assert counts == [0, 7]
    (found,) = pipeline.predict([group], FaceSearchConfig(most=3), embed=False)
    confidences = [face.confidence for face in found.faces]
    assert len(confidences) == 3 and confidences == sorted(confidences, reverse=True)
    assert all(25 < face.quality.size < 60 and face.embedding_D.shape == (0,) for face in found.faces)


def test_large_photos_are_searched_at_a_bounded_size(pipeline, people):
    """A photo of 12 Mpx whose face fills a third of it."""
    photo = Image.open(io.BytesIO(people[sorted(people)[1]][0])).resize((3464, 3464))
    (found,) = pipeline.predict([np.asarray(photo)], embed=False)  # read-only, as Pillow gives it
    assert pick_face(found, "largest").quality.size > 1000


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_turned_photos_show_their_faces_on_request(pipeline, people, turns):
    """Without the request some are missed, and others found with landmarks of an upright face."""
    photo = decode(people[sorted(people)[2]][0])
    turned = np.rot90(photo, turns)
    (found,) = pipeline.predict([turned], FaceSearchConfig(rotated=True))
    (upright,) = pipeline.predict([photo])
    face, known = pick_face(found, "central"), pick_face(upright, "central")
    assert np.linalg.norm(face.embedding_D - known.embedding_D) < 0.1
    assert abs((face.quality.roll + 90 * turns - known.quality.roll + 180) % 360 - 180) < 3  # rot90 turns against it
    assert abs(face.quality.yaw - known.quality.yaw) < 3
    x1, y1, x2, y2 = face.box
    assert 0 <= x1 < x2 <= 250 and 0 <= y1 < y2 <= 250
    inside = (face.landmarks_52 > [x1, y1]).all() and (face.landmarks_52 < [x2, y2]).all()
    assert inside


def test_a_face_that_the_border_cuts(pipeline, people):
    photo = decode(people[sorted(people)[3]][0])
    (whole,) = subjects(pipeline, [photo])
    left = int(whole.box[0] + (whole.box[2] - whole.box[0]) * 0.12)
    (cut,) = pipeline.predict([np.ascontiguousarray(photo[:, left:])])
    face = pick_face(cut, "largest")
    assert face.box[0] == 0 and 0.7 < face.quality.inside < 1 and whole.quality.inside == 1
    assert np.linalg.norm(face.embedding_D - whole.embedding_D) < pipeline.spec.threshold


def test_photos_without_faces_and_bad_ones_spoil_no_other(pipeline, people):
    grey = np.full((60, 400, 3), 90, np.uint8)
    photo = people[sorted(people)[0]][0]
    found = pipeline.predict([grey, b"no image", photo, np.zeros((1, 1, 3), np.uint8)])
    assert found[0].faces == () and found[3].faces == ()
    assert isinstance(found[1], ImageError) and found[1].code == "not_an_image"
    assert pick_face(found[2], "largest").embedding_D.shape == (128,)
    assert pipeline.predict([]) == []
    with pytest.raises(OptionError, match=r"expected uint8 images \[H, W, 3\], got float32"):
        pipeline.predict([np.zeros((9, 9, 3), np.float32)])


def test_verify(pipeline, people, group):
    (first, second), (other, *_) = people[sorted(people)[0]][:2], people[sorted(people)[1]]
    pair = pipeline.verify((first, second))
    assert pair.answer.same and pair.answer.distance < pair.answer.threshold == pipeline.spec.threshold
    assert not pipeline.verify((first, other)).answer.same
    assert pipeline.verify((first, other), threshold=2.0).answer.same
    with pytest.raises(FaceError, match=r"expected a face in b\.jpg, but none was found") as caught:
        pipeline.verify((first, np.zeros((99, 99, 3), np.uint8)), names=("a.jpg", "b.jpg"))
    assert caught.value.code == "no_face"
    with pytest.raises(FaceError, match="expected one face in the second image, but 7 were found"):
        pipeline.verify((first, group), pick="only")
    with pytest.raises(ImageError, match="the first image: "):
        pipeline.verify((b"", second))


def test_which_face_is_meant(pipeline, group):
    (found,) = pipeline.predict([group], embed=False)
    sizes = [face.quality.size for face in found.faces]
    assert pick_face(found, "largest").quality.size == max(sizes)
    left, top, right, bottom = pick_face(found, "central").box
    assert abs((left + right) / 2 - found.width / 2) < 60 and abs((top + bottom) / 2 - found.height / 2) < 80
    row = to_json(found.faces[0])
    assert set(row) == {"box", "confidence", "landmarks", "quality"} and len(row["landmarks"]) == 5


def test_other_views_and_other_weights(people):
    one = FacePipeline.load(EmbedderConfig(views=1), threads=1)
    four = FacePipeline.load(EmbedderConfig(views=4), threads=1)
    assert len({one.name, four.name, FacePipeline.load(threads=1).name}) == 3
    photo = people[sorted(people)[0]][0]
    (a,), (b,) = subjects(one, [photo]), subjects(four, [photo])
    assert 0 < np.linalg.norm(a.embedding_D - b.embedding_D) < 0.25
    other = FacePipeline.load(EmbedderConfig(embedder="inception_resnet_v1", embedder_weights="none"), threads=1)
    assert subjects(other, [photo])[0].embedding_D.shape == (512,)
    other.self_test()
    with pytest.raises(OptionError, match="views must be 1, 2 or 4, got 3"):
        EmbedderConfig(views=3)
    with pytest.raises(OptionError, match="threshold is a distance from 0 to 2, or -1; got 3"):
        VerifyConfig(threshold=3)
