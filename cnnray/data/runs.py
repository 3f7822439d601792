"""Run folders: one folder per job, with its resolved settings, outputs and a manifest that says it is done.

RUN/config.toml     the resolved settings, written first; the same command resumes, another is refused
RUN/manifest.json   inputs, counts, hashes, versions, wall time; written last: its presence means finished
RUN/owner           a token of the command that opened the run last, the only one that may write into it
"""

import dataclasses
import time
import tomllib
import uuid
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

from cnnray import __version__, files
from cnnray.config import BadConfig, to_toml
from cnnray.errors import QuarantineError, RunFolderError

# Settings that may differ between a killed run and the command that resumes it: they change no content.
RESUMABLE_WITH = frozenset({"workers", "gpu", "compile", "max_bad", "reuse", "precision"})


OWNER = "owner"


@dataclass(frozen=True)
class RunFolder:
    """An open run folder; `resumed` says whether earlier work is in it."""

    uri: str
    kind: str
    config: Any
    resumed: bool
    source: str = ""
    started: float = field(default_factory=time.time)
    token: str = field(default_factory=lambda: uuid.uuid4().hex)

    @classmethod
    def open(cls, uri: str, config: Any, kind: str, *, source: str = "") -> "RunFolder":
        """Create the folder, or take up an unfinished one.

        Args:
            uri: path or URI of the folder.
            config: the run's frozen dataclass of settings.
            kind: what the run makes, for example "features".
            source: where the input comes from; part of the settings.

        Raises:
            RunFolderError: it is finished, made with other settings, or a folder of something else.
        """
        if files.exists(files.join(uri, "manifest.json")):
            raise RunFolderError(
                f"expected a new or unfinished run folder, but the run in {uri} is finished; choose another --out"
            )
        config_uri = files.join(uri, "config.toml")
        resumed = files.exists(config_uri)
        if resumed:
            _check_same(uri, config, kind, source)
        else:
            _check_empty(uri)
            text = to_toml(config)
            files.write_bytes(config_uri, f"{to_toml(_Head(kind=kind, source=source))}{text}".encode())
        run = cls(uri, kind, config, resumed, source)
        files.write_bytes(run.path(OWNER), run.token.encode())
        return run

    @staticmethod
    def is_finished(uri: str, config: Any, kind: str, *, source: str = "") -> bool:
        """Whether the folder holds the finished run of these settings; False where it holds none, or not to its end.

        Raises:
            RunFolderError: the finished run is another.
        """
        if not files.exists(files.join(uri, "manifest.json")):
            return False
        _check_same(uri, config, kind, source)
        return True

    def path(self, *parts: str) -> str:
        """URI of something inside the folder."""
        return files.join(self.uri, *parts)

    def finish(self, manifest: dict[str, Any]) -> dict[str, Any]:
        """Write the manifest, which marks the run as finished, and return it with the common facts added."""
        full = {
            "kind": self.kind,
            **manifest,
            "config": dataclasses.asdict(self.config),
            "versions": versions(),
            "wall_s": round(time.time() - self.started, 3),
            "finished_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        files.write_json(self.path("manifest.json"), full)
        return full


def check_owner(uri: str, token: str) -> None:
    """Called by a worker before it stores anything.

    A command that is killed leaves its workers behind for some seconds. They must not store what the command that
    resumes the run computes as well.

    Raises:
        RunFolderError: another command has opened the run since.
    """
    if files.read_bytes(files.join(uri, OWNER)).decode() != token:
        raise RunFolderError(f"another command has taken over the run in {uri}; this one stores nothing more")


def read_manifest(uri: str) -> dict[str, Any]:
    """The manifest of a finished run.

    Raises:
        RunFolderError: nothing is there, or the run is not finished.
    """
    try:
        manifest: dict[str, Any] = files.read_json(files.join(uri, "manifest.json"))
    except FileNotFoundError:
        state = "its run is not finished" if files.exists(files.join(uri, "config.toml")) else "it is no run folder"
        raise RunFolderError(f"expected a finished run in {uri}, but {state} (no manifest.json)") from None
    except ValueError as error:
        raise RunFolderError(f"expected JSON in {uri}/manifest.json, but it is damaged: {error}") from error
    return manifest


def refuse_bad(uri: str, manifest: dict[str, Any], config: BadConfig) -> None:
    """Say of a finished run that too many of its inputs were bad.

    Raises:
        QuarantineError: more than `config.max_bad` of its images are in quarantine.
    """
    bad, images = manifest["quarantined"], manifest["images"]
    if bad > config.max_bad * images:
        raise QuarantineError(
            f"the run in {uri} is complete, but {bad:,} of {images:,} images ({bad / images:.1%}) were bad, more than "
            f"--max-bad {config.max_bad:.1%}: {count_by_code(manifest['quarantine_codes'])}; "
            f"see {files.join(uri, 'quarantine')}"
        )


def count_by_code(codes: dict[str, int]) -> str:
    """Counts in words, such as "3 empty, 1 truncated"."""
    return ", ".join(f"{count} {code}" for code, count in codes.items())


def versions() -> dict[str, str]:
    """Versions of what determines results."""
    return {"cnnray": __version__} | {p: version(p) for p in ("torch", "torchvision", "ray", "pyarrow", "pillow")}


@dataclass(frozen=True, kw_only=True)
class _Head:
    kind: str
    source: str


def _check_same(uri: str, config: Any, kind: str, source: str) -> None:
    wanted = {"kind": kind, "source": source, **_listed(dataclasses.asdict(config))}
    found = _listed({f.name: f.default for f in dataclasses.fields(config)})  # of options younger than the run
    found |= tomllib.loads(files.read_bytes(files.join(uri, "config.toml")).decode())
    for key in wanted.keys() | found.keys():
        if key not in RESUMABLE_WITH and wanted.get(key) != found.get(key):
            raise RunFolderError(
                f"{uri} was started with {key} = {found.get(key)!r}, but this command has {wanted.get(key)!r}; "
                "repeat the first command to resume, or choose another --out"
            )


def _listed(values: dict[str, Any]) -> dict[str, Any]:
    """As TOML has them: lists for tuples."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


def _check_empty(uri: str) -> None:
    fs, path = files.filesystem(uri)
    if fs.exists(path) and fs.isfile(path):
        raise RunFolderError(f"expected a folder for the run, but {uri} is a file")
    others = [] if not fs.exists(path) else [n.rsplit("/", 1)[-1] for n in fs.ls(path, detail=False)]
    others = [name for name in others if not name.startswith(".")]
    if others:
        raise RunFolderError(f"expected a new or empty folder, but {uri} holds other things, such as {others[0]!r}")
