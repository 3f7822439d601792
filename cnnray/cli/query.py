"""`cnnray query`: questions to a running service about images and about itself; `query_faces` has those about faces."""

import functools
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from cnnray.cli.app import query
from cnnray.cli.console import say, table
from cnnray.cli.query_photos import Photo, ask_about, list_photos
from cnnray.errors import OptionError

if TYPE_CHECKING:
    from cnnray.client import Answer, Detection, Explanation, Painting, Segmentation

_URL = "http://127.0.0.1:8000"
_EXPLANATION = ("-overlay.jpg", "-heat.png", "-guided.png")


@query.command(name="ready")
def query_ready(*, wait: float = 0.0, url: str = _URL) -> dict[str, Any]:
    """Say whether a service is ready: every model has answered a self-test. Exit code 5, with why, where it is not.

    Args:
        wait: seconds to wait for it.
        url: of the service.
    """
    from cnnray.client import Client

    with Client(url) as client:
        client.wait_ready(wait)
    say(f"{url} is ready")
    return {"url": url, "ready": True}


@query.command(name="models")
def query_models(*, url: str = _URL) -> dict[str, Any]:
    """List the models behind a running service.

    Args:
        url: of the service.
    """
    from cnnray.client import Client

    with Client(url) as client:
        rows = [asdict(model) for model in client.models()]
    table("Models", rows, ["name", "task", "classes", "input_size", "backbone"])
    for row in rows:
        if row["styles"]:
            say(f"styles of {row['name']}: {', '.join(row['styles'])}")
    return {"models": rows}


@query.command(name="classify")
def query_classify(
    images: Annotated[list[Path], Parameter(negative=())],
    /,
    *,
    url: str = _URL,
    top_k: int = 5,
    explain: Path | None = None,
    explain_label: str = "",
) -> dict[str, Any]:
    """Classify images by a running service.

    Args:
        images: files, and folders of them.
        url: of the service.
        top_k: classes to list per image.
        explain: folder for pictures per image of what in it speaks for its class: the places over the photo
            (NAME-overlay.jpg) and alone (NAME-heat.png), and the pixels (NAME-guided.png) where the network can.
        explain_label: class to explain; without it, that of the answer.
    """
    from cnnray.client import Client

    if explain_label and explain is None:
        raise OptionError("--explain-label needs --explain FOLDER, for the pictures")

    def tell(photo: Photo, answer: "Answer") -> tuple[dict[str, Any], dict[str, Any]]:
        best = {"label": answer.label, "probability": answer.probability}
        values = best | {"top": [[guess.label, guess.probability] for guess in answer.top]}
        if explain is not None:
            values["explanation"] = _write_explanation(explain, photo, answer.explanation)
        return values, best

    photos = list_photos(images, explain, _EXPLANATION)
    failed: dict[str, Any] = {"label": None, "probability": None, "top": []}
    failed |= {} if explain is None else {"explanation": None}
    # one at a time is as fast as the service explains, and never too much for it; else it batches what comes together
    concurrency = 16 if explain is None else 1
    options: dict[str, Any] = {"top_k": top_k, "explain": explain is not None, "explain_label": explain_label or None}
    with Client(url) as client:
        ask = functools.partial(client.classify, **options)
        return ask_about(photos, ask, tell, failed=failed, concurrency=concurrency)


@query.command(name="segment")
def query_segment(
    images: Annotated[list[Path], Parameter(negative=())],
    /,
    *,
    out: Path,
    draw: bool = False,
    url: str = _URL,
) -> dict[str, Any]:
    """Segment images by a running service.

    Args:
        images: files, and folders of them.
        out: folder for a PNG per image: the value of each pixel's class.
        draw: the images with their classes in colour instead.
        url: of the service.
    """
    from cnnray.client import Client

    def tell(photo: Photo, answer: "Segmentation") -> tuple[dict[str, Any], dict[str, Any]]:
        values = {"confidence": answer.confidence} | {part.label: part.share for part in answer.classes}
        return values | photo.write(out, ".png", answer.content), values

    photos = list_photos(images, out, [".png"])
    with Client(url) as client:
        return ask_about(photos, functools.partial(client.segment, draw=draw), tell, failed={"confidence": None})


@query.command(name="stylize")
def query_stylize(
    images: Annotated[list[Path], Parameter(negative=())],
    /,
    *,
    style: Annotated[list[str], Parameter(negative=())],
    out: Path,
    strength: float = 1.0,
    keep_colors: bool = False,
    longest_side: int = 1024,
    url: str = _URL,
) -> dict[str, Any]:
    """Have a running service paint images.

    Args:
        images: files, and folders of them.
        style: NAME, or NAME:SHARE of several.
        out: folder for a JPEG per image.
        strength: share of the painting, 0 to 1; the rest is the photo.
        keep_colors: only light and dark are painted.
        longest_side: px; larger photos are made smaller.
        url: of the service.
    """
    from cnnray.client import Client

    def tell(photo: Photo, answer: "Painting") -> tuple[dict[str, Any], dict[str, Any]]:
        values = {"width": answer.width, "height": answer.height, "ms": answer.timings["total_ms"]}
        return values | photo.write(out, ".jpg", answer.content), values

    photos = list_photos(images, out, [".jpg"])
    options: dict[str, Any] = {"strength": strength, "keep_colors": keep_colors, "longest_side": longest_side}
    failed = dict.fromkeys(("width", "height", "ms"))
    with Client(url) as client:
        return ask_about(photos, lambda path: client.stylize(path, style, **options), tell, failed=failed)


@query.command(name="style-preview")
def query_style_preview(style: str, /, *, out: Path, url: str = _URL) -> dict[str, Any]:
    """A small picture in a style that a running service paints in.

    Args:
        style: its name.
        out: JPEG file.
        url: of the service.
    """
    from cnnray import files
    from cnnray.client import Client

    with Client(url) as client:
        files.write_bytes(str(out), client.style_preview(style))
    say(f"wrote {out}")
    return {"style": style, "picture": str(out)}


@query.command(name="detect")
def query_detect(
    images: Annotated[list[Path], Parameter(negative=())],
    /,
    *,
    out: Path | None = None,
    confidence: float = 0.3,
    overlap: float = 0.5,
    slice: int = 0,
    url: str = _URL,
) -> dict[str, Any]:
    """Find the objects in images by a running service.

    Args:
        images: files, and folders of them.
        out: folder for a PNG per image with its boxes.
        confidence: least score.
        overlap: largest IoU of two boxes of one class.
        slice: side in px of the slices in which large images are searched as well; 0 does not slice.
        url: of the service.
    """
    from cnnray.client import Client

    search = {"confidence": confidence, "overlap": overlap, "slice": slice}

    def ask(path: Path) -> "tuple[Detection, bytes]":
        return client.detect(path, **search), b"" if out is None else client.draw_objects(path, **search)

    def tell(photo: Photo, answer: "tuple[Detection, bytes]") -> tuple[dict[str, Any], dict[str, Any]]:
        found, drawn = answer
        objects = [{"label": one.label, "score": one.score, "box": list(one.box)} for one in found.objects]
        best = ", ".join(f"{one.label} {one.score:.2f}" for one in found.objects[:4])
        values = {"height": found.height, "width": found.width, "objects": objects}
        return values | photo.write(out, ".png", drawn), {"objects": len(objects), "best": best}

    photos = list_photos(images, out, [".png"])
    with Client(url) as client:
        return ask_about(photos, ask, tell, failed={"height": None, "width": None, "objects": []})


def _write_explanation(folder: Path, photo: Photo, why: "Explanation | None") -> dict[str, Any] | None:
    """Its pictures in files named after the image, and its figures; None where the service gave none."""
    from cnnray import files

    if why is None:
        return None
    contents = zip(_EXPLANATION, (why.overlay, why.heat, why.guided), strict=True)
    written = {photo.place(folder, ending): content for ending, content in contents if content is not None}
    for place, content in written.items():
        files.write_bytes(place, content)
    say(f"{', '.join(written)}: what speaks for {why.label} ({why.probability:.4g})")
    if why.note:
        say(why.note)
    figures = {name: value for name, value in asdict(why).items() if name not in ("overlay", "heat", "guided")}
    return figures | {"pictures": list(written)}
