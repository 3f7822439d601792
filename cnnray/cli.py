"""`cnnray VERB NOUN`: parses, calls one function, prints.

Options come from flags, then CNNRAY_* environment variables, then the TOML file of --config; they are declared in
`cnnray.config`. Answers go to stdout (one JSON object with --json), everything else to stderr. Exit codes: 0 done;
2 wrong input or options; 3 done, but too many bad inputs; 4 storage; 5 service; 130 interrupted.
"""

import contextlib
import json
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, CycloptsError, Parameter
from cyclopts.config import Env, Toml

from cnnray import __version__
from cnnray.config import (
    ClassifyConfig,
    FeaturesConfig,
    FinetuneConfig,
    PredictConfig,
    SegmentConfig,
    SegmentPredictConfig,
    ServeConfig,
)
from cnnray.errors import CnnrayError, OptionError

Flat = Parameter(name="*")

app = App(name="cnnray", version=__version__, help="Folders of images into trained, served vision models.")
features = App(name="features", help="Frozen-backbone features, resumable and verified.")
train = App(name="train", help="Train models.")
evaluate = App(name="evaluate", help="Measure a checkpoint on labelled images.")
predict = App(name="predict", help="Predict a folder to Parquet.")
serve = App(name="serve", help="The HTTP service.")
query = App(name="query", help="Ask a running service.")
for group in (features, train, evaluate, predict, serve, query):
    app.command(group)


@app.command
def models(*, measure: bool = True, cost: str | None = None, out: str | None = None) -> dict[str, Any]:
    """List the backbones: parameters, multiply-accumulates, weight size, measured images/s on this machine.

    Args:
        measure: run each network briefly; takes about a minute and a half.
        cost: name of a backbone, such as "resnet50" or "mobilenet_v1:size=160,width=0.5", whose parameters,
            multiply-accumulates and bytes are listed by layer instead.
        out: a folder for a page, report.html, with the costs of that backbone in pictures.
    """
    from cnnray.nn.zoo import cost_table, model_table

    if out is not None and cost is None:
        raise OptionError("expected the name of a backbone with --cost, whose page --out is for")
    if cost is not None:
        layers = [dict(vars(row)) for row in cost_table(cost)]
        _table(f"Layers of {cost}, for one image in float32", layers, list(layers[0]))
        if out is not None:
            _cost_page(cost, out)
        return {"layers": layers}
    rows = [dict(vars(row)) for row in model_table(measure=measure, seconds=1.0)]
    _table("Backbones", rows, ["name", "input_size", "params", "macs", "size_mb", "images_per_s", "weights"])
    return {"models": rows}


@features.command(name="build")
def features_build(
    source: str,
    /,
    *,
    out: str,
    config: Annotated[FeaturesConfig, Flat] = FeaturesConfig(),  # noqa: B008 (frozen)
    address: str | None = None,
) -> dict[str, Any]:
    """Compute and store the features of every image; the same command resumes.

    Args:
        source: class folders, split folders, a flat folder, or a CSV or Parquet manifest; a path or URI.
        out: the run folder.
        address: of a Ray cluster; without it a local one is started.
    """
    from cnnray.data.features import build_features

    manifest = build_features(source, out, config, address=address)
    _say(f"{manifest['features']:,} features of {manifest['images']:,} images in {out}")
    if manifest["quarantined"]:
        _say(f"{manifest['quarantined']:,} bad images are listed in {out}/quarantine: {manifest['quarantine_codes']}")
    if manifest["reused"]:
        _say(f"{manifest['reused']:,} features were known from earlier runs and not computed again")
    return manifest


@features.command(name="verify")
def features_verify(run: str, /) -> dict[str, Any]:
    """Check that every image is there exactly once per view, and every stored bit is as it was written.

    Args:
        run: a finished features run.
    """
    from cnnray.data.features import verify_features

    found = verify_features(run)
    _say(f"{run} is complete and unchanged: {found['features']:,} features, {found['quarantined']:,} quarantined")
    return found


@train.command(name="classify")
def train_classify(
    run: str,
    /,
    *,
    out: str,
    config: Annotated[ClassifyConfig, Flat] = ClassifyConfig(),  # noqa: B008 (frozen)
    address: str | None = None,
) -> dict[str, Any]:
    """Train a classifier head on stored features; the same command resumes.

    Args:
        run: a finished features run.
        out: the run folder of the training.
        address: of a Ray cluster; without it a local one is started.
    """
    from cnnray import cluster
    from cnnray.train.classify import train_classify as launch

    cluster.connect(address)
    result = launch(run, out, config)
    _say(f"classifier in {out}/checkpoint, report in {out}/report.html")
    return result


@train.command(name="finetune")
def train_finetune(
    source: str,
    /,
    *,
    out: str,
    config: Annotated[FinetuneConfig, Flat] = FinetuneConfig(),  # noqa: B008 (frozen)
    address: str | None = None,
) -> dict[str, Any]:
    """Fine-tune a network's upper stages, or train one from scratch; the same command resumes.

    Args:
        source: labelled images as for `features build`, or a features run with maps (--pool none): then the stages
            below its tap are never run.
        out: the run folder of the training.
        address: of a Ray cluster; without it a local one is started.
    """
    from cnnray.train.finetune import train_finetune as launch

    result = launch(source, out, config, address=address)
    stages = ", ".join(result["trained_stages"]) or "the head alone"
    _say(f"trained {stages}; accuracy {result['metrics']['accuracy']:.4f}")
    _say(f"classifier in {out}/checkpoint, report in {out}/report.html")
    return result


@train.command(name="segment")
def train_segment(
    source: str,
    /,
    *,
    out: str,
    config: Annotated[SegmentConfig, Flat] = SegmentConfig(),  # noqa: B008 (frozen)
    address: str | None = None,
) -> dict[str, Any]:
    """Train a U-Net on images with masks; the same command resumes.

    Args:
        source: a folder with images/ and masks/, or a manifest with columns path and mask.
        out: the run folder of the training.
        address: of a Ray cluster; without it a local one is started.
    """
    from cnnray.train.segment import train_segment as launch

    result = launch(source, out, config, address=address)
    _say(f"foreground IoU {result['metrics']['foreground_iou']:.4f} on {result['counts']['val']:,} images")
    _say(f"segmenter in {out}/checkpoint, report in {out}/report.html")
    return result


@evaluate.command(name="segment")
def evaluate_segment(
    checkpoint: str,
    source: str,
    /,
    *,
    out: str,
    config: Annotated[SegmentPredictConfig, Flat] = SegmentPredictConfig(),  # noqa: B008 (frozen)
    address: str | None = None,
) -> dict[str, Any]:
    """IoU and Dice of a segmenter on images with masks.

    Args:
        checkpoint: of the segmenter.
        source: images and masks, as for `train segment`.
        out: a folder for masks, metrics and a report.
        address: of a Ray cluster; without it a local one is started.
    """
    from cnnray.data.predict_segment import evaluate_segment as run

    metrics = run(checkpoint, source, out, config, address=address)
    _table("Classes", metrics["classes"], ["name", "iou", "dice", "pixels"])
    _say(f"foreground IoU {metrics['foreground_iou']:.4f} on {metrics['images']:,} images, report in {out}/report.html")
    return metrics


@predict.command(name="segment")
def predict_segment(
    checkpoint: str,
    source: str,
    /,
    *,
    out: str,
    config: Annotated[SegmentPredictConfig, Flat] = SegmentPredictConfig(),  # noqa: B008 (frozen)
    address: str | None = None,
) -> dict[str, Any]:
    """The class of every pixel of every image of a folder, as PNG masks.

    Args:
        checkpoint: of the segmenter.
        source: images, as for `features build`.
        out: the run folder; the same command resumes.
        address: of a Ray cluster; without it a local one is started.
    """
    from cnnray.data.predict_segment import predict_segment as run

    manifest = run(checkpoint, source, out, config, address=address)
    _say(f"{manifest['predictions']:,} masks in {out}/masks")
    return manifest


@evaluate.command(name="classify")
def evaluate_classify(
    checkpoint: str,
    source: str,
    /,
    *,
    out: str,
    config: Annotated[PredictConfig, Flat] = PredictConfig(),  # noqa: B008 (frozen)
    address: str | None = None,
) -> dict[str, Any]:
    """Accuracy and per-class figures of a classifier on labelled images.

    Args:
        checkpoint: of the classifier.
        source: labelled images, as for `features build`.
        out: a folder for predictions, metrics and a report.
        address: of a Ray cluster; without it a local one is started.
    """
    from cnnray.data.predict import evaluate_classify as run

    metrics = run(checkpoint, source, out, config, address=address)
    _say(f"accuracy {metrics['accuracy']:.4f} on {metrics['images']:,} images")
    return metrics


@predict.command(name="classify")
def predict_classify(
    checkpoint: str,
    source: str,
    /,
    *,
    out: str,
    config: Annotated[PredictConfig, Flat] = PredictConfig(),  # noqa: B008 (frozen)
    address: str | None = None,
) -> dict[str, Any]:
    """Classify every image of a folder into a Parquet data set.

    Args:
        checkpoint: of the classifier.
        source: images, as for `features build`.
        out: the run folder; the same command resumes.
        address: of a Ray cluster; without it a local one is started.
    """
    from cnnray.data.predict import predict_classify as run

    manifest = run(checkpoint, source, out, config, address=address)
    _say(f"{manifest['predictions']:,} predictions in {out}/predictions")
    return manifest


@serve.command(name="up")
def serve_up(
    *,
    config: Annotated[ServeConfig, Flat] = ServeConfig(),  # noqa: B008 (frozen)
    address: str | None = None,
) -> None:
    """Start the service and keep it up until interrupted.

    Args:
        address: of a Ray cluster; without it a local one is started, which ends with this command.
    """
    import signal

    from cnnray.serve.app import down, up

    url = up(config, address)
    _say(f"ready at {url}  (API: {url}/docs)  Ctrl-C ends it")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        signal.pause()
    except KeyboardInterrupt:
        _say("ending")
    finally:
        down()


@query.command(name="classify")
def query_classify(
    images: Annotated[list[Path], Parameter(negative=())],
    /,
    *,
    url: str = "http://127.0.0.1:8000",
    top_k: int = 5,
) -> dict[str, Any]:
    """Classify image files by a running service.

    Args:
        images: files.
        url: of the service.
        top_k: classes to list per image.
    """
    from cnnray.client import Client

    with Client(url) as client:
        answers = client.classify_many(images, top_k=top_k)
    rows = [_answer_row(path, answer) for path, answer in zip(images, answers, strict=True)]
    _table("Answers", rows, ["image", "label", "probability", "error"])
    failed = [answer for answer in answers if isinstance(answer, CnnrayError)]
    if len(failed) == len(answers):
        raise failed[0]
    return {"answers": rows}


@query.command(name="segment")
def query_segment(
    images: Annotated[list[Path], Parameter(negative=())],
    /,
    *,
    out: Path,
    draw: bool = False,
    url: str = "http://127.0.0.1:8000",
) -> dict[str, Any]:
    """Segment image files by a running service.

    Args:
        images: files.
        out: folder for a PNG per image: the value of each pixel's class.
        draw: the images with their classes in colour instead.
        url: of the service.
    """
    from cnnray import files
    from cnnray.client import Client

    rows = []
    with Client(url) as client:
        for path in images:
            answer = client.segment(path, draw=draw)
            files.write_bytes(str(out / f"{path.stem}.png"), answer.content)
            shares = {part.label: part.share for part in answer.classes}
            rows.append({"image": str(path), "confidence": answer.confidence, **shares})
    _table("Answers", rows, list(rows[0]))
    return {"answers": rows}


@app.command
def demo(*, out: str = "runs/demo") -> dict[str, Any]:
    """The whole system on embedded data: digits to features to a head to a served classifier. Offline.

    Args:
        out: folder of the demo; an earlier demo in it is replaced.
    """
    from cnnray.demo import run_demo

    return run_demo(out)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point: run a command line, end with its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    logging.basicConfig(stream=sys.stderr, format="%(message)s")  # warnings of all, progress of our own
    logging.getLogger("cnnray").setLevel(logging.INFO)
    # One line per warning: file and line of our own code are no help to a user.
    warnings.showwarning = lambda message, *rest: _say(f"warning: {message}")
    try:
        as_json, arguments = _take_flag(arguments, "--json")
        config_file, arguments = _take_value(arguments, "--config")
        # Ray writes some of its messages to stdout, which belongs to --json (and to --help, before Ray is there)
        wanted = {"--help", "-h", "--version"} & set(arguments)
        with contextlib.nullcontext() if wanted or not arguments else contextlib.redirect_stdout(sys.stderr):
            answer = _call(arguments, config_file)
    except CnnrayError as error:
        _say(f"cnnray: {' '.join(str(error).split())}")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        _say("interrupted; the same command resumes")
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    if as_json and answer is not None:
        print(json.dumps(answer))


def _call(arguments: list[str], config_file: str | None) -> Any:
    app.config = [Env("CNNRAY_", command=False)]
    if config_file is not None:
        if not Path(config_file).is_file():
            raise OptionError(f"expected a TOML file for --config, but there is none at {config_file}")
        app.config = [*app.config, Toml(config_file, use_commands_as_keys=False)]
    try:
        return app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        raise OptionError(f"{error} (see --help)") from error


def _take_flag(arguments: list[str], flag: str) -> tuple[bool, list[str]]:
    return flag in arguments, [argument for argument in arguments if argument != flag]


def _take_value(arguments: list[str], flag: str) -> tuple[str | None, list[str]]:
    """Take "--flag VALUE" or "--flag=VALUE" out of the arguments."""
    for at, argument in enumerate(arguments):
        if argument == flag:
            if at + 1 == len(arguments):
                raise OptionError(f"expected a value after {flag}")
            return arguments[at + 1], arguments[:at] + arguments[at + 2 :]
        if argument.startswith(f"{flag}="):
            return argument.removeprefix(f"{flag}="), arguments[:at] + arguments[at + 1 :]
    return None, arguments


def _cost_page(name: str, out: str) -> None:
    """OUT/report.html: the costs of a network for people."""
    from cnnray import files
    from cnnray.nn.backbones import find_spec
    from cnnray.nn.zoo import cost_table
    from cnnray.page import write_page
    from cnnray.report import cost_section

    if files.exists(files.join(out, "config.toml")):
        raise OptionError(f"expected a folder for the page as --out, but {out} is the folder of a run")
    spec, page = find_spec(name), files.join(out, "report.html")
    subtitle = f"images of {spec.input_size} x {spec.input_size} px"
    write_page(page, spec.name, [cost_section(cost_table(name)[:-1])], subtitle)
    _say(f"report in {page}")


def _answer_row(path: Path, answer: Any) -> dict[str, Any]:
    if isinstance(answer, CnnrayError):
        return {"image": str(path), "label": None, "probability": None, "error": str(answer), "top": []}
    top = [[guess.label, guess.probability] for guess in answer.top]
    return {"image": str(path), "label": answer.label, "probability": answer.probability, "error": None, "top": top}


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _table(title: str, rows: list[dict[str, Any]], columns: list[str]) -> None:
    """A table for people, on stderr: stdout is for --json."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title)
    for column in columns:
        table.add_column(column.replace("_", " "), justify="right" if _is_number(rows, column) else "left")
    for row in rows:
        table.add_row(*(_cell(row[column]) for column in columns))
    Console(stderr=True).print(table)


def _is_number(rows: list[dict[str, Any]], column: str) -> bool:
    return any(isinstance(row[column], int | float) for row in rows)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, tuple):
        return " x ".join(map(str, value))
    if isinstance(value, float):
        return f"{value:,.4g}" if value < 100 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
