"""The first pass of an atlas of filters: the strongest images of each are remembered. No Ray in here.

RUN/states/*.parquet        COLUMNS of `cnnray.ops.strongest`: what entered the top nine while a unit passed by
RUN/predictions/*.parquet   id, path of the images that have passed by
"""

from collections.abc import Sequence
from threading import Lock

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from cnnray.config import AtlasConfig
from cnnray.data.feature_store import Outputs
from cnnray.data.predict import answer_unit
from cnnray.errors import ImageError
from cnnray.infer.cores import Cores
from cnnray.infer.visualize import TopNine
from cnnray.nn.backbones import Backbone, build_backbone
from cnnray.nn.spec import BackboneSpec
from cnnray.ops.augment import plain_view
from cnnray.ops.decode import decode
from cnnray.ops.strongest import State, merge_states, state_columns

STATES = "states"
KEPT = 9  # images of each filter: three by three, as in the paper
SEEN_SCHEMA = pa.schema({"id": pa.string(), "path": pa.string()})


def load_network(config: AtlasConfig) -> Backbone:
    """The network that is looked into; random weights are the same ones in every process.

    Raises:
        UnknownNameError, OptionError, CheckpointError, StorageError: as `build_backbone`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_backbone(config.network, config.weights)


class StrongestStage:
    """Lets the images of a unit pass by, and stores those that enter the top nine of a filter.

    What has passed by must survive a kill, so each unit stores something, and whole states would add up: 9 images of
    each of some thousand filters for every 256 images. But an actor knows the top nine of the units that it has already
    stored, so of a unit it stores only what enters those: of the first images all, of the hundredth what enters in nine
    of a hundred cases. Nothing is lost: what does not enter is weaker than nine images that are stored. Measured with
    480 filters and 2,640 photos in 11 units: 30 rows for each filter, not 99, and 4 kB by the last unit, not 41.

    Args:
        config: of the run.
        layers: names.
        outputs: where to store.
        threads: cores to use; each runs images through the network by itself.
        gpu: whether on a GPU, which takes the unit in one thread.
    """

    def __init__(
        self, config: AtlasConfig, layers: Sequence[str], outputs: Outputs, *, threads: int, gpu: bool
    ) -> None:
        torch.set_num_threads(1)
        self._backbone, self._layers, self._outputs = load_network(config), list(layers), outputs
        self._device, self._parts = ("cuda", 1) if gpu else ("cpu", threads)
        self._pool = Cores(threads)
        self._stored = TopNine(self._backbone, layers, KEPT, self._device).state
        self._lock = Lock()

    def __call__(self, unit: pa.Table) -> pa.Table:
        """Store what enters, and one row per image, of a unit that `read_unit` filled; returns counts.

        Raises:
            RunFolderError: another command has taken over the run.
            StorageError: disk full or unreachable.
        """
        ids = unit.filter(pc.is_valid(unit["bytes"]))["id"].to_pylist()
        state: State = {}

        def see(contents: list[bytes]) -> list[Tensor | ImageError]:
            nonlocal state
            views = list(self._pool.map(self._view, contents))
            state = self._passed_by(ids, views)
            self._store(state, ids)  # before the rows that say that these images are done with
            return views

        counts = answer_unit(unit, self._outputs, SEEN_SCHEMA, see, lambda row, _: row)
        with self._lock:
            self._stored = merge_states(self._stored, state)
        return counts

    def _view(self, content: bytes) -> Tensor | ImageError:
        try:
            return view(content, self._backbone.spec)
        except ImageError as error:
            return error

    def _passed_by(self, ids: Sequence[str], views: Sequence[Tensor | ImageError]) -> State:
        """The top nine of what is stored and of these images; without those that are bad."""
        good = [(item, image) for item, image in zip(ids, views, strict=True) if isinstance(image, Tensor)]
        size = max(1, -(-len(good) // self._parts))
        with self._lock:
            stored = self._stored

        def run(part: list[tuple[str, Tensor]]) -> State:
            top = TopNine(self._backbone, self._layers, KEPT, self._device, start=stored)
            top.update([item for item, _ in part], torch.stack([image for _, image in part]))
            return top.state

        state: State = {}
        for found in self._pool.map(run, [good[at : at + size] for at in range(0, len(good), size)]):
            state = merge_states(state, found)
        return state

    def _store(self, state: State, ids: Sequence[str]) -> None:
        if not state:
            return
        columns = state_columns(state)
        table = pa.table(columns)
        self._outputs.store(STATES, table.filter(pa.array(np.isin(columns["id"], np.array(ids, str)))))


def view(content: bytes, spec: BackboneSpec) -> Tensor:
    """An encoded image as the network sees it: uint8 [3, size, size].

    Raises:
        ImageError: bytes that are not an acceptable image.
    """
    return plain_view(decode(content), size=spec.input_size, resize=spec.resize, interpolation=spec.interpolation)
