"""`cnnray visualize`: what networks see."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from cnnray.cli.app import Flat, visualize
from cnnray.cli.console import say, table
from cnnray.config import AtlasConfig

if TYPE_CHECKING:
    from cnnray.infer.explain import Explanation

_SIDE = 480  # px of a picture


@visualize.command(name="filters")
def visualize_filters(
    source: str,
    /,
    *,
    out: str,
    config: Annotated[AtlasConfig, Flat] = AtlasConfig(),  # noqa: B008 (frozen)
    address: str | None = None,
) -> dict[str, Any]:
    """Show what the filters of a network look for: the nine images that make each fire most, and what in them does.

    The same command resumes.

    Args:
        source: a folder of images, or a CSV or Parquet manifest; a path or URI.
        out: the run folder; open its index.html.
        address: of a Ray cluster; without it a local one is started.
    """
    from cnnray.data.atlas import visualize_filters as run

    manifest = run(source, out, config, address=address)
    table(
        f"Filters of {manifest['network']}", manifest["layers"], ["name", "filters", "dead", "drawn", "stride", "field"]
    )
    say(f"{manifest['predictions']:,} images passed by; open {out}/index.html")
    if manifest["quarantined"]:
        say(f"{manifest['quarantined']:,} bad images are listed in {out}/quarantine: {manifest['quarantine_codes']}")
    return manifest


@visualize.command(name="why")
def visualize_why(
    images: Annotated[list[Path], Parameter(negative=())],
    /,
    *,
    classifier: str,
    out: Path,
    label: str = "",
    stage: str = "",
) -> dict[str, Any]:
    """Show what in photos speaks for a classifier's answer: Grad-CAM, and guided backpropagation where the network can.

    Args:
        images: files.
        classifier: checkpoint folder.
        out: folder for a PNG per image: the photo, the places that speak for the class, the pixels that do.
        label: the class; without it, the classifier's answer.
        stage: of the network, whose map is weighed; without it, the last one that is a map.
    """
    from cnnray import files
    from cnnray.data.fetch import fetch_image
    from cnnray.infer.explain import Explainer
    from cnnray.ops.decode import decode

    explainer, rows, notes = Explainer.load(files.absolute(classifier), stage=stage), [], set()
    for path in images:
        content = fetch_image(str(path))
        found = explainer.why(content, label or None)
        files.write_bytes(str(out / f"{path.stem}.png"), _picture(decode(content), found))
        rows.append({"image": path.name, "label": found.label, "probability": found.probability})
        notes.add(found.note)
    table(f"Why, by {explainer.stage}", rows, ["image", "label", "probability"])
    for note in sorted(notes - {""}):
        say(note)
    say(f"pictures in {out}")
    return {"stage": explainer.stage, "answers": rows}


def _picture(photo_HWC: Any, found: "Explanation") -> bytes:
    """Photo, heat over it, and the pixels that speak for the class where the network saw them; side by side."""
    import numpy as np
    from PIL import Image, ImageOps

    from cnnray.infer.explain import pictures
    from cnnray.ops.overlay import png

    drawn = pictures(photo_HWC, found, _SIDE)
    shown = [one for one in (photo_HWC, drawn.overlay_HWC, drawn.guided_HWC) if one is not None]
    sized = [ImageOps.pad(Image.fromarray(one), (_SIDE, _SIDE), Image.Resampling.BICUBIC, "white") for one in shown]
    return png(np.concatenate([np.asarray(one) for one in sized], axis=1))
