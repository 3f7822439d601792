"""Pages in a real browser, and what tests do with them."""

import io
import os
import re
from pathlib import Path

import numpy as np
from PIL import Image

CHROMIUM = os.environ.get("CNNRAY_CHROMIUM", "/usr/bin/chromium")  # Debian's
WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 360, "height": 740}
_KINDS = {"jpg": "image/jpeg", "png": "image/png", "gif": "image/gif", "txt": "text/plain"}


class Visits:
    """Pages of one test, and what they wrote to their consoles.

    `refusals` are the statuses that the test is about; "failed" is a request that got no answer.
    """

    def __init__(self, browser):
        self.browser, self.refusals, self.errors, self.contexts = browser, set(), [], []

    def open(self, url, viewport=WIDE, **options):
        context = self.browser.new_context(viewport=viewport, **options)
        self.contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", self._listen)
        page.goto(url)
        return page

    def _listen(self, message):
        if message.type != "error":
            return
        refused = re.search(r"Failed to load resource: .*?(status of (\d+)|net::)", message.text)
        if not refused or (int(refused[2]) if refused[2] else "failed") not in self.refusals:
            self.errors.append(f"{message.text} {message.location}")


def encoded(pixels, kind, **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def animation():
    frames = [Image.fromarray(np.full((60, 80, 3), grey, np.uint8)) for grey in (50, 200)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def choose(page, content, name="photo.jpg"):
    kind = _KINDS[name.rpartition(".")[2]]
    page.locator("#photo-file").set_input_files({"name": name, "mimeType": kind, "buffer": content})


def go(page, tab):
    page.get_by_role("tab", name=tab, exact=False).click()


def counted(page, path):
    """The list of requests to a path, which grows."""
    seen = []
    page.on("request", lambda request: seen.append(request) if path in request.url else None)
    return seen


def keep(page, name):
    """A picture of the whole page, for whoever looks at what the tests saw."""
    if folder := os.environ.get("CNNRAY_SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True, animations="allow", caret="initial")


def drawn(page, selector):
    """What a canvas shows."""
    return page.eval_on_selector(selector, "canvas => canvas.toDataURL()")


def check_width(page, viewport, name):
    wide = page.evaluate("document.documentElement.scrollWidth")
    keep(page, f"{name}_{viewport['width']}")
    assert wide <= viewport["width"], name
