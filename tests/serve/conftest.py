"""A small Ray cluster, checkpoints with random weights, photos, and a browser for the pages of services."""

import io
import warnings

import pytest
import ray
from PIL import Image
from playwright.sync_api import expect, sync_playwright
from sklearn.datasets import load_sample_images

from tests.browsing import CHROMIUM, Visits, encoded
from tests.classifiers import save_classifier
from tests.detectors import save_detector
from tests.painters import save_painter
from tests.segmenters import save_segmenter


@pytest.fixture(scope="package")
def checkpoint(tmp_path_factory):
    """Folder of a self-contained classifier."""
    return save_classifier(str(tmp_path_factory.mktemp("classifier")))


@pytest.fixture(scope="package")
def segmenter(tmp_path_factory):
    """Folder of a self-contained segmenter."""
    return save_segmenter(tmp_path_factory.mktemp("segmenter"))


@pytest.fixture(scope="package")
def detector(tmp_path_factory):
    """Folder of a self-contained detector."""
    return save_detector(tmp_path_factory.mktemp("detector"), surer=2.5)


@pytest.fixture(scope="package")
def painter(tmp_path_factory):
    """Folder of a painter of two styles."""
    return save_painter(tmp_path_factory.mktemp("painter"))


@pytest.fixture(scope="package")
def cluster():
    """A small Ray cluster of this process's own."""
    with warnings.catch_warnings(action="ignore"):
        ray.init(
            address="local",
            num_cpus=6,
            object_store_memory=150 * 2**20,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="WARNING",
        )
    yield
    ray.shutdown()


@pytest.fixture(scope="package")
def photos():
    """Encoded crops of two real photos, as JPEG, PNG and WebP."""
    encoded = []
    for number, pixels in enumerate(load_sample_images().images):
        for left in range(0, 400, 100):
            photo = Image.fromarray(pixels).crop((left, 50, left + 150 + left // 2, 250))
            file = io.BytesIO()
            photo.save(file, ("JPEG", "PNG", "WEBP")[(number + left // 100) % 3])
            encoded.append(file.getvalue())
    return encoded


@pytest.fixture(scope="module")
def browser():
    """Of one module, which ends it: its event loop would meet the next service that starts in this process."""
    camera = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", *camera])
        expect.set_options(timeout=20_000)
        yield browser
        browser.close()


@pytest.fixture
def visits(browser):
    """Opens pages; the test fails where one of them wrote an error to the browser's console."""
    visits = Visits(browser)
    yield visits
    for context in visits.contexts:
        context.close()
    assert visits.errors == []


@pytest.fixture(scope="package")
def china():
    """A photo."""
    return encoded(load_sample_images().images[0], "JPEG")


@pytest.fixture(scope="package")
def carlos(data_dir):
    """Two photos of one man."""
    return [path.read_bytes() for path in sorted((data_dir / "lfw_dev" / "Carlos_Moya").glob("*.jpg"))[:2]]
