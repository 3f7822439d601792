"""Every error that cnnray raises on purpose.

    CnnrayError                  base; `code` names the fault, `exit_code` ends the command line
    |-- UserError                the caller can fix it; says what was expected and what came (exit 2)
    |   |-- OptionError          an option, config key or combination of them is wrong
    |   |-- UnknownNameError     a name that is not in a registry; lists the known ones
    |   |-- DataError            a data set that cannot be used: empty, one class, missing column
    |   |-- ImageError           bytes that are not an acceptable image; `code` is one of IMAGE_CODES
    |   |-- FaceError            an image without the one face that was asked for; `code` is one of FACE_CODES
    |   |-- GalleryError         what a gallery refuses, or does not have; `code` is one of GALLERY_CODES
    |   |-- JobError             a job that is not there, not done, or not taken; `code` is one of JOB_CODES
    |   |-- RunFolderError       a run folder that is finished, foreign or made with other settings
    |   `-- CheckpointError      a checkpoint that is absent, cut short, changed or of another kind
    |-- QuarantineError          the run is complete, but more inputs were bad than allowed (exit 3)
    |-- StorageError             the disk or object store failed: full, read-only, unreachable (exit 4)
    |   `-- RecordError          so did the database of the galleries; nothing that was acknowledged is lost
    `-- ServiceError             the service answered with an error, or not at all (exit 5)

The message is one line that a person can act on. `http_status` is what the service answers for it.
"""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

IMAGE_CODES = (
    "empty",
    "not_an_image",
    "unsupported_format",
    "truncated",
    "corrupt",
    "too_large",
    "too_small",
    "animated",
)
FACE_CODES = ("no_face", "several_faces")
GALLERY_CODES = {  # and the HTTP status of each
    "bad_name": 422,
    "bad_vector": 422,
    "no_gallery": 404,
    "no_identity": 404,
    "no_such_face": 404,
    "gallery_exists": 409,
    "identity_exists": 409,
    "identity_conflict": 409,
    "model_mismatch": 409,
    "key_reused": 409,
    "low_quality": 422,
    "erased": 410,
    "too_few_faces": 422,
    "gallery_opening": 503,
}

JOB_CODES = {"no_job": 404, "not_finished": 409, "key_reused": 409, "too_many_jobs": 503}  # and the HTTP status


class CnnrayError(Exception):
    """Base of all deliberate errors."""

    code: str = "error"
    exit_code: ClassVar[int] = 1
    http_status: int = 500


class UserError(CnnrayError):
    """The caller can fix it."""

    code = "bad_request"
    exit_code = 2
    http_status = 400


class OptionError(UserError):
    """An option, a config key or a combination of them is wrong."""

    code = "bad_option"


class UnknownNameError(UserError):
    """A name that is not in a registry.

    Args:
        kind: what was named, for example "backbone".
        name: the name that came.
        known: the names that exist; all are listed in the message.
    """

    code = "unknown_name"
    http_status = 404

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        super().__init__(f"unknown {kind} {name!r}; known: {', '.join(known)}")
        self._args = (kind, name, tuple(known))

    def __reduce__(self) -> tuple[type["UnknownNameError"], tuple[str, str, tuple[str, ...]]]:
        # Ray pickles errors between processes; the default would call __init__ with the message.
        return UnknownNameError, self._args


class DataError(UserError):
    """A data set that cannot be used as asked."""

    code = "bad_data"


class _CodedError(UserError):
    """One of several known faults.

    Args:
        code: one of `codes`.
        message: what was expected and what came.
    """

    http_status = 422
    codes: ClassVar[tuple[str, ...]] = ()

    def __init__(self, code: str, message: str) -> None:
        assert code in self.codes, code
        super().__init__(message)
        self.code = code
        self._args = (code, message)

    def __reduce__(self) -> tuple[type["_CodedError"], tuple[str, str]]:
        return type(self), self._args


class ImageError(_CodedError):
    """Bytes that are not an acceptable image; the code is one of IMAGE_CODES."""

    codes = IMAGE_CODES


class FaceError(_CodedError):
    """An image without the one face that was asked for; the code is one of FACE_CODES."""

    codes = FACE_CODES


class GalleryError(UserError):
    """What a gallery refuses, or does not have.

    Args:
        code: one of GALLERY_CODES.
        message: what was expected and what came.
        details: for programs, JSON values: `reasons` of a picture that is not good enough, `identity` of a conflict.
    """

    def __init__(self, code: str, message: str, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.http_status = GALLERY_CODES[code]
        self.details = dict(details or {})

    def __reduce__(self) -> tuple[type["GalleryError"], tuple[str, str, dict[str, Any]]]:
        return GalleryError, (self.code, str(self), self.details)


class JobError(UserError):
    """A job that is not there, not done, or not taken.

    Args:
        code: one of JOB_CODES.
        message: what was expected and what came.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.http_status = JOB_CODES[code]

    def __reduce__(self) -> tuple[type["JobError"], tuple[str, str]]:
        return JobError, (self.code, str(self))


class RunFolderError(UserError):
    """A run folder that is finished, foreign or made with other settings."""

    code = "run_folder"


class CheckpointError(UserError):
    """A checkpoint that is absent, cut short, changed or of another kind."""

    code = "bad_checkpoint"


class QuarantineError(CnnrayError):
    """The run is complete, but more inputs were bad than the run allows."""

    code = "too_many_bad_inputs"
    exit_code = 3


class StorageError(CnnrayError):
    """The disk or object store failed."""

    code = "storage"
    exit_code = 4


class RecordError(StorageError):
    """The database of the galleries failed, or could not be reached; what was acknowledged before is in it."""

    code = "record_unavailable"
    http_status = 503


class NodeError(CnnrayError):
    """A node of the cluster keeps the work from being done."""

    code = "bad_node"


class ServiceError(CnnrayError):
    """The service answered with an error, or not at all.

    Args:
        message: what was asked and what came.
        code: the problem's code as the service named it; "service" where it named none.
        status: the HTTP status; 0 where no answer came.
        request_id: under which the service logged the request; "" where no answer came.
        details: what else the problem tells programs, JSON values: as of GalleryError.
    """

    code = "service"
    exit_code = 5

    def __init__(
        self,
        message: str,
        *,
        code: str = "service",
        status: int = 0,
        request_id: str = "",
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.status = status
        self.request_id = request_id
        self.details = dict(details or {})


def one_line(text: object) -> str:
    """What others' errors say in many lines, as one."""
    return " ".join(str(text).split())
