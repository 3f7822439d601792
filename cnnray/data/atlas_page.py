"""The page of an atlas of filters: a section for each layer, its picture cut into cells that wrap on any screen."""

from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import pyarrow as pa

from cnnray import files
from cnnray.data.atlas_report import COLUMNS, LayerFacts, cell_size
from cnnray.page import STYLE

PAGE = "index.html"
_RULES = {
    "deconv": "Beside it is the activation projected back to the pixels by a deconvolution (Zeiler and Fergus 2013): "
    "through the places that max pooling took its maxima from, and through ReLUs that let only positive signals pass.",
    "guided": "Beside it is the activation projected back to the pixels by guided backpropagation (Springenberg et al. "
    "2014): as by a deconvolution, but only through the ReLUs that passed something on in this image.",
    "gradient": "Beside it is the gradient of the activation with respect to the pixels (Simonyan et al. 2013).",
}
_REASONS = {  # where nobody has asked for a rule
    "deconv": "",
    "guided": "This network has no max pooling: by a deconvolution all images would look nearly the same.",
    "gradient": "This network has other activations than ReLU, which a deconvolution does not know.",
}


def write_atlas(
    run: str,
    layers: Sequence[LayerFacts],
    strongest: pa.Table,
    counts: Mapping[str, Any],
    made_of: Mapping[str, str],
    *,
    chosen: bool,
) -> None:
    """Write RUN/index.html; it shows the files in RUN/layers.

    Args:
        run: URI of the run folder.
        layers: in the order of the sections.
        strongest: the table of RUN/strongest.parquet.
        counts: predictions and quarantined, of the images.
        made_of: network, source and rule.
        chosen: whether the rule was chosen to suit the network, which the page then explains.

    Raises:
        StorageError: it cannot be written.
    """
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    high, wide = cell_size()
    sections = [{"layer": layer, "cells": _cells(layer, _titles(strongest, layer))} for layer in layers]
    page = environment.from_string(_TEMPLATE).render(
        style=STYLE,
        sections=sections,
        counts=counts,
        how=_RULES[made_of["rule"]],
        why=_REASONS[made_of["rule"]] if chosen else "",
        columns=COLUMNS,
        high=high,
        wide=wide,
        filters=sum(layer.num_filters for layer in layers),
        dead=sum(layer.num_dead for layer in layers),
        **made_of,
    )
    files.write_bytes(files.join(run, PAGE), page.encode())


def _titles(strongest: pa.Table, layer: LayerFacts) -> dict[int, str]:
    """Activations and ids of the images of each shown filter, one a line."""
    lines: dict[int, list[str]] = {number: [] for number in layer.shown.tolist()}
    for row in strongest.select(["layer", "filter", "id", "value"]).to_pylist():
        if row["layer"] == layer.name and row["filter"] in lines:
            lines[row["filter"]].append(f"{row['value']:.3g}  {row['id']}")
    return {number: "\n".join(found) for number, found in lines.items()}


def _cells(layer: LayerFacts, titles: Mapping[int, str]) -> list[dict[str, Any]]:
    """Of each shown filter: its number, title, and where its cell is, in per cent as CSS counts them."""
    rows = -(-len(layer.shown) // COLUMNS)
    return [
        {
            "filter": number,
            "title": titles[number],
            "x": round(100 * (at % COLUMNS) / (COLUMNS - 1), 4),
            "y": round(100 * (at // COLUMNS) / max(rows - 1, 1), 4),
        }
        for at, number in enumerate(layer.shown.tolist())
    ]


_TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>What the filters of {{ network }} look for</title>
<style>
{{ style | safe }}
main { max-width: 1240px; }
section > h2 + p { margin-top: -10px; }
.numbers dd { font-size: 20px; }
nav { display: flex; flex-wrap: wrap; gap: 8px; margin-top: 20px; }
nav a { background: var(--card); border: 1px solid var(--line); border-radius: 999px; padding: 4px 14px; text-decoration: none; }
.cells { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 280px), 1fr)); gap: 12px; }
.cell { aspect-ratio: {{ wide }} / {{ high }}; background-image: var(--picture); background-size: {{ columns }}00% auto; }
@media print { .cell { break-inside: avoid; } }
</style></head>
<body><main>
<h1>What the filters of {{ network }} look for</h1>
<p class="subtitle">{{ source }}</p>
<section>
<dl class="numbers">
<div><dt>images</dt><dd>{{ "{:,}".format(counts.predictions) }}</dd></div>
{% if counts.quarantined %}<div><dt>bad images</dt><dd>{{ "{:,}".format(counts.quarantined) }}</dd></div>{% endif %}

<div><dt>layers</dt><dd>{{ sections | length }}</dd></div>
<div><dt>filters</dt><dd>{{ "{:,}".format(filters) }}</dd></div>
<div><dt>that never fire</dt><dd>{{ "{:,}".format(dead) }}</dd></div>
<div><dt>reconstruction</dt><dd>{{ rule }}</dd></div>
</dl>
<p>For each filter, on the left: the parts of nine images that made it fire most, the strongest first. {{ how }} {{ why }}
Grey is zero; what is beyond the border of an image is grey too. Each patch is as large as the part of the image that one unit
of the layer sees.</p>
<p class="subtitle">All nine images of all filters, with values and places, are in <a href="strongest.parquet">strongest.parquet</a>;
counts, settings and versions in <a href="manifest.json">manifest.json</a>.</p>
</section>
<nav>{% for one in sections %}<a href="#{{ one.layer.name }}">{{ one.layer.name }}</a>{% endfor %}</nav>

{% for one in sections %}
{% set layer = one.layer %}
<section id="{{ layer.name }}">
<h2>{{ layer.name }}</h2>
<p class="subtitle">{{ layer.kind }}; a map of {{ layer.map_size[0] }} x {{ layer.map_size[1] }}</p>
<dl class="numbers">
<div><dt>filters</dt><dd>{{ layer.num_filters }}</dd></div>
<div><dt>shown</dt><dd>{{ layer.shown | length }}</dd></div>
<div><dt>that never fire</dt><dd>{{ layer.num_dead }}</dd></div>
<div><dt>a unit sees</dt><dd>{{ layer.sees }}</dd></div>
<div><dt>stride, px</dt><dd>{{ layer.stride }}</dd></div>
</dl>
{% if one.cells %}
<div class="cells" style="--picture:url('layers/{{ layer.name }}.png')">
{% for cell in one.cells %}
<div class="cell" role="img" aria-label="filter {{ cell.filter }}: strongest patches, and what in them made it fire" title="{{ cell.title }}" style="background-position:{{ cell.x }}% {{ cell.y }}%"></div>
{% endfor %}
</div>
<p class="subtitle"><a href="layers/{{ layer.name }}.png">all in one picture</a></p>
{% else %}
<p>No filter of this layer fires in any of the images.</p>
{% endif %}
</section>
{% endfor %}
</main></body></html>
"""  # noqa: E501
