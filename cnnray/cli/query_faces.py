"""`cnnray query`: questions to a running service about faces; `cnnray faces ... --url` has those about galleries."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from cnnray.cli.app import Flat, query
from cnnray.cli.console import say
from cnnray.cli.query_photos import Photo, ask_about, list_photos

if TYPE_CHECKING:
    from cnnray.client import ClaimedVerification, Face, FaceDetection

_URL = "http://127.0.0.1:8000"


@dataclass(frozen=True, kw_only=True)
class Search:
    """Which faces are looked for: what of `cnnray.config.FaceSearchConfig` may be asked of a service.

    Attributes:
        confidence: least score of a face.
        smallest_face: side in px of the smallest faces looked for.
        rotated: also look for faces that lie on their side or upside down.
    """

    confidence: float = 0.0
    smallest_face: int = 40
    rotated: bool = False


@query.command(name="faces")
def query_faces(
    images: Annotated[list[Path], Parameter(negative=())],
    /,
    *,
    out: Path | None = None,
    search: Annotated[Search, Flat] = Search(),
    embeddings: bool = False,
    url: str = _URL,
) -> dict[str, Any]:
    """Find the faces in images by a running service.

    Args:
        images: files, and folders of them.
        out: folder for a PNG per image with its faces.
        embeddings: also each face's embedding.
        url: of the service.
    """
    from cnnray.client import Client

    wanted = asdict(search)

    def ask(path: Path) -> "tuple[FaceDetection, bytes]":
        found = client.detect_faces(path, embeddings=embeddings, **wanted)
        return found, b"" if out is None else client.draw_faces(path, **wanted)

    def tell(photo: Photo, answer: "tuple[FaceDetection, bytes]") -> tuple[dict[str, Any], dict[str, Any]]:
        found, drawn = answer
        best = ", ".join("{:.0f},{:.0f}-{:.0f},{:.0f}".format(*face.box) for face in found.faces[:4])
        values = {"height": found.height, "width": found.width, "faces": [_face_row(face) for face in found.faces]}
        return values | photo.write(out, ".png", drawn), {"faces": len(found.faces), "best": best}

    photos = list_photos(images, out, [".png"])
    with Client(url) as client:
        return ask_about(photos, ask, tell, failed={"height": None, "width": None, "faces": []})


@query.command(name="verify")
def query_verify(
    first: Path,
    second: Path,
    /,
    *,
    threshold: float | None = None,
    pick: str = "largest",
    search: Annotated[Search, Flat] = Search(),
    url: str = _URL,
) -> dict[str, Any]:
    """Ask a running service whether two image files show the same person.

    Args:
        first: a file.
        second: another one.
        threshold: largest distance of two faces of one person; without it, the service's own.
        pick: which face of an image with several: the "largest", the most "central", or "only", which refuses several.
        url: of the service.
    """
    from cnnray.client import Client

    with Client(url) as client:
        answer = client.verify_faces(first, second, threshold=threshold, pick=pick, **asdict(search))
    measured = f"distance {answer.distance:.3f}"
    if answer.probability is not None:
        measured = f"probability {answer.probability:.3f}"
    say(f"{'the same person' if answer.same else 'different people'}: {measured}, threshold {answer.threshold:g}")
    return asdict(answer) | {"faces": [_face_row(face) for face in answer.faces]}


@query.command(name="verify-identity")
def query_verify_identity(
    images: Annotated[list[Path], Parameter(negative=())],
    /,
    *,
    gallery: str,
    identity: str,
    threshold: float | None = None,
    pick: str = "largest",
    search: Annotated[Search, Flat] = Search(),
    url: str = _URL,
) -> dict[str, Any]:
    """Ask a running service whether images show a person of one of its galleries.

    Args:
        images: files, and folders of them.
        gallery: its name.
        identity: id of the person.
        threshold: least score; without it, that of the model for two faces.
        pick: which face of an image with several: the "largest", the most "central", or "only", which refuses several.
        url: of the service.
    """
    from cnnray.client import Client

    wanted = asdict(search)

    def ask(path: Path) -> "ClaimedVerification":
        return client.verify_identity(gallery, identity, path, threshold=threshold, pick=pick, **wanted)

    def tell(photo: Photo, answer: "ClaimedVerification") -> tuple[dict[str, Any], dict[str, Any]]:
        cells = {"same": "yes" if answer.same else "no", "score": answer.score, "threshold": answer.threshold}
        return asdict(answer), cells

    with Client(url) as client:
        return ask_about(list_photos(images), ask, tell, failed={"same": None, "score": None})


def _face_row(face: "Face") -> dict[str, Any]:
    return {name: value for name, value in asdict(face).items() if value is not None}
