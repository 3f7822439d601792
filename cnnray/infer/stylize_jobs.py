"""Paintings by optimisation that are asked for at any time and made in the background: a folder of jobs.

FOLDER/ID/request        the pictures and settings, sealed (see `cnnray.nn.sealed`); there is a job as long as this is
FOLDER/ID/progress.json  how far it is
FOLDER/ID/state          what it is gone on from where its process dies
FOLDER/ID/preview.jpg    how the painting stands
FOLDER/ID/stylized.png   the painting
FOLDER/ID/owner          a token of the process that paints it; one that begins later takes the job over

Everything that a job needs is in its folder, so any machine that reaches the folder can go on with it. Files are
replaced as a whole. One `StylizeJobs` at a time takes and removes jobs; any process may paint them.
"""

import hashlib
import json
import threading
import time
import uuid
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cnnray import files
from cnnray.config import StylizeConfig
from cnnray.errors import ImageError, JobError
from cnnray.infer.style_levels import Pictures
from cnnray.nn.sealed import load_sealed, save_sealed
from cnnray.ops.decode import decode

REQUEST, PROGRESS, STATE, PREVIEW, STYLIZED, OWNER = (
    "request", "progress.json", "state", "preview.jpg", "stylized.png", "owner",
)  # fmt: skip
FINISHED = ("done", "failed")


@dataclass(frozen=True)
class StylizeRequest:
    """What is to be painted.

    Attributes:
        content: the photo's file.
        styles: the files of the pictures with the style; mixed by `config.style_weight`.
        config: how; what it says of files and devices does not count.
        mask: file of a grey picture: white is painted, black stays; None paints all.
    """

    content: bytes
    styles: tuple[bytes, ...]
    config: StylizeConfig
    mask: bytes | None = None

    @property
    def sha256(self) -> str:
        """Of all of it."""
        parts = [self.content, *self.styles, self.mask or b"", json.dumps(asdict(self.config)).encode()]
        return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()

    def decoded(self) -> dict[str, Any]:
        """As arguments of `StyleOptimizer`: content_HWC, styles, mask_HW.

        Raises:
            ImageError: bad pictures, by their role.
        """
        styles = [_decoded(f"style {number}", style) for number, style in enumerate(self.styles, 1)]
        mask_HW = None
        if self.mask is not None:
            mask_HW = np.rint(_decoded("mask", self.mask).mean(axis=2)).astype(np.uint8)
        return {"content_HWC": _decoded("content", self.content), "styles": styles, "mask_HW": mask_HW}

    def count_steps(self) -> int:
        """Of all sizes, from a look at the pictures.

        Raises:
            ImageError: bad pictures, by their role.
            OptionError: too small ones, other weights than styles, a mask that is black all over.
        """
        given = self.decoded()
        pictures = Pictures.of(given["content_HWC"], given["styles"], self.config, mask_HW=given["mask_HW"])
        return self.config.steps * len(pictures.sizes(self.config.pyramid))

    def save(self, uri: str) -> None:
        """Into one file, see the module."""
        named = {"content": self.content, **{f"style{number}": style for number, style in enumerate(self.styles)}}
        named |= {} if self.mask is None else {"mask": self.mask}
        tensors = {name: torch.from_numpy(np.frombuffer(part, np.uint8).copy()) for name, part in named.items()}
        save_sealed(uri, tensors, {"config": json.dumps(asdict(self.config))})

    @classmethod
    def load(cls, uri: str) -> "StylizeRequest | None":
        """Of such a file; None where it is gone.

        Raises:
            CheckpointError: it was cut short or changed.
        """
        found = load_sealed(uri, "job's request", "ask for it again")
        if found is None:
            return None
        named = {name: tensor.numpy().tobytes() for name, tensor in found[0].items()}
        given: dict[str, Any] = json.loads(found[1]["config"])
        given = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
        styles = tuple(named[f"style{number}"] for number in range(sum(name.startswith("style") for name in named)))
        return cls(named["content"], styles, StylizeConfig(**given), named.get("mask"))


@dataclass(frozen=True)
class JobProgress:
    """How far a job is.

    Attributes:
        id: 32 hexadecimal digits.
        state: "queued", "running", "done" or "failed".
        created, changed: seconds since 1970.
        request_sha256: of what was asked.
        step, steps: done, and to do in all.
        height, width: of the painting now, px; it grows.
        loss, style, content, variation: after that step, see `StyleStep`; None before the first.
        seconds_left: estimated; None before the first steps.
        code, error: of what made it fail; "" before.
    """

    id: str
    state: str
    created: float
    changed: float
    request_sha256: str
    step: int = 0
    steps: int = 0
    height: int = 0
    width: int = 0
    loss: float | None = None
    style: float | None = None
    content: float | None = None
    variation: float | None = None
    seconds_left: float | None = None
    code: str = ""
    error: str = ""

    @property
    def finished(self) -> bool:
        """Whether nothing more is going to change."""
        return self.state in FINISHED


class StylizeJobs:
    """The folder's one keeper; safe to call from several threads.

    Args:
        folder: path or URI; made where it is absent.
        most: unfinished jobs; more are not taken.
        keep_hours: that a finished job is kept.

    Raises:
        StorageError: the folder cannot be written.
    """

    def __init__(self, folder: str, *, most: int = 64, keep_hours: float = 168.0) -> None:
        self.folder = files.absolute(folder)
        self._most, self._keep_seconds = most, 3600 * keep_hours
        self._changing = threading.Lock()
        files.make_folder(self.folder)
        self._open = {job.id for job in self.jobs()}

    def create(self, request: StylizeRequest, key: str = "") -> JobProgress:
        """Take a job; when this returns it is on disk.

        Args:
            key: of idempotency: a request that comes again under its key is the same job; "" is always a new one.

        Raises:
            ImageError, OptionError: as `StylizeRequest.count_steps`.
            JobError: "too_many_jobs"; "key_reused" by another request.
            StorageError: it cannot be written.
        """
        steps = request.count_steps()
        id = hashlib.sha256(key.encode()).hexdigest()[:32] if key else uuid.uuid4().hex
        with self._changing:
            if files.exists(self._path(id, REQUEST)):
                return self._again(id, request)
            if len(self.unfinished()) >= self._most:
                raise JobError("too_many_jobs", f"there are {self._most} unfinished jobs, which is all that are taken")
            now = time.time()
            job = write_progress(self.folder, JobProgress(id, "queued", now, now, request.sha256, steps=steps))
            request.save(self._path(id, REQUEST))
            self._open.add(id)
        return job

    def get(self, id: str) -> JobProgress:
        """How far a job is.

        Raises:
            JobError: "no_job".
        """
        job = read_progress(self.folder, id) if _is_id(id) and files.exists(self._path(id, REQUEST)) else None
        if job is None:
            raise JobError("no_job", f"there is no job {id[:100]!r}; it may have been deleted")
        return job

    def jobs(self) -> list[JobProgress]:
        """All jobs, oldest first."""
        ids = [id for id in files.list_folders(self.folder) if files.exists(self._path(id, REQUEST))]
        found = [read_progress(self.folder, id) for id in ids]
        return _by_age([job for job in found if job is not None])

    def unfinished(self) -> list[JobProgress]:
        """Those that are queued or running, oldest first; looks at no others."""
        found = {id: read_progress(self.folder, id) for id in list(self._open)}
        for id, job in found.items():
            if job is None or job.finished:
                self._open.discard(id)
        return _by_age([job for job in found.values() if job is not None and not job.finished])

    def preview(self, id: str) -> bytes:
        """The painting as it stands, a JPEG.

        Raises:
            JobError: "no_job"; "not_finished" before there is anything to see.
        """
        return self._picture(id, PREVIEW, "preview")

    def picture(self, id: str) -> bytes:
        """The finished painting, a PNG.

        Raises:
            JobError: "no_job"; "not_finished".
        """
        return self._picture(id, STYLIZED, "painting")

    def delete(self, id: str) -> None:
        """Remove a job with all of its pictures; whoever paints it stops within a second.

        Raises:
            JobError: "no_job".
            StorageError: it cannot be removed.
        """
        self.get(id)
        with self._changing:
            self._remove(id)

    def fail(self, id: str, code: str, error: str) -> None:
        """Say of a job that it cannot be done; nothing happens where it is gone or finished."""
        with self._changing:
            job = read_progress(self.folder, id)
            if job is not None and not job.finished and files.exists(self._path(id, REQUEST)):
                write_progress(self.folder, replace(job, state="failed", code=code, error=error, seconds_left=None))

    def sweep(self) -> None:
        """Remove finished jobs that were kept long enough, and what deleted ones have left."""
        with self._changing:
            for id in filter(_is_id, files.list_folders(self.folder)):
                job = read_progress(self.folder, id)
                old = job is not None and job.finished and job.changed < time.time() - self._keep_seconds
                if old or not files.exists(self._path(id, REQUEST)):
                    self._remove(id)

    def _again(self, id: str, request: StylizeRequest) -> JobProgress:
        job = self.get(id)
        if job.request_sha256 != request.sha256:
            raise JobError("key_reused", "expected the same request as before under this idempotency key, got another")
        return job

    def _picture(self, id: str, name: str, title: str) -> bytes:
        job = self.get(id)
        try:
            return files.read_bytes(self._path(id, name))
        except FileNotFoundError:
            why = f"it failed: {job.error}" if job.state == "failed" else f"step {job.step} of {job.steps} is done"
            raise JobError("not_finished", f"there is no {title} of the job {id} yet; {why}") from None

    def _remove(self, id: str) -> None:
        self._open.discard(id)
        files.remove(self._path(id, REQUEST))  # first: without it there is no job, whatever else is still there
        files.remove(self._path(id))

    def _path(self, *parts: str) -> str:
        return files.join(self.folder, *parts)


def read_progress(folder: str, id: str) -> JobProgress | None:
    """Of a job in the folder; None where there is none."""
    try:
        return JobProgress(**files.read_json(files.join(folder, id, PROGRESS)))
    except FileNotFoundError:
        return None


def write_progress(folder: str, job: JobProgress) -> JobProgress:
    """Replace it by this, changed now; returns what is written.

    Raises:
        StorageError: it cannot be written.
    """
    job = replace(job, changed=time.time())
    files.write_json(files.join(folder, job.id, PROGRESS), asdict(job))
    return job


def _decoded(role: str, content: bytes) -> NDArray[np.uint8]:
    try:
        return decode(content)
    except ImageError as error:
        raise ImageError(error.code, f"{role}: {error}") from error


def _by_age(jobs: list[JobProgress]) -> list[JobProgress]:
    return sorted(jobs, key=lambda job: (job.created, job.id))


def _is_id(id: str) -> bool:
    return len(id) == 32 and set(id) <= set("0123456789abcdef")
