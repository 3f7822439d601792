"""The road to YOLO on scenes with handwritten digits: each step trained, and all compared.

1. A classifier of windows that slides over the scene at many scales.
2. The same classifier turned fully convolutional: the same answers in one pass.
3. Classification with localisation: one object, one box; trained on scenes of a single, large digit.
4. The first YOLO: a grid of cells, each of which does that.
5. A YOLO of today.
"""

import statistics
import time
from pathlib import Path
from typing import Any

import torch

from cnnray.config import DetectConfig, DetectPredictConfig
from cnnray.data.compare_detect import compare_detect
from cnnray.data.fetch import fetch_known
from cnnray.data.formats import read_annotations
from cnnray.infer.detect import TASK
from cnnray.nn.checkpoint import load_checkpoint
from cnnray.nn.detectors import build_detector
from cnnray.ops.decode import decode
from cnnray.page import Picture, Section, Table, Text
from cnnray.train.detect import train_detect

_COMMON: dict[str, Any] = {"size": 192, "augment": "light", "mirror": False, "mosaic": 0.0, "lr": 1e-3, "ema": 0.98}
YOLO = DetectConfig(**_COMMON, epochs=7, backbone_lr=1.0)
_GRID: dict[str, Any] = {"model": "grid", "backbone_lr": 1.0}
STEPS = {
    "windows": DetectConfig(**(_COMMON | {"lr": 4e-3, "size": 320}), model="windows", epochs=6, weights="none"),
    "localise": DetectConfig(**_COMMON, **_GRID, cells=1, epochs=8),
    "grid": DetectConfig(**_COMMON, **_GRID, cells=6, epochs=10),
}
NAMES = {
    "windows": "sliding windows",
    "localise": "localisation of one object",
    "grid": "YOLO, 6 x 6 cells",
    "yolo": "YOLO of today",
}
ABOUT = {
    "windows": "classifier of windows; square boxes",
    "localise": "one box for the whole picture",
    "grid": "each cell has the centres in it",
    "yolo": "three grids on a pyramid",
}
TIMED = 5


def train_road(folder: Path, yolo: str) -> dict[str, Any]:
    """Train what came before YOLO, and compare all on scenes of one digit and of several.

    Args:
        folder: has FOLDER/several and FOLDER/single, see `write_scenes`; the runs are written beside them.
        yolo: checkpoint of the detector of today.

    Returns:
        "several", "single": a row for each step, see `compare_detect`; and what `one_pass_or_many` returns.
    """
    checkpoints = {}
    for name, config in STEPS.items():
        learned = folder / ("single" if name == "localise" else "several")
        checkpoints[name] = train_detect(str(learned), str(folder / name), config)["checkpoint"]
    checkpoints["yolo"] = yolo
    result: dict[str, Any] = {}
    for scenes in ("several", "single"):
        truth, out = str(folder / scenes / "test.json"), str(folder / f"compared-{scenes}")
        shown = DetectPredictConfig(draw_worst=3)
        result[scenes] = compare_detect(list(checkpoints.values()), truth, out, shown, names=list(NAMES.values()))
    return result | one_pass_or_many(checkpoints["windows"], str(folder / "several" / "test.json"))


def one_pass_or_many(checkpoint: str, source: str) -> dict[str, float]:
    """Time of all windows of a scene cut out one by one, and in one fully convolutional pass.

    Returns:
        "one_by_one_ms", "one_pass_ms": medians, with all threads of this process; "largest_difference" between both in
        any window's probability of any class.
    """
    tensors, card = load_checkpoint(checkpoint, TASK)
    net = build_detector(card.arch, len(card.classes))
    net.load_state_dict(tensors)
    times: dict[bool, list[float]] = {True: [], False: []}
    largest = 0.0
    for path in read_annotations(source).table["path"].to_pylist()[:TIMED]:
        image = torch.from_numpy(decode(fetch_known(path))).permute(2, 0, 1)[None]
        found = {}
        for one_by_one, taken in times.items():
            net.one_by_one = one_by_one
            started = time.perf_counter()
            with torch.inference_mode():
                (found[one_by_one],) = net(image)
            taken.append(1000 * (time.perf_counter() - started))
        largest = max(largest, float((found[True].scores_AK - found[False].scores_AK).abs().max()))
    slow_ms, fast_ms = (round(statistics.median(taken), 1) for taken in times.values())
    return {"one_by_one_ms": slow_ms, "one_pass_ms": fast_ms, "largest_difference": largest}


def road_sections(folder: Path, result: dict[str, Any]) -> list[Section]:
    """What a page says about the road: a table of the steps, and what each sees in the same scenes."""
    several, single = ({row["name"]: row for row in result[scenes]} for scenes in ("several", "single"))
    rows = [
        (name, single[name]["map50"], several[name]["map50"], several[name]["ms"], several[name]["params"], ABOUT[key])
        for key, name in NAMES.items()
    ]
    passes = (
        "Average precision at IoU 0.5 on scenes whose digits and photos nothing has learned from. "
        f"All windows of a scene at all scales take {result['one_by_one_ms']:,.0f} ms cut out and classified one by "
        f"one, and {result['one_pass_ms']:,.0f} ms when the classifier's linear layers are written as convolutions: "
        f"{result['one_by_one_ms'] / result['one_pass_ms']:.0f} times as fast, with the same answers (probabilities "
        f"differ by at most {result['largest_difference']:.0e}). The table's times are of whole answers on one core."
    )
    header = ("step", "one large digit", "1 to 6 digits", "ms", "parameters", "what it is")
    table = Table(header, rows, frozenset(header[1:3]))
    grid = Picture((folder / "compared-several" / "same.png").read_bytes(), "white: the truth; in colour: the answers")
    return [Section("The road to YOLO", [table, Text(passes), grid])]
