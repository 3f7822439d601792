"""The web console in a real browser, over a real service with every model but no galleries.

Whatever the page writes to the browser's console as an error fails its test, but for refusals that the test is about.
Pictures of the page are kept in the folder that CNNRAY_SCREENSHOTS names.
"""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Error, expect

from cnnray import __version__
from cnnray.client import Client
from cnnray.ops.decode import decode
from cnnray.ops.overlay import png
from tests.browsing import NARROW, WIDE, animation, check_width, choose, counted, drawn, go, keep
from tests.painters import draw_photo, draw_style
from tests.segmenters import draw_blobs

TABS = ("classify", "detect", "segment", "stylize", "faces", "status")


@pytest.fixture
def page(visits, service):
    """The console of the service with all models."""
    return visits.open(service.url)


@pytest.fixture(scope="module")
def blobs():
    return png(draw_blobs(5, 150, 220)[0])


def test_a_photo_is_chosen_dropped_and_pasted(page, china, blobs):
    said = page.locator("#photo-said")
    choose(page, china)
    expect(said).to_contain_text("photo.jpg: 640 × 427 px")
    for event, where, size in (("drop", "document.body", "220 × 150 px"), ("paste", "document", "220 × 150 px")):
        page.evaluate(
            """([content, event, where]) => {
              const data = new DataTransfer();
              data.items.add(new File([new Uint8Array(content)], `${event}.png`, { type: "image/png" }));
              const options = { bubbles: true, cancelable: true };
              const made = event === "paste" ? new ClipboardEvent(event, { ...options, clipboardData: data })
                : new DragEvent(event, { ...options, dataTransfer: data });
              (where === "document" ? document : document.body).dispatchEvent(made);
            }""",
            [list(blobs), event, where],
        )
        expect(said).to_contain_text(f"{event}.png: {size}")


def test_a_large_photo_is_made_smaller_and_stays_upright(page):
    side = Image.fromarray(np.zeros((1500, 3000, 3), np.uint8))
    exif = Image.Exif()
    exif[274] = 6  # held upright: what is stored lies on its side
    buffer = io.BytesIO()
    side.save(buffer, "JPEG", exif=exif)
    choose(page, buffer.getvalue())
    expect(page.locator("#photo-said")).to_contain_text("1024 × 2048 px, made smaller from 1500 × 3000 px")
    with page.expect_response("**/v1/detect?*") as answer:
        go(page, "Detect")
    found = answer.value.json()["images"][0]
    assert (found["height"], found["width"]) == (2048, 1024)


def test_what_is_no_picture_is_said_and_the_photo_before_stays(page, china):
    choose(page, china)
    expect(page.locator("#classify-bars li")).to_have_count(3)
    choose(page, b"what", "notes.txt")
    expect(page.locator("#photo-error")).to_contain_text("cannot open “notes.txt” as a picture")
    expect(page.locator("#classify-bars li")).to_have_count(3)


def test_the_camera_takes_a_picture(page):
    page.get_by_role("button", name="Use the camera").click()
    page.get_by_role("button", name="Take the picture").click()
    expect(page.locator("#photo-said")).to_contain_text("camera: ")
    expect(page.locator("#classify-bars li")).to_have_count(3)
    assert page.evaluate("document.querySelector('#camera-video').srcObject") is None


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ("Object.defineProperty(navigator, 'mediaDevices', { value: undefined })", "only to pages on https"),
        (
            "navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException('', 'NotAllowedError'))",
            "Allow it",
        ),
        (
            "navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException('', 'NotFoundError'))",
            "No camera",
        ),
    ],
)
def test_a_camera_that_cannot_be_used_is_explained(page, broken, words):
    page.evaluate(f"() => {{ {broken}; }}")
    page.get_by_role("button", name="Use the camera").click()
    expect(page.locator("#camera-error")).to_contain_text(words)
    expect(page.locator("#camera-shoot")).to_be_disabled()
    page.keyboard.press("Escape")
    expect(page.locator("#camera")).to_be_hidden()


def test_classify_shows_bars_and_why(page, service, china):
    with Client(service.url) as client:
        expected = client.classify(china, top_k=3)
    choose(page, china)
    bars = page.locator("#classify-bars li")
    expect(bars).to_have_count(3)
    assert bars.locator(".name").all_inner_texts() == [guess.label for guess in expected.top]
    shares = [float(text.split()[0]) for text in bars.locator(".value").all_inner_texts()]
    assert shares == pytest.approx([100 * guess.probability for guess in expected.top], abs=1)
    page.get_by_role("button", name="Why?").click()
    expect(page.locator("#why-pictures img")).to_have_count(3)
    for picture in page.locator("#why-pictures img").all():
        assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") == 512
    page.get_by_label("Explain").select_option(expected.top[2].label)
    page.get_by_role("button", name="Why?").click()
    expect(page.locator("#why-said")).to_contain_text(f"{expected.top[2].label}: ")
    keep(page, "classify")
    choose(page, png(draw_photo()), "other.png")
    expect(page.locator("#why-pictures img")).to_have_count(0)


def test_a_moving_picture_is_refused_in_words(visits, page):
    visits.refusals = {422}
    choose(page, animation(), "moving.gif")
    error = page.locator("#classify-work .error")
    expect(error).to_contain_text("The picture moves. Choose a still one.")
    expect(error).to_contain_text("Request ")
    expect(page.locator("#classify-result")).to_be_hidden()
    keep(page, "classify_refused")


def test_an_answer_about_an_older_photo_is_never_shown(page, service, china, blobs):
    with Client(service.url) as client:
        expected = client.classify(blobs, top_k=3)
    held = []
    page.route("**/v1/classify?*", lambda route: held.append(route) if not held else route.continue_())
    choose(page, china)
    expect(page.locator("#classify-work .status")).to_contain_text("Looking")
    choose(page, blobs, "blobs.png")
    bars = page.locator("#classify-bars li")
    expect(bars).to_have_count(3)
    answer = {"label": "stale", "probability": 1, "top": [{"label": "stale", "probability": 1}]}
    try:
        held[0].fulfill(json=answer)
    except Error:
        pass  # the page has given this request up
    page.wait_for_timeout(300)
    assert bars.locator(".name").all_inner_texts() == [guess.label for guess in expected.top]


def test_detect_draws_boxes_and_the_slider_asks_no_more(page, service, china):
    with Client(service.url) as client:
        scores = [found.score for found in client.detect(china, confidence=0.05).objects]
    asked = counted(page, "/v1/detect")
    choose(page, china)
    go(page, "Detect")
    rows, slider = page.locator("#detect-rows tr"), page.get_by_label("Show what is at least this sure")
    expect(page.locator("#detect-said")).to_contain_text(f"of the {len(scores)} found")
    assert len(scores) > 3 and len(asked) == 1
    for least in (0.05, round(sorted(scores)[len(scores) // 2], 2), 1.0):
        slider.fill(str(least))
        expect(rows).to_have_count(sum(score >= least for score in scores))
    assert len(asked) == 1
    slider.fill("0.05")
    before = drawn(page, "#detect-view canvas")
    rows.nth(0).get_by_role("button").focus()
    assert drawn(page, "#detect-view canvas") != before
    keep(page, "detect")
    page.locator("#detect-view canvas").hover()
    ratio, shown, width = page.eval_on_selector(
        "#detect-view canvas", "c => [devicePixelRatio, c.clientWidth, c.width]"
    )
    assert width == round(shown * ratio)


def test_the_canvas_is_sharp_on_a_fine_screen(visits, service, china):
    page = visits.open(service.url + "/#detect", device_scale_factor=2)
    choose(page, china)
    expect(page.locator("#detect-said")).to_contain_text("found")
    shown, width = page.eval_on_selector("#detect-view canvas", "c => [c.clientWidth, c.width]")
    assert width == 2 * shown


def test_a_service_that_does_not_answer_is_said(visits, page, china):
    visits.refusals = {"failed"}
    page.route("**/v1/detect?*", lambda route: route.abort())
    choose(page, china)
    go(page, "Detect")
    expect(page.locator("#detect-work .error")).to_contain_text("The service does not answer.")
    page.context.set_offline(True)
    page.get_by_role("button", name="Detect", exact=True).click()
    expect(page.locator("#detect-work .error")).to_contain_text("This device is offline.")


def test_segment_lays_colours_over_the_photo(page, service, blobs):
    with Client(service.url) as client:
        expected = {part.label: part.share for part in client.segment(blobs).classes}
    choose(page, blobs, "blobs.png")
    go(page, "Segment")
    legend = page.locator("#segment-legend li")
    expect(legend).to_have_count(2)
    shares = dict(
        zip(legend.locator(".name").all_inner_texts(), legend.locator(".value").all_inner_texts(), strict=True)
    )
    assert {label: float(text.split()[0]) / 100 for label, text in shares.items()} == pytest.approx(expected, abs=0.006)
    painted = page.eval_on_selector(
        "#segment-overlay",
        """canvas => {
          const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
          let count = 0;
          for (let at = 3; at < data.length; at += 4) count += data[at] > 0;
          return count / (canvas.width * canvas.height);
        }""",
    )
    assert painted == pytest.approx(expected["blob"], abs=1e-6)
    page.get_by_label("Strength of the colours").fill("0.2")
    assert page.eval_on_selector("#segment-overlay", "canvas => canvas.style.opacity") == "0.2"
    keep(page, "segment")


def test_a_busy_service_is_waited_for_and_then_given_up(visits, page, blobs):
    visits.refusals = {503}
    busy = {"code": "busy", "detail": "all taken", "request_id": "r-1"}
    answers = []

    def answer(route):
        answers.append(route)
        if len(answers) == 1 or len(answers) > 2:
            route.fulfill(status=503, headers={"retry-after": "1"}, json=busy, content_type="application/problem+json")
        else:
            route.continue_()

    page.route("**/v1/segment*", answer)
    choose(page, blobs, "blobs.png")
    go(page, "Segment")
    expect(page.locator("#segment-work .status")).to_contain_text("Waiting 1 s before attempt 2 of 4")
    expect(page.locator("#segment-legend li")).to_have_count(2)
    page.get_by_role("button", name="Segment", exact=True).click()
    expect(page.locator("#segment-work .error")).to_contain_text("hands full")
    expect(page.locator("#segment-work .error")).to_contain_text("Request r-1")
    assert len(answers) == 2 + 4


def test_stylize_paints_compares_and_downloads(page, china):
    choose(page, china)
    go(page, "Stylize")
    expect(page.locator("#stylize-said")).to_contain_text("Painted as stripes, 640 × 427 px")
    for preview in page.locator("#styles img").all():
        expect(preview).to_have_js_property("complete", True)
        expect(preview).not_to_have_js_property("naturalWidth", 0)
    page.get_by_label("dots").check()
    expect(page.locator("#stylize-said")).to_contain_text("Painted as dots")
    divider = page.get_by_label("How much of the painting is shown")
    divider.focus()
    page.keyboard.press("ArrowRight")
    assert page.eval_on_selector("#stylize-compare", "place => place.style.getPropertyValue('--cut')") == "51%"
    keep(page, "stylize")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download the painting").click()
    assert download.value.suggested_filename == "photo-dots.jpg"
    assert decode(Path(download.value.path()).read_bytes()).shape == (427, 640, 3)
    asked = counted(page, "strength=0.5")
    page.get_by_label("Strength", exact=True).fill("0.5")
    expect(page.locator("#stylize-said")).to_contain_text("Painted as dots")
    assert asked


def test_a_picture_that_cannot_be_painted_is_refused_in_words(visits, page):
    visits.refusals = {422}
    choose(page, animation(), "moving.gif")
    go(page, "Stylize")
    expect(page.locator("#stylize-work .error")).to_contain_text("The picture moves.")


def test_a_painting_job_is_started_watched_and_deleted(visits, page, service):
    visits.refusals = {400, 409}  # a style that is too small; a preview that is not there yet
    choose(page, png(draw_photo()), "photo.png")
    go(page, "Stylize")
    style = page.get_by_label("Picture with the style")
    page.get_by_role("button", name="Start painting").click()
    expect(page.locator("#jobs-work .status")).to_contain_text("Choose a picture with the style")
    style.set_input_files({"name": "s.png", "mimeType": "image/png", "buffer": png(draw_style("dots", 8))})
    page.get_by_role("button", name="Start painting").click()
    expect(page.locator("#jobs-work .error")).to_contain_text("at least 16 px")
    style.set_input_files({"name": "s.png", "mimeType": "image/png", "buffer": png(draw_style("dots"))})
    page.get_by_label("Longer side, px").fill("96")
    page.get_by_label("Steps").fill("3")
    page.get_by_role("button", name="Start painting").click()
    expect(page.locator("#jobs-list li")).to_have_count(1)
    expect(page.locator("#job-said")).to_contain_text("The finished painting, 96 × 72 px", timeout=60_000)
    expect(page.locator("#jobs-list progress")).to_have_js_property("position", 1)
    keep(page, "stylize_job")
    page.get_by_role("button", name="Delete the painting").click()
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#jobs-list li")).to_have_count(1)
    page.get_by_role("button", name="Delete the painting").click()
    page.locator("#ask-yes").click()
    expect(page.locator("#jobs-list li")).to_have_count(0)
    expect(page.locator("#job")).to_be_hidden()
    with Client(service.url) as client:
        assert client.stylize_jobs() == []


def test_without_galleries_faces_are_found_all_the_same(page, carlos):
    choose(page, carlos[0])
    go(page, "Faces")
    expect(page.locator("#recognise-said")).to_contain_text("1 face found.")
    expect(page.locator("#faces-missing")).to_contain_text("cnnray serve up --faces dlib_resnet --record galleries.db")
    expect(page.locator("#people-part")).to_be_hidden()


def test_status_shows_models_readiness_and_latencies(page, service, china):
    choose(page, china)
    expect(page.locator("#classify-bars li")).to_have_count(3)
    go(page, "Status")
    expect(page.locator("#status-ready")).to_have_text("Ready")
    expect(page.locator("#status-version")).to_have_text(__version__)
    with Client(service.url) as client:
        models = client.models()
    expect(page.locator("#status-models article")).to_have_count(len(models))
    for model in models:
        expect(page.locator("#status-models")).to_contain_text(model.weights_sha256)
    expect(page.locator("#status-latencies")).to_contain_text("POST /v1/classify")
    keep(page, "status")


def test_a_service_that_is_not_ready_says_what_is_not(visits, page):
    visits.refusals = {503}
    problem = {"code": "not_ready", "detail": "detector: no answer to a self-test", "request_id": "r"}
    page.route("**/v1/ready", lambda route: route.fulfill(status=503, headers={"retry-after": "1"}, json=problem))
    go(page, "Status")
    expect(page.locator("#status-ready")).to_have_text("Not everything is ready: detector: no answer to a self-test.")


def test_the_keyboard_goes_through_the_tabs(page):
    tabs = [page.locator(f"#tab-{tab}") for tab in TABS]
    expect(tabs[0]).to_have_attribute("aria-selected", "true")
    tabs[0].focus()
    for key, at in (("ArrowRight", 1), ("ArrowRight", 2), ("End", 5), ("ArrowRight", 0), ("ArrowLeft", 5), ("Home", 0)):
        page.keyboard.press(key)
        expect(tabs[at]).to_be_focused()
        expect(tabs[at]).to_have_attribute("aria-selected", "true")
        assert [tab.get_attribute("tabindex") for tab in tabs] == ["0" if n == at else "-1" for n in range(len(tabs))]
        assert [page.locator(f"#{tab}").is_visible() for tab in TABS] == [n == at for n in range(len(tabs))]
        expect(page.locator(f"#{TABS[at]}")).to_have_attribute("aria-labelledby", f"tab-{TABS[at]}")


def test_every_field_has_a_name_for_who_does_not_see_it(page):
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("input, select")]
          .filter((field) => !field.labels.length && !field.ariaLabel).map((field) => field.id)"""
    )
    assert nameless == []


def test_a_key_is_asked_for_kept_for_the_session_and_shown_to_the_service(visits, page, service, china):
    visits.refusals = {401}
    refusal = {"code": "unauthenticated", "detail": "expected a key", "request_id": "r-2"}
    shown = []

    def guard(route):
        shown.append(route.request.headers.get("authorization"))
        if shown[-1] == "Bearer cnnray_right":
            route.continue_()
        else:
            route.fulfill(status=401, json=refusal, content_type="application/problem+json")

    page.route("**/v1/**", guard)
    choose(page, china)
    field = page.get_by_label("Key of this service")
    expect(field).to_be_focused()
    expect(page.locator("#key-hint")).to_contain_text("asks for a key")
    expect(page.locator("#classify-work .error")).to_contain_text("This service asks for a key.")
    keep(page, "key")
    field.fill("cnnray_wrong")
    page.keyboard.press("Enter")
    expect(page.locator("#key-hint")).to_contain_text("does not accept this key")
    field.fill("cnnray_right")
    page.keyboard.press("Enter")
    expect(page.locator("#classify-bars li")).to_have_count(3)
    assert shown[0] is None and "Bearer cnnray_wrong" in shown and shown[-1] == "Bearer cnnray_right"
    assert page.evaluate("[sessionStorage.length, localStorage.length, document.cookie]") == [1, 0, ""]
    assert "cnnray_right" not in page.url
    page.get_by_role("button", name="Key: one is in use").click()
    page.get_by_role("button", name="Forget").click()
    assert page.evaluate("sessionStorage.length") == 0


def test_a_key_without_the_right_or_with_too_many_requests_is_explained(visits, page, china):
    visits.refusals = {403, 429}
    problems = [
        (403, "insufficient_scope", "this needs a key of scope infer", {}, "not allowed to do this"),
        (429, "rate_limited", "the key is good for 2 requests a minute", {"retry-after": "90"}, "again in 90 seconds"),
    ]
    for status, code, detail, headers, words in problems:
        body = {"code": code, "detail": detail, "request_id": "r"}
        page.route("**/v1/classify?*", lambda route: route.fulfill(status=status, json=body, headers=headers))  # noqa: B023
        choose(page, china)
        expect(page.locator("#classify-work .error")).to_contain_text(words)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [WIDE, NARROW], ids=["wide", "narrow"])
def test_every_tab_fits_the_screen(visits, service, china, scheme, viewport):
    page = visits.open(service.url, viewport=viewport, color_scheme=scheme, reduced_motion="reduce")
    choose(page, china)
    ready = {
        "classify": "#classify-bars li",
        "detect": "#detect-view canvas",
        "segment": "#segment-legend li",
        "stylize": "#stylize-compare .after",
        "status": "#status-models article",
    }
    for tab, sign in ready.items():
        go(page, tab.title())
        expect(page.locator(sign).first).to_be_visible()
        expect(page.locator(f"#{tab} .busy")).to_have_count(0)
        check_width(page, viewport, f"{tab}_{scheme}")
