"""report.html of a features run: figures, what the network was shown, classes, and what was bad."""

import io
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import torch
from PIL import Image

from cnnray import files
from cnnray.config import FeaturesConfig
from cnnray.data.feature_store import read_quarantine
from cnnray.data.fetch import fetch
from cnnray.data.units import plan_units
from cnnray.errors import ImageError
from cnnray.ops.views import ViewMaker
from cnnray.page import Gallery, Numbers, Part, Picture, Section, Table, Text, write_page

IMAGES_SHOWN, VIEWS_SHOWN, BAD_SHOWN = 3, 6, 200


def write_feature_report(run: str, index: pa.Table, config: FeaturesConfig, manifest: dict[str, Any]) -> None:
    """Write RUN/report.html.

    Args:
        run: the run folder, complete.
        index: all inputs.
        config: of the run.
        manifest: its counts and facts.
    """
    numbers = {name: manifest[name] for name in ("images", "features", "quarantined", "reused")}
    network = manifest["backbone"]
    about = Text(
        f"{network['name']}, cut after {network['tap']!r}: {network['num_features']:,} numbers per view, computed in "
        f"{manifest['precision']}, stored as {config.dtype}."
    )
    maker = ViewMaker(**manifest["input"], augment=config.augment, mixup_alpha=config.mixup_alpha, seed=config.seed)
    sections = [
        Section("", [Numbers(numbers), about]),
        Section("What the network was shown", _view_parts(index, config, maker)),
        Section("Classes", [_class_table(index)]),
    ]
    if manifest["quarantined"]:
        sections.append(Section("Bad images", [_bad_table(run)]))
    write_page(files.join(run, "report.html"), "Features", sections, subtitle=manifest["source"])


def _view_parts(index: pa.Table, config: FeaturesConfig, maker: ViewMaker) -> list[Part]:
    """For some images spread over the source: view 0, then augmented ones, as they were stored."""
    step = max(1, index.num_rows // IMAGES_SHOWN)
    chosen = index.take(list(range(0, index.num_rows, step))[:IMAGES_SHOWN])
    units = plan_units(chosen, index, views=config.views, mixup=config.mixup_alpha > 0, seed=config.seed)
    parts: list[Part] = []
    for row in [row for unit in units for row in unit.to_pylist()]:
        partners = [fetch(path)[0] if path else None for path in row["partner_paths"][: VIEWS_SHOWN - 1]]
        data = fetch(row["path"])[0]
        try:
            views, lams = maker.views(data or b"", row["id"], partners)
        except ImageError:
            continue  # it has its line among the bad images
        parts.append(Gallery(_pictures(row, views, lams)))
    return parts or [Text("none of the images looked at could be read")]


def _pictures(row: dict[str, Any], views: torch.Tensor, lams: Sequence[float]) -> list[Picture]:
    names = [f"view {number}" if number else str(row["label"] or row["id"]) for number in range(len(views))]
    mixed = [f", {lam:.0%} of it" if lam < 1 else "" for lam in lams]
    return [Picture(_jpeg(view), name + share) for view, name, share in zip(views, names, mixed, strict=True)]


def _jpeg(view_CHW: torch.Tensor) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(view_CHW.permute(1, 2, 0).numpy()).save(sink, "JPEG", quality=90)
    return sink.getvalue()


def _class_table(index: pa.Table) -> Table:
    splits = sorted(index["split"].unique().to_pylist())
    counted = index.group_by(["label", "split"]).aggregate([([], "count_all")]).to_pylist()
    counts = Counter({(row["label"], row["split"]): row["count_all"] for row in counted})
    labels = sorted({label for label, _ in counts}, key=str)
    rows: list[list[str | int | float]] = [
        [str(label), *(counts[label, split] for split in splits)] for label in labels
    ]
    return Table(["class", *splits], rows)


def _bad_table(run: str) -> Table:
    rows = read_quarantine(run).sort_by("path").slice(0, BAD_SHOWN).to_pylist()
    return Table(["path", "code", "message"], [[row["path"], row["code"], row["message"]] for row in rows])
