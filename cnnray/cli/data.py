"""`cnnray data`: public data sets, and detection data sets."""

from typing import Annotated, Any

from cyclopts import Parameter

from cnnray.cli.app import Flat, data
from cnnray.cli.console import say, table
from cnnray.config import BoxesConfig, SplitConfig


@data.command(name="inspect")
def data_inspect(
    source: str,
    /,
    *,
    out: str | None = None,
    config: Annotated[BoxesConfig, Flat] = BoxesConfig(),  # noqa: B008 (frozen)
    address: str | None = None,
) -> dict[str, Any]:
    """Count images, boxes and classes, and find what is broken, without a box, or there twice.

    Args:
        source: a COCO file, or a folder in COCO's, Pascal VOC's or YOLO's layout.
        out: a new folder for a report with pictures, and a list of all that is wrong.
        address: of a Ray cluster; without it a local one is started.
    """
    from cnnray.data.inspect import inspect_boxes

    facts = inspect_boxes(source, out, config, address=address)
    table(f"{source}: {facts['format']}", facts["classes"], ["name", "images", "boxes", "crowd", "difficult"])
    counts = ("images", "boxes", "without_boxes", "small", "medium", "large", "duplicates")
    say(", ".join(f"{name.replace('_', ' ')} {facts[name]:,}" for name in counts))
    for problem in facts["examples"]:
        say(f"{problem['code']} ({facts['problems'][problem['code']]:,}), such as {problem['message']}")
    return facts


@data.command(name="convert")
def data_convert(
    source: str,
    /,
    *,
    to: str,
    out: str,
    copy: bool = True,
    config: Annotated[BoxesConfig, Flat] = BoxesConfig(),  # noqa: B008 (frozen)
) -> dict[str, Any]:
    """Write a detection data set in another format.

    Args:
        source: a COCO file, or a folder in COCO's, Pascal VOC's or YOLO's layout.
        to: "coco", "voc" or "yolo".
        out: a new folder.
        copy: the images too.
    """
    from cnnray.data.convert import convert_boxes

    facts = convert_boxes(source, out, to, config, copy=copy)
    _say_written(facts, out)
    return facts


@data.command(name="split")
def data_split(
    source: str,
    /,
    *,
    out: str,
    copy: bool = True,
    config: Annotated[SplitConfig, Flat] = SplitConfig(),  # noqa: B008 (frozen)
) -> dict[str, Any]:
    """Divide a detection data set, every class alike, and write it in its own format.

    Args:
        source: a COCO file, or a folder in COCO's, Pascal VOC's or YOLO's layout.
        out: a new folder.
        copy: the images too.
    """
    from cnnray.data.convert import split_boxes

    facts = split_boxes(source, out, config, copy=copy)
    _say_written(facts, out)
    return facts


@data.command(name="fetch")
def data_fetch(
    name: str,
    /,
    *,
    out: str,
    mirror: Annotated[str, Parameter(env_var="CNNRAY_DATA_MIRROR")] = "",
    keep_archives: bool = True,
) -> dict[str, Any]:
    """Bring a public data set into a layout that the other commands read; the same command goes on after any end.

    Args:
        name: "flowers102", "oxford_iiit_pet", "voc2007", "voc2012", "lfw_people" or "cifar10".
        out: a folder; the data set becomes OUT/NAME, its archives lie in OUT/archives, also those put there by hand.
        mirror: a server with the same paths, "https://example.org/copies", in place of the published ones.
        keep_archives: when the data set is complete.
    """
    from cnnray.data.datasets import find_dataset
    from cnnray.data.fetch_datasets import fetch_dataset

    facts = fetch_dataset(find_dataset(name), out, mirror=mirror, keep_archives=keep_archives)
    state = "" if facts["new"] else " (complete already)"
    say(f"{facts['images']:,} images of {facts['classes']:,} classes in {facts['out']}{state}")
    say(f"licence: {facts['licence']}")
    say(f"please cite: {facts['citation']}")
    for command in facts["commands"]:
        say(f"next: {command}")
    return facts


def _say_written(facts: dict[str, Any], out: str) -> None:
    parts = ", ".join(f"{count:,} {split or 'in one part'}" for split, count in facts["splits"].items())
    say(f"{facts['images']:,} images ({parts}) with {facts['boxes']:,} boxes in {out}")
    if facts["problems"]:
        say(f"not sound, and listed in {out}/problems.csv: {facts['problems']}")
    if facts["flags"]:
        say(f"{facts['flags']:,} crowd or difficult boxes are marked in flags/, which other programs do not read")
