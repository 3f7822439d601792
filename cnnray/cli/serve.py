"""`cnnray serve` and `cnnray query`: the service, and questions to it."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from cnnray.cli.app import Flat, query, serve
from cnnray.cli.console import say, table
from cnnray.config import ServeConfig
from cnnray.errors import CnnrayError, OptionError


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
    say(f"ready at {url}  (API: {url}/docs)  Ctrl-C ends it")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        signal.pause()
    except KeyboardInterrupt:
        say("ending")
    finally:
        down()


@serve.command(name="build")
def serve_build(
    *,
    out: str,
    config: Annotated[ServeConfig, Flat] = ServeConfig(),  # noqa: B008 (frozen)
) -> None:
    """Write these options as Serve's configuration, for `cnnray serve deploy`, `ray serve deploy` and KubeRay.

    Args:
        out: YAML file or URI.
    """
    import yaml

    from cnnray import files
    from cnnray.serve.deploy_file import check_deploy, describe

    content = describe(config)
    check_deploy(content, out)
    head = "# The service on a cluster: cnnray serve deploy FILE --dashboard http://127.0.0.1:8265\n"
    files.write_bytes(out, (head + yaml.safe_dump(content, sort_keys=False)).encode())
    say(f"wrote {out}")


@serve.command(name="deploy")
def serve_deploy(
    file: str,
    /,
    *,
    dashboard: str = "http://127.0.0.1:8265",
    timeout_s: float = 600.0,
    trust_dashboard: bool = False,
) -> dict[str, Any]:
    """Start the service on a cluster, or replace the one that runs there; the old one answers until the new one does.

    Args:
        file: as `cnnray serve build` writes it.
        dashboard: of the cluster; RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH hold its token.
        timeout_s: seconds until the new version is given up.
        trust_dashboard: also where others reach the dashboard and it asks for no token.
    """
    from cnnray.serve.deploy_file import read_deploy_file
    from cnnray.serve.rollout import roll_out

    content = read_deploy_file(file)
    revision = roll_out(content, dashboard, timeout_s=timeout_s, trust_dashboard=trust_dashboard, report=say)
    say(f"revision {revision} answers")
    return {"revision": revision}


@query.command(name="classify")
def query_classify(
    images: Annotated[list[Path], Parameter(negative=())],
    /,
    *,
    url: str = "http://127.0.0.1:8000",
    top_k: int = 5,
    explain: Path | None = None,
    explain_label: str = "",
) -> dict[str, Any]:
    """Classify image files by a running service.

    Args:
        images: files.
        url: of the service.
        top_k: classes to list per image.
        explain: folder for pictures per image of what in it speaks for its class: the places over the photo
            (NAME-overlay.jpg) and alone (NAME-heat.png), and the pixels (NAME-guided.png) where the network can.
        explain_label: class to explain; without it, that of the answer.
    """
    from cnnray.client import Client

    if explain_label and explain is None:
        raise OptionError("--explain-label needs --explain FOLDER, for the pictures")
    # one at a time is as fast as the service explains, and never too much for it
    asked: dict[str, Any] = {"explain": True, "explain_label": explain_label or None, "concurrency": 1}
    with Client(url) as client:
        answers = client.classify_many(images, top_k=top_k, **({} if explain is None else asked))
    rows = [_answer_row(path, answer) for path, answer in zip(images, answers, strict=True)]
    table("Answers", rows, ["image", "label", "probability", "error"])
    if explain is not None:
        for answer, row in zip(answers, rows, strict=True):
            _write_explanation(explain, row, getattr(answer, "explanation", None))
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
    table("Answers", rows, list(rows[0]))
    return {"answers": rows}


@query.command(name="stylize")
def query_stylize(
    images: Annotated[list[Path], Parameter(negative=())],
    /,
    *,
    style: Annotated[list[str], Parameter(negative=())],
    out: Path,
    strength: float = 1.0,
    keep_colors: bool = False,
    longest_side: int = 1024,
    url: str = "http://127.0.0.1:8000",
) -> dict[str, Any]:
    """Have a running service paint image files.

    Args:
        images: files.
        style: NAME, or NAME:SHARE of several.
        out: folder for a JPEG per image.
        strength: share of the painting, 0 to 1; the rest is the photo.
        keep_colors: only light and dark are painted.
        longest_side: px; larger photos are made smaller.
        url: of the service.
    """
    from cnnray import files
    from cnnray.client import Client

    options = {"strength": strength, "keep_colors": keep_colors, "longest_side": longest_side}
    rows = []
    with Client(url) as client:
        for path in images:
            answer = client.stylize(path, style, **options)
            files.write_bytes(str(out / f"{path.stem}.jpg"), answer.content)
            size = {"width": answer.width, "height": answer.height}
            rows.append({"image": str(path)} | size | {"ms": answer.timings["total_ms"]})
    table("Answers", rows, list(rows[0]))
    return {"answers": rows}


@query.command(name="detect")
def query_detect(
    images: Annotated[list[Path], Parameter(negative=())],
    /,
    *,
    out: Path | None = None,
    confidence: float = 0.3,
    overlap: float = 0.5,
    slice: int = 0,
    url: str = "http://127.0.0.1:8000",
) -> dict[str, Any]:
    """Find the objects in image files by a running service.

    Args:
        images: files.
        out: folder for a PNG per image with its boxes.
        confidence: least score.
        overlap: largest IoU of two boxes of one class.
        slice: side in px of the slices in which large images are searched as well; 0 does not slice.
        url: of the service.
    """
    from cnnray import files
    from cnnray.client import Client

    search, answers, rows = {"confidence": confidence, "overlap": overlap, "slice": slice}, [], []
    with Client(url) as client:
        for path in images:
            found = client.detect(path, **search)
            if out is not None:
                files.write_bytes(str(out / f"{path.stem}.png"), client.draw_objects(path, **search))
            objects = [{"label": o.label, "score": o.score, "box": list(o.box)} for o in found.objects]
            answers.append({"image": str(path), "height": found.height, "width": found.width, "objects": objects})
            best = ", ".join(f"{o.label} {o.score:.2f}" for o in found.objects[:4])
            rows.append({"image": str(path), "objects": len(objects), "best": best})
    table("Answers", rows, ["image", "objects", "best"])
    return {"answers": answers}


@query.command(name="faces")
def query_faces(
    images: Annotated[list[Path], Parameter(negative=())],
    /,
    *,
    out: Path | None = None,
    confidence: float = 0.0,
    smallest_face: int = 40,
    rotated: bool = False,
    embeddings: bool = False,
    url: str = "http://127.0.0.1:8000",
) -> dict[str, Any]:
    """Find the faces in image files by a running service.

    Args:
        images: files.
        out: folder for a PNG per image with its faces.
        confidence: least score of a face.
        smallest_face: side in px of the smallest faces looked for.
        rotated: also look for faces that lie on their side or upside down.
        embeddings: also each face's embedding.
        url: of the service.
    """
    from cnnray import files
    from cnnray.client import Client

    search: dict[str, Any] = {"confidence": confidence, "smallest_face": smallest_face, "rotated": rotated}
    answers, rows = [], []
    with Client(url) as client:
        for path in images:
            found = client.detect_faces(path, embeddings=embeddings, **search)
            if out is not None:
                files.write_bytes(str(out / f"{path.stem}.png"), client.draw_faces(path, **search))
            faces = [_face_row(face) for face in found.faces]
            answers.append({"image": str(path), "height": found.height, "width": found.width, "faces": faces})
            best = ", ".join("{:.0f},{:.0f}-{:.0f},{:.0f}".format(*face.box) for face in found.faces[:4])
            rows.append({"image": str(path), "faces": len(faces), "best": best})
    table("Answers", rows, ["image", "faces", "best"])
    return {"answers": answers}


@query.command(name="verify")
def query_verify(
    first: Path,
    second: Path,
    /,
    *,
    threshold: float | None = None,
    pick: str = "largest",
    confidence: float = 0.0,
    smallest_face: int = 40,
    rotated: bool = False,
    url: str = "http://127.0.0.1:8000",
) -> dict[str, Any]:
    """Ask a running service whether two image files show the same person.

    Args:
        first: a file.
        second: another one.
        threshold: largest distance of two faces of one person; without it, the service's own.
        pick: which face of an image with several: the "largest", the most "central", or "only", which refuses several.
        confidence: least score of a face.
        smallest_face: side in px of the smallest faces looked for.
        rotated: also look for faces that lie on their side or upside down.
        url: of the service.
    """
    from cnnray.client import Client

    search: dict[str, Any] = {"confidence": confidence, "smallest_face": smallest_face, "rotated": rotated}
    with Client(url) as client:
        answer = client.verify_faces(first, second, threshold=threshold, pick=pick, **search)
    measured = f"distance {answer.distance:.3f}"
    if answer.probability is not None:
        measured = f"probability {answer.probability:.3f}"
    say(f"{'the same person' if answer.same else 'different people'}: {measured}, threshold {answer.threshold:g}")
    return asdict(answer) | {"faces": [_face_row(face) for face in answer.faces]}


def _write_explanation(folder: Path, row: dict[str, Any], why: Any) -> None:
    """The pictures in files named after the image; the row gains `explanation`, None where the service gave none."""
    from cnnray import files

    row["explanation"] = None
    if why is None:
        return
    start = folder / Path(row["image"]).stem
    written = {f"{start}-overlay.jpg": why.overlay, f"{start}-heat.png": why.heat}
    written |= {} if why.guided is None else {f"{start}-guided.png": why.guided}
    for place, content in written.items():
        files.write_bytes(place, content)
    say(f"{', '.join(written)}: what speaks for {why.label} ({why.probability:.4g})")
    if why.note:
        say(why.note)
    figures = {name: value for name, value in asdict(why).items() if name not in ("overlay", "heat", "guided")}
    row["explanation"] = figures | {"pictures": list(written)}


def _face_row(face: Any) -> dict[str, Any]:
    return {name: value for name, value in asdict(face).items() if value is not None}


def _answer_row(path: Path, answer: Any) -> dict[str, Any]:
    if isinstance(answer, CnnrayError):
        return {"image": str(path), "label": None, "probability": None, "error": str(answer), "top": []}
    top = [[guess.label, guess.probability] for guess in answer.top]
    return {"image": str(path), "label": answer.label, "probability": answer.probability, "error": None, "top": top}
