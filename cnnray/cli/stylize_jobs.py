"""`cnnray query stylize-jobs`: pictures that a running service paints in the background."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from cnnray.cli.app import Flat, query
from cnnray.cli.console import ProgressLine, say, table
from cnnray.config import DescentConfig

if TYPE_CHECKING:
    from cnnray.client import Client, StylizeJob

_URL = "http://127.0.0.1:8000"

jobs = App(name="stylize-jobs", help="Pictures that the service paints by optimisation, in the background.")
query.command(jobs)


@jobs.command(name="start")
def start_job(
    image: Path,
    /,
    *,
    style: Annotated[list[Path], Parameter(negative=())],
    mask: Path | None = None,
    out: Path | None = None,
    config: Annotated[DescentConfig, Flat] = DescentConfig(),  # noqa: B008 (frozen)
    url: str = _URL,
) -> dict[str, Any]:
    """Have a photo painted in the style of pictures.

    Args:
        image: file of the photo.
        style: files of pictures with the style, up to four.
        mask: file of a grey picture: white is painted, black stays as it is.
        out: PNG file to wait for; without it, the command says the job's id and ends. If it is ended before, the
            service goes on: `get ID --out FILE` waits again.
        url: of the service.
    """
    from cnnray.client import Client

    with Client(url) as client:
        job = client.start_stylize_job(image, style, mask, **asdict(config))
        say(f"job {job.id}: {job.steps} steps")
        return asdict(job) if out is None else _fetch(client, job.id, out)


@jobs.command(name="list")
def list_jobs(*, most: int = 20, url: str = _URL) -> dict[str, Any]:
    """The newest jobs.

    Args:
        most: jobs wanted.
        url: of the service.
    """
    from cnnray.client import Client

    with Client(url) as client:
        rows = [asdict(job) for job in client.stylize_jobs(most)]
    table("Painting jobs", rows, ["id", "state", "step", "steps", "seconds_left", "error"])
    return {"jobs": rows}


@jobs.command(name="get")
def get_job(id: str, /, *, out: Path | None = None, preview: Path | None = None, url: str = _URL) -> dict[str, Any]:
    """How far a job is.

    Args:
        id: of the job.
        out: PNG file of the painting, which is waited for.
        preview: JPEG file of the painting as it stands.
        url: of the service.
    """
    from cnnray import files
    from cnnray.client import Client

    with Client(url) as client:
        if preview is not None:
            files.write_bytes(str(preview), client.stylize_preview(id))
        if out is not None:
            return _fetch(client, id, out)
        job = client.stylize_job(id)
    say(_told(job))
    return asdict(job)


@jobs.command(name="delete")
def delete_job(id: str, /, *, url: str = _URL) -> dict[str, Any]:
    """End a job and remove its pictures.

    Args:
        id: of the job.
        url: of the service.
    """
    from cnnray.client import Client

    with Client(url) as client:
        client.delete_stylize_job(id)
    say(f"job {id} is gone")
    return {"deleted": id}


def _fetch(client: "Client", id: str, out: Path) -> dict[str, Any]:
    from cnnray import files

    with ProgressLine() as line:
        content = client.wait_stylize_job(id, lambda job: line.show(_told(job), last=job.finished))
    files.write_bytes(str(out), content)
    job = client.stylize_job(id)
    say(f"painted {job.width} x {job.height} px: {out}")
    return asdict(job)


def _told(job: "StylizeJob") -> str:
    text = f"{job.state}, step {job.step} of {job.steps}"
    if job.style is not None and job.content is not None:
        text += f" at {job.width} x {job.height}: style {job.style:.4f}, content {job.content:.4f}"
    if job.seconds_left:
        text += f", {job.seconds_left:,.0f} s left"
    return f"{text}: {job.error}" if job.error else text
