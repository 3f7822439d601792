"""The page of a gallery's calibration: what its threshold lets through, what it misses, who may be in it twice."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from cnnray.infer.gallery.calibration import Calibration, CurveRow, threshold_for
from cnnray.page import Numbers, Part, Picture, Section, Table, Text, write_page
from cnnray.report import build_axes, figure_png

_LINE, _BAND, _MARK, _SOFT = "#2563a8", "#2563a8", "#d97706", "#5d6b7a"
_COLORS = ("#9aa7b4", "#2563a8", "#0f766e", "#d97706", "#9d174d", "#1c2733")
_NONE = "–"
_DOUBTFUL = 0.05  # expected pairs, below which one is called doubtful
_FEW_DECADES = 1000  # up to this range ticks between the powers of ten have room
_LARGER = 100  # times the gallery: how far thresholds are drawn


def write_gallery_report(uri: str, calibration: Calibration, names: Mapping[int, str], gallery: str) -> None:
    """Write report.html.

    Args:
        uri: of the file.
        calibration: of the gallery.
        names: how identities are called, by id; one without a name is shown by its id.
        gallery: its name.

    Raises:
        StorageError: it cannot be written.
    """
    title = f"Threshold of the gallery {gallery}"
    write_page(uri, title, calibration_sections(calibration, names), f"calibrated {calibration.at}")


def calibration_sections(calibration: Calibration, names: Mapping[int, str]) -> list[Section]:
    """What the page says; see `write_gallery_report`."""
    sections = [
        _result(calibration),
        Section("Strangers taken for somebody", [Picture(fpir_picture(calibration), _FPIR_CAPTION)]),
    ]
    if any(row.fnir is not None for row in calibration.curve):
        sections.append(Section("People missed", [*_missed_parts(calibration), _curve_table(calibration.curve)]))
    elif calibration.curve:
        about = Text("Nobody has two faces in the gallery, so it is not known whom the threshold misses.")
        sections.append(Section("Smaller galleries", [about, _curve_table(calibration.curve)]))
    sections.append(_sizes(calibration))
    return [*sections, *_suspects(calibration, names)]


def fpir_picture(calibration: Calibration) -> bytes:
    """FPIR over threshold with its 95 % interval, on a logarithmic axis, as a PNG."""
    figure, axes = build_axes(8)
    thresholds = [share.threshold for share in calibration.shares]
    floor = min([0.5 / calibration.num_probes, 0.5 * calibration.fpir])
    low, high = ([max(getattr(share, end), floor) for share in calibration.shares] for end in ("low", "high"))
    axes.fill_between(thresholds, low, high, color=_BAND, alpha=0.15, linewidth=0, label="95 %")
    axes.plot(thresholds, [share.fpir for share in calibration.shares], color=_LINE, label="measured")
    tail, last = calibration.tail, max([calibration.threshold, *thresholds])
    beyond = np.linspace(tail.start, last, 50)
    if tail.scale > 0:
        hits = tail.rate * np.exp((tail.start - beyond) / tail.scale)
        axes.plot(beyond, -np.expm1(-hits), color=_SOFT, linewidth=1.2, linestyle=":", label="exponential tail")
    if calibration.low > -1:  # else nothing is known of it
        axes.axvspan(calibration.low, calibration.high, color=_MARK, alpha=0.12, linewidth=0, label="its 95 %")
    axes.axvline(calibration.threshold, color=_MARK, linewidth=1.2, linestyle="--", label=_told(calibration))
    axes.axhline(calibration.fpir, color=_MARK, linewidth=0.8, alpha=0.6)
    axes.set(yscale="log", ylim=(floor, 1.2), xlabel="threshold (cosine)")
    axes.set(ylabel="false positive identification rate")
    _plain_ticks(axes.yaxis, 1)
    _above(figure)
    return figure_png(figure)


def fnir_picture(curve: Sequence[CurveRow], num_shown: int = len(_COLORS)) -> bytes:
    """FNIR over FPIR for the largest numbers of identities, both logarithmic, as a PNG; points of FNIR 0 stand below.

    Args:
        curve: rows of a calibration with an FNIR.
        num_shown: numbers of identities at most.
    """
    figure, axes = build_axes(8)
    sizes = sorted({row.num_identities for row in curve})[-num_shown:]
    known = [row.fnir for row in curve if row.fnir]
    floor = min(known, default=1e-3) / 2
    for color, size in zip(_COLORS[-len(sizes) :], sizes, strict=True):
        rows = sorted((row for row in curve if row.num_identities == size), key=lambda row: row.target)
        missed = [max(row.fnir or 0.0, floor) for row in rows]
        axes.plot([row.target for row in rows], missed, "o-", color=color, markersize=4, label=f"{size:,} people")
        if size == sizes[-1]:  # of the others it would hide the lines
            low, high = ([max(getattr(row, end), floor) for row in rows] for end in ("fnir_low", "fnir_high"))
            axes.fill_between([row.target for row in rows], low, high, color=color, alpha=0.12, linewidth=0)
    top = max([floor * 20, *(row.fnir_high or 0.0 for row in curve)])
    axes.set(xscale="log", yscale="log", ylim=(floor * 0.8, min(top * 1.2, 1.2)))
    axes.set(xlabel="false positive identification rate", ylabel="false negative identification rate")
    _plain_ticks(axes.xaxis, 1, 3)
    _plain_ticks(axes.yaxis, *((1, 2, 5) if top < floor * _FEW_DECADES else (1,)))
    _above(figure)
    return figure_png(figure)


def size_picture(calibration: Calibration) -> bytes:
    """Threshold over number of identities, measured and derived, as a PNG."""
    figure, axes = build_axes(8)
    count = calibration.num_identities
    rows = [row for row in calibration.curve if row.target == calibration.fpir and row.num_identities < count]
    first = min([row.num_identities for row in rows], default=count)
    sizes = np.unique(np.geomspace(first, count * _LARGER, 100).astype(np.int64)).tolist()
    derived = [threshold_for(calibration, size) for size in sizes]
    axes.plot(sizes, derived, color=_SOFT, linewidth=1.2, linestyle=":", label="derived")
    measured = {row.num_identities: row.threshold for row in rows}
    if measured:
        axes.plot(list(measured), list(measured.values()), "o", color=_LINE, markersize=5, label="measured on subsets")
    if calibration.low > -1:
        ends = [[calibration.threshold - calibration.low], [calibration.high - calibration.threshold]]
        axes.errorbar([count], [calibration.threshold], yerr=ends, color=_MARK, capsize=4, linewidth=1.2)
    axes.plot([count], [calibration.threshold], "o", color=_MARK, markersize=6, label=f"this gallery: {count:,}")
    axes.set(xscale="log", xlabel="people in the gallery", ylabel=f"threshold for FPIR {calibration.fpir:g}")
    _plain_ticks(axes.xaxis, 1, 3)
    _above(figure)
    return figure_png(figure)


_FPIR_CAPTION = "share of probes of people who are not enrolled for whom somebody is named, and its 95 % interval"


def _result(own: Calibration) -> Section:
    low, high = (f"{end:.4f}" if own.low > -1 else _NONE for end in (own.low, own.high))
    numbers: dict[str, str | int | float] = {
        "threshold": f"{own.threshold:.4f}",
        "95 % from": low,
        "to": high,
        "FPIR asked for": own.fpir,
        "FPIR of the probes": own.reached,
        "people": own.num_identities,
        "faces": own.num_faces,
        "impostor probes": own.num_probes,
        "mated probes": own.num_mated,
    }
    where = "people of the gallery, each looked for among all others" if own.source == "gallery" else "a cohort"
    notes = [
        f"A face is named where its cosine to the best face of a person is {own.threshold:.4f} or more. Impostors: "
        f"{where}; they are worth {own.num_independent:,} independent probes. FPIR: share of them for whom somebody is "
        "named. FNIR: share of people of the gallery who are not named, or not as themselves."
    ]
    if own.extrapolated:
        notes.append(
            f"An FPIR of {own.fpir:g} cannot be measured with {own.num_independent:,} independent probes: the "
            "threshold follows from the exponential tail of their scores. Calibrate again with more people, or with a "
            "cohort."
        )
    if own.num_doubtful:
        notes.append(
            f"{own.num_doubtful:,} probes score far above all others: people who are in the gallery twice, or "
            f"strangers who are in it. Without them the threshold would be {own.threshold_without:.4f}. Join such "
            "entries, and calibrate again."
        )
    return Section("Result", [Numbers(numbers), *map(Text, notes)])


def _missed_parts(own: Calibration) -> list[Part]:
    zero = " Where nobody is missed points stand at the lower edge." if any(row.fnir == 0 for row in own.curve) else ""
    caption = f"for random subsets of the gallery and for all of it, with its 95 % interval.{zero}"
    return [Picture(fnir_picture(own.curve), caption)]


def _curve_table(curve: Sequence[CurveRow]) -> Table:
    header = ("people", "FPIR asked for", "reached", "threshold", "missed (FNIR)", "95 % from", "to", "below threshold")
    lines = [
        (row.num_identities, f"{row.target:g}", f"{row.fpir:.3g}", f"{row.threshold:.4f}", *_cells(row))
        for row in sorted(curve, key=lambda row: (-row.num_identities, -row.target))
    ]
    return Table(header, lines, frozenset({"missed (FNIR)"}))


def _cells(row: CurveRow) -> list[str | float]:
    ends = [_NONE if value is None else f"{value:.3f}" for value in (row.fnir_low, row.fnir_high, row.below)]
    return [_NONE if row.fnir is None else row.fnir, *ends]


def _sizes(own: Calibration) -> Section:
    about = Text(
        "The more people, the likelier a stranger looks like one of them: a threshold holds for one size of the "
        "gallery. Smaller ones are measured on subsets, larger ones derived from the exponential tail."
    )
    sizes = [own.num_identities * factor for factor in (1, 2, 5, 10, 30, 100)]
    rows = [(f"{size:,}", f"{threshold_for(own, size):.4f}") for size in sizes]
    return Section(
        "Larger and smaller galleries", [about, Picture(size_picture(own)), Table(("people", "threshold"), rows)]
    )


def _suspects(own: Calibration, names: Mapping[int, str]) -> list[Section]:
    if not own.suspects:
        return []
    about = Text(
        "Pairs of people who would be named for one another. By chance a few always are; where far less than one such "
        "probe is expected, the two entries are probably one person. Look at their photos, and join them."
    )
    rows = [
        (
            names.get(pair.identity_a, str(pair.identity_a)),
            names.get(pair.identity_b, str(pair.identity_b)),
            f"{pair.score:.4f}",
            f"{pair.expected:.2g}",
            "doubtful" if pair.expected < _DOUBTFUL else "",
        )
        for pair in own.suspects
    ]
    return [Section("May be one person", [about, Table(("one", "other", "cosine", "expected probes", "note"), rows)])]


def _told(own: Calibration) -> str:
    return f"threshold {own.threshold:.4f}" + (", extrapolated" if own.extrapolated else "")


def _above(figure: Figure) -> None:
    """A legend outside of the axes, where it hides no line."""
    figure.legend(frameon=False, loc="outside upper center", ncols=6, fontsize=8)


def _plain_ticks(axis: Axis, *digits: float) -> None:
    """Ticks of a logarithmic axis at these digits of each decade, as 0.01 in place of powers of ten."""
    axis.set_major_locator(LogLocator(subs=digits))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
