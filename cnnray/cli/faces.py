"""`cnnray faces`: find faces, compare two."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from cnnray.cli.app import Flat, faces
from cnnray.cli.console import say, table
from cnnray.config import FacesPredictConfig, VerifyConfig
from cnnray.errors import OptionError


@faces.command(name="detect")
def faces_detect(
    source: str,
    /,
    *,
    out: str = "",
    config: Annotated[FacesPredictConfig, Flat] = FacesPredictConfig(),  # noqa: B008 (frozen)
    address: str | None = None,
) -> dict[str, Any]:
    """Find the faces in a photo, or in every image of a folder: boxes, landmarks, quality.

    Args:
        source: an image's file, which is answered at once; or images, as for `features build`.
        out: of images: the run folder, the same command resumes; of one file: a PNG to draw its faces into.
        address: of a Ray cluster; without it a local one is started.
    """
    from cnnray import files
    from cnnray.data.readers import IMAGE_SUFFIXES

    if source.lower().endswith(IMAGE_SUFFIXES):
        return _detect_file(source, out, config)
    if not out:
        raise OptionError(f"expected --out RUN for the images of {source}")
    from cnnray.data.predict_faces import RESULTS, predict_faces

    manifest = predict_faces(source, out, config, address=address)
    say(f"{manifest['faces']:,} faces on {manifest['predictions']:,} images in {files.join(out, RESULTS)}")
    return manifest


def _detect_file(source: str, out: str, config: FacesPredictConfig) -> dict[str, Any]:
    from cnnray import files
    from cnnray.data.fetch import fetch_image
    from cnnray.errors import ImageError
    from cnnray.infer.face_results import draw_photo, to_json
    from cnnray.infer.faces import FacePipeline
    from cnnray.ops.decode import decode
    from cnnray.ops.overlay import png

    content = fetch_image(source)
    (found,) = FacePipeline.load(config).predict([content], config.search, embed=config.embed)
    if isinstance(found, ImageError):
        raise found
    rows = [to_json(face) for face in found.faces]
    if config.embed:
        rows = [row | {"embedding": face.embedding_D.tolist()} for row, face in zip(rows, found.faces, strict=True)]
    shown = [
        {"box": "{:.0f},{:.0f}-{:.0f},{:.0f}".format(*row["box"]), "score": row["confidence"]}
        | {name: round(value, 2) for name, value in row["quality"].items() if name != "inside"}
        for row in rows
    ]
    if shown:
        table(Path(source).name, shown, list(shown[0]))
    if out:
        files.write_bytes(out, png(draw_photo(decode(content), found.faces)))
    say(f"{len(rows)} faces" + (f", drawn in {out}" if out else ""))
    return {"path": source, "height": found.height, "width": found.width, "faces": rows}


@faces.command(name="verify")
def faces_verify(
    first: str,
    second: str,
    /,
    *,
    config: Annotated[VerifyConfig, Flat] = VerifyConfig(),  # noqa: B008 (frozen)
) -> dict[str, Any]:
    """Say whether two photos show the same person.

    Args:
        first: an image's file.
        second: another one.
    """
    from cnnray.data.fetch import fetch_image
    from cnnray.infer.face_results import to_json
    from cnnray.infer.faces import FacePipeline

    contents = fetch_image(first), fetch_image(second)
    pair = FacePipeline.load(config).verify(
        contents, config.search, pick=config.pick, threshold=config.threshold, names=(first, second)
    )
    answer = pair.answer
    for name, count in zip((first, second), pair.found, strict=True):
        if count > 1:
            say(f"{count} faces in {name}; the {config.pick} one is compared")
    measured = f"distance {answer.distance:.3f}"
    if answer.probability is not None:
        measured = f"probability {answer.probability:.3f}"
    say(f"{'the same person' if answer.same else 'different people'}: {measured}, threshold {answer.threshold:g}")
    return asdict(answer) | {"faces": [to_json(face) for face in pair.faces]}
