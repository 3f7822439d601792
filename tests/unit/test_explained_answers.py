"""Explanations as pictures and as they travel, and what /v1/classify?explain=true does without Ray."""

import asyncio
import base64
import io
import threading
import time
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
from PIL import Image

from cnnray import cli
from cnnray.config import ServeConfig
from cnnray.errors import OptionError, StorageError, UnknownNameError
from cnnray.infer.classify import Classification, Classifier
from cnnray.infer.explain import Explanation, pictures
from cnnray.serve import classify, reasons, schemas
from cnnray.serve.access import ByPlace
from cnnray.serve.guard import Guard
from cnnray.serve.ingress import build_api
from cnnray.serve.replica import Done, Overdue
from tests.classifiers import CLASSES, save_classifier


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_classifier(str(tmp_path_factory.mktemp("classifier")))


def explained(height=40, width=80, *, guided=True):
    """Of a photo whose middle square was seen, by a network that likes one place and a red corner."""
    heat = np.zeros((height, width), np.float32)
    heat[10:14, 50:54] = 0.8
    heat[30:32, 30:32] = 0.4
    pixels = np.zeros((20, 20, 3), np.float32)
    pixels[:4, :4, 0] = 1.0
    pixels[-4:, -4:, 0] = -1.0
    return Explanation(
        label="pear", probability=0.5, heat_HW=heat, seen=(0.0, 20.0, 40.0, 60.0),
        view_HWC=np.zeros((20, 20, 3), np.uint8), guided_HWC=pixels if guided else None,
        note="" if guided else "no ReLU",
    )  # fmt: skip


PHOTO = np.full((40, 80, 3), [200, 100, 50], np.uint8)


# --- pictures -----------------------------------------------------------------------------------------------------


def test_pictures_show_where_and_which_pixels():
    shown = pictures(PHOTO, explained(), 512)
    assert shown.overlay_HWC.shape == shown.guided_HWC.shape == (40, 80, 3) and shown.heat_HW.shape == (40, 80)
    assert {picture.dtype for picture in (shown.overlay_HWC, shown.guided_HWC, shown.heat_HW)} == {np.dtype(np.uint8)}
    assert (shown.heat_HW[10:14, 50:54] == 255).all() and (shown.heat_HW[30:32, 30:32] == 128).all()
    assert np.count_nonzero(shown.heat_HW) == 4 * 4 + 2 * 2
    grey = round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)
    assert (shown.overlay_HWC[shown.heat_HW == 0] == grey).all()
    assert (shown.overlay_HWC[11, 51] != grey).any()
    red = shown.guided_HWC[..., 0].astype(int)  # 20 px of the view are 40 px of the photo, from column 20 on
    assert red[:6, 20:26].min() > 200 and red[-6:, 54:60].max() < 56
    assert (shown.guided_HWC[:, :20] == 128).all() and (shown.guided_HWC[:, 60:] == 128).all()


def test_large_photos_are_made_smaller_and_their_proportions_stay():
    photo = PHOTO.repeat(20, 0).repeat(20, 1)
    found = explained()
    large = Explanation(**{
        **vars(found), "heat_HW": found.heat_HW.repeat(20, 0).repeat(20, 1), "seen": (0.0, 400.0, 800.0, 1200.0),
    })  # fmt: skip
    shown = pictures(photo, large, 160)
    assert shown.overlay_HWC.shape == shown.guided_HWC.shape == (80, 160, 3)
    assert shown.heat_HW[24, 104] == shown.heat_HW.max() == 255
    assert (shown.guided_HWC[:, :40] == 128).all() and shown.guided_HWC[:12, 40:52, 0].min() > 200
    thin = pictures(np.zeros((2, 3000, 3), np.uint8), explained(2, 3000), 100)
    assert thin.overlay_HWC.shape == (1, 100, 3)


def test_nothing_that_speaks_is_no_heat():
    found = Explanation(**{**vars(explained(guided=False)), "heat_HW": np.zeros((40, 80), np.float32)})
    shown = pictures(PHOTO, found, 512)
    assert not shown.heat_HW.any() and shown.guided_HWC is None
    assert len(np.unique(shown.overlay_HWC)) == 1


# --- as they travel -----------------------------------------------------------------------------------------------


def read(text):
    with Image.open(io.BytesIO(base64.b64decode(text, validate=True))) as picture:
        picture.load()
        return picture.format, picture.mode, picture.size


@pytest.mark.parametrize("guided", [True, False])
def test_an_explanation_travels_as_files_in_base64(guided):
    explainer = SimpleNamespace(stage="head", why=lambda image, label: explained(guided=guided))
    file = io.BytesIO()
    Image.fromarray(PHOTO).save(file, "PNG")
    body = reasons.explanation(explainer, file.getvalue(), "pear").model_dump()
    assert read(body["overlay"]) == ("JPEG", "RGB", (80, 40)) and read(body["heat"]) == ("PNG", "L", (80, 40))
    assert read(body["guided"]) == ("PNG", "RGB", (80, 40)) if guided else body["guided"] is None
    assert (body["label"], body["probability"], body["stage"], body["height"], body["width"]) == (
        ("pear", 0.5, "head", 40, 80)
    )
    assert body["seen"] == [20.0, 0.0, 60.0, 40.0]  # left, top, right, bottom
    assert body["note"] == ("" if guided else "no ReLU")


def test_the_schema_says_what_the_pictures_are():
    fields = build_api({"classifier": None}).openapi()["components"]["schemas"]["Explanation"]["properties"]
    assert fields["overlay"]["contentMediaType"] == "image/jpeg"
    assert fields["heat"]["contentMediaType"] == fields["guided"]["contentMediaType"] == "image/png"
    assert {fields[name]["contentEncoding"] for name in ("overlay", "heat", "guided")} == {"base64"}
    assert all("description" in field for name, field in fields.items() if name != "width")
    assert f"{reasons.EXPLAINED_SIDE} px" in schemas.Explanation.__doc__


# --- beside the batches -------------------------------------------------------------------------------------------


def test_explanations_come_one_at_a_time_even_when_one_is_given_up(monkeypatch):
    now, most, loads = 0, 0, []
    lock = threading.Lock()

    def explain(explainer, image, label):
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.05)
        with lock:
            now -= 1
        return label

    monkeypatch.setattr(reasons, "explanation", explain)

    async def main():
        thread = reasons.Reasons(lambda: loads.append(1) or object())
        first = asyncio.create_task(thread.why(b"", "first"))
        await asyncio.sleep(0.02)
        first.cancel()
        return await asyncio.gather(*(thread.why(b"", f"{n}") for n in range(4)))

    assert asyncio.run(main()) == ["0", "1", "2", "3"]
    assert most == 1 and len(loads) == 1


def test_a_network_that_cannot_be_explained_is_loaded_once():
    loads = []

    def load():
        loads.append(1)
        raise OptionError("expected a stage with a map")

    async def main():
        thread = reasons.Reasons(load)
        return [await thread.why(b"", "pear") for _ in range(3)]

    for error in asyncio.run(main()):
        assert isinstance(error, OptionError)
        assert str(error) == "this network's answers cannot be explained: expected a stage with a map"
    assert len(loads) == 1


def test_the_explainer_is_of_the_weights_that_answer(checkpoint, tmp_path):
    weights = Classifier.load(checkpoint, device="cpu").card.weights_sha256
    assert reasons.load_explainer(checkpoint, "cpu", weights).card.classes == CLASSES
    with pytest.raises(StorageError, match="has changed since the service was started: expected weights 0123"):
        reasons.load_explainer(checkpoint, "cpu", "0123")
    with pytest.raises(StorageError, match="cannot be read now: .*no checkpoint at"):
        reasons.load_explainer(str(tmp_path / "gone"), "cpu", weights)


def test_a_replica_takes_on_few_explanations_and_any_number_of_plain_requests(checkpoint):
    file = io.BytesIO()
    Image.fromarray(PHOTO).save(file, "PNG")
    photo = file.getvalue()

    async def main():
        replica = classify.Classifier(ServeConfig(classifier=checkpoint, max_ongoing=8, batch_wait_ms=1))
        asked = [replica.ask_why(photo, 2, None) for _ in range(5)] + [replica.ask(photo, 2) for _ in range(5)]
        together = await asyncio.gather(*asked)
        bad = await replica.ask_why(b"rubbish", 2, None)
        unknown = await replica.ask_why(photo, 2, "kiwi")
        late = await replica.ask(photo, 2, time.time() - 10)
        assert isinstance(late.result, Overdue) and late.batch_size == 0
        return together, bad, unknown, await replica.ask_why(photo, 2, CLASSES[0])

    together, bad, unknown, after = asyncio.run(main())
    assert [answer is None for answer in together[:5]] == [False, False, True, True, True]
    assert all(isinstance(answer, Done) for answer in together[5:])
    for done, why in together[:2]:
        assert done.result == together[5].result and why.label == done.result.label
        assert why.probability == pytest.approx(done.result.probability, abs=0.02)
    assert bad.code == "not_an_image" and "known: apple, pear, plum" in str(unknown)
    assert after[1].label == CLASSES[0]  # the places of those that failed are free again


# --- refusals over HTTP -------------------------------------------------------------------------------------------


class Method:
    """Of a handle; answers always the same."""

    def __init__(self, answer):
        self.answer = answer

    async def remote(self, *_):
        return self.answer


class Handle:
    """Of a replica that answers an explanation with `answer`, and all else with `result`."""

    def __init__(self, answer, result=Classification("pear", 0.5, (("pear", 0.5),))):  # noqa: B008 (frozen)
        self.ask, self.ask_why = Method(Done("net@0", result, 1, 1.0, 1.0)), Method(answer)


def post(answer, *result, **params):
    async def main():
        api = build_api({"classifier": Handle(answer, *result)})
        app = Guard(api, ByPlace(local=False), max_body_bytes=1000, max_in_flight=2, timeout_s=5)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as http:
            return await http.post("/v1/classify", params=params, files={"file": ("a", b"abc")})

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("answer", "status", "code", "words"),
    [
        (None, 503, "busy", "as many explanations are under way"),
        (OptionError("no map"), 422, "not_explainable", "no map"),
        (UnknownNameError("class", "kiwi", ["pear"]), 422, "unknown_name", "unknown class 'kiwi'; known: pear"),
    ],
)
def test_refusals_are_problems(answer, status, code, words):
    response = post(answer, explain=True)
    assert (response.status_code, response.json()["code"]) == (status, code) and words in response.json()["detail"]
    assert ("retry-after" in response.headers) == (status == 503)
    plain = post(answer)
    assert plain.status_code == 200 and plain.json()["explanation"] is None


def test_a_class_to_explain_needs_explain():
    response = post(None, explain_label="pear")
    assert (response.status_code, response.json()["code"]) == (422, "explain_label_alone")
    assert "expected explain=true" in response.json()["detail"]


def test_the_command_needs_a_folder_for_what_it_explains(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["query", "classify", "a.jpg", "--explain-label", "pear"])
    assert ended.value.code == 2 and "--explain-label needs --explain FOLDER" in capsys.readouterr().err


def test_an_image_whose_turn_does_not_come_is_refused_for_now():
    answer = post(None, Overdue())
    assert (answer.status_code, answer.json()["code"], answer.headers["retry-after"]) == (503, "busy", "1")
