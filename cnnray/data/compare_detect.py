"""`cnnray compare detect`: several detectors on the same images, on one page.

RUN/detectors/NAME/    the evaluation of each, see `cnnray.data.predict_detect`
RUN/metrics.json       a row for each
RUN/same.png           images on which they differ most, as each of them sees them
RUN/report.html        figures, curves, and these images
"""

import re
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from cnnray import files
from cnnray.config import DetectPredictConfig
from cnnray.data.annotations import Annotations
from cnnray.data.detect_report import BoxJudge
from cnnray.data.fetch import fetch_known
from cnnray.data.formats import read_annotations
from cnnray.data.predict_detect import evaluate_detect, is_evaluated, load_judge, search_of
from cnnray.errors import OptionError, RunFolderError
from cnnray.infer.detect import TASK, Detector
from cnnray.nn.checkpoint import load_card
from cnnray.nn.detectors import describe
from cnnray.nn.torchvision_detectors import DETECTORS
from cnnray.nn.weights import absolute_weights
from cnnray.page import Picture, Section, Table, Text, write_page
from cnnray.report import picture_grid, precision_recall_picture

TIMED = 12  # images
SAME = "same.png"
_FIGURES = ("map50", "map", "ar_100", "map_small", "map_medium", "map_large")
_TITLES = ("AP50", "AP", "AR 100", "AP small", "AP medium", "AP large")


def compare_detect(
    checkpoints: Sequence[str],
    source: str,
    out: str,
    config: DetectPredictConfig,
    *,
    names: Sequence[str] = (),
    address: str | None = None,
) -> list[dict[str, Any]]:
    """Evaluate each detector on the same images, and write one page about all; the same call resumes.

    Args:
        checkpoints: folders of detectors, or torchvision's names; at least two.
        source, out, config, address: as `evaluate_detect`.
        names: of the detectors on the page; without, their models and backbones.

    Returns:
        a row for each: name, checkpoint, COCO's figures, ms (for one image on one core), params.

    Raises:
        OptionError: fewer than two detectors.
        RunFolderError: `out` holds something else, or a comparison of others or with other settings.
        UserError, StorageError: as `evaluate_detect`.
    """
    if len(checkpoints) < 2:
        raise OptionError(f"expected at least two detectors to compare, got {len(checkpoints)}")
    if files.exists(files.join(out, "config.toml")):
        raise RunFolderError(f"expected a new folder or an earlier comparison as --out, but {out} holds a run")
    config = replace(config, weights=absolute_weights(config.weights))
    named = dict(zip(names, checkpoints, strict=True)) if names else name_detectors(checkpoints)
    annotations = read_annotations(files.absolute(source), config.images)
    rows, judges = [], {}
    for name, checkpoint in named.items():
        place = files.join(files.absolute(out), "detectors", re.sub(r"[^\w.=-]+", "_", name))
        if not is_evaluated(checkpoint, source, place, config):
            evaluate_detect(checkpoint, source, place, config, address=address)
        judges[name] = load_judge(place, annotations, config.confidence)
        detector = Detector.load(checkpoint, weights=config.weights, device="cpu", threads=1)
        facts = {"ms": milliseconds(detector, judges[name].truth, config), "params": detector.num_params}
        rows.append({"name": name, "checkpoint": checkpoint, **judges[name].figures, **facts})
    files.write_json(files.join(out, "metrics.json"), rows)
    grid = same_images(judges, config.draw_worst)
    if grid:
        files.write_bytes(files.join(out, SAME), grid)
    sections = comparison_sections(rows, judges, grid)
    write_page(files.join(out, "report.html"), "Detectors compared", sections, f"on {source}")
    return rows


def name_detectors(checkpoints: Sequence[str]) -> dict[str, str]:
    """Checkpoints by what they are in words, numbered where two are alike."""
    named: dict[str, str] = {}
    for checkpoint in checkpoints:
        arch = {"model": checkpoint} if checkpoint in DETECTORS else load_card(files.absolute(checkpoint), TASK).arch
        plain = describe(arch)
        alike = sum(name.split(" #")[0] == plain for name in named)
        named[f"{plain} #{alike + 1}" if alike else plain] = checkpoint
    return named


def milliseconds(detector: Detector, truth: Annotations, config: DetectPredictConfig) -> float:
    """Median time for one image, decoded and searched on one core."""
    contents = [fetch_known(path) for path in truth.table["path"].to_pylist()[:TIMED]]
    search, times = search_of(config), []
    detector.predict(contents[:1], search)  # the first one is slower
    for content in contents:
        started = time.perf_counter()
        detector.predict([content], search)
        times.append(time.perf_counter() - started)
    return round(1000 * statistics.median(times), 2)


def comparison_sections(
    rows: Sequence[Mapping[str, Any]], judges: Mapping[str, BoxJudge], grid: bytes
) -> list[Section]:
    """What a page says: a table, precision over recall, and the same images side by side.

    Args:
        rows: as `compare_detect` returns them.
        judges: of the same detectors, by name.
        grid: of `same_images`.
    """
    header = ("detector", *_TITLES, "ms", "parameters")
    lines = [
        (row["name"], *("–" if row[k] is None else row[k] for k in _FIGURES), row["ms"], row["params"]) for row in rows
    ]
    curves = np.stack([np.nanmean(judge.precision.curves_KR, axis=0) for judge in judges.values()])
    picture = Picture(precision_recall_picture(curves, list(judges), mean=False), "mean of the classes, at IoU 0.5")
    about = Text("Time for one image on one core, decoding included, in ms.")
    sections = [
        Section("Figures", [Table(header, lines, frozenset(_TITLES[:3])), about]),
        Section("Precision and recall", [picture]),
    ]
    if grid:
        caption = "where they differ most; white: the truth, in colour: answers with their scores"
        sections.append(Section("The same images", [Picture(grid, caption)]))
    return sections


def same_images(judges: Mapping[str, BoxJudge], count: int) -> bytes:
    """The images on which detectors differ most, a row each, a column for each detector: PNG, or b"" for none."""
    shown = _telling(list(judges.values()), count)
    rows = [[judge.drawn(at) for judge in judges.values()] for at in shown]
    return picture_grid(rows, list(judges)) if rows else b""


def _telling(judges: Sequence[BoxJudge], count: int) -> list[int]:
    """Places of the images that all could read whose scores differ most."""
    ids = [judge.truth.table["id"].to_pylist() for judge in judges]
    if any(other != ids[0] for other in ids[1:]):
        return []
    scores = np.array([[judge.score(at) for at in range(len(ids[0]))] for judge in judges])
    order = np.argsort(-scores.std(axis=0), kind="stable")[:count]
    return [int(at) for at in order]
