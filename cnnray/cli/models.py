"""`cnnray models` and `cnnray demo`."""

from typing import Any

from cnnray.cli.app import app
from cnnray.cli.console import say, table
from cnnray.errors import OptionError


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
        table(f"Layers of {cost}, for one image in float32", layers, list(layers[0]))
        if out is not None:
            _cost_page(cost, out)
        return {"layers": layers}
    rows = [dict(vars(row)) for row in model_table(measure=measure, seconds=1.0)]
    table("Backbones", rows, ["name", "input_size", "params", "macs", "size_mb", "images_per_s", "weights"])
    return {"models": rows}


@app.command
def demo(*, out: str = "runs/demo", scenes: int = 900, road: bool = False) -> dict[str, Any]:
    """The whole system on embedded data: digits to a classifier, scenes to a detector, both served. Offline.

    Args:
        out: folder of the demo; an earlier demo in it is replaced.
        scenes: that the detector learns from; with fewer it is quicker and worse.
        road: train and compare what came before YOLO, too.
    """
    from cnnray.demo import run_demo

    return run_demo(out, scenes=scenes, road=road)


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
    say(f"report in {page}")
