"""Pictures and sections of reports: curves, confusion matrices, grids (matplotlib, PNG bytes out)."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text as Words

from cnnray.ops import metrics, transforms
from cnnray.ops.augment import PRESETS, build_augment, cutmix_pair, mixup_pair, plain_view
from cnnray.ops.costs import LayerCosts
from cnnray.ops.seeds import generator_for
from cnnray.page import Gallery, Numbers, Picture, Section, Table, Text


def training_curves(history: Sequence[Mapping[str, Any]], best_epoch: int, score_name: str = "accuracy") -> bytes:
    """Loss and score of every epoch, training and validation side by side, as a PNG.

    Args:
        history: rows with train_loss, val_loss, val_score and, where it was measured, train_score.
        best_epoch: marked by a line; counted from 0.
    """
    figure = Figure(figsize=(10, 3.6), dpi=120, layout="constrained")
    epochs = range(1, len(history) + 1)
    for axes, key, label in zip(figure.subplots(1, 2), ("loss", "score"), ("loss", score_name), strict=True):
        for part, name, color in (("train", "training", "#9aa7b4"), ("val", "validation", "#2563a8")):
            values = [row[f"{part}_{key}"] for row in history if f"{part}_{key}" in row]
            if not values:
                continue
            axes.plot(epochs, values, color=color, label=name, marker="o" if len(history) < 3 else None)
        axes.axvline(best_epoch + 1, color="#d97706", linewidth=1, linestyle="--", label=f"best: {best_epoch + 1}")
        axes.set(xlabel="epoch", title=label)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[1].legend(frameon=False)
    return figure_png(figure)


def confusion_picture(matrix_KK: npt.NDArray[np.int64], classes: Sequence[str], limit: int = 100) -> bytes:
    """The confusion matrix as a PNG: rows are true classes, columns predicted ones, colour is the row's fraction.

    Up to 20 classes show the counts too. With more classes than `limit`, those with most mistakes are shown.
    """
    shown = np.arange(len(classes))
    if len(classes) > limit:
        mistakes = matrix_KK.sum(0) + matrix_KK.sum(1) - 2 * np.diagonal(matrix_KK)
        shown = np.sort(np.argsort(-mistakes, kind="stable")[:limit])
    matrix = matrix_KK[np.ix_(shown, shown)]
    share = matrix / np.maximum(matrix_KK[shown].sum(axis=1, keepdims=True), 1)
    num, names = len(shown), [classes[int(index)] for index in shown]
    side = max(4.5, min(0.35 * num + 2.5, 10.0))  # inches; a page shows 10 inches at their size
    font = min(9.0, 0.75 * side * 72 * 0.85 / num)  # points: a name is as high as its row
    figure = Figure(figsize=(side + 0.8, side), dpi=160, layout="constrained")
    axes = figure.subplots()
    picture = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(num), names, rotation=90, fontsize=font)
    axes.set_yticks(range(num), names, fontsize=font)
    axes.set(xlabel="predicted", ylabel="true")
    if num < len(classes):
        axes.set_title(f"the {num} of {len(classes)} classes with most mistakes", fontsize=10)
    if num > 20:  # thin lines lead the eye to the names
        axes.set_xticks(np.arange(num + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(num + 1) - 0.5, minor=True)
        axes.grid(which="minor", color="#e3e8ee", linewidth=0.4)
    axes.tick_params(which="both", length=0)
    if num <= 20:
        for row, column in zip(*np.nonzero(matrix), strict=True):
            color = "white" if share[row, column] > 0.5 else "#1c2733"
            axes.text(column, row, str(matrix[row, column]), ha="center", va="center", fontsize=font, color=color)
    figure.colorbar(picture, ax=axes, shrink=0.6, label="fraction of the true class")
    return figure_png(figure)


def precision_recall_picture(
    curves_KR: npt.NDArray[np.floating], classes: Sequence[str], limit: int = 12, mean: bool = True
) -> bytes:
    """Precision over recall of every class as a PNG, and their mean in black.

    Args:
        curves_KR: precision at evenly spaced recalls from 0 to 1; NaN for a class without objects.
        limit: with more classes only the mean has a name.
        mean: whether it is drawn.
    """
    figure = Figure(figsize=(7, 4.2), dpi=120, layout="constrained")
    axes, recall = figure.subplots(), np.linspace(0, 1, curves_KR.shape[1])
    known = ~np.isnan(curves_KR).all(axis=1)
    named = known.sum() <= limit
    for name, curve in zip(np.array(classes)[known], curves_KR[known], strict=True):
        axes.plot(recall, curve, linewidth=1, alpha=0.9 if named else 0.25, label=name if named else None)
    if known.any():
        if mean:
            axes.plot(recall, curves_KR[known].mean(axis=0), color="#1c2733", linewidth=2, label="mean")
        axes.legend(frameon=False, loc="lower left")
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return figure_png(figure)


def picture_grid(rows: Sequence[Sequence[npt.NDArray[np.uint8]]], titles: Sequence[str]) -> bytes:
    """Pictures [H, W, 3] in rows and columns as a PNG, with a title above each column."""
    high, wide = rows[0][0].shape[:2]
    width = 12.0  # inches
    cell = width / len(titles)
    figure = Figure(figsize=(width, len(rows) * cell * high / wide + 0.4), dpi=120, layout="constrained")
    panels = figure.subplots(len(rows), len(titles), squeeze=False)
    for line, pictures in zip(panels, rows, strict=True):
        for axes, picture in zip(line, pictures, strict=True):
            axes.imshow(picture)
            axes.axis("off")
    for axes, title in zip(panels[0], titles, strict=True):
        axes.set_title(title, fontsize=9)
    return figure_png(figure)


def box_size_picture(sizes_N2: npt.NDArray[np.floating]) -> bytes:
    """Where boxes lie by width and height, as a PNG; both are shares of the image's, on logarithmic axes."""
    figure = Figure(figsize=(5.4, 4.6), dpi=120, layout="constrained")
    axes = figure.subplots()
    if len(sizes_N2):
        edges = np.geomspace(max(sizes_N2.min() * 0.9, 1e-3), 1.0, 41)
        counts = axes.hist2d(sizes_N2[:, 0], sizes_N2[:, 1], bins=[edges, edges], cmap="Blues", cmin=1)
        figure.colorbar(counts[3], ax=axes, shrink=0.7, label="boxes")
    axes.set(xscale="log", yscale="log", xlabel="width", ylabel="height")
    axes.spines[["top", "right"]].set_visible(False)
    return figure_png(figure)


def classification_sections(
    probabilities_NK: npt.NDArray[np.floating],
    labels_N: npt.NDArray[np.integer],
    classes: Sequence[str],
    mistakes: Sequence[Picture] = (),
) -> list[Section]:
    """What a page says about a classifier's answers: figures, confusion matrix, mistakes, a table of classes.

    Args:
        probabilities_NK: rows sum to 1.
        labels_N: true class numbers.
        classes: the K names.
        mistakes: pictures of sure mistakes with captions.
    """
    matrix = metrics.confusion_matrix(probabilities_NK.argmax(axis=1), labels_N, len(classes))
    table = metrics.per_class(matrix)
    figures = metrics.summary(probabilities_NK, labels_N)
    sections = [
        Section("Result", [Numbers({_FIGURES[name]: value for name, value in figures.items()})]),
        Section("Confusion matrix", [Picture(confusion_picture(matrix, classes), "rows: true class, columns: answer")]),
    ]
    if pairs := _confused_pairs(matrix, classes):
        sections.append(Section("Most frequent confusions", [Table(("true class", "answer", "images"), pairs)]))
    if mistakes:
        sections.append(Section("Surest mistakes", [Gallery(mistakes)]))
    columns = (table.precision.tolist(), table.recall.tolist(), table.f1.tolist(), table.support.tolist())
    # a class without images has no recall, one that was never answered no precision
    rows = [
        (name, p if p or found else "–", r if found else "–", f1 if found else "–", found)
        for name, p, r, f1, found in zip(classes, *columns, strict=True)
    ]
    names = ("precision", "recall", "F1")
    return [*sections, Section("Classes", [Table(("class", *names, "images"), rows, frozenset(names))])]


_FIGURES = {
    "accuracy": "accuracy",
    "top5_accuracy": "top-5 accuracy",
    "macro_f1": "mean F1 of classes",
    "macro_recall": "mean recall of classes",
    "log_loss": "log loss",
    "ece": "calibration error",
    "num_images": "images",
}


def _confused_pairs(matrix_KK: npt.NDArray[np.int64], classes: Sequence[str]) -> list[tuple[str, str, int]]:
    wrong = matrix_KK - np.diag(np.diagonal(matrix_KK))
    order = np.argsort(-wrong, axis=None, kind="stable")[:10]
    pairs = [np.unravel_index(index, wrong.shape) for index in order]
    return [(classes[true], classes[answer], int(wrong[true, answer])) for true, answer in pairs if wrong[true, answer]]


def cost_section(rows: Sequence[LayerCosts]) -> Section:
    """What a page says about the costs of a network: totals, bars by stage, activations by layer, a table of stages.

    Args:
        rows: layers in the order in which they compute, for one image; the part of a name before its first "." is
            that of the stage.
    """
    stages: dict[str, list[LayerCosts]] = {}
    for row in rows:
        stages.setdefault(row.name.partition(".")[0], []).append(row)
    totals = {name: sum(getattr(row, name) for row in rows) for name in _COSTS}
    numbers: dict[str, str | int | float] = {
        "parameters": _short(totals["params"]),
        "multiply-accumulates": _short(totals["macs"]),
        "weights": f"{totals['weight_bytes'] / 1e6:,.1f} MB",
        "activations": f"{totals['activation_bytes'] / 1e6:,.1f} MB",
        "layers": len(rows),
        "stages": len(stages),
    }
    about = Text(
        "One image in float32. Multiply-accumulates are time, weights are the file and the download, activations (the "
        "outputs of the layers with weights) are the memory that training takes for each image of a batch."
    )
    bars = Picture(_stage_bars(stages, totals), "by stage, from the image down to the classifier")
    curve = Picture(_activation_curve(stages), "output of every layer with weights, in the order in which they compute")
    return Section("Costs of one image", [Numbers(numbers), about, bars, curve, _stage_table(stages, totals)])


_COSTS = ("params", "macs", "weight_bytes", "activation_bytes")


def _short(count: float) -> str:
    """Three digits and a unit: 4,231,976 is "4.23 M"."""
    size, unit = next(pair for pair in ((1e9, "G"), (1e6, "M"), (1e3, "k"), (0, "")) if count >= pair[0])
    value = count / (size or 1)
    return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"


def _stage_bars(stages: Mapping[str, Sequence[LayerCosts]], totals: Mapping[str, int]) -> bytes:
    """Multiply-accumulates and bytes of weights of each stage, side by side, as a PNG."""
    num = len(stages)
    figure = Figure(figsize=(10, min(0.27 * num + 0.5, 18.0)), dpi=120, layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    kinds = (("macs", "multiply-accumulates", "#2563a8", ""), ("weight_bytes", "weights", "#d97706", "B"))
    for axes, (part, title, color, unit) in zip(panels, kinds, strict=True):
        values = [sum(getattr(row, part) for row in rows) for rows in stages.values()]
        axes.barh(range(num), values, color=color, height=0.7)
        for place, value in enumerate(values):
            label = f" {_short(value)}{unit}  {value / max(totals[part], 1):.1%}"
            axes.text(value, place, label, va="center", fontsize=8, color="#5d6b7a")
        axes.set_title(title, fontsize=11, loc="left")
        axes.set(xlim=(0, max(*values, 1) * 1.35), ylim=(num - 0.4, -0.6))
        axes.set_xticks([])
        axes.set_yticks(range(num), list(stages), fontsize=9)
        axes.tick_params(length=0)
        axes.spines[["top", "right", "bottom"]].set_visible(False)
    return figure_png(figure)


def _activation_curve(stages: Mapping[str, Sequence[LayerCosts]]) -> bytes:
    """Bytes of the output of every layer, in order, above the names of their stages, as a PNG."""
    figure = Figure(figsize=(10, 3.2), dpi=120, layout="constrained")
    axes = figure.subplots()
    values = [row.activation_bytes / 1e6 for rows in stages.values() for row in rows]
    edges = np.cumsum([0, *(len(rows) for rows in stages.values())])
    axes.stairs(values, fill=True, color="#2563a8", alpha=0.25)
    axes.stairs(values, color="#2563a8", linewidth=1.2)
    for start, end in zip(edges[::2], edges[1::2], strict=False):
        axes.axvspan(start, end, color="#1c2733", alpha=0.04, linewidth=0)
    names: dict[float, str] = {}
    for name, middle in zip(stages, ((edges[:-1] + edges[1:]) / 2).tolist(), strict=True):
        if not names or middle - max(names) > len(values) / 45:  # nearer ones would touch each other
            names[middle] = name
    axes.set_xticks(list(names), list(names.values()), rotation=45, ha="right", rotation_mode="anchor", fontsize=8)
    axes.set(xlim=(0, len(values)), ylim=(0, None), ylabel="MB")
    axes.set_title("activations", fontsize=11, loc="left")
    axes.tick_params(length=0)
    axes.grid(axis="y", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return figure_png(figure)


def _stage_table(stages: Mapping[str, Sequence[LayerCosts]], totals: Mapping[str, int]) -> Table:
    header = ("stage", "last layer", "layers", "parameters", "MACs", "weights, MB", "activations, MB", "share of MACs")
    lines: list[list[str | int | float]] = []
    for name, rows in [*stages.items(), ("all", [row for part in stages.values() for row in part])]:
        params, macs, weights, activations = (sum(getattr(row, part) for row in rows) for part in _COSTS)
        output = " x ".join(map(str, rows[-1].output))
        megabytes = (round(weights / 1e6, 3), round(activations / 1e6, 3))
        lines.append([name, output, len(rows), params, macs, *megabytes, macs / max(totals["macs"], 1)])
    return Table(header, lines, frozenset({"share of MACs"}))


def augmentation_grid(
    image_HWC: npt.NDArray[np.uint8], *, seed: int, partner_HWC: npt.NDArray[np.uint8] | None = None
) -> Figure:
    """Every augmentation on one photo, then a row of views for each preset.

    Args:
        image_HWC: uint8 RGB.
        seed: of all that is drawn at random.
        partner_HWC: second photo for mixup and cutmix; without one, the photo upside down.
    """
    size, columns = 192, 6
    plain = plain_view(image_HWC, size=size, resize=size)
    partner = plain.flip(-2) if partner_HWC is None else plain_view(partner_HWC, size=size, resize=size)
    tiles = [*_augmentation_tiles(plain, seed), *_mixing_tiles(plain, partner, seed)]
    for preset in PRESETS:
        augment = build_augment(preset, size=size)
        tiles += [
            (f'preset "{preset}", view {view}', augment(image_HWC, generator_for(preset, seed, view)))
            for view in range(1, columns + 1)
        ]
    rows = len(tiles) // columns
    figure = Figure(figsize=(2.2 * columns, 2.45 * rows), dpi=110, layout="constrained")
    for axes, (title, tile_CHW) in zip(figure.subplots(rows, columns).flat, tiles, strict=True):
        axes.imshow(tile_CHW.permute(1, 2, 0).numpy())
        axes.set_title(title, fontsize=9)
        axes.axis("off")
    return figure


def _augmentation_tiles(plain_CHW: torch.Tensor, seed: int) -> list[tuple[str, torch.Tensor]]:
    """(title, uint8 [3, H, W]) of every single transform, at strengths that can be seen."""
    size = plain_CHW.shape[-1]
    rotation, scaling = transforms.Affine(degrees=25), transforms.Affine(scale=(0.6, 1.4))
    angle, _ = rotation.draw(generator_for("rotation", seed, 0))
    _, factor = scaling.draw(generator_for("scaling", seed, 0))
    steps: list[tuple[str, str, transforms.Transform]] = [
        ("horizontal flip", "", transforms.horizontal_flip),
        ("vertical flip", "", transforms.vertical_flip),
        ("rotation", f", {angle:.0f} degrees", rotation),
        ("scaling", f" x {factor:.2f}", scaling),
        ("random crop", "", transforms.RandomCrop(size * 2 // 3)),
        ("resized crop", "", transforms.ResizedCrop(size, scale=(0.2, 0.5))),
        ("colour jitter", "", transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)),
        ("grayscale", "", transforms.grayscale),
        ("gaussian blur", ", 2 px", transforms.GaussianBlur(sigma=(2.0, 2.0))),
        ("random erasing", "", transforms.Erase(area=(0.1, 0.2))),
    ]
    tiles = [("plain view", plain_CHW)]
    tiles += [(name + detail, step(plain_CHW, generator_for(name, seed, 0))) for name, detail, step in steps]
    changes = {"brightness": (1.4, " x 1.4"), "contrast": (0.5, " x 0.5"), "saturation": (2.0, " x 2.0")}
    changes["hue"] = (0.1, ", 36 degrees")
    return tiles + [(name + detail, transforms.ADJUST[name](plain_CHW, x)) for name, (x, detail) in changes.items()]


def _mixing_tiles(a_CHW: torch.Tensor, b_CHW: torch.Tensor, seed: int) -> list[tuple[str, torch.Tensor]]:
    """(title, uint8 [3, H, W]) of mixup, cutmix and the photo that is mixed in."""
    mixed = mixup_pair(a_CHW.float(), b_CHW.float(), 0.6).round().to(torch.uint8)
    pasted, share = cutmix_pair(a_CHW, b_CHW, 0.6, generator_for("cutmix", seed, 0))
    return [("partner to mix in", b_CHW), ("mixup, lam 0.60", mixed), (f"cutmix, lam {share:.2f}", pasted)]


def build_axes(width: float = 7.0) -> tuple[Figure, Axes]:
    """A figure of so many inches with a quiet pair of axes."""
    figure = Figure(figsize=(width, 4.2), dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def figure_png(figure: Figure) -> bytes:
    """Rendered without pyplot, whose global state is not safe in threads."""
    for words in figure.findobj(Words):
        words.set_parse_math(False)  # names of classes and files may have a $
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()
