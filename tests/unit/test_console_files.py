"""The console's files as the service gives them out; what they do in a browser is tested in tests/serve."""

import asyncio
import re

import httpx
import pytest

from cnnray.serve.access import ByPlace
from cnnray.serve.console import load_assets
from cnnray.serve.guard import Guard
from cnnray.serve.ingress import build_api


def get(path, method="GET", **headers):
    guard = Guard(build_api({}), ByPlace(local=False), max_body_bytes=100, max_in_flight=1, timeout_s=5)

    async def ask():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(guard), base_url="http://x") as http:
            return await http.request(method, path, headers=headers)

    return asyncio.run(ask())


def test_the_page_is_served_with_its_files_and_bounded_in_what_it_may_do():
    page = get("/")
    assert page.status_code == 200 and page.headers["content-type"] == "text/html; charset=utf-8"
    policy = page.headers["content-security-policy"]
    assert "script-src 'self';" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
    assert page.headers["x-content-type-options"] == "nosniff"
    named = set(re.findall(r'(?:src|href)="(console/[^"]+)"', page.text))
    assert named == {"console/icon.svg", "console/style.css", "console/app.js"}
    for name, kind in (("app.js", "text/javascript"), ("style.css", "text/css"), ("icon.svg", "image/svg+xml")):
        file = get(f"/console/{name}")
        assert file.status_code == 200 and file.headers["content-type"].startswith(kind)
        assert file.headers["content-security-policy"] == policy
    assert get("/", "HEAD").status_code == 200
    for path in ("/console/what.js", "/console/..%2f..%2ferrors.py", "/console/"):
        answer = get(path)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


def test_a_file_is_fetched_again_only_where_it_has_changed():
    first = get("/console/app.js")
    assert first.headers["cache-control"] == "no-cache"
    again = get("/console/app.js", **{"if-none-match": f'"other", W/{first.headers["etag"]}'})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
    assert get("/console/app.js", **{"if-none-match": '"other"'}).content == first.content


def test_the_files_are_small_and_whole_and_nothing_comes_from_elsewhere():
    assets = {name: asset.content.decode() for name, asset in load_assets().items()}
    for name, text in assets.items():
        assert text.count("\n") < 270 and "innerHTML" not in text, name
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg|127\.0\.0\.1)", text), name
        for imported in re.findall(r'from "\./([^"]+)"', text):
            assert imported in assets, (name, imported)
    page = assets["index.html"]
    assert not re.search(r"\sstyle=|\son\w+=|<style", page)
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    named = set(re.findall(r'byId\("([^"$]+)"\)', "".join(assets.values())))
    assert named <= set(ids), named - set(ids)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_from_what_is_behind_them(scheme):
    style = load_assets()["style.css"].content.decode()
    light, dark = re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{3,6})\b", light))
    if scheme == "dark":
        colours |= dict(re.findall(r"--([\w-]+): (#[0-9a-f]{3,6})\b", dark))
    for ink in ("ink", "soft", "accent", "bad", "good"):
        for behind in ("card", "back"):
            assert contrast(colours[ink], colours[behind]) >= 4.5, (ink, behind)
    assert contrast(colours["on-accent"], colours["accent"]) >= 4.5
    assert contrast(colours["card"], colours["bad"]) >= 4.5  # the button that deletes
    assert contrast(colours["edge"], colours["card"]) >= 3  # borders of fields


def contrast(one, other):
    """As WCAG 2 defines it."""
    low, high = sorted(luminance(colour) for colour in (one, other))
    return (high + 0.05) / (low + 0.05)


def luminance(colour):
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    parts = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]
