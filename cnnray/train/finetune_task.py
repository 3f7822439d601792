"""The upper stages of a network, or a whole network, as a task of the training loop.

Apart from `finetune`, which writes checkpoint and report: a worker that only trains need not load what draws.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from cnnray.config import FinetuneConfig
from cnnray.data.feature_store import FeatureTable, load_features, read_parquet
from cnnray.data.stream import Stream
from cnnray.errors import DataError
from cnnray.nn.backbones import Backbone, build_backbone, build_extractor, find_spec
from cnnray.nn.finetune import FinetuneNet, check_unfreeze, default_unfreeze
from cnnray.nn.heads import build_head
from cnnray.train.feature_data import FeatureData, build_feature_data
from cnnray.train.head import soft_label_step
from cnnray.train.image_data import ImageData, build_image_data
from cnnray.train.loop import Step
from cnnray.train.optim import Group


@dataclass(frozen=True)
class FinetuneTask:
    """A network whose stages learn from the top down; see `loop.Task`.

    Attributes:
        config: of the run; backbone and weights say where the network starts.
        num_classes: K.
        unfreeze: stages that learn in the end, counted from the top.
        below: stages whose output comes in, counted from the bottom; 0 takes images.
    """

    config: FinetuneConfig
    num_classes: int
    unfreeze: int
    below: int = 0

    def build(self) -> FinetuneNet:
        """The network before training: published or random stages, and a head that knows nothing yet."""
        return self.assemble(build_backbone(self.config.network, self.config.weights))

    def assemble(self, backbone: Backbone) -> FinetuneNet:
        """`backbone` with a new head."""
        extractor = build_extractor(backbone)
        head = build_head("linear", extractor.num_features, self.num_classes, dropout=self.config.dropout)
        return FinetuneNet(extractor, head, self.below)

    def groups(self, model: nn.Module) -> Sequence[Group]:
        """The head from the start, then stage after stage from the top; all at once where nothing is pre-trained."""
        assert isinstance(model, FinetuneNet)
        config = self.config
        if config.weights == "none":
            return [Group((model,))]
        stages = [
            Group(
                (stage,),
                lr_scale=config.backbone_lr * config.lr_decay**number,
                first_epoch=config.head_epochs + number * config.stage_epochs,
                frozen_norms=config.norm == "frozen",
            )
            for number, stage in enumerate(model.stages[::-1][: self.unfreeze])
        ]
        return [Group((model.head,)), *stages]

    def step(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Step:
        """See `soft_label_step`."""
        return soft_label_step(model, batch)


def plan_task(config: FinetuneConfig, num_images: int, num_classes: int, tap: str = "") -> FinetuneTask:
    """The task, with the number of stages to unfreeze resolved.

    Args:
        num_images: to train on; decides the number where `config.unfreeze` is -1.
        tap: stage whose output is stored; "" trains on images.

    Raises:
        OptionError: more stages than there are.
    """
    taps = find_spec(config.network).taps[:-1]
    below = taps.index(tap) + 1 if tap else 0
    count = config.unfreeze
    if config.weights == "none":
        count = len(taps)
    elif count == -1:
        count = min(default_unfreeze(num_images, len(taps)), len(taps) - below)
    check_unfreeze(count, taps, below)
    return FinetuneTask(config, num_classes, count, below)


def build_image_parts(images: str, task: FinetuneTask, stream: Stream) -> tuple[FinetuneTask, ImageData]:
    """Task and data of a run on the images listed in the file `images`, the same in every process."""
    return task, build_image_data(read_parquet(images), find_spec(task.config.network), task.config, stream)


def build_activation_parts(features_run: str, task: FinetuneTask) -> tuple[FinetuneTask, FeatureData]:
    """Task and data of a run on stored activations, the same in every process."""
    return task, build_activation_data(load_features(features_run), task.config)


def build_activation_data(table: FeatureTable, config: FinetuneConfig) -> FeatureData:
    """Stored activations as training data.

    Raises:
        DataError: vectors instead of maps, or what `build_feature_data` refuses.
    """
    if table.features.ndim != 4:
        raise DataError(
            "expected stored maps [n, C, H, W] to train the layers above them, got vectors of "
            f"{table.features.shape[1]} numbers; build them with --pool none and the --tap below what is to learn"
        )
    return build_feature_data(table, config, config.batch_size, config.seed)


def network_of_features(table: FeatureTable, config: FinetuneConfig) -> FinetuneConfig:
    """`config` with the network that made the features."""
    network = table.manifest["backbone"]
    return replace(config, backbone=network["name"], weights=network["weights"], width=1.0, depth=1.0, size=0, phi=0.0)


def stage_names(task: FinetuneTask, backbone: Backbone) -> list[str]:
    """Names of the stages that learn, highest first."""
    return list(backbone.taps[:-1][::-1][: task.unfreeze])
