"""Why a classifier answers as it does, beside its batches: a thread that explains, and its answers as they travel."""

import asyncio
import base64
from collections.abc import Callable

from cnnray.errors import CheckpointError, OptionError, StorageError
from cnnray.infer.cores import Cores
from cnnray.infer.explain import Explainer, pictures
from cnnray.ops.decode import decode
from cnnray.ops.overlay import jpeg, png
from cnnray.serve.schemas import Explanation

EXPLAINED_SIDE = 512  # px; the schema says it too
_QUALITY = 90  # of the JPEG


class Reasons:
    """Explanations beside a replica's batches: one at a time, in a thread that computes on one core.

    A thread of its own, and no lock around others: a request that was given up leaves its explanation running, and the
    next one must wait for that too.

    Args:
        load: the explainer, when it is first asked for. Its OptionError stands; after another error it is called again.
    """

    def __init__(self, load: Callable[[], Explainer]) -> None:
        self._load = load
        self._thread = Cores(1)
        self._loaded: Explainer | OptionError | None = None

    async def why(self, image: bytes, label: str) -> Explanation | OptionError:
        """What speaks for a class in an encoded image, or why this network cannot say it.

        Raises:
            StorageError: the checkpoint is gone, or another.
        """
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._why, image, label)

    def _why(self, image: bytes, label: str) -> Explanation | OptionError:
        if self._loaded is None:
            try:
                self._loaded = self._load()
            except OptionError as error:
                self._loaded = OptionError(f"this network's answers cannot be explained: {error}")
        return self._loaded if isinstance(self._loaded, OptionError) else explanation(self._loaded, image, label)


def load_explainer(uri: str, device: str, weights_sha256: str) -> Explainer:
    """The explainer of the checkpoint that the service was started with.

    Args:
        uri, device: as of `Explainer`.
        weights_sha256: of the classifier that answers.

    Raises:
        OptionError: no stage of the network has a map.
        StorageError: the checkpoint is gone, or another.
    """
    try:
        explainer = Explainer.load(uri, device=device)
    except CheckpointError as error:
        raise StorageError(f"the checkpoint that the service was started with cannot be read now: {error}") from error
    if explainer.card.weights_sha256 != weights_sha256:
        raise StorageError(f"{uri} has changed since the service was started: expected weights {weights_sha256}")
    return explainer


def explanation(explainer: Explainer, image: bytes, label: str) -> Explanation:
    """What speaks for a class in an encoded image, as it travels.

    Raises:
        ImageError, UnknownNameError: as `Explainer.why`.
    """
    photo_HWC, found = decode(image), explainer.why(image, label)
    shown = pictures(photo_HWC, found, EXPLAINED_SIDE)
    height, width = photo_HWC.shape[:2]
    top, left, bottom, right = found.seen
    return Explanation(
        label=found.label,
        probability=found.probability,
        stage=explainer.stage,
        height=height,
        width=width,
        seen=[left, top, right, bottom],
        overlay=_base64(jpeg(shown.overlay_HWC, _QUALITY)),
        heat=_base64(png(shown.heat_HW)),
        guided=None if shown.guided_HWC is None else _base64(png(shown.guided_HWC)),
        note=found.note,
    )


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
