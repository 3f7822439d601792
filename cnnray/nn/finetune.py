"""A pre-trained network and a new head as one classifier whose upper stages can be trained.

How transferable are features in deep neural networks?, Yosinski et al. 2014, arXiv:1411.1792: low stages are general
    and high ones specific, so the high ones gain most from training
Universal Language Model Fine-tuning (ULMFiT), Howard and Ruder 2018, arXiv:1801.06146: gradual unfreezing, and
    discriminative learning rates
"""

import math
from collections.abc import Sequence

from torch import Tensor, nn

from cnnray.errors import OptionError
from cnnray.nn.backbones import Extractor
from cnnray.nn.heads import Head

FEW_IMAGES, MANY_IMAGES = 100, 20_000


class FinetuneNet(nn.Module):
    """Images, or the activations of a lower stage, to logits.

    Args:
        extractor: with all stages below the classifier, pooling.
        head: features [N, D] to logits [N, K].
        below: stages, counted from the bottom, that are left out of `forward`: what comes in is their output. 0 takes
            images.
    """

    def __init__(self, extractor: Extractor, head: Head, below: int = 0) -> None:
        super().__init__()
        self.backbone = extractor
        self.head = head
        self.below = below

    @property
    def stages(self) -> list[nn.Module]:
        """The stages of the network, lowest first."""
        return list(self.backbone.lower)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, K].

        Args:
            x: images [N, 3, H, W], uint8 or float in [0, 1]; with `below` the activations [N, C, H', W'].
        """
        if not self.below:
            logits: Tensor = self.head(self.backbone(x))
            return logits
        for stage in self.stages[self.below :]:
            x = stage(x)
        logits = self.head(self.backbone.pooled(x))
        return logits


def default_unfreeze(num_images: int, num_stages: int) -> int:
    """Stages to train, counted from the top, for a data set of that size.

    None at 100 images or fewer, where training stages would learn the images by heart; all at 20,000 or more; between
    them in proportion to the logarithm.
    """
    share = math.log(max(num_images, 1) / FEW_IMAGES) / math.log(MANY_IMAGES / FEW_IMAGES)
    return round(min(max(share, 0.0), 1.0) * num_stages)


def check_unfreeze(count: int, taps: Sequence[str], below: int = 0) -> None:
    """Refuse to train stages that are not there.

    Args:
        count: stages to train, from the top.
        taps: names of all stages below the classifier.
        below: stages whose output is stored.

    Raises:
        OptionError: more stages than there are above the stored activations.
    """
    if count > len(taps) - below:
        where = f"above the stored activations of {taps[below - 1]!r}" if below else "in the network"
        raise OptionError(
            f"expected unfreeze of at most {len(taps) - below}, the number of stages {where} "
            f"({', '.join(taps[below:])}), got {count}"
        )
