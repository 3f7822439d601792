"""The pages in docs/ and CONTRIBUTING.md: commands parse, links lead somewhere, figures are measured, recipes work."""

import asyncio
import io
import re
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

from cnnray.cli.app import app, train
from cnnray.config import ClassifyConfig, ServeConfig
from cnnray.nn.backbones import BACKBONES, build_backbone, build_extractor
from cnnray.nn.classics import CLASSICS, DESIGNS
from cnnray.serve.access import ByPlace
from cnnray.serve.guard import Guard
from cnnray.serve.ingress import ROUTERS, build_api
from cnnray.train.head import build_head_data
from cnnray.train.loop import Worker, run
from cnnray.train.state import load_state
from tests.commands import code_in_text, commands_in_blocks, commands_in_text, is_only_named, parse_command
from tests.feature_tables import make_table
from tests.unit.test_client import OK, Scripted

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
GUIDE = ROOT / "CONTRIBUTING.md"
WRITTEN = [*sorted(set(DOCS.glob("*.md")) - {DOCS / "errors.md"}), GUIDE]  # errors.md is made of a table
FEATURES = (
    "classify", "segment", "detect", "faces", "galleries", "stylize", "visualize", "networks", "service", "client",
    "console", "cluster",
)  # fmt: skip
PAGES = {str(path.relative_to(ROOT)): path.read_text() for path in WRITTEN}
RESULTS = (ROOT / "benchmarks" / "RESULTS.md").read_text()
NUMBER = r"(?<![\w.-])\d[\d,]*(?:\.\d+)?"
every_page = pytest.mark.parametrize("page", PAGES)


def section(text, title):
    """What stands under a heading of the second level; "" without it."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text, flags=re.M | re.S)
    return found[1] if found else ""


def numbers(text):
    return {number.replace(",", "") for number in re.findall(NUMBER, text)}


# --- commands and names -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words", [words for text in PAGES.values() for words in commands_in_blocks(text)], ids=" ".join
)
def test_the_command_line_takes_a_command_of_a_block(words):
    parse_command(words)


@pytest.mark.parametrize("words", [words for text in PAGES.values() for words in commands_in_text(text)], ids=" ".join)
def test_the_command_line_takes_or_has_a_command_of_the_text(words):
    if not is_only_named(words):
        parse_command(words)


def test_a_command_that_is_not_there_would_be_seen():
    shown = commands_in_text(
        "`cnnray faces erase --gallery a` and `cnnray serve up --classifer c`, `cnnray serve keys`"
    )
    for words in shown[:2]:
        assert not is_only_named(words)
        with pytest.raises(Exception, match="erase|classifer"):
            parse_command(words)
    assert is_only_named(shown[2])


def options(group):
    """Names of the options of all commands below a group."""
    for command in (group[name] for name in group if not name.startswith("-")):
        yield from options(command)
        if command.default_command:
            yield from (name for argument in command.assemble_argument_collection() for name in argument.names)


def test_options_of_the_text_are_options_of_some_command():
    known = {*options(app), "--config", "--json", "--help"}
    for page, text in PAGES.items():
        for code in code_in_text(text):
            for name in re.findall(r"^--[a-z][a-z-]*", code):
                assert name in known, f"{page}: {name}"


@every_page
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)]+)\)", PAGES[page]):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        path = (ROOT / page).parent / name if name else ROOT / page
        assert path.exists(), target
        headings = re.findall(r"^#+ (.+)$", path.read_text(), flags=re.M) if anchor else []
        assert not anchor or anchor in {heading.lower().replace(" ", "-") for heading in headings}, target


@every_page
def test_files_that_it_names_are_there(page):
    made = {"cnnray/train/svm.py", "cnnray/serve/photometer.py"}  # by the recipes
    for name in re.findall(r"(?<![\w./])(?:cnnray|tests|benchmarks|jobs|cluster|docs)/[\w./-]*[\w/]", PAGES[page]):
        assert name in made or (ROOT / name).exists(), name


def test_every_page_is_in_the_list_and_in_reach():
    for path in DOCS.glob("*.md"):
        assert path.name == "README.md" or f"]({path.name})" in PAGES["docs/README.md"], path.name


@pytest.mark.parametrize("name", FEATURES)
def test_a_page_about_a_feature_is_short_and_has_its_parts(name):
    text = PAGES[f"docs/{name}.md"]
    assert [title for title in re.findall(r"^## (.+)$", text, flags=re.M)] == ["When", "How", "Figures", "Limits"]
    most = 100 if "\n![" in text else 80  # a picture brings the sentences that say what it shows
    assert len(text.splitlines()) <= most and commands_in_blocks(text)


@pytest.mark.parametrize("block", re.findall(r"^```python\n(.*?)^```", PAGES["docs/client.md"], flags=re.M | re.S))
def test_an_example_of_the_client_prints_the_label_of_every_photo(block, tmp_path, monkeypatch, capsys):
    photos = [tmp_path / "photo.jpg", tmp_path / "photos" / "1.jpg", tmp_path / "photos" / "2.jpg"]
    photos[1].parent.mkdir()
    for photo in photos:
        photo.write_bytes(b"a photo")
    monkeypatch.chdir(tmp_path)
    with Scripted(OK) as service:
        assert "http://127.0.0.1:8000" in block
        exec(compile(block.replace("http://127.0.0.1:8000", service.url), "client.md", "exec"), {"__name__": "example"})
    printed = capsys.readouterr().out.splitlines()
    assert printed == (["photos/1.jpg cat", "photos/2.jpg cat"] if "asyncio" in block else ["cat"])


# --- figures ------------------------------------------------------------------------------------------------------


def measured(benchmark):
    """What the sections of the results that name a benchmark say."""
    parts = [part for part in re.split(r"^## ", RESULTS, flags=re.M)[1:] if benchmark in part]
    assert parts, f"{benchmark} has no results"
    return "\n".join(parts)


def figure_rows(text):
    """Of the tables of figures: (what and figure, the benchmark)."""
    for line in section(text, "Figures").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| ") and cells != ["what", "figure", "made by"]:
            yield " ".join(cells[:-1]), cells[-1]


@every_page
def test_figures_are_among_those_that_their_benchmark_gave(page):
    for told, made_by in figure_rows(PAGES[page]):
        benchmark = re.search(r"benchmarks/\w+\.py", made_by)[0]
        assert numbers(told) and numbers(told) <= numbers(measured(benchmark)), told


@every_page
def test_figures_between_the_tables_are_among_the_results(page):
    text = "\n".join(line for line in section(PAGES[page], "Figures").splitlines() if not line.startswith("|"))
    assert numbers(text) <= numbers(RESULTS)


def test_most_pages_have_figures():
    assert sum(len(list(figure_rows(text))) for text in PAGES.values()) > 30


# --- recipes ------------------------------------------------------------------------------------------------------


def recipe(title):
    """The names that a recipe's block defines, after it was run; it is under 30 lines long."""
    (block,) = re.findall(r"^```python\n(.*?)^```", section(PAGES["CONTRIBUTING.md"], title), flags=re.M | re.S)
    assert sum(bool(line.strip()) for line in block.splitlines()) < 30
    found = {"__name__": "recipe"}
    exec(compile(block, GUIDE.name, "exec", dont_inherit=True), found)
    return SimpleNamespace(**found)


def test_the_backbone_of_the_recipe_gives_features_at_any_scale():
    with mock.patch.dict(BACKBONES), mock.patch.dict(CLASSICS), mock.patch.dict(DESIGNS):
        recipe("Add a backbone")
        for name, width in (("plain", 128), ("plain:depth=2,size=64,width=0.5", 64)):
            backbone = build_backbone(name, "none")
            features = build_extractor(backbone)(torch.zeros(2, 3, 64, 64, dtype=torch.uint8))
            assert backbone.name == name and backbone.taps == ("stem", "stage1", "stage2", "logits")
            assert features.shape == (2, width) and features.isfinite().all()
    assert "plain" not in BACKBONES


def test_the_task_of_the_recipe_learns_and_has_its_command(tmp_path):
    parts = recipe("Add a task")
    try:
        parse_command(["train", "svm", "runs/features", "--out", "runs/svm", "--epochs", "3"])
    finally:
        del train["svm"]
    config = ClassifyConfig(epochs=30, lr=0.05, warmup=0, patience=0)
    data = build_head_data(make_table((20, 20, 20), val_per_class=9, spread=3.0), config)
    uri = str(tmp_path / "last.state")
    run(parts.SvmTask(data), data, config, uri, "of this run", Worker())
    history = load_state(uri, "of this run").history
    assert history[-1]["train_loss"] < 0.5 * history[0]["train_loss"] and history[-1]["val_score"] > 0.9


def test_the_endpoint_of_the_recipe_answers_and_is_described():
    with mock.patch.dict(ROUTERS):
        parts = recipe("Add an endpoint")
        good, bad, document = asyncio.run(ask_photometer(parts))
    assert good.status_code == 200 and good.json()["mean"] == pytest.approx(0.2) and good.json()["request_id"]
    assert (bad.status_code, bad.json()["code"]) == (422, "not_an_image")
    operation = document.json()["paths"]["/v1/brightness"]["post"]
    assert {"200", "413", "422", "503"} <= set(operation["responses"]) and operation["requestBody"]


async def ask_photometer(parts):
    """Answers for a grey photo, for what is none, and the document."""
    model = SimpleNamespace(name="photometer", describe=dict, self_test=lambda: None)
    replica = parts.Photometer(model, ServeConfig())
    handle = SimpleNamespace(ask=SimpleNamespace(remote=replica.ask))
    api = build_api({parts.NAME: handle})
    guard = Guard(api, ByPlace(local=False), max_body_bytes=9999, max_in_flight=4, timeout_s=5)
    photo = io.BytesIO()
    Image.fromarray(np.full((4, 6, 3), 51, np.uint8)).save(photo, "PNG")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(guard), base_url="http://x") as http:
        good = await http.post("/v1/brightness", content=photo.getvalue(), headers={"content-type": "image/png"})
        bad = await http.post("/v1/brightness", files={"file": b"nothing"})
        return good, bad, await http.get("/openapi.json")
