"""The second pass of an atlas of filters: what filters saw in their strongest images is drawn. No Ray in here.

RUN/tiles/LAYER/*.parquet   filter, rank, patch and signal, uint8 RGB [TILE, TILE, 3] each
RUN/drawn/*.parquet         id, path of the images that are done with
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from cnnray import files
from cnnray.config import AtlasConfig
from cnnray.data.atlas_stage import SEEN_SCHEMA, load_network, view
from cnnray.data.feature_store import Outputs, iter_parts
from cnnray.errors import ImageError, StorageError
from cnnray.infer.cores import Cores
from cnnray.infer.visualize import Reconstruction, Reconstructor
from cnnray.ops.show import signed_picture

TILES, DRAWN = "tiles", "drawn"
TILE = 56  # px

WANTED = pa.list_(
    pa.struct({"layer": pa.string(), "filter": pa.int32(), "rank": pa.int32(), "row": pa.int32(), "column": pa.int32()})
)
_SCHEMA = pa.schema(
    {"id": pa.string(), "filter": pa.int32(), "rank": pa.int32(), "patch": pa.binary(), "signal": pa.binary()}
)
Tiles = dict[tuple[int, int], NDArray[np.uint8]]


class DrawStage:
    """Decodes the images of a unit, each once, and draws what filters saw in them.

    Args:
        config: of the run.
        rule: of the reconstructions.
        layers: names.
        outputs: where to store.
        threads: cores to use.
        gpu: whether on a GPU.
    """

    def __init__(
        self, config: AtlasConfig, rule: str, layers: Sequence[str], outputs: Outputs, *, threads: int, gpu: bool
    ) -> None:
        torch.set_num_threads(1)
        backbone = load_network(config)
        self._spec, self._outputs = backbone.spec, outputs
        self._drawer = Reconstructor(backbone, rule, self._spec.input_size, layers, "cuda" if gpu else "cpu")
        self._pool = Cores(threads)
        self._drawers = ThreadPoolExecutor(1) if gpu else self._pool  # a GPU takes one large batch at a time

    def __call__(self, unit: pa.Table) -> pa.Table:
        """Store tiles of a unit that `read_unit` filled, whose column `wanted` is WANTED; returns counts.

        Raises:
            StorageError: an image that could be read in the first pass cannot be read now; disk full or unreachable.
            RunFolderError: another command has taken over the run.
        """
        rows = unit.select(["id", "path", "bytes", "problem", "wanted"]).to_pylist()
        views = list(self._pool.map(self._view, rows))
        by_layer: dict[str, list[dict[str, Any]]] = {}
        for row, image in zip(rows, views, strict=True):
            for one in row["wanted"]:
                by_layer.setdefault(one["layer"], []).append(one | {"id": row["id"], "view": image})
        for layer, wanted in by_layer.items():
            parts = [wanted[part] for part in self._drawer.batches(len(wanted))]
            tiles = [tile for drawn in self._drawers.map(self._draw, parts) for tile in drawn]
            self._outputs.store(files.join(TILES, layer), pa.Table.from_pylist(tiles, _SCHEMA))
        self._outputs.store(DRAWN, unit.select(SEEN_SCHEMA.names))
        return pa.table({"images": [len(rows)], "quarantined": [0]})

    def _view(self, row: Mapping[str, Any]) -> Tensor:
        if row["bytes"] is None:
            raise StorageError(f"cannot read {row['path']}, which was there in the first pass: {row['problem']}")
        try:
            return view(row["bytes"], self._spec)
        except ImageError as error:
            raise StorageError(f"cannot decode {row['path']}, which was an image in the first pass: {error}") from error

    def _draw(self, wanted: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Tiles of units of one layer, as many as a batch has at most."""
        found = self._drawer.show(
            torch.stack([one["view"] for one in wanted]),
            wanted[0]["layer"],
            torch.tensor([one["filter"] for one in wanted]),
            torch.tensor([[one["row"], one["column"]] for one in wanted]),
        )
        return [
            {name: one[name] for name in ("id", "filter", "rank")} | _tiles(drawn)
            for one, drawn in zip(wanted, found, strict=True)
        ]


def _tiles(drawn: Reconstruction) -> dict[str, bytes]:
    patch_HWC = Image.fromarray(drawn.patch_HWC).resize((TILE, TILE), Image.Resampling.BICUBIC)
    # the signal before its picture: what is made smaller gets fainter, and would stay so
    signal_CHW = torch.from_numpy(drawn.signal_HWC).permute(2, 0, 1)
    small_CHW = functional.interpolate(signal_CHW[None], (TILE, TILE), mode="bicubic", antialias=True)[0]
    return {"patch": patch_HWC.tobytes(), "signal": signed_picture(small_CHW.permute(1, 2, 0).numpy(), 99.5).tobytes()}


def read_tiles(run: str, layer: str, filters: NDArray[np.int64]) -> tuple[Tiles, Tiles]:
    """What DrawStage has stored of some filters of a layer.

    Returns:
        patches and signals by (filter, rank), uint8 RGB [TILE, TILE, 3] each.
    """
    patches: Tiles = {}
    signals: Tiles = {}
    for part in iter_parts(run, folder=files.join(TILES, layer)):
        for row in part.filter(pc.is_in(part["filter"], value_set=pa.array(filters, pa.int32()))).to_pylist():
            for tiles, name in ((patches, "patch"), (signals, "signal")):
                pixels = np.frombuffer(row[name], np.uint8).reshape(TILE, TILE, 3)
                tiles[row["filter"], row["rank"]] = pixels
    return patches, signals
