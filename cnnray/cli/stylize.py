"""`cnnray stylize`: pictures in the style of others."""

from dataclasses import replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from cnnray.cli.app import Flat, app
from cnnray.cli.console import ProgressLine, say
from cnnray.config import PaintConfig, StylizeConfig
from cnnray.errors import OptionError, UnknownNameError

if TYPE_CHECKING:
    from cnnray.infer.stylize import StyleStep

METHODS = ("auto", "fast", "optimize")
_PICTURES = (".jpg", ".jpeg", ".png")


@app.command
def stylize(
    image: str,
    /,
    *,
    style: Annotated[list[str] | None, Parameter(negative=())] = None,
    out: str,
    method: str = "auto",
    sheet: bool = False,
    config: Annotated[StylizeConfig, Flat] = StylizeConfig(),  # noqa: B008 (frozen)
    painting: Annotated[PaintConfig, Flat] = PaintConfig(),  # noqa: B008 (frozen)
    address: str | None = None,
) -> dict[str, Any]:
    """Paint photos in the style of a picture, or of several.

    A painter knows some styles by name and needs an instant; any other picture gives its style by optimisation, in
    minutes.

    Args:
        image: path or URI of a photo; for a painter also a folder or manifest of them.
        style: a style of the painter, NAME or NAME=SHARE of several; or the path of a picture with that style, and of
            several, see --style-weight.
        out: of a painter: the file of the painting, or the run folder of many; of an optimisation: its run folder. The
            same command resumes.
        method: "fast" by the painter, "optimize", or "auto": fast where the painter knows the styles.
        sheet: the first eight photos of a folder in every style of the painter, on one picture.
        address: of a Ray cluster, for a folder; without it a local one is started.
    """
    if method not in METHODS:
        raise UnknownNameError("method", method, METHODS)
    options = replace(painting, keep_colors=config.keep_colors)  # an option of both goes to the first
    if sheet:
        return _sheet(image, out, options, address)
    if not style:
        raise OptionError("expected --style NAME of the painter, or --style PICTURE")
    shares = _shares(style, options, method)
    return _paint(image, out, shares, options, address) if shares else _optimize(image, style, out, config)


def _sheet(source: str, out: str, options: PaintConfig, address: str | None) -> dict[str, Any]:
    from cnnray.data.paint import paint_sheet

    done = paint_sheet(source, out, options, address=address)
    say(f"{done['photos']} photos in {len(done['styles'])} styles: {out}")
    return done


def _paint(
    source: str, out: str, shares: dict[str, float], options: PaintConfig, address: str | None
) -> dict[str, Any]:
    from cnnray.data.paint import paint_folder, paint_photo

    if PurePosixPath(out).suffix.lower() in _PICTURES:
        done = paint_photo(source, out, shares, options)
        say(f"painted {done['width']} x {done['height']} px: {out}")
        return done
    manifest = paint_folder(source, out, shares, options, address=address)
    say(f"{manifest['predictions']:,} photos painted in {out}/painted")
    if manifest["quarantined"]:
        say(f"{manifest['quarantined']:,} photos are listed in {out}/quarantine: {manifest['quarantine_codes']}")
    return manifest


def _optimize(image: str, styles: list[str], out: str, config: StylizeConfig) -> dict[str, Any]:
    from cnnray.data.stylize import stylize as run

    with ProgressLine() as line:

        def show(row: "StyleStep", num_steps: int) -> None:
            line.show(_losses(row, num_steps), last=row.step == num_steps)

        manifest = run(image, styles, out, config, on_step=show)
    say(f"painted {manifest['width']} x {manifest['height']} px in {out}/stylized.png; report in {out}/report.html")
    return manifest


def _shares(given: list[str], options: PaintConfig, method: str) -> dict[str, float]:
    """Shares by style of the painter; none where the styles are pictures.

    Raises:
        UnknownNameError: a name that is neither a style nor like a file's.
        OptionError: a share that is no number.
    """
    from cnnray.data.paint import style_names

    if method == "optimize":
        return {}
    known, shares = style_names(options), {}
    for one in given:
        name, _, share = one.partition("=")
        if name not in known:
            if method == "fast" or not (set("/.\\") & set(one)):
                raise UnknownNameError("style", name, known)
            return {}
        try:
            shares[name] = float(share or 1)
        except ValueError:
            raise OptionError(f"expected --style NAME or NAME=SHARE, got {one!r}") from None
    return shares


def _losses(row: "StyleStep", num_steps: int) -> str:
    return (
        f"step {row.step} of {num_steps} at {row.width} x {row.height}: style {row.style:.4f}, "
        f"content {row.content:.4f}, variation {row.variation:.5f}"
    )
