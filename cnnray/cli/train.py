"""`cnnray train`: each command writes a run folder, and resumes an unfinished one."""

from pathlib import PurePosixPath
from typing import Annotated, Any

from cnnray.cli.app import Flat, train
from cnnray.cli.console import say
from cnnray.config import ClassifyConfig, DetectConfig, FacesConfig, FinetuneConfig, SegmentConfig, StyleTrainConfig
from cnnray.errors import OptionError


@train.command(name="classify")
def train_classify(
    run: str,
    /,
    *,
    out: str,
    config: Annotated[ClassifyConfig, Flat] = ClassifyConfig(),  # noqa: B008 (frozen)
    address: str | None = None,
) -> dict[str, Any]:
    """Train a classifier head on stored features; the same command resumes.

    Args:
        run: a finished features run.
        out: the run folder of the training.
        address: of a Ray cluster; without it a local one is started.
    """
    from cnnray import cluster
    from cnnray.train.classify import train_classify as launch

    cluster.connect(address)
    result = launch(run, out, config)
    say(f"classifier in {out}/checkpoint, report in {out}/report.html")
    return result


@train.command(name="finetune")
def train_finetune(
    source: str,
    /,
    *,
    out: str,
    config: Annotated[FinetuneConfig, Flat] = FinetuneConfig(),  # noqa: B008 (frozen)
    address: str | None = None,
) -> dict[str, Any]:
    """Fine-tune a network's upper stages, or train one from scratch; the same command resumes.

    Args:
        source: labelled images as for `features build`, or a features run with maps (--pool none): then the stages
            below its tap are never run.
        out: the run folder of the training.
        address: of a Ray cluster; without it a local one is started.
    """
    from cnnray.train.finetune import train_finetune as launch

    result = launch(source, out, config, address=address)
    stages = ", ".join(result["trained_stages"]) or "the head alone"
    say(f"trained {stages}; accuracy {result['metrics']['accuracy']:.4f}")
    say(f"classifier in {out}/checkpoint, report in {out}/report.html")
    return result


@train.command(name="segment")
def train_segment(
    source: str,
    /,
    *,
    out: str,
    config: Annotated[SegmentConfig, Flat] = SegmentConfig(),  # noqa: B008 (frozen)
    address: str | None = None,
) -> dict[str, Any]:
    """Train a U-Net on images with masks; the same command resumes.

    Args:
        source: a folder with images/ and masks/, or a manifest with columns path and mask.
        out: the run folder of the training.
        address: of a Ray cluster; without it a local one is started.
    """
    from cnnray.train.segment import train_segment as launch

    result = launch(source, out, config, address=address)
    say(f"foreground IoU {result['metrics']['foreground_iou']:.4f} on {result['counts']['val']:,} images")
    say(f"segmenter in {out}/checkpoint, report in {out}/report.html")
    return result


@train.command(name="detect")
def train_detect(
    source: str,
    /,
    *,
    out: str,
    config: Annotated[DetectConfig, Flat] = DetectConfig(),  # noqa: B008 (frozen)
    address: str | None = None,
) -> dict[str, Any]:
    """Train a YOLO or another detector on images with boxes; the same command resumes.

    Args:
        source: a COCO file, or a folder in COCO's, Pascal VOC's or YOLO's layout.
        out: the run folder of the training.
        address: of a Ray cluster; without it a local one is started.
    """
    from cnnray.train.detect import train_detect as launch

    result = launch(source, out, config, address=address)
    say(f"AP at IoU 0.5: {result['metrics']['map50']:.4f} on {result['counts']['val']:,} images")
    say(f"detector in {out}/checkpoint, report in {out}/report.html")
    return result


@train.command(name="faces")
def train_faces(
    source: str,
    /,
    *,
    out: str,
    config: Annotated[FacesConfig, Flat] = FacesConfig(),  # noqa: B008 (frozen)
    address: str | None = None,
) -> dict[str, Any]:
    """Train an embedder of faces on a folder of images for every person; the same command resumes.

    Args:
        source: identity folders, or a manifest whose label is the person.
        out: the run folder of the training.
        address: of a Ray cluster; without it a local one is started.
    """
    from cnnray.train.faces import train_faces as launch

    result = launch(source, out, config, address=address)
    figures, counts = result["metrics"], result["counts"]
    say(
        f"{counts['val_people']} people who were not learned from: pairs {figures['accuracy']:.4f} right, "
        f"rank 1 {figures['rank_1']:.4f}"
    )
    say(f"embedder in {out}/checkpoint, report in {out}/report.html")
    return result


@train.command(name="stylize")
def train_stylize(
    *,
    content: str,
    style: list[str],
    out: str,
    config: Annotated[StyleTrainConfig, Flat] = StyleTrainConfig(),  # noqa: B008 (frozen)
    address: str | None = None,
) -> dict[str, Any]:
    """Train one network that paints photos in several styles; the same command resumes.

    Args:
        content: photos to learn on, a folder or a manifest; they need no labels.
        style: a picture of each style, PATH or NAME=PATH; give the option once for each.
        out: the run folder of the training.
        address: of a Ray cluster; without it a local one is started.
    """
    from cnnray.train.stylize import train_stylize as launch

    result = launch(content, name_styles(style), out, config, address=address)
    for name, losses in result["metrics"].items():
        say(f"{name}: " + ", ".join(f"{part} {value:.4f}" for part, value in losses.items()))
    say(f"painter in {out}/checkpoint, report in {out}/report.html")
    return result


def name_styles(given: list[str]) -> dict[str, str]:
    """Paths of style pictures by name; a path without one has the name of its file.

    Raises:
        OptionError: two of one name.
    """
    styles: dict[str, str] = {}
    for one in given:
        name, _, path = one.rpartition("=")
        name = name or PurePosixPath(path).stem
        if name in styles:
            raise OptionError(f"expected styles of different names, got {name!r} twice; give NAME=PATH")
        styles[name] = path
    return styles
