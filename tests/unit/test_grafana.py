"""The Grafana dashboard asks for metrics that the service has, by labels that they have."""

import inspect
import json
import re
from pathlib import Path

import pytest

from cnnray.serve import metrics

DASHBOARD = json.loads((Path(__file__).parents[2] / "cluster" / "grafana" / "service.json").read_text())
QUERIES = [(panel["title"], target["expr"]) for panel in DASHBOARD["panels"] for target in panel["targets"]]


def names_and_kinds():
    """Names of the metrics as their code has them, and what each is."""
    return {name: kind for kind, name in re.findall(r'(\w+)\(\s*"(cnnray_\w+)"', inspect.getsource(metrics))}


@pytest.mark.parametrize(("title", "query"), QUERIES)
def test_a_query_is_about_a_metric_of_the_service(title, query):
    known = names_and_kinds()
    found = re.findall(r"ray_(cnnray_\w+)", query)
    assert found and query.count("(") == query.count(")")
    for name in found:
        kind = known[re.sub(r"_(bucket|total)$", "", name)]
        assert name.endswith({"Counter": "_total", "Histogram": "_bucket", "Gauge": ""}[kind]), name


def test_every_metric_is_shown_and_no_panel_hides_another():
    shown = "".join(query for _, query in QUERIES)
    assert len(names_and_kinds()) == 8 and all(f"ray_{name}" in shown for name in names_and_kinds())
    places = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    cells = [(x, y) for p in places for x in range(p["x"], p["x"] + p["w"]) for y in range(p["y"], p["y"] + p["h"])]
    assert len(cells) == len(set(cells)) and max(x for x, _ in cells) < 24
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(places)
