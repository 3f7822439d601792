"""`cnnray visualize filters`: what makes each filter of a network fire, over a whole data set, by Ray Data, resumable.

RUN/index.html           the atlas
RUN/atlas.jpg            four filters of each layer
RUN/layers/LAYER.png     a picture of each layer: filters, nine patches each beside what in them made it fire
RUN/strongest.parquet    layer, filter, rank, id, path, value, row, column of the nine images of every filter; value is
                         the activation before the ReLU, row and column its place in the layer's map

Two passes: all images pass by, each actor remembers the strongest; then these alone are read again and drawn.
What the passes store on their way is described in `cnnray.data.atlas_stage`, and is gone at the end.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from cnnray import cluster, files
from cnnray.config import AtlasConfig
from cnnray.data.atlas_draw import DRAWN, TILES, DrawStage, read_tiles
from cnnray.data.atlas_page import write_atlas
from cnnray.data.atlas_plan import choose_filters, choose_layers, gather, plan_drawings, strongest_table
from cnnray.data.atlas_report import LayerFacts, describe_layers, layer_picture, layer_strip
from cnnray.data.atlas_stage import SEEN_SCHEMA, STATES, StrongestStage, load_network
from cnnray.data.feature_store import QUARANTINE, to_parquet
from cnnray.data.pipelines import work_off
from cnnray.data.predict import count_predictions, read_predictions, run_stage
from cnnray.data.runs import RunFolder, count_by_code, refuse_bad
from cnnray.data.units import load_index, plan_units, rounds
from cnnray.errors import DataError, RunFolderError
from cnnray.nn.backbones import Backbone
from cnnray.nn.deconv import Deconv
from cnnray.nn.layer_names import conv_layers
from cnnray.nn.rectify import suited_rule
from cnnray.nn.weights import absolute_weights
from cnnray.ops.overlay import jpeg, png

STRONGEST, LAYERS, OVERVIEW = "strongest.parquet", "layers", "atlas.jpg"
_KIND = "filter atlas"


def visualize_filters(source: str, out: str, config: AtlasConfig, *, address: str | None = None) -> dict[str, Any]:
    """Make the atlas of a network over a source; the same call resumes after a kill.

    The result does not depend on how the images are divided among actors, nor on kills.

    Args:
        source: a folder or a manifest.
        out: run folder, see above.
        config: which network, layers and filters.
        address: of a Ray cluster; None is a local one.

    Returns:
        the manifest: images, predictions (images that passed by), quarantined, quarantine_codes, rule, layers (name,
        filters, dead, drawn, stride and field in px of each), content_sha256, ...

    Raises:
        UnknownNameError: no such backbone or layer.
        OptionError: a rule that does not know the network's activations.
        DataError: all images are bad. The rest as `build_features`.
        QuarantineError: all is written, but more than `config.max_bad` of the images were bad.
    """
    config = replace(config, weights=absolute_weights(config.weights))
    backbone = load_network(config)
    layers = choose_layers(backbone, config.layers)
    rule = _rule(backbone, config)
    source = files.absolute(source)
    run = RunFolder.open(files.absolute(out), config, _KIND, source=f"{source} by {backbone.weights_sha256}")
    cluster.connect(address)
    index = load_index(run, source, config)
    arguments = {"config": config, "layers": layers, "gpu": config.gpu}
    run_stage(run, index, StrongestStage, arguments, config, "images")
    counts = count_predictions(run.uri, index, read_predictions(run.uri, SEEN_SCHEMA))
    if not counts["predictions"]:
        codes = count_by_code(counts["quarantine_codes"])
        raise DataError(f"expected images to look at in {source}, but all {counts['images']:,} are bad: {codes}")
    state = gather(run.uri, {name: conv_layers(backbone)[name].num_filters for name in layers})
    strongest = strongest_table(state, index)
    facts = describe_layers(backbone, state, {name: choose_filters(state[name], config.filters) for name in layers})
    _draw(run, strongest, facts, arguments | {"rule": rule}, config)
    manifest = _finish(run, strongest, facts, counts, {"network": backbone.name, "source": source, "rule": rule})
    refuse_bad(run.uri, manifest, config)
    return manifest


def _rule(backbone: Backbone, config: AtlasConfig) -> str:
    size = backbone.spec.input_size
    return Deconv(backbone, config.rule or suited_rule(backbone.body, 3, size, size)).rule


def _draw(
    run: RunFolder,
    strongest: pa.Table,
    facts: Sequence[LayerFacts],
    arguments: dict[str, Any],
    config: AtlasConfig,
) -> None:
    """The second pass, over the images that something is drawn of."""
    index = plan_drawings(strongest, {layer.name: layer.shown for layer in facts})
    for todo in rounds(run.uri, index, DRAWN):
        for _ in work_off("drawn images", plan_units(todo, index), DrawStage, run, arguments, config):
            pass  # the stage has stored the tiles


def _finish(
    run: RunFolder,
    strongest: pa.Table,
    facts: Sequence[LayerFacts],
    counts: Mapping[str, Any],
    made_of: Mapping[str, str],
) -> dict[str, Any]:
    """Write what people look at, then the manifest."""
    files.write_bytes(run.path(STRONGEST), to_parquet(strongest))
    digest = _write_pictures(run, strongest, facts)
    write_atlas(run.uri, facts, strongest, counts, made_of, chosen=not run.config.rule)
    layers = [layer.as_json() for layer in facts]
    manifest = run.finish({**counts, **made_of, "layers": layers, "content_sha256": digest})
    for folder in (STATES, TILES, DRAWN):  # a killed run needs them, a finished one does not
        files.remove(run.path(folder))
    return manifest


def _write_pictures(run: RunFolder, strongest: pa.Table, facts: Sequence[LayerFacts]) -> str:
    """RUN/layers and RUN/atlas.jpg; returns a hash of all that the atlas shows."""
    digest = hashlib.sha256(repr(strongest.drop_columns("path").to_pylist()).encode())
    strips = []
    for layer in facts:
        patches, signals = read_tiles(run.uri, layer.name, layer.shown)
        if len(patches) != layer.num_drawn:
            raise RunFolderError(
                f"expected {layer.num_drawn} drawings of {layer.name} in {run.uri}, but found {len(patches)}: a worker "
                f"died while it drew, see {run.path(QUARANTINE)}; choose another --out, or draw less with --filters"
            )
        pixels = layer_picture(layer.shown, patches, signals)
        digest.update(pixels.tobytes())
        files.write_bytes(run.path(LAYERS, f"{layer.name}.png"), png(pixels))
        strips.append(layer_strip(layer, patches, signals))
    files.write_bytes(run.path(OVERVIEW), jpeg(np.concatenate(strips), 85))
    return digest.hexdigest()
