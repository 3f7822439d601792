"""A service with everything that the pages in docs/ start services with; it may reserve more cores than there are.

It answers what the pages ask, word for word, and keeps to its OpenAPI document: schemathesis makes requests of it,
right and wrong ones, and looks. Every answer has a status, a code, headers and a body as the document says; nothing
wrong is taken; nothing ends in 5xx.
"""

import io
import time

import httpx
import numpy as np
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks

from cnnray.serve.ingress import ROUTERS, build_api
from tests.classifiers import save_classifier
from tests.detectors import save_detector
from tests.pages import DOCS, commands, count_pictures, run_page, service_words
from tests.painters import draw_photo, draw_style
from tests.segmenters import save_segmenter
from tests.serving import Service

EXAMPLES = 15  # of each operation and mode
COVERED = 60  # cases at the bounds of what an operation takes, at most
OPERATIONS = {
    operation["operationId"]: (method, path)
    for path, item in build_api(dict.fromkeys([*ROUTERS, "galleries", "stylize_jobs"])).openapi()["paths"].items()
    for method, operation in item.items()
}
CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
    checks.unsupported_method,
    checks.missing_required_header,
]
BOUNDED = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


def picture(side, kind):
    file = io.BytesIO()
    noise = np.random.default_rng(side).integers(0, 255, (side, side + 7, 3), np.uint8)
    Image.fromarray(noise).save(file, kind)
    return file.getvalue()


IMAGES = [picture(side, kind) for side, kind in ((1, "PNG"), (20, "PNG"), (48, "JPEG"), (64, "PNG"))]
GARBAGE = [b"", IMAGES[1][:60], b"GIF89a", b"what"]


OF_FACES = ("faces.md", "galleries.md")  # what they ask: tests/ray/test_face_pages.py
PAGES = [path.name for path in sorted(DOCS.glob("*.md")) if path.name not in OF_FACES]


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """The service, in a folder with what the pages name: three checkpoints, PHOTO.jpg, PHOTOS and PAINTING.jpg."""
    folder = tmp_path_factory.mktemp("everything")
    save_classifier(str(folder / "runs" / "classifier" / "checkpoint"))
    save_detector(folder / "runs" / "detector" / "checkpoint", surer=2.5)
    save_segmenter(folder / "runs" / "segmenter" / "checkpoint")
    (folder / "PHOTOS").mkdir()
    for number, name in enumerate(("PHOTO.jpg", "PHOTOS/1.jpg", "PHOTOS/2.jpg")):
        Image.fromarray(draw_photo(seed=number)).save(folder / name)
    Image.fromarray(draw_style("dots")).save(folder / "PAINTING.jpg")
    service = Service(folder, *service_words(*PAGES, but=("--keys", "--host")), "--face-views", "1").start()
    yield service
    service.stop()


def test_what_the_pages_ask_is_answered(everything, capsys, monkeypatch):
    folder = everything.folder
    monkeypatch.chdir(folder)
    monkeypatch.setenv("CNNRAY_URL", everything.url)
    shown = {}
    for page in PAGES:
        if any(words[0] == "query" for words in commands(page)):
            shown |= run_page(capsys, page, "query", instead=[("http://HOST:8000", everything.url)])
    rows = [row for value in shown.values() for row in value.get("answers", [])]
    assert len(rows) >= 10 and all(row["error"] is None for row in rows), rows
    assert len(shown["query models"]["models"]) == 5
    assert [job["state"] for job in shown["query stylize-jobs list"]["jobs"]][0] == "done"
    assert count_pictures(folder, "why/*") == 3 and count_pictures(folder, "painted.png") == 1
    assert all(count_pictures(folder, f"{name}/*") == 1 for name in ("drawn", "answers", "painted"))


@pytest.fixture(scope="module")
def schema(everything, data_dir):
    face = min((data_dir / "lfw_dev" / "Carlos_Moya").glob("*.jpg")).read_bytes()
    bodies = st.one_of(st.sampled_from([face, *IMAGES]), st.sampled_from(GARBAGE), st.binary())
    for kind in ("application/octet-stream", "image/png", "image/jpeg"):
        schemathesis.openapi.media_type(kind, bodies)
    schemathesis.openapi.format("binary", bodies)
    return schemathesis.openapi.from_url(f"{everything.url}/openapi.json", config=schemathesis.Config())


@pytest.fixture
def session(everything):
    """Of HTTP; there are the gallery and the person whom the document's examples name."""
    with httpx.Client(base_url=everything.url, timeout=60) as client:
        client.post("/v1/galleries", json={"name": "staff"})
        client.post("/v1/galleries/staff/identities", json={"id": "e-1042"})
        yield client


@pytest.fixture
def there(session):
    """What is there, by parameters of paths and queries."""
    asked = {"files": [("file", IMAGES[3]), ("style", IMAGES[2])], "params": {"size": 32, "steps": 1}}
    job = session.post("/v1/stylize/jobs", headers={"idempotency-key": "there"}, **asked).json()
    while job["state"] in ("queued", "running"):
        time.sleep(0.1)
        job = session.get(f"/v1/stylize/jobs/{job['id']}").json()
    return {"gallery": "staff", "identity": "e-1042", "style": "stained_glass", "job": job["id"]}


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_service_keeps_to_its_document(name, schema, session, there):
    method, path = OPERATIONS[name]
    operation = schema[path][method]
    for case in list(covering(schema, operation))[:COVERED]:
        look(case, session)
    for mode in GenerationMode:
        if mode.is_negative and not (operation.definition.raw.get("parameters") or operation.body):
            continue  # nothing can be wrong

        @BOUNDED
        @given(case=operation.as_strategy(generation_mode=mode, **fixed(operation, mode, there)))
        def hold(case):
            look(case, session)

        hold()


def fixed(operation, mode, there):
    """What a request names of what is there, where that leaves something to be wrong."""
    if mode.is_negative and not (operation.query or operation.headers or operation.body):
        return {}
    path = {parameter.name: there[parameter.name] for parameter in operation.path_parameters if parameter.name in there}
    query = {"style": [there["style"]]} if mode.is_positive and "style" in operation.query else {}
    return {"path_parameters": path, "query": query}


def covering(schema, operation):
    config = schema.config.generation_for(operation=operation, phase="coverage")
    return schema.iter_coverage_cases(operation, generation_modes=list(GenerationMode), generation_config=config)


def look(case, session):
    claim = {"gallery", "identity"} <= set(case.query or {})  # which takes the field `second` out of a form
    left_out = [checks.negative_data_rejection] if claim else []
    answer = case.call_and_validate(checks=CHECKS, excluded_checks=left_out, timeout=60)
    if answer.status_code == 202:  # a painting, which is not waited for
        session.delete(answer.headers["location"][0])
