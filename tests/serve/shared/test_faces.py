"""/v1/faces of the real service over real HTTP, on real photos."""

import asyncio
import dataclasses
import json
import time

import httpx
import numpy as np
import pytest
import torch

from cnnray.cli import main
from cnnray.config import FaceSearchConfig, ServeConfig
from cnnray.errors import ImageError, ServiceError
from cnnray.infer.face_results import LANDMARKS, pick_face, to_json
from cnnray.infer.faces import FacePipeline
from cnnray.nn.checkpoint import Card, save_checkpoint
from cnnray.nn.embedders import build_embedding_net, input_of
from cnnray.ops.decode import decode
from cnnray.serve.faces import Faces, Wanted
from cnnray.serve.replica import Job
from tests.serve.shared.test_segment import encoded

GREY = encoded(np.full((90, 120, 3), 128, np.uint8))


@pytest.fixture(scope="module")
def alone():
    return FacePipeline.load(device="cpu")


@pytest.fixture(scope="module")
def people(data_dir):
    """Two encoded photos of each of three people."""
    folders = sorted(path for path in (data_dir / "lfw_dev").iterdir() if path.is_dir())[10:13]
    return [[path.read_bytes() for path in sorted(folder.glob("*.jpg"))[:2]] for folder in folders]


@pytest.fixture(scope="module")
def group(data_dir):
    """Seven people with small faces."""
    return (data_dir / "faces" / "2007_007763.jpg").read_bytes()


def refused(call, *args, **options):
    with pytest.raises(ServiceError) as caught:
        call(*args, **options)
    return caught.value.status, caught.value.code, str(caught.value)


def assert_alike(face, expected):
    """A batch of other images may change the last digits."""
    row = to_json(expected)
    np.testing.assert_allclose(face.box, row["box"], atol=0.5)
    assert face.confidence == pytest.approx(row["confidence"], abs=2e-2)
    assert tuple(face.landmarks) == LANDMARKS
    np.testing.assert_allclose(list(face.landmarks.values()), list(row["landmarks"].values()), atol=1)
    for name, value in row["quality"].items():
        assert face.quality[name] == pytest.approx(
            value, rel=0.02, abs=1.5 if name in ("yaw", "pitch", "roll") else 5e-2
        )


# --- detect -------------------------------------------------------------------------------------------------------


def test_the_faces_are_those_of_the_pipeline_alone(client, alone, people, group):
    photos = [people[0][0], group]
    for photo, expected in zip(photos, alone.predict(photos, embed=False), strict=True):
        found = client.detect_faces(photo)
        assert (found.height, found.width, found.model) == (expected.height, expected.width, alone.name)
        for face, other in zip(found.faces, expected.faces, strict=True):
            assert_alike(face, other)
            assert face.embedding is None
    assert len(found.faces) == 7 and all(face.quality["size"] < 60 for face in found.faces)


def test_several_images_in_one_request_and_a_bad_one_spoils_none(client, alone, people):
    photos = [pair[0] for pair in people]
    first, bad, *rest, none = client.detect_faces_many([photos[0], b"what", *photos[1:], GREY], embeddings=True)
    assert isinstance(bad, ServiceError) and (bad.code, bad.status) == ("not_an_image", 422)
    assert none.faces == () and (none.height, none.width) == (90, 120)
    for found, expected in zip([first, *rest], alone.predict(photos), strict=True):
        embeddings = np.array([face.embedding for face in found.faces])
        np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)
        distances = np.linalg.norm(embeddings - [face.embedding_D for face in expected.faces], axis=1)
        assert (distances < 0.06).all()


def test_a_request_says_what_is_looked_for(client, people, group):
    assert client.detect_faces(group, smallest_face=80).faces == ()
    assert len(client.detect_faces(group, most=3).faces) == 3
    assert len(client.detect_faces(group, confidence=2).faces) == 0
    turned = encoded(np.rot90(decode(people[2][0])).copy())
    upright = client.detect_faces(people[2][0]).faces[0].quality["roll"]
    face = client.detect_faces(turned, rotated=True).faces[0]
    assert abs((face.quality["roll"] + 90 - upright + 180) % 360 - 180) < 3


@pytest.mark.parametrize(
    "search",
    [
        {"confidence": -1.1},
        {"confidence": 2.1},
        {"confidence": "nan"},
        {"smallest_face": 19},
        {"smallest_face": 501},
        {"smallest_face": 40.5},
        {"rotated": "sideways"},
        {"most": 0},
        {"most": 501},
    ],
    ids=str,
)
def test_what_is_out_of_bounds_is_named(client, search):
    status, code, text = refused(client.detect_faces, GREY, **search)
    assert (status, code) == (422, "invalid_parameter") and next(iter(search)) in text
    if "most" not in search:
        assert refused(client.verify_faces, GREY, GREY, **search)[:2] == (422, "invalid_parameter")


def test_bad_images_are_refused_with_their_code(client, people):
    assert refused(client.detect_faces, b"not an image at all")[:2] == (422, "not_an_image")
    assert refused(client.draw_faces, people[0][0][:5000])[:2] == (422, "truncated")
    assert refused(client.detect_faces_many, [GREY] * 17)[0] == 400


def test_draw_gives_the_image_with_its_faces(client, service, group):
    photo, drawn = decode(group), decode(client.draw_faces(group))
    assert drawn.shape == photo.shape
    changed = (np.abs(drawn.astype(int) - photo) > 20).any(2)
    assert 0.005 < changed.mean() < 0.2
    url = f"{service.url}/v1/faces/detect"
    answer = httpx.post(url, params={"draw": True}, files={"file": group}, timeout=60)
    (found,) = json.loads(answer.headers["x-faces"])["images"]
    assert answer.headers["content-type"] == "image/png" and len(found["faces"]) == 7
    for face in found["faces"]:
        left, top, right, bottom = (round(side) for side in face["box"])
        assert changed[top : bottom + 1, left : left + 2].any() and changed[bottom - 1 : bottom + 1, left:right].any()
    answer = httpx.post(url, params={"draw": True, "embeddings": True}, files={"file": group}, timeout=60)
    (found,) = json.loads(answer.headers["x-faces"])["images"]
    assert "faces" not in found and found["width"] == photo.shape[1]  # seven embeddings are too much for a header
    answer = httpx.post(url, params={"draw": True}, files=[("file", group)] * 2, timeout=60)
    assert answer.status_code == 422 and answer.json()["code"] == "one_image_to_draw"


# --- verify -------------------------------------------------------------------------------------------------------


def test_the_same_person_and_another(client, alone, people):
    (first, second), (other, _), _ = people
    same, different = client.verify_faces(first, second), client.verify_faces(first, other)
    assert same.same and not different.same
    expected = alone.verify((first, second))
    assert same.distance == pytest.approx(expected.answer.distance, abs=0.03)
    assert same.threshold == different.threshold == alone.spec.threshold and same.probability is None
    assert same.distance < same.threshold < different.distance
    assert same.found == expected.found and same.model == alone.name
    for face, picked in zip(same.faces, expected.faces, strict=True):
        assert_alike(face, picked)
        assert face.embedding is None
    assert same.request_id and 0 < same.timings["inference_ms"] < same.timings["total_ms"]


def test_the_threshold_is_that_of_the_request(client, people):
    (first, second), (other, _), _ = people
    assert client.verify_faces(first, other, threshold=2).same
    answer = client.verify_faces(first, second, threshold=0)
    assert not answer.same and answer.threshold == 0
    assert client.verify_faces(first, first, threshold=0.01).distance < 0.01
    for threshold in (-1, 2.01, float("nan")):
        assert refused(client.verify_faces, first, second, threshold=threshold)[:2] == (422, "invalid_parameter")


def test_of_several_faces_one_is_meant(client, alone, people, group):
    (photo,) = alone.predict([group], embed=False)
    for pick in ("largest", "central"):
        answer = client.verify_faces(group, people[0][0], pick=pick)
        assert answer.found[0] == 7 and not answer.same
        np.testing.assert_allclose(answer.faces[0].box, pick_face(photo, pick).box, atol=0.5)
    status, code, text = refused(client.verify_faces, people[0][0], group, pick="only")
    assert (status, code) == (422, "several_faces") and "expected one face in the second image, but 7" in text
    assert refused(client.verify_faces, group, group, pick="best")[:2] == (422, "invalid_parameter")


def test_the_image_at_fault_is_named(client, people):
    photo = people[0][0]
    for pair, where in (((GREY, photo), "first"), ((photo, GREY), "second")):
        status, code, text = refused(client.verify_faces, *pair)
        assert (status, code) == (422, "no_face") and f"a face in the {where} image" in text
    for pair, code, where in (((b"", photo), "empty", "first"), ((photo, photo[:5000]), "truncated", "second")):
        status, got, text = refused(client.verify_faces, *pair)
        assert (status, got) == (422, code) and f"the {where} image: " in text


def test_a_form_without_both_images_is_refused(service, people):
    url, photo = f"{service.url}/v1/faces/verify", people[0][0]
    for files, missing in (
        ({"first": photo}, "'second'"),
        ({"second": photo}, "'first'"),
        ({"file": photo}, "'first' and 'second'"),
    ):
        answer = httpx.post(url, files=files, timeout=60)
        assert (answer.status_code, answer.json()["code"]) == (422, "no_file")
        assert answer.json()["detail"] == f"expected an image as a file in the form's field {missing}"
    answer = httpx.post(url, files={"first": photo}, data={"second": "words"}, timeout=60)
    assert (answer.status_code, answer.json()["code"]) == (422, "no_file")
    answer = httpx.post(url, files={"first": photo, "second": photo, "third": photo}, timeout=60)
    assert answer.status_code == 400
    answer = httpx.post(url, content=photo, headers={"content-type": "image/jpeg"}, timeout=60)
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")
    assert "with the fields 'first' and 'second'" in answer.json()["detail"]


# --- the command line, the documentation, the replica -------------------------------------------------------------


def test_the_command_line_lists_faces_and_writes_pictures(service, people, group, tmp_path, capsys):
    for name, photo in (("group", group), ("one", people[0][0])):
        (tmp_path / f"{name}.jpg").write_bytes(photo)
    words = ["query", "faces", str(tmp_path / "group.jpg"), str(tmp_path / "one.jpg"), "--out", str(tmp_path / "out")]
    main([*words, "--url", service.url, "--json"])
    many, one = json.loads(capsys.readouterr().out)["answers"]
    assert len(many["faces"]) == 7 and one["image"] == str(tmp_path / "one.jpg")
    assert set(one["faces"][0]) == {"box", "confidence", "landmarks", "quality"}
    assert decode((tmp_path / "out" / "group.png").read_bytes()).shape == decode(group).shape
    main([*words[:3], "--smallest-face", "80", "--url", service.url, "--json"])
    assert json.loads(capsys.readouterr().out)["answers"][0]["faces"] == []


def test_the_command_line_compares_two(service, people, tmp_path, capsys):
    paths = [tmp_path / f"{name}.jpg" for name in "abc"]
    for path, photo in zip(paths, (*people[0], GREY), strict=True):
        path.write_bytes(photo)
    main(["query", "verify", *map(str, paths[:2]), "--url", service.url, "--json"])
    captured = capsys.readouterr()
    answer = json.loads(captured.out)
    assert answer["same"] and len(answer["faces"]) == 2 and "the same person: distance 0." in captured.err
    main(["query", "verify", *map(str, paths[:2]), "--threshold", "0", "--url", service.url])
    assert "different people" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main(["query", "verify", str(paths[0]), str(paths[2]), "--url", service.url])
    assert ended.value.code == 5 and "a face in the second image" in capsys.readouterr().err


def test_the_documentation_describes_the_form(service):
    paths = httpx.get(f"{service.url}/openapi.json").json()["paths"]
    content = paths["/v1/faces/verify"]["post"]["requestBody"]["content"]
    assert content["multipart/form-data"]["schema"]["required"] == ["first", "second"]
    answers = paths["/v1/faces/detect"]["post"]["responses"]["200"]["content"]
    assert set(answers) == {"image/png", "application/json"}


def test_a_trained_embedder_with_a_head_gives_a_probability(tmp_path, people, group):
    """The replica without Ray, asked for boxes and embeddings in one batch."""
    arch = {"model": "backbone", "backbone": "mobilenet_v1:size=64,width=0.25", "num_features": 16, "head": "logistic"}
    torch.manual_seed(0)
    card = Card(task="faces", arch=arch, input=input_of(arch) | {"threshold": 0.7}, metrics={})
    save_checkpoint(str(tmp_path / "trained"), build_embedding_net(arch).state_dict(), card)
    replica = Faces(ServeConfig(faces=str(tmp_path / "trained"), face_views=1))
    images = [people[0][0], b"what", group, people[1][0]]
    jobs = [
        Job(image, Wanted(FaceSearchConfig(most=2), embed, False), time.perf_counter())
        for image, embed in zip(images, (True, True, False, True), strict=True)
    ]
    first, bad, boxes, second = replica.answer(jobs)
    assert isinstance(bad, ImageError) and [face.embedding_D.size for face in boxes.found.faces] == [0, 0]
    a, b = (photo.found.faces[0].embedding_D for photo in (first, second))
    assert a.shape == (16,) and first.found.faces[0].crop_HWC.size == 0
    answer = asyncio.run(replica.compare(a, b, -1.0))
    assert answer == dataclasses.replace(answer, threshold=0.7, same=answer.probability >= 0.7)
    assert asyncio.run(replica.compare(a, a, -1.0)).probability > 0.9
    assert asyncio.run(replica.describe())["task"] == "faces"
