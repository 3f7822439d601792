"""`cnnray evaluate`, `cnnray compare`: a checkpoint, or several, against what is known of images."""

from typing import Annotated, Any

from cnnray.cli.app import Flat, compare, evaluate
from cnnray.cli.console import say, table
from cnnray.config import DetectPredictConfig, FacesEvaluateConfig, PredictConfig, SegmentPredictConfig


@evaluate.command(name="classify")
def evaluate_classify(
    checkpoint: str,
    source: str,
    /,
    *,
    out: str,
    config: Annotated[PredictConfig, Flat] = PredictConfig(),  # noqa: B008 (frozen)
    address: str | None = None,
) -> dict[str, Any]:
    """Accuracy and per-class figures of a classifier on labelled images.

    Args:
        checkpoint: of the classifier.
        source: labelled images, as for `features build`.
        out: a folder for predictions, metrics and a report.
        address: of a Ray cluster; without it a local one is started.
    """
    from cnnray.data.predict import evaluate_classify as run

    metrics = run(checkpoint, source, out, config, address=address)
    say(f"accuracy {metrics['accuracy']:.4f} on {metrics['images']:,} images")
    return metrics


@evaluate.command(name="segment")
def evaluate_segment(
    checkpoint: str,
    source: str,
    /,
    *,
    out: str,
    config: Annotated[SegmentPredictConfig, Flat] = SegmentPredictConfig(),  # noqa: B008 (frozen)
    address: str | None = None,
) -> dict[str, Any]:
    """IoU and Dice of a segmenter on images with masks.

    Args:
        checkpoint: of the segmenter.
        source: images and masks, as for `train segment`.
        out: a folder for masks, metrics and a report.
        address: of a Ray cluster; without it a local one is started.
    """
    from cnnray.data.predict_segment import evaluate_segment as run

    metrics = run(checkpoint, source, out, config, address=address)
    table("Classes", metrics["classes"], ["name", "iou", "dice", "pixels"])
    say(f"foreground IoU {metrics['foreground_iou']:.4f} on {metrics['images']:,} images, report in {out}/report.html")
    return metrics


@evaluate.command(name="detect")
def evaluate_detect(
    checkpoint: str,
    source: str,
    /,
    *,
    out: str,
    config: Annotated[DetectPredictConfig, Flat] = DetectPredictConfig(),  # noqa: B008 (frozen)
    address: str | None = None,
) -> dict[str, Any]:
    """Average precision of a detector by COCO's rules.

    Args:
        checkpoint: of the detector, or one of torchvision's names, such as "fcos_resnet50_fpn".
        source: images with boxes, as for `train detect`.
        out: a folder for the answers, metrics and a report.
        address: of a Ray cluster; without it a local one is started.
    """
    from cnnray.data.predict_detect import evaluate_detect as run

    metrics = run(checkpoint, source, out, config, address=address)
    table("Classes", metrics["classes"], ["name", "objects", "ap50", "ap", "recall"])
    figures = ", ".join(f"{name} {metrics[name]:.4f}" for name in ("map50", "map") if metrics[name] is not None)
    say(f"{figures} on {metrics['images']:,} images, report in {out}/report.html")
    return metrics


@evaluate.command(name="faces")
def evaluate_faces(
    source: str,
    /,
    *,
    out: str,
    config: Annotated[FacesEvaluateConfig, Flat] = FacesEvaluateConfig(),  # noqa: B008 (frozen)
    address: str | None = None,
) -> dict[str, Any]:
    """Verification of pairs of faces by LFW's rules, and identification of people in a gallery.

    Args:
        source: a folder with a sub-folder of images for every person.
        out: a folder for faces, metrics and a report.
        address: of a Ray cluster; without it a local one is started.
    """
    from cnnray.data.evaluate_faces import evaluate_faces as run

    metrics = run(source, out, config, address=address)
    table("Faces", _face_rows(metrics), ["figure", "value", "interval"])
    lost = f", {metrics['without_face']:,} of them without a face" if metrics["without_face"] else ""
    say(f"{metrics['images']:,} images{lost}, report in {out}/report.html")
    return metrics


def _face_rows(metrics: dict[str, Any]) -> list[dict[str, Any]]:
    """The main figures, each with what it may be off by."""
    pairs, closed, known = (metrics.get(name, {}) for name in ("pairs", "closed_set", "open_set"))
    named = {
        "accuracy": (pairs, "accuracy"),
        "AUC": (pairs, "auc"),
        "equal error rate": (pairs, "equal_error_rate"),
        "true accepts at 1 % false ones": (pairs, "tar_at_far_0.01"),
        "true accepts at 0.1 % false ones": (pairs, "tar_at_far_0.001"),
        "rank 1": (closed, "rank_1"),
        "rank 5": (closed, "rank_5"),
        "missed (FNIR) at 1 % strangers (FPIR)": (known, "fnir_at_fpir_0.01"),
    }
    rows = []
    for title, (figures, name) in named.items():
        if name in figures:
            spread = _spread(figures, name)
            rows.append({"figure": title, "value": figures[name], "interval": spread})
    return rows


def _spread(figures: dict[str, Any], name: str) -> str:
    if f"{name}_std" in figures:
        return f"± {figures[f'{name}_std']:.4f}"
    low, high = figures.get(f"{name}_low"), figures.get(f"{name}_high")
    return "" if low is None or high is None else f"{low:.4f} to {high:.4f}"


@compare.command(name="detect")
def compare_detect(
    source: str,
    /,
    *checkpoints: str,
    out: str,
    config: Annotated[DetectPredictConfig, Flat] = DetectPredictConfig(),  # noqa: B008 (frozen)
    address: str | None = None,
) -> dict[str, Any]:
    """Several detectors on the same images, with their figures, curves and boxes on one page; the same command resumes.

    Args:
        source: images with boxes, as for `train detect`.
        checkpoints: of detectors, or torchvision's names; at least two.
        out: a folder for the evaluations and a report.
        address: of a Ray cluster; without it a local one is started.
    """
    from cnnray.data.compare_detect import compare_detect as run

    rows = run(checkpoints, source, out, config, address=address)
    table("Detectors", rows, ["name", "map50", "map", "ar_100", "ms", "params"])
    say(f"report in {out}/report.html")
    return {"detectors": rows}
