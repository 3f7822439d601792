"""What a run of `cnnray stylize` shows: the page, the curves of its losses, and the same as a table."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields

from matplotlib.figure import Figure

from cnnray.infer.stylize import StyleStep
from cnnray.page import Gallery, Numbers, Picture, Section, Table
from cnnray.report import figure_png

_LOSSES = ("style", "content", "variation")
_LINE, _EDGE = "#2563a8", "#d97706"


def losses_csv(history: Sequence[StyleStep]) -> bytes:
    """A header, then one line for each step."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(StyleStep)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in history)
    return text.getvalue().encode()


def loss_picture(history: Sequence[StyleStep]) -> bytes:
    """Each loss over the steps as a PNG, those above 0 on logarithmic axes; dashed lines where the size changes."""
    figure = Figure(figsize=(10, 3.2), dpi=120, layout="constrained")
    edges = [row.step for before, row in zip(history, history[1:], strict=False) if before.width != row.width]
    for axes, name in zip(figure.subplots(1, len(_LOSSES)), _LOSSES, strict=True):
        points = [(row.step, value) for row in history if (value := getattr(row, name)) > 0]
        axes.plot(*zip(*points, strict=True) if points else ([], []), color=_LINE, linewidth=1.3)
        for edge in edges:
            axes.axvline(edge, color=_EDGE, linewidth=1, linestyle="--")
        axes.set(title=name, xlabel="step", **({"yscale": "log"} if points else {}))
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    return figure_png(figure)


def style_sections(
    result_png: bytes,
    inputs: Sequence[Picture],
    history: Sequence[StyleStep],
    figures: Mapping[str, str | int | float],
    settings: Mapping[str, str],
) -> list[Section]:
    """The page: the painting, what it was made of, how its losses fell.

    Args:
        inputs: content, styles and mask, with captions.
        figures: shown large.
        settings: name -> value of what matters.
    """
    caption = "relative: 0 is what is wanted; dashed where the next size of the pyramid begins"
    return [
        Section("", [Picture(result_png)]),
        Section("Made of", [Gallery(inputs, width=240)]),
        Section("Losses", [Numbers(figures), Picture(loss_picture(history), caption)]),
        Section("Settings", [Table(("setting", "value"), list(settings.items()))]),
    ]
