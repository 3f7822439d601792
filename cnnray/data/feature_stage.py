"""One unit of feature work as a plain class: rows with encoded images in, a stored part out. No Ray in here."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from cnnray import files
from cnnray.config import FeaturesConfig
from cnnray.data.feature_store import (
    FEATURES,
    Outputs,
    feature_column,
    feature_schema,
    quarantine_row,
)
from cnnray.data.recipe import build_recipe
from cnnray.data.reuse import KnownFeatures
from cnnray.errors import DataError, ImageError, RunFolderError
from cnnray.infer.cores import Cores
from cnnray.infer.embed import Embedder
from cnnray.nn.backbones import build_backbone, build_extractor

MODEL = "model.json"
GROUP = 16  # images decoded together by one thread: little waiting at a unit's end, little padding of batches
NEEDS = ("id", "path", "label", "split", "bytes", "problem", "partners", "partner_labels")


class FeatureStage:
    """Decodes, augments, embeds and stores; the network is loaded once.

    Args:
        config: of the run.
        outputs: where to store.
        threads: cores to use; each runs whole images through decode, views and network by itself.
        reuse: finished runs in which to look for features first.
    """

    def __init__(self, config: FeaturesConfig, outputs: Outputs, *, threads: int, reuse: Sequence[str] = ()) -> None:
        torch.set_num_threads(1)
        backbone = build_backbone(config.network, config.weights)
        extractor = build_extractor(backbone, config.tap, config.pool)
        self._embedder = Embedder(
            extractor,
            backbone.spec.input_size,
            precision=config.precision,
            compile=config.compile,
            batch_size=config.batch_size,
            device="cuda" if config.gpu else "cpu",
        )
        self._recipe = build_recipe(config, backbone, self._embedder.precision)
        self._known = KnownFeatures(list(reuse))
        self._outputs, self._dtype = outputs, config.dtype
        self._pool = Cores(threads)
        self._shape = list(self._embed(torch.zeros(1, 3, *[backbone.spec.input_size] * 2, dtype=torch.uint8)).shape[1:])
        keep_model(outputs.run, self.model_facts)

    def __call__(self, unit: pa.Table) -> pa.Table:
        """Store the features of a unit that `read_unit` filled.

        Returns:
            one row of counts: `images, features, quarantined, reused`.

        Raises:
            DataError: a column is missing, or features do not fit the stored type.
            RunFolderError: another command has taken over the run.
            StorageError: disk full or unreachable.
        """
        missing = [name for name in NEEDS if name not in unit.column_names]
        if missing:
            raise DataError(f"the feature stage needs columns {', '.join(NEEDS)}; missing: {', '.join(missing)}")
        rows = unit.select(NEEDS).to_pylist()
        groups = [rows[at : at + GROUP] for at in range(0, len(rows), GROUP)]
        done = _Made()
        for made in self._pool.map(self._make, groups):
            done.extend(made)
        # Quarantine first: an id in neither is done again, an id in both would be a contradiction.
        self._outputs.quarantine(done.bad)
        if done.rows:
            self._outputs.store(FEATURES, self._table(done))
        counts = {"images": len(rows), "features": len(done.rows), "quarantined": len(done.bad), "reused": done.reused}
        return pa.table({name: [count] for name, count in counts.items()})

    @property
    def model_facts(self) -> dict[str, Any]:
        """What the run's manifest says of the network."""
        recipe, maker = self._recipe, self._recipe.maker
        return {
            "backbone": {
                "name": recipe.backbone,
                "weights_sha256": recipe.weights_sha256,
                "tap": recipe.tap,
                "pool": recipe.pool,
                "num_features": int(np.prod(self._shape)),
                "shape": self._shape,
            },
            "input": {"size": maker.size, "resize": maker.resize, "interpolation": maker.interpolation},
            "precision": recipe.precision,
            "compiled": self._embedder.compiled,
        }

    def _make(self, rows: list[dict[str, Any]]) -> "_Made":
        made = _Made()
        views: list[torch.Tensor] = []
        slots: list[int] = []
        for row in rows:
            try:
                keys, known, tensors, lams = self._row(row)
            except ImageError as error:
                made.reject(row, error.code, str(error))
                continue
            slots += range(len(made.rows), len(made.rows) + len(keys)) if known is None else []
            views += [tensors] if tensors is not None else []
            made.add(row, keys, lams, known)
        if views:
            for slot, feature in zip(slots, self._embed(torch.cat(views)), strict=True):
                made.features[slot] = feature.reshape(-1)
        return made

    def _row(self, row: dict[str, Any]) -> tuple[list[bytes], list[Any] | None, torch.Tensor | None, list[float]]:
        """Keys, known features (or None), views to embed (or None) and mixup shares of one image."""
        data, partners = row["bytes"], row["partners"]
        if data is None:
            code, _, message = row["problem"].partition(": ")
            raise _Unread(code, message)
        keys = self._recipe.keys(data, row["id"], partners)
        known = [self._known.get(key) for key in keys]
        if all(entry is not None for entry in known):
            return keys, [e[0] for e in known if e], None, [e[1] for e in known if e]
        tensors, lams = self._recipe.maker.views(data, row["id"], partners)
        return keys, None, tensors, lams

    def _embed(self, images: torch.Tensor) -> npt.NDArray[Any]:
        features = self._embedder.embed(images).astype(self._dtype)
        if not np.isfinite(features).all():
            raise DataError(
                f"features of {self._recipe.backbone} do not fit {self._dtype} (infinite or not a number); "
                "use --dtype float32, and check the weights"
            )
        return features

    def _table(self, made: "_Made") -> pa.Table:
        schema = feature_schema(self._shape, self._dtype)
        meta = pa.Table.from_pylist(made.rows, pa.schema(list(schema)[:-1]))
        columns = [*meta.columns, feature_column(np.stack(made.features), self._dtype)]
        return pa.table(columns, schema=schema)


def keep_model(run: str, facts: dict[str, Any]) -> None:
    """Write down which network a run uses, before its first part; a resumed run must use the same, to the precision.

    Raises:
        RunFolderError: it was started with another.
    """
    uri = files.join(run, MODEL)
    if not files.exists(uri):
        files.write_json(uri, facts)
        return
    first = files.read_json(uri)
    for name in ("backbone", "precision"):
        if first[name] != facts[name]:
            raise RunFolderError(
                f"{run} was started with {name} {first[name]}, but now it is {facts[name]}; use the same weights and "
                "--precision, or choose another --out"
            )


class _Unread(ImageError):
    """A file that could not be fetched; its codes are those of the quarantine, not of an image."""

    def __init__(self, code: str, message: str) -> None:
        Exception.__init__(self, message)
        self.code = code


@dataclass
class _Made:
    """What became of a number of rows."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    features: list[Any] = field(default_factory=list)
    bad: list[dict[str, Any]] = field(default_factory=list)
    reused: int = 0

    def add(self, row: dict[str, Any], keys: list[bytes], lams: list[float], known: list[Any] | None) -> None:
        same = {name: row[name] for name in ("id", "path", "label", "split")}
        for view, (key, lam) in enumerate(zip(keys, lams, strict=True)):
            other = row["partner_labels"][view - 1] if view and lam < 1 else None
            self.rows.append(same | {"view": view, "label_b": other, "lam": lam, "key": key})
        self.features += known if known is not None else [None] * len(keys)
        self.reused += len(keys) if known is not None else 0

    def reject(self, row: dict[str, Any], code: str, message: str) -> None:
        self.bad.append(quarantine_row(row, code, message))

    def extend(self, other: "_Made") -> None:
        self.rows += other.rows
        self.features += other.features
        self.bad += other.bad
        self.reused += other.reused
