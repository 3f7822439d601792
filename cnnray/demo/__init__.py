"""`cnnray demo`: the whole system on data that comes with its libraries, offline, in a few minutes.

OUT/report.html, summary.json    what came out
OUT/photos, features, classifier handwritten digits as photos, their features, the head on them
OUT/several, yolo, tested        scenes with digits, a detector, its evaluation on scenes of other digits and photos
OUT/people                       faces as photos, a gallery of some of them
OUT/paintings                    a photo in four styles
OUT/single, windows, localise, grid, compared-*    what came before YOLO, see `cnnray.demo.road`
"""

import statistics
import sys
import time
from pathlib import Path
from typing import Any

from cnnray import cluster, files
from cnnray.config import ClassifyConfig, DetectPredictConfig, FeaturesConfig
from cnnray.data.features import build_features
from cnnray.data.predict_detect import evaluate_detect
from cnnray.demo.digits import write_digits
from cnnray.demo.page import next_steps, write_report
from cnnray.demo.painting import add_up_paintings, painting_section, styles, write_photo
from cnnray.demo.people import GALLERY, add_up_people, enroll_people, people_section, write_people
from cnnray.demo.road import YOLO, road_sections, train_road
from cnnray.demo.scenes import LARGE, write_scenes
from cnnray.demo.service import ask_gallery_and_painter, ask_service, held_out_scenes, validation_images
from cnnray.errors import OptionError, RunFolderError
from cnnray.train.classify import train_classify
from cnnray.train.detect import train_detect

MARK = "demo.json"
SCENES = 900
LEAST_SCENES = 20
_VAL, _TEST = 40, 60  # scenes
_SHOWN_SCENES = 6


class _Steps:
    """Says what is done, and keeps how long it took."""

    def __init__(self, count: int) -> None:
        self.seconds: dict[str, float] = {}
        self._count, self._name, self._began = count, "", time.perf_counter()

    def begin(self, name: str, line: str) -> None:
        """The step before has ended; the next one is about to begin."""
        self.end()
        self._name = name
        print(f"{len(self.seconds) + 1}/{self._count}  {line}", file=sys.stderr, flush=True)

    def end(self) -> None:
        """The step has ended."""
        now = time.perf_counter()
        if self._name:
            self.seconds[self._name] = round(now - self._began, 1)
        self._began, self._name = now, ""


def run_demo(out: str, *, scenes: int = SCENES, road: bool = False) -> dict[str, Any]:
    """Photos to features to a head, scenes to a detector, faces to a gallery, and services that answer real requests
    about all of them, and paint.

    Args:
        out: folder of the demo; an earlier demo in it is replaced, anything else is left alone.
        scenes: that the detector learns from; with fewer it is quicker and worse.
        road: train and compare what came before YOLO, too.

    Returns:
        what is written to OUT/summary.json: counts, accuracies, seconds of each step.

    Raises:
        OptionError: too few scenes.
        RunFolderError: the folder holds something that is not a demo.
    """
    if scenes < LEAST_SCENES:
        raise OptionError(f"expected at least {LEAST_SCENES} scenes to learn from, got {scenes}")
    folder = Path(out).resolve()
    _clear(folder)
    steps = _Steps(8 if road else 7)
    steps.begin("photos", f"writing 1,797 handwritten digits as photos, and {scenes:,} scenes with such digits")
    count = write_digits(folder / "photos")
    several = write_scenes(folder / "several", {"train": scenes, "val": _VAL, "test": _TEST})
    cluster.connect()
    steps.begin("features", "features: a frozen EfficientNet-Lite0 looks at every digit once (Ray Data)")
    config = FeaturesConfig(split="train=0.8,val=0.2")
    features = build_features(str(folder / "photos"), str(folder / "features"), config)
    steps.begin("classify", "head: a linear classifier on the stored features (Ray Train)")
    trained = train_classify(str(folder / "features"), str(folder / "classifier"), ClassifyConfig())
    steps.begin("detect", "detector: a YOLO on the same network learns to find digits (Ray Train)")
    yolo = train_detect(several, str(folder / "yolo"), YOLO)["checkpoint"]
    steps.begin("measure", f"its average precision on {_TEST} scenes of other digits and photos (Ray Data)")
    tested = evaluate_detect(yolo, f"{several}/test.json", str(folder / "tested"), DetectPredictConfig())
    steps.begin("people", "faces: a gallery of 31 people, one photo each, and its threshold (Ray Data, FAISS)")
    write_people(folder / "people")
    enrolled = enroll_people(folder / "people")
    sections = []
    if road:
        steps.begin("road", "what came before YOLO: windows, localisation, the first YOLO")
        write_scenes(folder / "single", {"train": scenes, "val": _VAL, "test": _TEST}, most=1, sides=LARGE)
        sections = road_sections(folder, train_road(folder, yolo))
    steps.begin("serve", "service: classifier, detector, gallery and painter answer over HTTP (Ray Serve)")
    digits, shown = validation_images(str(folder / "features")), held_out_scenes(f"{several}/test.json", _SHOWN_SCENES)
    answers = ask_service(str(folder / "classifier" / "checkpoint"), yolo, digits, shown)
    photo = write_photo(folder / "paintings")
    who, painted = ask_gallery_and_painter(
        str(folder / "people" / "galleries.db"), GALLERY, folder / "people" / "asked", photo, styles()
    )
    steps.end()
    summary = {
        "images": count,
        **_add_up_digits(features, trained, answers["digits"]),
        "scenes": scenes,
        "detect_map50": tested["map50"],
        "detect_ms_median": _median(answers["scenes"]),
        **add_up_people(enrolled, who),
        **add_up_paintings(painted),
        "seconds": steps.seconds | {"all": round(sum(steps.seconds.values()), 1)},
    }
    shown_too = [people_section(folder / "people", summary, who), painting_section(folder / "paintings", painted)]
    files.write_json(str(folder / "summary.json"), summary)
    write_report(folder, summary, answers, [*shown_too, *sections])
    print(next_steps(out, summary), file=sys.stderr)
    return summary


def _add_up_digits(features: dict[str, Any], trained: dict[str, Any], answers: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "features_per_s": round(features["features"] / features["wall_s"], 1),
        "val_accuracy": trained["metrics"]["accuracy"],
        "served_requests": len(answers),
        "served_accuracy": _accuracy(answers),
        "request_ms_median": _median(answers),
    }


def _accuracy(answers: list[dict[str, Any]]) -> float:
    return statistics.mean(float(answer["label"] == answer["truth"]) for answer in answers)


def _median(answers: list[dict[str, Any]]) -> float:
    return round(float(statistics.median(answer["ms"] for answer in answers)), 1)


def _clear(folder: Path) -> None:
    """Make way for a new demo; whatever is no demo stays."""
    if folder.exists() and any(folder.iterdir()) and not (folder / MARK).exists():
        raise RunFolderError(f"expected a new folder or an earlier demo, but {folder} holds other things")
    files.remove(str(folder))
    files.write_json(str(folder / MARK), {"kind": "demo"})
