"""`cnnray faces`: people into galleries, recognised, renamed, erased."""

import json
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from cnnray.cli.app import Flat, faces
from cnnray.cli.console import say, table
from cnnray.cli.gallery_doors import open_door, say_if_nobody
from cnnray.cli.query_photos import list_photos
from cnnray.config import EnrollConfig, RecognizeConfig, RecordConfig
from cnnray.errors import OptionError

_RECORD = RecordConfig()


@faces.command(name="enroll")
def faces_enroll(
    source: str,
    /,
    *,
    gallery: str,
    out: str = "",
    identity: str = "",
    name: str = "",
    record: Annotated[RecordConfig, Flat] = _RECORD,
    config: Annotated[EnrollConfig, Flat] = EnrollConfig(),  # noqa: B008 (frozen)
    url: str = "",
    address: str | None = None,
) -> dict[str, Any]:
    """Enrol people into a gallery: a folder of photos for each, or one photo.

    Args:
        source: a folder with a folder for each person, or a manifest; with --identity, one photo.
        gallery: its name; it is made where there is none.
        out: of a folder or manifest: the run folder; the same command resumes.
        identity: of one photo: whose it is.
        name: of that person, for people; without it the present one stays.
        url: of a service whose gallery it is, for one photo; without it, the record on this machine.
        address: of a Ray cluster; without it a local one is started.
    """
    if identity:
        with open_door(url, record) as door:
            done = door.enroll(gallery, identity, Path(source), name, config)
        was = "enrolled" if done["added"] else "was enrolled before"
        say(f"{source} {was} as {done['identity']}, face {done['face_ids'][0]} of gallery {gallery}")
        return done
    if not out or url or name:
        raise OptionError(
            f"expected --out RUN for the people in {source}, without --url and --name; or --identity of one photo"
        )
    from cnnray.data.enroll_faces import enroll_faces

    manifest = enroll_faces(source, out, gallery, config, record=record, address=address)
    say(
        f"{manifest['added']:,} faces of {manifest['identities']:,} people enrolled in {gallery}, "
        f"{manifest['already_there']:,} were there already"
    )
    if manifest["quarantined"]:
        say(f"{manifest['quarantined']:,} photos are listed in {out}/quarantine: {manifest['quarantine_codes']}")
    say_if_nobody(gallery, manifest["threshold"])
    return manifest


@faces.command(name="recognize")
def faces_recognize(
    images: Annotated[list[Path], Parameter(negative=())],
    /,
    *,
    gallery: str,
    out: Path | None = None,
    record: Annotated[RecordConfig, Flat] = _RECORD,
    config: Annotated[RecognizeConfig, Flat] = RecognizeConfig(),  # noqa: B008 (frozen)
    url: str = "",
) -> dict[str, Any]:
    """Say who is in photos, or that it is nobody of the gallery.

    Args:
        images: files, and folders of them.
        gallery: its name.
        out: folder for a PNG per image with its faces and their names.
        url: of a service whose gallery it is; without it, the record on this machine.
    """
    from cnnray.data.fetch import fetch_image

    photos = list_photos(images, out, [".png"])
    with open_door(url, record) as door:
        answers = door.recognize(gallery, [photo.path for photo in photos], config)
    rows = [row for answer in answers for row in _face_rows(answer)]
    columns = ["image", "box", "who", "score"] + ["candidates"] * bool(config.candidates)
    table(f"Gallery {gallery}", rows, columns)
    for photo, answer in zip(photos, answers, strict=True):
        if out is not None and not answer.get("error"):
            photo.write(out, ".png", _overlay(fetch_image(str(photo.path)), answer["faces"]))
    return {"gallery": gallery, "answers": answers}


@faces.command(name="rename")
def faces_rename(
    name: str = "",
    /,
    *,
    gallery: str,
    identity: str,
    metadata: str = "",
    record: Annotated[RecordConfig, Flat] = _RECORD,
    url: str = "",
) -> dict[str, Any]:
    """Give a person of a gallery another name, or other metadata; the id stays.

    Args:
        name: the new one; without it the present one stays.
        gallery: its name.
        identity: the id.
        metadata: a JSON object, which replaces the present one.
        url: of a service whose gallery it is; without it, the record on this machine.
    """
    try:
        values = json.loads(metadata) if metadata else None
    except ValueError as error:
        raise OptionError(f"expected a JSON object as --metadata, got {metadata!r}: {error}") from error
    if not isinstance(values, dict | None) or not (name or metadata):
        raise OptionError("expected a name, a JSON object as --metadata, or both")
    with open_door(url, record) as door:
        person = door.update_identity(gallery, identity, name, values)
    say(f"{person['id']} is called {person['name']}")
    return person


@faces.command(name="delete")
def faces_delete(
    *,
    gallery: str,
    identity: str,
    face: int | None = None,
    record: Annotated[RecordConfig, Flat] = _RECORD,
    url: str = "",
) -> dict[str, Any]:
    """Erase a person from a gallery, or one face of a person, for good; prints the receipt.

    Args:
        gallery: its name.
        identity: the id.
        face: its number, see `cnnray faces list`; without it the person is erased.
        url: of a service whose gallery it is; without it, the record on this machine.
    """
    with open_door(url, record) as door:
        receipt = door.erase(gallery, identity, face)
    what = f"{receipt['faces']} faces of {identity}" if face is None else f"face {face} of {identity}"
    say(f"erased {what} from {gallery} at {receipt['at']}; entry of the audit log: {receipt['audit_hash']}")
    left = [place for place, gone in receipt["purged"].items() if not gone]
    if left:
        say(f"what was deleted may still be in: {', '.join(left)}")
    return receipt


def _face_rows(answer: dict[str, Any]) -> list[dict[str, Any]]:
    """What the table says of an image."""
    start: dict[str, Any] = {"image": Path(answer["image"]).name} | dict.fromkeys(("box", "who", "score", "candidates"))
    if answer.get("error"):
        return [start | {"who": answer["error"]["detail"]}]
    rows = []
    for face in answer["faces"]:
        others = ", ".join(f"{one['id']} {one['score']:.3f}" for one in face["candidates"])
        box = "{:.0f},{:.0f}-{:.0f},{:.0f}".format(*face["box"])
        rows.append(
            start | {"box": box, "who": _who(face), "score": f"{face['score']:.3f}", "candidates": others or None}
        )
    return rows or [start | {"who": "no face was found"}]


def _who(face: dict[str, Any]) -> str:
    identity = face["identity"]
    if not identity:
        return str(face["decision"])
    return str(identity["name"] if identity["name"] == identity["id"] else f"{identity['name']} ({identity['id']})")


def _overlay(content: bytes, found: list[dict[str, Any]]) -> bytes:
    """The photo with names at its faces, as a PNG."""
    import numpy as np

    from cnnray.ops.decode import decode
    from cnnray.ops.draw import draw_faces
    from cnnray.ops.overlay import png

    boxes = np.array([face["box"] for face in found], np.float32).reshape(-1, 4)
    landmarks = np.array([list(face["landmarks"].values()) for face in found], np.float32).reshape(-1, 5, 2)
    texts = [f"{(face['identity'] or {}).get('name') or face['decision']} {face['score']:.2f}" for face in found]
    return png(draw_faces(decode(content), boxes, landmarks, texts))
