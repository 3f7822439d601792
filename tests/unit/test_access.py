"""Which request needs which scope, and who may ask where there are no keys."""

import asyncio

import pytest
from starlette.routing import Route

from cnnray.serve.access import ByKey, ByPlace, needed_scope
from cnnray.serve.ingress import ROUTERS, build_api
from cnnray.serve.key_ring import KeyRing
from cnnray.serve.keys import create_key
from cnnray.serve.problems import Refusal

NEEDS = {
    ("GET", "/v1/health"): None,
    ("GET", "/v1/ready"): None,
    ("GET", "/v1/models"): "",
    ("GET", "/metrics"): "",
    ("GET", "/v1/galleries"): "faces:read",
    ("POST", "/v1/galleries"): "faces:write",
    ("GET", "/v1/galleries/{gallery}"): "faces:read",
    ("DELETE", "/v1/galleries/{gallery}"): "admin",
    ("POST", "/v1/galleries/{gallery}/identities"): "faces:write",
    ("GET", "/v1/galleries/{gallery}/identities"): "faces:read",
    ("GET", "/v1/galleries/{gallery}/identities/{identity}"): "faces:read",
    ("PATCH", "/v1/galleries/{gallery}/identities/{identity}"): "faces:write",
    ("DELETE", "/v1/galleries/{gallery}/identities/{identity}"): "faces:write",
    ("DELETE", "/v1/galleries/{gallery}/identities/{identity}/faces/{face_id}"): "faces:write",
    ("POST", "/v1/galleries/{gallery}/identities/{identity}/faces"): "faces:write",
    ("POST", "/v1/galleries/{gallery}/recognize"): "faces:read",
}
INFER = ("/v1/classify", "/v1/detect", "/v1/segment", "/v1/faces/", "/v1/stylize")


def all_routes():
    app = build_api(dict.fromkeys([*ROUTERS, "galleries", "stylize_jobs"]))
    return [(method, path) for path, item in app.openapi()["paths"].items() for method in map(str.upper, item)]


def test_every_endpoint_has_the_scope_that_is_meant():
    routes = all_routes()
    assert set(NEEDS) <= set(routes) and len(routes) >= len(NEEDS) + 10
    for method, path in routes:
        wanted = NEEDS.get((method, path), "infer")
        assert (method, path) in NEEDS or path.startswith(INFER), path
        filled = path.replace("{", "").replace("}", "")
        assert needed_scope(method, filled) == wanted, (method, path)


def test_pages_are_open_and_whatever_else_there_will_be_is_not():
    app = build_api({})
    pages = {route.path for route in app.routes if isinstance(route, Route) and not route.path.startswith("/v1/")}
    pages -= {"/metrics"}
    assert {"/docs", "/openapi.json"} <= pages
    assert all(needed_scope("GET", path) is None for path in (*pages, "/", "/console/app.js"))
    assert needed_scope("POST", "/v1/new") == needed_scope("GET", "/v1/") == "infer"
    assert needed_scope("POST", "/v1/galleriesx") == "infer"


def test_a_claim_of_somebody_in_a_gallery_reads_it():
    for query, scope in (("", "infer"), ("pick=only", "infer"), ("gallery=g&identity=i", "faces:read")):
        assert needed_scope("POST", "/v1/faces/verify", query) == scope
    for query in ("%67allery=g", "gallery=", "identity=i&gallery=g"):  # escaped, and empty
        assert needed_scope("POST", "/v1/faces/verify", query) == "faces:read"


def ask(access, headers=(), method="POST", path="/v1/classify", query=b""):
    """The code of what is refused, "" where nothing is."""
    scope = {"type": "http", "method": method, "path": path, "query_string": query}
    scope["headers"] = [(name.encode(), value.encode()) for name, value in dict(headers).items()]
    try:
        asyncio.run(access.check(scope))
    except Refusal as refusal:
        return refusal.code
    return ""


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost", "localhost:80", "[::1]:8000", "127.9.9.9"])
def test_names_of_this_machine_are_heard(host):
    local = ByPlace(local=True)
    assert ask(local, {"host": host}) == ask(local, {"host": host, "origin": f"http://{host}"}) == ask(local) == ""


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "192.0.2.1", "[::1", "@"]
)
def test_other_names_are_not(host):
    assert ask(ByPlace(local=True), {"host": host}) == "foreign_host"
    assert ask(ByPlace(local=False), {"host": host}) == ""


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://127.0.0.1:9000", "http://127.0.0.1", "file://", "http://[::1", ""]
)
def test_pages_of_other_places_may_not_ask_where_no_key_is_needed(origin):
    headers = {"host": "127.0.0.1:8000", "origin": origin}
    for method, path in (("POST", "/v1/classify"), ("GET", "/v1/galleries"), ("DELETE", "/v1/galleries/g")):
        assert ask(ByPlace(local=True), headers, method, path) == "foreign_origin"
    assert ask(ByPlace(local=False), {"host": "example.org", "origin": origin}) == "foreign_origin"


def test_pages_of_named_places_may():
    access = ByPlace(local=True, origins=("https://example.org",))
    headers = {"host": "127.0.0.1:8000"}
    assert ask(access, headers | {"origin": "https://example.org"}) == ""
    assert ask(access, headers | {"origin": "https://example.org.evil.example"}) == "foreign_origin"


def test_with_keys_the_place_does_not_matter(tmp_path):
    _, shown = create_key(str(tmp_path), "a", ("infer",))
    access = ByKey(KeyRing(str(tmp_path)))
    anywhere = {"host": "evil.example", "origin": "http://evil.example"}
    assert ask(access, anywhere) == "unauthenticated"
    assert ask(access, anywhere | {"authorization": f"Bearer {shown}"}) == ""
    assert ask(access, anywhere, "GET", "/v1/health") == ask(access, anywhere, "GET", "/docs") == ""
    claim = {"path": "/v1/faces/verify", "query": b"gallery=g"}
    assert ask(access, {"authorization": f"Bearer {shown}"}, **claim) == "insufficient_scope"
