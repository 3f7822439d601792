"""Pictures of how well faces are verified and identified (matplotlib, PNG bytes out)."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from cnnray.ops.identification import OpenSetCurve
from cnnray.ops.verification import Roc
from cnnray.report import build_axes, figure_png

_COLORS = ("#2563a8", "#d97706", "#0f766e", "#9d174d", "#5d6b7a")
_SAME, _DIFFERENT, _MARK = "#2563a8", "#9aa7b4", "#d97706"


def roc_picture(curves: Mapping[str, Roc], fars: Sequence[float] = ()) -> bytes:
    """True over false accept rate, on a logarithmic axis, as a PNG.

    Args:
        curves: by name; each begins at the lowest FAR that its pairs can show.
        fars: at each a dot stands on every curve, at the TAR that `Roc.tar_at_far` says.
    """
    figure, axes = build_axes()
    lowest = min((1 / curve.num_different for curve in curves.values() if curve.num_different), default=0.1)
    floor = 1.0
    for color, (name, curve) in zip(_colors(len(curves)), curves.items(), strict=True):
        last = np.append(np.diff(curve.far_T) > 0, True) & (curve.far_T > 0)  # the largest TAR of each FAR
        axes.plot(curve.far_T[last], curve.tar_T[last], color=color, drawstyle="steps-post", label=name)
        axes.plot(fars, [curve.tar_at_far(far).tar for far in fars], "o", color=color, markersize=5)  # NaN: none
        floor = min([floor, *curve.tar_T[last][:1].tolist()])
    room = 0.03 * max(1 - floor, 0.01)
    axes.set(xscale="log", xlim=(lowest, 1), ylim=(floor - 2 * room, 1 + room))
    axes.set(xlabel="false accept rate (different people taken as one)", ylabel="true accept rate")
    axes.legend(frameon=False, loc="lower right")
    return figure_png(figure)


def score_picture(
    scores_N: NDArray[np.floating], same_N: NDArray[np.bool_], threshold: float, label: str = "similarity"
) -> bytes:
    """Histograms of the scores of same and different pairs, and the threshold between them, as a PNG.

    Args:
        scores_N: similarities; pairs of -inf, whose faces were not found, are counted in the legend.
        same_N: the truth.
        threshold: from which on pairs are taken as the same.
        label: of the axis.
    """
    figure, axes = build_axes()
    found_N = scores_N > -np.inf
    edges = np.histogram_bin_edges(scores_N[found_N], bins=60)
    for name, which_N, color in (("different people", ~same_N, _DIFFERENT), ("one person", same_N, _SAME)):
        lost = int((which_N & ~found_N).sum())
        heights = np.histogram(scores_N[which_N & found_N], edges)[0] / max(int(which_N.sum()), 1)
        text = f"{name}: {which_N.sum():,}" + (f", {lost:,} without a face" if lost else "")
        axes.stairs(heights, edges, fill=True, color=color, alpha=0.45, label=text)
        axes.stairs(heights, edges, color=color, linewidth=1.2)
    if np.isfinite(threshold):
        axes.axvline(threshold, color=_MARK, linewidth=1.2, linestyle="--", label=f"threshold: {threshold:.3f}")
    axes.set(xlabel=label, ylabel="share of such pairs", ylim=(0, None))
    figure.legend(frameon=False, loc="outside upper center", ncols=3, fontsize=8)
    return figure_png(figure)


def open_set_picture(curves: Mapping[str, OpenSetCurve], fpirs: Sequence[float] = ()) -> bytes:
    """False negative over false positive identification rate, both logarithmic, as a PNG.

    Args:
        curves: by name; each begins at the lowest FPIR that its impostors can show. Where nobody is missed it ends.
        fpirs: at each a dot stands on every curve, at the FNIR that `OpenSetCurve.fnir_at_fpir` says.
    """
    figure, axes = build_axes()
    lowest = min((1 / curve.num_impostors for curve in curves.values() if curve.num_impostors), default=0.1)
    shown: list[float] = []
    for color, (name, curve) in zip(_colors(len(curves)), curves.items(), strict=True):
        seen = (curve.fpir_T > 0) & (curve.fnir_T > 0)
        axes.plot(curve.fpir_T[seen], curve.fnir_T[seen], color=color, drawstyle="steps-post", label=name)
        rates = [rate if (rate := curve.fnir_at_fpir(fpir).fnir) > 0 else math.nan for fpir in fpirs]
        axes.plot(fpirs, rates, "o", color=color, markersize=5)
        shown += curve.fnir_T[seen].tolist()
    bottom, top = min(shown, default=0.1) * 0.7, max(shown, default=1.0) * 1.5
    axes.set(xscale="log", yscale="log", xlim=(lowest, 1), ylim=(bottom, min(max(top, 10 * bottom), 1.05)))
    axes.set(xlabel="false positive identification rate (strangers taken for somebody)")
    axes.set(ylabel="false negative identification rate")
    axes.legend(frameon=False, loc="upper right")
    return figure_png(figure)


def _colors(count: int) -> list[str]:
    return [_COLORS[at % len(_COLORS)] for at in range(count)]
