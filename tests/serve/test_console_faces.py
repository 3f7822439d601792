"""The console's faces and galleries in a real browser, over a real service that has faces alone; see test_console."""

import re

import numpy as np
import pytest
from playwright.sync_api import expect

from cnnray.client import Client
from cnnray.ops.decode import decode
from cnnray.ops.overlay import png
from tests.browsing import NARROW, WIDE, check_width, choose, go, keep
from tests.serving import Service


@pytest.fixture(scope="module")
def over_sqlite(tmp_path_factory):
    words = ("--faces", "dlib_resnet", "--face-views", "1", "--record", "galleries.db", "--exact-until", "100")
    service = Service(tmp_path_factory.mktemp("console"), *words).start()
    yield service
    service.stop()


@pytest.fixture
def gallery(over_sqlite, request):
    """A new one of the test's own, and a client."""
    name = re.sub(r"[^A-Za-z0-9]+", "-", request.node.name)[:60]
    with Client(over_sqlite.url) as client:
        client.create_gallery(name)
        yield name, client
        client.drop_gallery(name)


@pytest.fixture(scope="module")
def group(data_dir):
    """Seven people with small faces."""
    return (data_dir / "faces" / "2007_007763.jpg").read_bytes()


def faces_of(visits, over_sqlite, gallery, photo):
    page = visits.open(over_sqlite.url + "/#faces")
    expect(page.locator("#gallery")).to_be_enabled()
    page.get_by_label("Gallery", exact=True).select_option(gallery)
    choose(page, photo)
    expect(page.locator("#recognise-said")).not_to_be_empty()
    return page


def test_somebody_is_enrolled_and_known_from_then_on(visits, over_sqlite, gallery, carlos):
    name, client = gallery
    page = faces_of(visits, over_sqlite, name, carlos[0])
    expect(page.locator("#recognise-said")).to_contain_text("1 face found. Nobody known here.")
    page.get_by_role("button", name="Enrol face 1").click()
    page.get_by_label("Name", exact=True).fill("Carlos Moyá")
    keep(page, "faces_enrol")
    page.get_by_role("button", name="Enrol", exact=True).click()
    expect(page.locator("#enrol-work .status")).to_contain_text("Carlos Moyá is enrolled.")
    expect(page.locator("#people-rows tr")).to_have_count(1)
    (person,) = client.list_identities(name).identities
    assert (person.name, person.num_faces) == ("Carlos Moyá", 1) and person.id.startswith("carlos-moya-")
    choose(page, carlos[1], "second.jpg")
    expect(page.locator("#recognise-said")).to_contain_text("Carlos Moyá recognised.")
    keep(page, "faces_recognised")
    page.get_by_role("button", name="Enrol face 1").click()
    expect(page.get_by_label("Id of the person")).to_have_value(person.id)
    page.get_by_role("button", name="Enrol", exact=True).click()
    expect(page.locator("#people-rows td.n")).to_have_text("2")


def test_one_face_of_several_is_enrolled_and_it_is_that_one(visits, over_sqlite, gallery, group):
    name, client = gallery
    page = faces_of(visits, over_sqlite, name, group)
    expect(page.locator("#recognise-rows tr")).to_have_count(7)
    visits.refusals = {422}  # the faces are small
    page.get_by_role("button", name="Enrol face 3").click()
    page.get_by_label("Name", exact=True).fill("third")
    page.get_by_role("button", name="Enrol", exact=True).click()
    done, anyway = page.locator("#enrol-work .status"), page.get_by_role("button", name="Enrol anyway")
    expect(done.filter(has_text="is enrolled").or_(anyway)).to_be_visible()
    if anyway.is_visible():
        anyway.click()
    expect(done).to_contain_text("third is enrolled")
    expect(page.locator("#recognise-rows tr").nth(2).locator("th")).to_have_text("third")
    keep(page, "faces_group")
    found = [face.identity and face.identity.name for face in client.recognize(name, group).faces]
    assert found[2] == "third" and found.count("third") == 1


def test_the_quality_gate_says_why_and_can_be_overruled(visits, over_sqlite, gallery, carlos):
    name, client = gallery
    visits.refusals = {422}
    dark = png((decode(carlos[0]) * 0.15).astype(np.uint8))
    page = faces_of(visits, over_sqlite, name, dark)
    page.get_by_role("button", name="Enrol face 1").click()
    page.get_by_label("Name", exact=True).fill("Carlos")
    page.get_by_role("button", name="Enrol", exact=True).click()
    expect(page.locator("#enrol-work .error")).to_contain_text("The face is too dark: turn towards the light.")
    assert client.list_identities(name).identities == ()
    keep(page, "faces_refused")
    page.get_by_role("button", name="Enrol anyway").click()
    expect(page.locator("#enrol-work .status")).to_contain_text("Carlos is enrolled.")


def test_a_face_that_is_somebody_else_already_is_named(visits, over_sqlite, gallery, carlos):
    name, client = gallery
    client.enroll(name, "carlos", carlos[0])
    visits.refusals = {404, 409}  # an id that is free; the conflict
    page = faces_of(visits, over_sqlite, name, carlos[1])
    page.get_by_role("button", name="Enrol face 1").click()
    page.get_by_label("Somebody new").check()
    page.get_by_label("Name", exact=True).fill("Double")
    page.get_by_label("Id (if you have one)").fill("carlos")
    page.get_by_role("button", name="Enrol", exact=True).click()
    expect(page.locator("#enrol-work .error")).to_contain_text("There is somebody with this id already.")
    page.get_by_label("Id (if you have one)").fill("double")
    page.get_by_role("button", name="Enrol", exact=True).click()
    expect(page.locator("#enrol-work .error")).to_contain_text("This face already belongs to “carlos”.")
    page.get_by_role("button", name="Enrol anyway").click()
    expect(page.locator("#enrol-work .status")).to_contain_text("Double is enrolled.")
    page.get_by_role("button", name="Enrol face 1").click()
    page.get_by_label("Somebody known").check()
    page.get_by_label("Id of the person").fill("nobody")
    page.get_by_role("button", name="Enrol", exact=True).click()
    expect(page.locator("#enrol-work .error")).to_contain_text("There is nobody with this id")


def test_people_are_listed_page_by_page_renamed_and_erased(visits, over_sqlite, gallery, carlos):
    name, client = gallery
    client.enroll(name, "carlos", carlos[0])
    for number in range(29):
        client.add_identity(name, f"p{number}", f"Person {number}")
    page = faces_of(visits, over_sqlite, name, carlos[1])
    rows = page.locator("#people-rows tr")
    expect(rows).to_have_count(25)
    page.get_by_role("button", name="Show more").click()
    expect(rows).to_have_count(30)
    expect(page.get_by_role("button", name="Show more")).to_be_hidden()
    page.get_by_role("button", name="Rename carlos").click()
    page.get_by_label("New name").fill("Carlos Moyá")
    page.keyboard.press("Enter")
    expect(rows.first).to_contain_text("Carlos Moyá")
    expect(page.locator("#recognise-said")).to_contain_text("Carlos Moyá recognised.")
    page.get_by_role("button", name="Delete Carlos").click()
    expect(page.locator("#ask-text")).to_contain_text("1 face will be erased for good")
    expect(page.get_by_role("button", name="Cancel")).to_be_focused()
    keep(page, "faces_delete")
    page.keyboard.press("Escape")
    expect(rows).to_have_count(30)
    page.get_by_role("button", name="Delete Carlos").click()
    page.get_by_role("button", name="Delete for good").click()
    expect(rows).to_have_count(29)
    expect(page.locator("#people-work .status")).to_contain_text("was erased, with 1 face.")
    expect(page.locator("#recognise-said")).to_contain_text("Nobody known here.")


def test_a_gallery_is_made_and_a_bad_name_is_refused(visits, over_sqlite):
    visits.refusals = {422}
    page = visits.open(over_sqlite.url + "/#faces")
    new = page.get_by_role("button", name="New gallery")
    new.click()
    page.get_by_label("Name: letters").fill("not a name")
    page.locator("#ask-yes").click()
    expect(page.locator("#gallery-work .error")).to_contain_text("This name does not work")
    new.click()
    page.get_by_label("Name: letters").fill("made-here")
    page.locator("#ask-yes").click()
    expect(page.locator("#gallery")).to_have_value("made-here")
    with Client(over_sqlite.url) as client:
        client.drop_gallery("made-here")


def test_two_photos_are_compared(visits, over_sqlite, gallery, carlos, data_dir):
    page = faces_of(visits, over_sqlite, gallery[0], carlos[0])
    other = next((data_dir / "lfw_dev" / "Condoleezza_Rice").glob("*.jpg")).read_bytes()
    grey = png(np.full((90, 120, 3), 128, np.uint8))
    second, compare = page.get_by_label("A second photo"), page.get_by_role("button", name="Compare", exact=True)
    for photo, words in ((carlos[1], "The same person."), (other, "Two different people.")):
        second.set_input_files({"name": "s.jpg", "mimeType": "image/jpeg", "buffer": photo})
        compare.click()
        expect(page.locator("#verify-said")).to_contain_text(words)
    keep(page, "faces_verify")
    visits.refusals = {422}
    second.set_input_files({"name": "g.png", "mimeType": "image/png", "buffer": grey})
    compare.click()
    expect(page.locator("#verify-work .error")).to_contain_text("No face was found in the second photo.")
    expect(page.locator("#verify-result")).to_be_hidden()


def test_what_the_service_lacks_is_said_with_what_starts_it(visits, over_sqlite):
    page = visits.open(over_sqlite.url)
    expect(page.get_by_role("tab", name="Faces")).to_have_attribute("aria-selected", "true")
    for name, option in (("Classify", "--classifier"), ("Detect", "--detector"), ("Stylize", "--painter")):
        tab = page.get_by_role("tab", name=name)
        expect(tab).to_have_attribute("aria-disabled", "true")
        tab.click(force=True)
        expect(page.locator("#missing")).to_contain_text(f"cnnray serve up {option}")
    expect(page.locator("#faces")).to_be_visible()
    go(page, "Status")
    expect(page.locator("#status-missing li")).to_have_count(4)
    keep(page, "missing")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [WIDE, NARROW], ids=["wide", "narrow"])
def test_the_faces_fit_the_screen(visits, over_sqlite, gallery, carlos, scheme, viewport):
    name, client = gallery
    client.enroll(name, "carlos", carlos[0], name="Carlos Moyá with a name that is somewhat long")
    page = visits.open(over_sqlite.url + "/#faces", viewport=viewport, color_scheme=scheme, reduced_motion="reduce")
    expect(page.locator("#gallery")).to_be_enabled()
    page.get_by_label("Gallery", exact=True).select_option(name)
    choose(page, carlos[1])
    expect(page.locator("#recognise-said")).to_contain_text("recognised")
    page.get_by_role("button", name="Enrol face 1").click()
    check_width(page, viewport, f"faces_{scheme}")
