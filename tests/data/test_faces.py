"""dlib's published face models in torch, against dlib itself on real photos."""

import numpy as np
import pytest
import torch

from cnnray.errors import CheckpointError, UnknownNameError
from cnnray.nn.face_weights import PUBLISHED, _content, _in_package, load_published
from cnnray.nn.faces import CROP, DlibDetector
from cnnray.ops.align import align_faces
from cnnray.ops.decode import decode

dlib = pytest.importorskip("dlib")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CNNRAY_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def photos(data_dir):
    """One photo each of twenty people, uint8 [250, 250, 3]."""
    people = sorted(path for path in (data_dir / "lfw_dev").iterdir() if path.is_dir())[:20]
    return [decode(sorted(person.glob("*.jpg"))[0].read_bytes()) for person in people]


def test_embeddings_are_dlibs(cache, photos):
    net = load_published("embedder")
    crops = np.stack([photo[50 : 50 + CROP, 50 : 50 + CROP] for photo in photos])
    ours = net(torch.from_numpy(crops).permute(0, 3, 1, 2)).numpy()
    oracle = dlib.face_recognition_model_v1(_in_package(PUBLISHED["embedder"].name))
    theirs = np.array([oracle.compute_face_descriptor(np.ascontiguousarray(crop)) for crop in crops])
    assert ours.shape == (20, 128)
    assert np.linalg.norm(ours - theirs, axis=1).max() < 1e-4  # of about 1.4


def test_landmarks_are_dlibs_which_rounds_them(cache, photos):
    forest = load_published("landmarks")
    predictor = dlib.shape_predictor(_in_package(PUBLISHED["landmarks"].name))
    find, away = dlib.get_frontal_face_detector(), []
    for photo in photos:
        image = torch.from_numpy(photo).permute(2, 0, 1)
        found = [dlib.rectangle(-30, 120, 90, 240), *find(photo)]  # and one that reaches out of the picture
        boxes = torch.tensor([[b.left(), b.top(), b.right(), b.bottom()] for b in found], dtype=torch.float32)
        theirs = np.array([[(p.x, p.y) for p in predictor(photo, box).parts()] for box in found])
        away += np.abs(forest(image, boxes).numpy() - theirs).max((1, 2)).tolist()
    assert len(away) > 35 and max(away) < 1
    assert np.mean(np.array(away) < 0.51) > 0.9  # else one of 7,500 trees has decided otherwise
    assert forest(image, torch.zeros(0, 4)).shape == (0, 5, 2)


def test_faces_are_found_where_dlib_finds_them(cache, photos, data_dir):
    """Portraits, and group photos with small faces: the same scores, the same boxes to a px."""
    net = load_published("detector")
    oracle = dlib.cnn_face_detection_model_v1(_in_package(PUBLISHED["detector"].name))
    groups = [decode(path.read_bytes()) for path in sorted((data_dir / "faces").glob("*.jpg"))[:6]]
    count = 0
    for photo in [*photos[:10], *groups]:
        (found,) = net.find(torch.from_numpy(photo).permute(2, 0, 1)[None])
        theirs = sorted(oracle(photo, 0), key=lambda face: -face.confidence)
        np.testing.assert_allclose(found.scores_N, [face.confidence for face in theirs], atol=1e-4)
        boxes = [[r.left(), r.top(), r.right() + 1, r.bottom() + 1] for r in (face.rect for face in theirs)]
        np.testing.assert_allclose(found.boxes_N4, np.array(boxes).reshape(-1, 4), atol=1.01)
        count += len(theirs)
    assert count >= 18


def test_scores_are_those_of_a_convolution():
    torch.manual_seed(0)
    net, x = DlibDetector(), torch.randn(2, 45, 11, 7)
    with torch.inference_mode():
        torch.testing.assert_close(net._scores(x), net.score(x)[:, 0], rtol=1e-5, atol=1e-5)


def test_pictures_without_faces_or_too_small_for_one(cache):
    net = load_published("detector")
    for height, width in ((200, 300), (79, 79), (1, 1), (3, 400)):
        (found,) = net.find(torch.full((1, 3, height, width), 128, dtype=torch.uint8))
        assert found.boxes_N4.shape == (0, 4) and found.scores_N.shape == (0,)


def test_aligned_faces_are_dlibs_but_for_how_pixels_are_mixed(cache, photos):
    predictor = dlib.shape_predictor(_in_package(PUBLISHED["landmarks"].name))
    net, find, distances = load_published("embedder"), dlib.get_frontal_face_detector(), []
    for photo in photos:
        for box in find(photo)[:1]:
            shape = predictor(photo, box)
            landmarks = torch.tensor([[[float(p.x), float(p.y)] for p in shape.parts()]])
            ours = align_faces(torch.from_numpy(photo).permute(2, 0, 1), landmarks)
            theirs = torch.from_numpy(dlib.get_face_chip(photo, shape, size=CROP, padding=0.25)).permute(2, 0, 1)[None]
            assert (ours.float() - theirs).abs().mean() < 8
            distances.append(float((net(ours) - net(theirs)).norm()))
    assert len(distances) > 15 and np.median(distances) < 0.15  # of 0.6 between two people


def test_files_are_converted_once_and_a_damaged_cache_is_made_again(tmp_path, monkeypatch):
    monkeypatch.setenv("CNNRAY_CACHE", str(tmp_path))
    first = load_published("detector").state_dict()
    (folder,) = (tmp_path / "faces").iterdir()
    content = (folder / "model.safetensors").read_bytes()
    monkeypatch.setattr("cnnray.nn.face_weights._in_package", lambda name: str(tmp_path / "gone"))
    again = load_published("detector").state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())
    (folder / "model.safetensors").write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    with pytest.raises(CheckpointError, match="expected dlib's mmod_human_face_detector.dat at .*gone, but nothing"):
        load_published("detector")
    monkeypatch.undo()
    monkeypatch.setenv("CNNRAY_CACHE", str(tmp_path))
    load_published("detector")
    assert (folder / "model.safetensors").read_bytes() == content


def test_other_files_and_changed_ones_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("CNNRAY_CACHE", str(tmp_path / "cache"))
    known = PUBLISHED["detector"]
    content = bytearray(_content(known, ""))
    content[5000] ^= 1
    (tmp_path / "flipped.dat").write_bytes(content)
    (tmp_path / "short.dat").write_bytes(content[:1000])
    for name in ("flipped.dat", "short.dat"):
        with pytest.raises(CheckpointError, match="with sha256 4cb19393e2fb..., but .* cut short or changed"):
            load_published("detector", str(tmp_path / name))
    with pytest.raises(UnknownNameError, match="unknown part of the face models '68 landmarks'; known: detector"):
        load_published("68 landmarks")


def test_a_machine_without_a_place_for_caches(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("CNNRAY_CACHE", str(tmp_path / "file"))
    assert load_published("detector") is not None
