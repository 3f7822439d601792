"""`cnnray predict`: a checkpoint over a whole source of images."""

from typing import Annotated, Any

from cnnray.cli.app import Flat, predict
from cnnray.cli.console import say
from cnnray.config import DetectPredictConfig, PredictConfig, SegmentPredictConfig


@predict.command(name="classify")
def predict_classify(
    checkpoint: str,
    source: str,
    /,
    *,
    out: str,
    config: Annotated[PredictConfig, Flat] = PredictConfig(),  # noqa: B008 (frozen)
    address: str | None = None,
) -> dict[str, Any]:
    """Classify every image of a folder into a Parquet data set.

    Args:
        checkpoint: of the classifier.
        source: images, as for `features build`.
        out: the run folder; the same command resumes.
        address: of a Ray cluster; without it a local one is started.
    """
    from cnnray.data.predict import predict_classify as run

    manifest = run(checkpoint, source, out, config, address=address)
    say(f"{manifest['predictions']:,} predictions in {out}/predictions")
    return manifest


@predict.command(name="segment")
def predict_segment(
    checkpoint: str,
    source: str,
    /,
    *,
    out: str,
    config: Annotated[SegmentPredictConfig, Flat] = SegmentPredictConfig(),  # noqa: B008 (frozen)
    address: str | None = None,
) -> dict[str, Any]:
    """The class of every pixel of every image of a folder, as PNG masks.

    Args:
        checkpoint: of the segmenter.
        source: images, as for `features build`.
        out: the run folder; the same command resumes.
        address: of a Ray cluster; without it a local one is started.
    """
    from cnnray.data.predict_segment import predict_segment as run

    manifest = run(checkpoint, source, out, config, address=address)
    say(f"{manifest['predictions']:,} masks in {out}/masks")
    return manifest


@predict.command(name="detect")
def predict_detect(
    checkpoint: str,
    source: str,
    /,
    *,
    out: str,
    config: Annotated[DetectPredictConfig, Flat] = DetectPredictConfig(),  # noqa: B008 (frozen)
    address: str | None = None,
) -> dict[str, Any]:
    """Find the objects in every image of a folder, as a COCO file and Parquet.

    Args:
        checkpoint: of the detector, or one of torchvision's names, such as "fcos_resnet50_fpn".
        source: images, as for `features build`.
        out: the run folder; the same command resumes.
        address: of a Ray cluster; without it a local one is started.
    """
    from cnnray.data.predict_detect import predict_detect as run

    manifest = run(checkpoint, source, out, config, address=address)
    say(f"{manifest['boxes']:,} boxes on {manifest['predictions']:,} images in {out}/detections.json")
    return manifest
