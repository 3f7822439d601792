"""What a page says about verified pairs and identified people."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cnnray.data.face_judges import PROBABILITY, Figures, GalleryJudge, PairJudge
from cnnray.data.face_report import open_set_picture, roc_picture, score_picture
from cnnray.data.meant_faces import MeantFaces
from cnnray.ops.identification import FPIRS, RANKS
from cnnray.ops.overlay import jpeg
from cnnray.ops.verification import FARS
from cnnray.page import Gallery, Numbers, Part, Picture, Section, Table, Text

_GAP = 4  # px between faces that stand side by side
_WIDE = 300  # px of such a picture, at least
_NONE = "–"
_TITLES = {"accuracy": "accuracy", "accuracy_std": "its deviation over folds", "auc": "AUC", "equal_error_rate": "EER"}
_INTERVAL = ("95 % from", "to")


def pair_sections(judge: PairJudge, faces: MeantFaces, name: str, draw: int) -> list[Section]:
    """Of verification.

    Args:
        judge: has compared the pairs.
        faces: that were compared.
        name: of the embedder, for the legend.
        draw: pairs of each kind that are shown.
    """
    own = judge.figures
    numbers = _numbers({title: own[key] for key, title in _TITLES.items()})
    numbers |= {key: own[f"num_{key.replace(' ', '_')}"] or 0 for key in ("pairs", "not found")}
    limit = f"{judge.unit} {'from' if judge.unit == PROBABILITY else 'up to'}"
    rates = Table(
        ("false accept rate", "true accept rate", *_INTERVAL, limit),
        [(f"{far:g}", *_cells(own, f"tar_at_far_{far:g}", "", "_low", "_high", "_threshold")) for far in FARS],
        frozenset({"true accept rate"}),
    )
    label = "logit of the verification head" if judge.unit == PROBABILITY else "similarity (negative distance)"
    scores = score_picture(judge.scores_Q, judge.same_Q, judge.threshold, label)
    sections = [
        Section("Verification: is it the same person?", [Numbers(numbers), rates]),
        Section("True and false accepts", [Picture(roc_picture({name: judge.curve}, FARS))]),
        Section("Scores", [Picture(scores, f"of all pairs; the threshold divides them best, {_best(own, limit)}")]),
    ]
    for same, title in ((False, "Different people who look most alike"), (True, "The same person, least alike")):
        if shown := judge.worst(draw, same=same):
            about = Text(f"Taken as one person: {_best(own, limit)}.")
            sections.append(Section(title, [about, _pairs(judge, faces, shown)]))
    return sections


def gallery_sections(judge: GalleryJudge, faces: MeantFaces, name: str, draw: int) -> list[Section]:
    """Of identification; arguments as of `pair_sections`."""
    closed, known = judge.closed, judge.open
    ranks = Table(
        ("among the first", "share of probes", *_INTERVAL),
        [(str(rank), *_cells(closed, f"rank_{rank}", "", "_low", "_high")) for rank in RANKS],
        frozenset({"share of probes"}),
    )
    rates = Table(
        ("false positives (FPIR)", "missed (FNIR)", *_INTERVAL, "distance up to"),
        [(f"{fpir:g}", *_cells(known, f"fnir_at_fpir_{fpir:g}", "", "_low", "_high", "_threshold")) for fpir in FPIRS],
        frozenset({"missed (FNIR)"}),
    )
    sections = [
        Section("Identification: who is it?", [Text(_about_closed(closed)), ranks]),
        Section("Who is it, or a stranger?", [Text(_about_open(known)), rates]),
    ]
    curve = judge.curve
    if np.any((curve.fpir_T > 0) & (curve.fnir_T > 0)):  # else there is nothing to draw on logarithmic axes
        picture = Picture(open_set_picture({name: curve}, FPIRS))
        sections.append(Section("Strangers recognised, people missed", [picture]))
    mistakes = [_mistake(judge, faces, *places) for places in judge.mistaken(draw)]
    if mistakes:
        about = Text("A probe, who it was taken for, and the right one in the gallery; the surest mistakes first.")
        sections.append(Section("Taken for somebody else", [about, Gallery(mistakes, _WIDE)]))
    return sections


def faceless_sections(faces: MeantFaces, draw: int) -> list[Section]:
    """Images without the face that was meant, if there are any."""
    reasons = {**faces.faceless, **faces.bad}
    if not reasons:
        return []
    place = {name: at for at, name in enumerate(faces.ids)}
    pictures = [Picture(jpeg(faces.small(place[name])), f"{name}\n{why}") for name, why in faces.faceless.items()][
        :draw
    ]
    parts: list[Part] = [Text(f"{len(reasons):,} of {len(faces.ids):,} images. With them nobody is recognised.")]
    parts += [Gallery(pictures)] if pictures else []
    return [Section("Without a face", [*parts, Table(("image", "why"), sorted(reasons.items()))])]


def side_by_side(crops: Sequence[NDArray[np.uint8]]) -> bytes:
    """Pictures of one height in a row, as a JPEG."""
    gap = np.full((crops[0].shape[0], _GAP, 3), 255, np.uint8)
    parts = [part for crop in crops for part in (gap, crop)][1:]
    return jpeg(np.concatenate(parts, axis=1), 90)


def _pairs(judge: PairJudge, faces: MeantFaces, shown: Sequence[int]) -> Gallery:
    pictures = []
    for at in shown:
        a, b = int(judge.a_Q[at]), int(judge.b_Q[at])
        caption = f"{judge.measured(at)}\n{_short(faces.ids[a])}\n{_short(faces.ids[b])}"
        pictures.append(Picture(side_by_side([faces.crop(a), faces.crop(b)]), caption))
    return Gallery(pictures, _WIDE)


def _mistake(judge: GalleryJudge, faces: MeantFaces, probe: int, other: int, own: int, rank: int) -> Picture:
    caption = (
        f"{_short(faces.ids[probe])}\ntaken for {faces.labels_N[other]}: distance {judge.distance(probe, other):.3f}\n"
        f"right one: distance {judge.distance(probe, own):.3f}, place {rank}"
    )
    return Picture(side_by_side([faces.crop(at) for at in (probe, other, own)]), caption)


def _short(name: str) -> str:
    """An image's path below the root; its last part alone where that names the folder."""
    folder, _, last = name.rpartition("/")
    return last if last.startswith(folder.rpartition("/")[2] or "/") else name


def _about_closed(own: Figures) -> str:
    return (
        f"One image of each of {own['num_identities']:,} people is in the gallery, and {own['num_mated']:,} others of "
        f"them are looked for in it. Without a face: {own['num_not_enrolled']:,} in the gallery, "
        f"{own['num_not_found']:,} others."
    )


def _about_open(own: Figures) -> str:
    return (
        f"{own['num_identities']:,} people are in the gallery. {own['num_mated']:,} other images of them are looked "
        f"for in it, and {own['num_impostors']:,} of strangers. FPIR: strangers taken for somebody. FNIR: people of "
        "the gallery who are not recognised, or taken for others."
    )


def _best(own: Figures, limit: str) -> str:
    return _NONE if own["threshold"] is None else f"{limit} {own['threshold']:.3f}"


def _numbers(figures: Figures) -> dict[str, str | int | float]:
    return {name: _NONE if value is None else value for name, value in figures.items()}


def _cells(figures: Figures, name: str, *endings: str) -> list[str | int | float]:
    return list(_numbers({ending: figures[name + ending] for ending in endings}).values())
