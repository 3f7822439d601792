"""An embedder of faces as a task of the training loop.

Legend: b faces of a worker's part of a batch, B of the whole one, S px side. A batch is (images_bCHW uint8 [b, 3, S, S]
in channels_last memory, labels_B int64, numbers_b int64: places in the whole, seed int64 [1]).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cnnray.config import FacesConfig
from cnnray.nn.backbones import find_spec
from cnnray.nn.checkpoint import load_checkpoint, load_into
from cnnray.nn.embedders import BACKBONE, EMBEDDERS, BackboneEmbedder, EmbeddingNet, build_embedding_net
from cnnray.nn.finetune import check_unfreeze, default_unfreeze
from cnnray.ops.metric_losses import Gathered, binary_loss, binary_pairs, contrastive_loss, distances, triplet_loss
from cnnray.train.gather import gather_rows
from cnnray.train.loop import Step
from cnnray.train.optim import Group

MARGINS = {"triplet": 0.2, "siamese": 1.0, "binary": 0.0}


def architecture(config: FacesConfig) -> dict[str, Any]:
    """What `build_embedding_net` builds the network from.

    Raises:
        UnknownNameError: no such network to start from.
    """
    head = {"head": "logistic" if config.loss == "binary" else ""}
    if config.start in EMBEDDERS:
        return {"model": config.start} | head
    name = find_spec(config.start).name
    return {"model": BACKBONE, "backbone": name, "num_features": config.num_features} | head


@dataclass(frozen=True)
class FacesTask:
    """See `loop.Task`.

    Attributes:
        config: of the run.
        prepared: checkpoint that a backbone starts from, see `prepare_start`; "" starts from `config.weights` alone.
        num_images: to learn from; of a backbone they decide how many stages learn where `config.unfreeze` is -1.
    """

    config: FacesConfig
    prepared: str = ""
    num_images: int = 0

    def build(self) -> EmbeddingNet:
        """The network before training."""
        if not self.prepared:
            return build_embedding_net(architecture(self.config), self.config.weights)
        net = build_embedding_net(architecture(self.config))
        load_into(net, load_checkpoint(self.prepared)[0], self.prepared)
        return net

    def groups(self, model: nn.Module) -> Sequence[Group]:
        """What is new learns at the full rate, what is pre-trained more slowly; a backbone's lowest stages may not."""
        assert isinstance(model, EmbeddingNet)
        rate = 1.0 if self.config.weights == "none" else self.config.backbone_lr
        head = (model.head,) if model.head is not None else ()
        if not isinstance(model.body, BackboneEmbedder):
            return [Group((model.body,), rate), *([Group(head)] if head else [])]
        stages = list(model.body.extractor.lower)
        count = self.config.unfreeze
        if count == -1:
            fresh = self.config.weights == "none"
            count = len(stages) if fresh else default_unfreeze(self.num_images, len(stages))
        check_unfreeze(count, [str(number) for number in range(len(stages))])
        learning = tuple(stages[len(stages) - count :])
        return [*([Group(learning, rate)] if learning else []), Group((model.body.projection, *head))]

    def step(self, model: Any, batch: tuple[Tensor, ...]) -> Step:
        """Loss of this worker's faces against all of the batch; the score is the share whose nearest other is right."""
        images, labels, numbers, seed = batch
        embedded = model(images)
        gathered = Gathered(embedded, gather_rows(embedded, numbers, len(labels)), labels, numbers)
        loss, weight = self._loss(model, gathered, seed)
        away = distances(embedded.detach(), gathered.others_BD.detach()).masked_fill(gathered.itself_AB, torch.inf)
        right = gathered.same_AB.gather(1, away.argmin(1, keepdim=True)).sum()
        return Step(loss, weight, right, len(images))

    def _loss(self, model: Any, gathered: Gathered, seed: Tensor) -> tuple[Tensor, Tensor]:
        """Sums of loss and weight."""
        margin, total = self.config.margin or MARGINS[self.config.loss], len(gathered.labels_B)
        if self.config.loss == "triplet":
            generator = torch.Generator().manual_seed(int(seed))
            choice = torch.rand(total, total, generator=generator).to(seed.device)[gathered.numbers_A]
            return triplet_loss(gathered, margin, self.config.mining, choice)[:2]
        if self.config.loss == "siamese":
            loss, weight = contrastive_loss(gathered, margin)
        else:
            pairs = binary_pairs(gathered)
            inner = getattr(model, "module", model)  # of data parallelism, whose hooks are the parameters' own
            loss, weight = binary_loss(inner.head(pairs.differences_nD), pairs.targets_n, pairs.weights_n)
        return loss * total, weight * total  # as other tasks' sums over examples, which float16 is scaled for
