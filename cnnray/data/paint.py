"""`cnnray stylize --method fast`: photos painted by a trained network, one, or a whole source by Ray Data, resumable.

RUN/painted/ID.jpg          the paintings
RUN/predictions/*.parquet   id, path, height and width (px) of each
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from cnnray import cluster, files
from cnnray.config import PaintConfig
from cnnray.data.feature_store import Outputs
from cnnray.data.fetch import fetch_image
from cnnray.data.picture_names import check_names, picture_name
from cnnray.data.predict import answer_unit, count_predictions, read_predictions, run_stage
from cnnray.data.readers import build_index
from cnnray.data.runs import RunFolder, refuse_bad
from cnnray.data.units import load_index
from cnnray.errors import ImageError
from cnnray.infer.fast_stylize import SHIPPED, TASK, Stylizer
from cnnray.nn.checkpoint import load_card
from cnnray.ops.decode import decode
from cnnray.ops.overlay import encode, jpeg
from cnnray.report import picture_grid

PAINTED = "painted"
_ON_SHEET = (420, 280)  # width and height of a picture on a sheet, px
SCHEMA = pa.schema({"id": pa.string(), "path": pa.string(), "height": pa.int32(), "width": pa.int32()})

Pixels = NDArray[np.uint8]


class PaintStage:
    """Paints and stores the photos of a unit; the network is loaded once. No Ray in here."""

    def __init__(
        self, config: PaintConfig, shares: Mapping[str, float], outputs: Outputs, *, threads: int, gpu: bool
    ) -> None:
        torch.set_num_threads(max(1, threads))
        self._config, self._shares, self._outputs = config, shares, outputs
        self._stylizer = load_painter(config, device="cuda" if gpu else "cpu")

    def __call__(self, unit: pa.Table) -> pa.Table:
        """Store paintings and one row per photo of a unit that `read_unit` filled; returns counts."""
        # one by one: paintings of large photos would not fit into memory together
        return answer_unit(unit, self._outputs, SCHEMA, list, self._stored)

    def _stored(self, row: dict[str, Any], content: bytes) -> dict[str, Any]:
        painting = paint(self._stylizer, content, self._shares, self._config)
        self._outputs.write(
            files.join(PAINTED, picture_name(row["id"], self._config.format)), encode(painting, self._config.format)
        )
        return {"id": row["id"], "path": row["path"], "height": painting.shape[0], "width": painting.shape[1]}


def load_painter(config: PaintConfig, *, device: str = "auto") -> Stylizer:
    """The network that is asked for.

    Raises:
        CheckpointError: absent, damaged, or of another task.
    """
    return Stylizer.load(_place(config), device=device)


def style_names(config: PaintConfig) -> list[str]:
    """Styles of the network that is asked for, in its order.

    Raises:
        CheckpointError: as `load_painter`.
    """
    return list(load_card(_place(config), TASK).classes)


def paint(stylizer: Stylizer, content: bytes, shares: Mapping[str, float], config: PaintConfig) -> Pixels:
    """One painting, uint8 RGB [H, W, 3].

    Args:
        content: the photo's file.
        shares: of the styles.

    Raises:
        ImageError: a bad photo, or one that is too small.
        UnknownNameError, OptionError: as `Stylizer.predict`.
    """
    (painting,) = stylizer.predict(
        [content], shares, strength=config.strength, colors=config.keep_colors, longest_side=config.longest_side
    )
    if isinstance(painting, ImageError):
        raise painting
    return painting


def paint_photo(path: str, out: str, shares: Mapping[str, float], config: PaintConfig) -> dict[str, Any]:
    """Paint one photo into a file.

    Args:
        path: path or URI of the photo.
        out: of the painting; its suffix, .png or not, says its format.
        shares: of the styles.

    Returns:
        height, width, model, out.

    Raises:
        DataError: no such file. The rest as `paint`, `load_painter`; StorageError.
    """
    content, stylizer = fetch_image(path), load_painter(config)
    painting = paint(stylizer, content, shares, config)
    files.write_bytes(files.absolute(out), encode(painting, "png" if out.lower().endswith(".png") else "jpg"))
    return {"height": painting.shape[0], "width": painting.shape[1], "model": stylizer.name, "out": out}


def paint_folder(
    source: str, out: str, shares: Mapping[str, float], config: PaintConfig, *, address: str | None = None
) -> dict[str, Any]:
    """Paint every photo of a source; the same call resumes after a kill.

    Args:
        source: a folder or a manifest.
        out: run folder, see above.
        shares: of the styles.
        address: of a Ray cluster; None is a local one.

    Returns:
        the manifest: images, predictions (paintings), quarantined, quarantine_codes, model, ...

    Raises:
        CheckpointError: the painter is absent, damaged or something else.
        DataError: two photos would have the same file.
        UserError, StorageError: as `build_features`.
    """
    stylizer = load_painter(config, device="cpu")
    stylizer.shares(shares)
    said = ",".join(f"{name}={share:g}" for name, share in sorted(shares.items()))
    made_by = f"{files.absolute(source)} by {stylizer.card.weights_sha256} in {said}"
    run = RunFolder.open(files.absolute(out), config, "paintings", source=made_by)
    cluster.connect(address)
    index = load_index(run, files.absolute(source), config)
    check_names(index["id"].to_pylist())
    run_stage(run, index, PaintStage, {"config": config, "shares": dict(shares), "gpu": config.gpu}, config, "painted")
    counts = count_predictions(run.uri, index, read_predictions(run.uri, SCHEMA))
    manifest = run.finish(counts | {"model": stylizer.name, "styles": dict(shares), "options": asdict(config)})
    refuse_bad(run.uri, manifest, config)
    return manifest


def paint_sheet(
    source: str, out: str, config: PaintConfig, *, most: int = 8, address: str | None = None
) -> dict[str, Any]:
    """The first photos of a source in every style of the painter, on one sheet.

    Args:
        source: a folder or a manifest.
        out: of the sheet, a PNG or JPEG file.
        most: photos.
        address: of a Ray cluster, which lists a folder; None is a local one.

    Returns:
        photos, styles (their names), out.

    Raises:
        DataError: no photos. The rest as `paint`, `load_painter`; StorageError.
    """
    cluster.connect(address)
    paths = build_index(files.absolute(source), config)["path"].to_pylist()[:most]
    stylizer = load_painter(config)
    styles, rows = stylizer.styles, []
    for path in paths:
        photo = np.array(ImageOps.fit(Image.fromarray(decode(fetch_image(path))), _ON_SHEET, Image.Resampling.LANCZOS))
        paintings = stylizer.predict([photo] * len(styles), styles, strength=config.strength, colors=config.keep_colors)
        rows.append([photo, *(one for one in paintings if not isinstance(one, ImageError))])
    sheet = picture_grid(rows, ["photo", *(name.replace("_", " ") for name in styles)])
    files.write_bytes(files.absolute(out), sheet if out.lower().endswith(".png") else jpeg(decode(sheet), 80))
    return {"photos": len(paths), "styles": list(styles), "out": out}


def _place(config: PaintConfig) -> str:
    """Of the painter's checkpoint."""
    return files.absolute(config.painter) if config.painter else SHIPPED
