"""The deployment that keeps galleries of faces: a record, and the galleries that this replica has open."""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
from fastapi import Request
from numpy.typing import NDArray
from ray import serve

from cnnray import files
from cnnray.config import QualityPolicy, RecordConfig, ServeConfig
from cnnray.errors import CnnrayError, GalleryError, RecordError
from cnnray.infer.gallery.gallery import Gallery, drop_gallery
from cnnray.infer.gallery.opening import forget_dropped, snapshot_folder
from cnnray.infer.gallery.record import Record
from cnnray.infer.gallery.results import Recognition
from cnnray.infer.gallery.rows import Contract, FaceRow, GalleryRow, IdentityRow
from cnnray.serve.answers import outcome, unless_error
from cnnray.serve.metrics import GalleryMetrics
from cnnray.serve.replica import queues

NAME = "galleries"
UPKEEP_SECONDS = 3.0
_THREADS = 16  # each keeps what it worked with; more than a few wait only for a record that is far away
_OPENING_SECONDS = 0.2  # that a request waits for another that opens its gallery
_UNAWARE = ("get", "people", "verify")  # these would look for people of a gallery that was dropped

logger = logging.getLogger("ray.serve")


async def ask(request: Request, what: str, /, *args: Any, **options: Any) -> Any:
    """What a method of `OpenGalleries` answers.

    Raises:
        GalleryError, RecordError: that it raises; also "no_gallery", of a service without a record.
    """
    handle = request.app.state.models.get(NAME)
    if handle is None:
        raise GalleryError("no_gallery", "this service keeps no galleries: it was started without the option record")
    return unless_error(await handle.ask.remote(what, *args, **options))


async def ask_timed(request: Request, what: str, /, *args: Any, **options: Any) -> tuple[Any, float]:
    """As `ask`, and the milliseconds that it took."""
    began = time.perf_counter()
    answer = await ask(request, what, *args, **options)
    return answer, 1000 * (time.perf_counter() - began)


class OpenGalleries:
    """The galleries of a record, each opened when it is first used; safe to call from several threads.

    Other processes may change the record at the same time, also drop a gallery and make another of its name.

    Args:
        config: where the record is. Raises what `Record` does.
    """

    def __init__(self, config: RecordConfig) -> None:
        self._config = config
        self._record = Record(config.record)
        self._opened: dict[str, Gallery] = {}
        self._opening: dict[str, threading.Lock] = {}
        self._changing = threading.Lock()
        self._has_dropped = True

    def close(self) -> None:
        """Close all connections to the record."""
        self._record.close()

    def self_test(self) -> None:
        """Read the record, or raise RecordError."""
        self._record.find_identities([0])

    def create(self, name: str, contract: Contract, policy: QualityPolicy | None) -> dict[str, Any]:
        """A new gallery, see `Record.create_gallery`; answers as `Gallery.describe`."""
        self._record.create_gallery(name, contract, policy)
        described: dict[str, Any] = self.use(name, "describe")
        return described

    def list_galleries(self) -> list[tuple[GalleryRow, int, int]]:
        """All galleries by name, with the numbers of their identities and faces."""
        return self._record.list_galleries()

    def drop(self, name: str) -> str:
        """See `drop_gallery`."""
        entry = drop_gallery(self._record, name, self._config)
        self._has_dropped = True
        self._forget(name, self._opened.get(name))
        return entry

    def use(self, name: str, method: str, /, *args: Any, model: str = "", **options: Any) -> Any:
        """What a method of the `Gallery` of that name answers.

        Args:
            model: name of what made the embeddings that are in `args`; "" where there are none.

        Raises:
            GalleryError: "no_gallery"; "model_mismatch"; "gallery_opening": another thread is reading it; else as the
                method.
        """
        gallery = self._find(name)
        try:
            return self._call(gallery, method, args, model, options)
        except GalleryError as error:
            if error.code != "no_gallery":
                raise
        # The one that we have open was dropped, in an instant before it changed; there may be another of its name.
        self._forget(name, gallery)
        return self._call(self._find(name), method, args, model, options)

    def recognize(
        self, name: str, model: str, embeddings: Sequence[NDArray[np.float32]], **options: Any
    ) -> Recognition:
        """See `Gallery.recognize`; of no embeddings at all the answer tells version and threshold."""
        num_features = self._find(name).row.contract.num_features
        stacked_ND = np.stack(embeddings) if embeddings else np.zeros((0, num_features), np.float32)
        found: Recognition = self.use(name, "recognize", stacked_ND, model=model, **options)
        return found

    def update(self, name: str, key: str, /, **values: Any) -> tuple[IdentityRow, list[FaceRow]]:
        """See `Gallery.update`; answers as `Gallery.get`."""
        self.use(name, "update", key, **values)
        changed: tuple[IdentityRow, list[FaceRow]] = self.use(name, "get", key)
        return changed

    def open_snapshots(self) -> None:
        """Open the galleries of which there is a snapshot, so that faces that were erased while nobody looked go."""
        for row, _, _ in self._record.list_galleries():
            folder = snapshot_folder(self._record, row, self._config)
            if folder and files.exists(folder):
                with contextlib.suppress(GalleryError):  # dropped meanwhile, or a request is opening it
                    self._find(row.name)

    def maintain(self) -> None:
        """See `Gallery.maintain`; of all that are open, and of those that were dropped. What fails is logged, and tried
        again next time."""
        self._record.maintain()
        if self._has_dropped:
            self._has_dropped = False  # before, not after: another may be dropped meanwhile
            try:
                forget_dropped(self._record, self._config)
            except CnnrayError as error:
                self._has_dropped = True
                logger.warning("galleries: snapshots of dropped ones are still to be removed: %s", error)
        for name, gallery in list(self._opened.items()):
            try:
                gallery.maintain()
            except RecordError as error:
                logger.warning("galleries: upkeep waits for the record: %s", error)
                return
            except GalleryError:
                self._forget(name, gallery)  # dropped
            except CnnrayError as error:
                logger.warning("galleries: upkeep of %s failed: %s", name, error)

    def sizes(self) -> dict[str, dict[str, Any]]:
        """Of those that are open, what `FaceIndex.describe` says."""
        return {name: gallery.index.describe() for name, gallery in list(self._opened.items())}

    def _find(self, name: str) -> Gallery:
        found = self._opened.get(name)
        if found is not None:
            return found
        self._record.get_gallery(name)  # raises: no lock is kept for a name that is none
        with self._changing:
            alone = self._opening.setdefault(name, threading.Lock())
        if not alone.acquire(timeout=_OPENING_SECONDS):  # two threads must not read the same one, nor many wait for it
            raise GalleryError("gallery_opening", f"gallery {name!r} is being opened; a large one takes minutes")
        try:
            if (found := self._opened.get(name)) is None:
                found = Gallery.open(self._record, name, self._config)
                with self._changing:
                    self._opened[name] = found
            return found
        finally:
            alone.release()

    def _forget(self, name: str, gallery: Gallery | None) -> None:
        with self._changing:
            if gallery is not None and self._opened.get(name) is gallery:
                del self._opened[name]

    def _call(self, gallery: Gallery, method: str, args: Any, model: str, options: dict[str, Any]) -> Any:
        if model:
            gallery.row.check_model(model)
        if method in _UNAWARE:
            gallery.catch_up()
        return getattr(gallery, method)(*args, **options)


class Galleries:
    """A replica: `OpenGalleries` in threads, and their upkeep in one more."""

    def __init__(self, config: ServeConfig) -> None:
        self._galleries = OpenGalleries(config.galleries)
        self._pool = ThreadPoolExecutor(min(config.max_ongoing, _THREADS))
        self._ended = threading.Event()
        threading.Thread(target=self._keep_up, daemon=True).start()

    async def ask(self, what: str, /, *args: Any, **options: Any) -> Any:
        """What a method answers, or its GalleryError or RecordError, which Ray would wrap if it were raised."""
        call = partial(outcome, getattr(self._galleries, what), *args, **options)
        return await asyncio.get_running_loop().run_in_executor(self._pool, call)

    async def self_test(self) -> None:
        """Read the record, or raise; not behind others in the pool."""
        await asyncio.to_thread(self._galleries.self_test)

    def _keep_up(self) -> None:
        metrics = GalleryMetrics()
        start = outcome(self._galleries.open_snapshots)
        if start is not None:
            logger.warning("galleries: snapshots are looked at when their galleries are used: %s", start)
        while not self._ended.wait(UPKEEP_SECONDS):
            try:
                self._galleries.maintain()
                for name, index in self._galleries.sizes().items():
                    metrics.show(name, index["identities"], index["version"], index["recall"])
            except Exception:  # of whatever kind: without upkeep, erased faces would stay in snapshots
                logger.exception("galleries: upkeep failed")

    def __del__(self) -> None:
        self._ended.set()


def deploy(config: ServeConfig) -> Any:
    """The deployment, bound to its options. It reserves no core, so galleries fit wherever their faces do."""
    shared = config.record.partition("://")[0].startswith("postgresql") and "://" in config.record
    most = config.most_replicas
    if not shared and most > 1:
        logger.warning("one replica serves the galleries, not %d: their record is a SQLite file", most)
    deployment = serve.deployment(
        name=Galleries.__name__,
        num_replicas=most if shared else 1,
        **queues(config),
        ray_actor_options={"num_cpus": 0},
    )
    return deployment(Galleries).bind(config)
