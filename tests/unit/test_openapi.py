"""The OpenAPI document and docs/errors.md: complete, right, and made of what the code does."""

import ast
import asyncio
import re
from pathlib import Path

import httpx
import jsonschema
import pytest

from cnnray import errors
from cnnray.errors import GalleryError
from cnnray.infer.gallery import names
from cnnray.serve import gallery_schemas, problems
from cnnray.serve.access import ByPlace, needed_scope
from cnnray.serve.guard import Guard
from cnnray.serve.ingress import ROUTERS, build_api
from cnnray.serve.openapi import TAGS, errors_page
from cnnray.serve.problems import CODES, MEANINGS

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "errors.md"
REWRITE = (
    ".venv/bin/python -c \"from cnnray.serve.openapi import errors_page as e; print(e(), end='')\" > docs/errors.md"
)
# Codes of errors that no endpoint lets happen: of commands that read files, and of calls that HTTP has not.
NEVER = {"bad_data", "run_folder", "bad_checkpoint", "bad_vector", "too_few_faces"}
DOCUMENT = build_api(dict.fromkeys([*ROUTERS, "galleries", "stylize_jobs"])).openapi()
OPERATIONS = {
    operation["operationId"]: (method.upper(), path, operation)
    for path, item in DOCUMENT["paths"].items()
    for method, operation in item.items()
}
every_operation = pytest.mark.parametrize("name", OPERATIONS)


def resolved(node):
    """What a node of the document is, or leads to."""
    if "$ref" not in node:
        return node
    found = DOCUMENT
    for part in node["$ref"].split("/")[1:]:
        found = found[part]
    return found


def codes(operation):
    """(status, code) of all errors of an operation."""
    return {
        (int(status), code)
        for status, answer in operation["responses"].items()
        if status >= "400"
        for content in resolved(answer)["content"].values()
        for code in content["schema"]["allOf"][1]["properties"]["code"]["enum"]
    }


def check(value, schema):
    """Hold a value to a schema of the document."""
    jsonschema.Draft202012Validator({**schema, "components": DOCUMENT["components"]}).validate(value)


# --- errors -------------------------------------------------------------------------------------------------------


def raised():
    """(status, code) of every refusal and problem that the sources of the service write out, and of every error."""
    for path in (ROOT / "cnnray" / "serve").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            name = getattr(node, "func", None) and getattr(node.func, "id", "")
            if name in ("Refusal", "problem") and all(isinstance(arg, ast.Constant) for arg in node.args[:2]):
                yield tuple(arg.value for arg in node.args[:2])
    yield from CODES.items()
    yield from ((422, code) for code in (*errors.IMAGE_CODES, *errors.FACE_CODES))
    yield from ((status, code) for code, status in (errors.GALLERY_CODES | errors.JOB_CODES).items())
    for kind in vars(errors).values():
        own = isinstance(kind, type) and issubclass(kind, errors.CnnrayError) and "code" in vars(kind)
        if own and (kind.http_status < 500 or kind.http_status == 503):
            yield kind.http_status, kind.code


def test_every_code_has_its_meaning_and_every_meaning_its_code():
    written = {(status, code) for status, meanings in MEANINGS.items() for code in meanings}
    found = {(status, code) for status, code in raised() if code not in NEVER}
    found.add((422, "unknown_name"))  # cnnray/serve/classify.py takes the code of the error
    assert written - found == set() and found - written == set()
    assert 'Refusal(422, error.code, f"query explain_label' in Path(ROOT, "cnnray/serve/classify.py").read_text()


def test_every_meaning_is_a_sentence_and_of_some_endpoint():
    answered = set().union(*(codes(operation) for _, _, operation in OPERATIONS.values()))
    anywhere = {(405, "method_not_allowed")}
    for status, meanings in MEANINGS.items():
        for code, meaning in meanings.items():
            assert re.fullmatch(r"[A-Z][^|]+\.", meaning), code
            assert (status, code) in answered | anywhere, code


def test_the_page_of_errors_is_what_the_table_gives():
    assert PAGE.read_text() == errors_page(), f"rewrite it: {REWRITE}"
    assert all(f"| {status} | `{code}` |" in PAGE.read_text() for status in MEANINGS for code in MEANINGS[status])


def ask(method, path, **options):
    """A problem of a service without models."""
    guard = Guard(
        build_api({"galleries": None}), ByPlace(local=False), max_body_bytes=999, max_in_flight=1, timeout_s=5
    )

    async def answer():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(guard), base_url="http://x") as http:
            return await http.request(method, path, **options)

    answered = asyncio.run(answer())
    assert answered.headers["content-type"] == problems.PROBLEM_JSON
    return answered.status_code, answered.json()["code"], answered.json()["detail"]


JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("method", "path", "options", "status", "code", "detail"),
    [
        ("GET", "/v1/nothing", {}, 404, "not_found", "path: "),
        ("PATCH", "/v1/galleries", {}, 405, "method_not_allowed", "method: this path does not take 'PATCH'"),
        ("POST", "/v1/galleries", {"json": {}}, 422, "invalid_parameter", "body name: "),
        ("POST", "/v1/galleries", {"json": {"name": 3}}, 422, "invalid_parameter", "body name: "),
        (
            "POST", "/v1/galleries", {"json": {"name": "a", "policy": {"min_size": "3"}}},
            422, "invalid_parameter", "body policy min_size: ",
        ),
        (
            "POST", "/v1/galleries", {"content": b'{"name":', "headers": JSON},
            422, "invalid_parameter", "body: expected JSON, but at character 8: ",
        ),
        ("POST", "/v1/galleries", {"content": b"\xff", "headers": JSON}, 400, "bad_request", "body: "),
        ("GET", "/v1/galleries/a/identities", {"params": {"limit": 0}}, 422, "invalid_parameter", "query limit: "),
        ("GET", "/v1/galleries/a b", {}, 422, "bad_name", "a gallery's name has "),
        ("GET", "/v1/galleries/a/identities/%20", {}, 422, "bad_name", "expected 1 to 128 characters as identity"),
    ],
)  # fmt: skip
def test_a_refusal_names_what_is_wrong_in_words(method, path, options, status, code, detail):
    found = ask(method, path, **options)
    assert found[:2] == (status, code) and found[2].startswith(detail), found


# --- operations ---------------------------------------------------------------------------------------------------


def test_operations_read_well():
    assert len(OPERATIONS) == sum(map(len, DOCUMENT["paths"].values())) >= 29
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", name) for name in OPERATIONS)
    assert [tag["name"] for tag in DOCUMENT["tags"]] == list(TAGS)


@every_operation
def test_every_operation_is_described(name):
    method, path, operation = OPERATIONS[name]
    assert operation["summary"] and operation["description"] and set(operation["tags"]) <= set(TAGS)
    for parameter in operation.get("parameters", []):
        schema = parameter["schema"]
        assert parameter["description"], parameter["name"]
        assert schema.get("examples") or schema.get("default") not in (None, "", []), parameter["name"]
    if method in ("POST", "PATCH"):
        assert operation["requestBody"]["required"] and operation["requestBody"]["content"]
    assert ("{" in path) <= any(code == "not_found" for _, code in codes(operation))


@every_operation
def test_every_operation_has_the_errors_of_all(name):
    method, path, operation = OPERATIONS[name]
    found = codes(operation)
    scope = needed_scope(method, path)
    assert {(403, "foreign_host"), (403, "foreign_origin"), (500, "internal"), (504, "timeout")} <= found
    keyed = {(401, "unauthenticated"), (403, "insufficient_scope"), (429, "rate_limited")}
    assert found & keyed == (keyed if scope is not None else set())
    assert operation.get("security") == ([{}, {"bearer": []}] if scope is not None else None)
    assert scope is None or f"`{scope}`" in operation["description"] or "any key" in operation["description"]
    assert ((413, "body_too_large") in found) == ("requestBody" in operation)
    assert ("parameters" in operation) <= any(status == 422 for status, _ in found)


@every_operation
def test_every_answer_has_its_headers_and_media_types(name):
    _, _, operation = OPERATIONS[name]
    for status, answer in ((status, resolved(answer)) for status, answer in operation["responses"].items()):
        assert "x-request-id" in answer["headers"]
        assert ("retry-after" in answer["headers"]) == (status in ("429", "503"))
        if status >= "400":
            assert set(answer["content"]) == {problems.PROBLEM_JSON}
        for kind, content in answer.get("content", {}).items():
            assert not kind.startswith("image/") or content["schema"] == {"type": "string", "format": "binary"}
            assert kind != "application/json" or content["schema"], name


def test_operations_of_models_that_are_not_served_are_not_there():
    document = build_api({"classifier": None}).openapi()
    assert "/v1/classify" in document["paths"] and "/v1/stylize" not in document["paths"]
    assert [tag["name"] for tag in document["tags"]] == ["service", "classes"]
    assert "Problem" in document["components"]["schemas"] and "Stylized" not in document["components"]["schemas"]


# --- examples -----------------------------------------------------------------------------------------------------


def all_examples(node, at=""):
    """(place, example, schema) of everything in the document that shows one."""
    if isinstance(node, list):
        for number, item in enumerate(node):
            yield from all_examples(item, f"{at}/{number}")
    elif isinstance(node, dict):
        if isinstance(node.get("examples"), list):
            yield from ((at, example, node) for example in node["examples"])
        if "example" in node:
            yield at, node["example"], node["schema"]
        for key, item in node.items():
            if key not in ("example", "examples", "default"):
                yield from all_examples(item, f"{at}/{key}")


def test_every_example_fits_its_schema():
    found = list(all_examples(DOCUMENT))
    for place, example, schema in found:
        try:
            check(example, schema)
        except jsonschema.ValidationError as error:
            pytest.fail(f"{place}: {error.message}")
    shown = {place.rpartition("/")[2] for place, _, _ in found if place.startswith("/components/schemas/")}
    answers = {
        content["schema"]["$ref"].rpartition("/")[2]
        for _, _, operation in OPERATIONS.values()
        for part in (operation.get("requestBody", {}), *map(resolved, operation["responses"].values()))
        for content in part.get("content", {}).values()
        if "$ref" in content["schema"]
    }
    assert len(answers) >= 20 and answers <= shown


@pytest.mark.parametrize("name", ["a", "A-b_9", "x" * 64, "x" * 65, "", "-a", "_", "ü", "a b", "a/b"])
def test_the_document_says_what_a_gallery_may_be_called(name):
    fitting = re.search(gallery_schemas.GALLERY_NAME["pattern"], name) is not None
    assert fits(names.check_gallery, name) == fitting


@pytest.mark.parametrize("key", ["a", "e-1042", "ü", "名", "..", ".", "...", "a/b", "a\\b", "", "\x00", "x" * 129])
def test_the_document_says_what_a_persons_id_may_be(key):
    said = gallery_schemas.ID
    fitting = said["minLength"] <= len(key) <= said["maxLength"] and re.search(said["pattern"], key) is not None
    assert fits(names.check_identity, key) == fitting


def fits(check, text):
    try:
        check(text)
    except GalleryError:
        return False
    return True


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/v1/detect", "cnnray serve up --detector CHECKPOINT"),
        ("/v1/stylize/jobs", "cnnray serve up --stylize-jobs FOLDER"),
        ("/v1/galleries/friends", "cnnray serve up --faces dlib_resnet --record galleries.db"),
        ("/v1/what", "there is nothing at this one"),
    ],
)
def test_a_path_whose_model_was_not_asked_for_says_how_it_is(path, words):
    async def ask():
        guard = Guard(build_api({}), ByPlace(local=False), max_body_bytes=100, max_in_flight=1, timeout_s=5)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(guard), base_url="http://x") as http:
            return await http.get(path)

    answer = asyncio.run(ask())
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found") and words in answer.json()["detail"]
