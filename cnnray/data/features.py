"""`cnnray features`: frozen-backbone features of a folder, resumable, verified, never computed twice."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cnnray import cluster, files
from cnnray.config import FeaturesConfig
from cnnray.data.feature_report import write_feature_report
from cnnray.data.feature_stage import MODEL, FeatureStage
from cnnray.data.feature_store import (
    FEATURES,
    INDEX,
    iter_parts,
    read_parquet,
    read_quarantine,
    row_digests,
)
from cnnray.data.pipelines import work_off
from cnnray.data.reuse import find_runs
from cnnray.data.runs import RunFolder, count_by_code, read_manifest, refuse_bad
from cnnray.data.units import load_index, plan_units, rounds
from cnnray.errors import OptionError, RunFolderError
from cnnray.nn.backbones import find_spec
from cnnray.nn.weights import absolute_weights

_ROWS = pa.schema({"id": pa.string(), "view": pa.int32()})


def build_features(source: str, out: str, config: FeaturesConfig, *, address: str | None = None) -> dict[str, Any]:
    """Compute and store the features of every image of a source; the same call resumes after any kill.

    Args:
        source: class folders, split folders, a flat folder, or a CSV or Parquet manifest; any URI.
        out: the run folder; must be new, empty or an unfinished run of the same settings.
        config: what to compute.
        address: of a Ray cluster; None is a local one.

    Returns:
        the run's manifest.

    Raises:
        UserError: unknown backbone or tap, no such weights, an unusable source, a run folder that is finished or of
            other settings.
        QuarantineError: the run is complete and verified, but more than `config.max_bad` of the images were bad.
        StorageError: disk full or unreachable; what is stored stays and is not computed again.
    """
    spec = find_spec(config.network)
    spec.check_tap(config.tap)
    spec.check_weights(config.weights)
    config = replace(config, weights=absolute_weights(config.weights))
    source, out = files.absolute(source), files.absolute(out)
    run = RunFolder.open(out, config, "features", source=source)
    cluster.connect(address)
    index = load_index(run, source, config, split=config.split, seed=config.seed)
    reuse = _runs_to_reuse(out, config)
    manifest = _finish(run, index, config, _compute(run, index, config, reuse))
    refuse_bad(out, manifest, config)
    return manifest


def verify_features(run: str) -> dict[str, Any]:
    """Check a finished run: every image exactly once per view or quarantined, every bit as it was written.

    Returns:
        counts and `content_sha256`.

    Raises:
        RunFolderError: unfinished, incomplete, damaged, or other content than when it was finished.
    """
    manifest = read_manifest(run)
    if manifest.get("kind") != "features":
        raise RunFolderError(f"expected a features run in {run}, but it is of kind {manifest.get('kind')!r}")
    index = read_parquet(files.join(run, INDEX))
    found = check_complete(run, index, int(manifest["config"]["views"]))
    if found["content_sha256"] != manifest["content_sha256"]:
        raise RunFolderError(
            f"{run} is complete, but its content changed since it was finished: "
            f"expected {manifest['content_sha256'][:12]}, found {found['content_sha256'][:12]}"
        )
    return found


def check_complete(run: str, index: pa.Table, views: int) -> dict[str, Any]:
    """Compare what is stored with what was asked for.

    Args:
        run: run folder.
        index: `id, path, label, split` of all images.
        views: augmented views per training image.

    Returns:
        images, features, quarantined (counts), quarantine_codes, content_sha256: the sha256 over the sorted digests
        of all rows, so it depends on neither the order nor the division into files.

    Raises:
        RunFolderError: something is missing, stored twice, or was never asked for.
    """
    quarantine = read_quarantine(run)
    rejected = quarantine["id"].unique()
    stored, digests = [_ROWS.empty_table()], [np.empty(0, "S32")]
    for part in iter_parts(run):
        stored.append(part.select(_ROWS.names).cast(_ROWS))
        digests.append(row_digests(part))
    good = index.filter(pc.invert(pc.is_in(index["id"], value_set=rejected)))
    _refuse_difference(run, _rows_asked_for(good, views), pa.concat_tables(stored))
    return {
        "images": index.num_rows,
        "features": sum(map(len, digests)),
        "quarantined": len(rejected),
        "quarantine_codes": dict(sorted(Counter(quarantine["code"].to_pylist()).items())),
        "content_sha256": hashlib.sha256(np.sort(np.concatenate(digests)).tobytes()).hexdigest(),
    }


def _runs_to_reuse(out: str, config: FeaturesConfig) -> list[str]:
    if config.reuse == "none":
        return []
    if config.reuse == "auto":
        return find_runs(out, config)
    if read_manifest(config.reuse).get("kind") != "features":
        raise OptionError(f"expected --reuse auto, none or a finished features run, got {config.reuse}")
    return [config.reuse]


def _compute(run: RunFolder, index: pa.Table, config: FeaturesConfig, reuse: Sequence[str]) -> dict[str, int]:
    resumed, reused = index.num_rows, 0
    for number, todo in enumerate(rounds(run.uri, index)):
        resumed -= 0 if number else todo.num_rows
        units = plan_units(todo, index, views=config.views, mixup=config.mixup_alpha > 0, seed=config.seed)
        arguments = {"config": config, "reuse": list(reuse)}
        for row in work_off("features", units, FeatureStage, run, arguments, config):
            reused += row.get("reused") or 0
    return {"reused": reused, "resumed": resumed}


def _finish(run: RunFolder, index: pa.Table, config: FeaturesConfig, counts: dict[str, int]) -> dict[str, Any]:
    found = check_complete(run.uri, index, config.views)
    if not found["features"]:
        raise RunFolderError(
            f"all {index.num_rows} images were bad: {count_by_code(found['quarantine_codes'])}; "
            f"see {run.path('quarantine')}"
        )
    model = files.read_json(run.path(MODEL))
    model["backbone"]["weights"] = config.weights
    split_counts = {row["values"]: row["counts"] for row in index["split"].value_counts().to_pylist()}
    classes = sorted({label for label in index["label"].unique().to_pylist() if label is not None})
    facts = {
        "source": run.source,
        **found,
        **model,
        **counts,
        "splits": dict(sorted(split_counts.items())),
        "classes": classes,
        "seed": config.seed,
        "parts": len(files.list_files(run.path(FEATURES), ".parquet")),
    }
    write_feature_report(run.uri, index, config, facts)
    files.write_json(run.path("metrics.json"), {k: facts[k] for k in ("images", "features", "quarantined", "reused")})
    return run.finish(facts)


def _rows_asked_for(good: pa.Table, views: int) -> pa.Table:
    """One row (id, view) per view of each image; in Arrow's memory, as there may be millions."""
    train = good.filter(pc.equal(good["split"], "train"))["id"]
    plain = [pa.table([good["id"], pa.repeat(pa.scalar(0, pa.int32()), good.num_rows)], schema=_ROWS)]
    more = [
        pa.table([train, pa.repeat(pa.scalar(view, pa.int32()), len(train))], schema=_ROWS)
        for view in range(1, views + 1)
    ]
    return pa.concat_tables(plain + more)


def _are_the_same(expected: pa.Table, stored: pa.Table) -> bool:
    """Whether both have the same rows in any order; those expected differ. Takes a fraction of a join's memory."""
    if expected.num_rows != stored.num_rows:
        return False
    for view in expected["view"].unique():
        wanted, found = (rows.filter(pc.equal(rows["view"], view))["id"] for rows in (expected, stored))
        if (
            not len(wanted) == len(found) == len(found.unique())
            or not pc.all(pc.is_in(wanted, value_set=found)).as_py()
        ):
            return False
    return True


def _refuse_difference(run: str, expected: pa.Table, stored: pa.Table) -> None:
    if _are_the_same(expected, stored):
        return
    counts = stored.group_by(_ROWS.names).aggregate([([], "count_all")])
    missing = expected.join(stored, _ROWS.names, join_type="left anti")
    extra = stored.join(expected, _ROWS.names, join_type="left anti")
    twice = counts.filter(pc.greater(counts["count_all"], 1))
    for what, rows in (("missing", missing), ("not asked for", extra), ("stored twice", twice)):
        if rows.num_rows:
            example = rows.sort_by([(name, "ascending") for name in _ROWS.names]).slice(0, 1).to_pylist()[0]
            raise RunFolderError(
                f"{run} is not complete: {rows.num_rows:,} of {expected.num_rows:,} feature rows are {what}, such as "
                f"view {example['view']} of {example['id']!r}; run the same command again, or choose another --out"
            )
