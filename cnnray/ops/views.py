"""The views of an image: view 0 is plain, views 1 to K are augmented, each from a seed of its own.

The feature pipeline stores what the network says about these views, and training that augments online makes the very
same ones: a view depends on the image's bytes, its id, the run's seed and the view's number, on nothing else.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from cnnray.errors import ImageError
from cnnray.ops.augment import build_augment, plain_view
from cnnray.ops.decode import decode
from cnnray.ops.mix import mixup_pair, sample_lam
from cnnray.ops.seeds import generator_for


@dataclass(frozen=True, kw_only=True)
class ViewMaker:
    """Makes views of encoded images.

    Attributes:
        size, resize, interpolation: the plain view: shorter side to `resize` px, then the centre `size` x `size`.
        augment: preset of the augmented views, see `cnnray.ops.augment`.
        mixup_alpha: Beta(a, a) of input mixup on augmented views; 0 is off (Zhang et al. 2018, equation 1).
        seed: of the run.
    """

    size: int
    resize: int
    interpolation: str
    augment: str = "standard"
    mixup_alpha: float = 0.0
    seed: int = 0

    def view(
        self, image_HWC: npt.NDArray[np.uint8], item_id: str, number: int, partner: bytes | None = None
    ) -> tuple[torch.Tensor, float]:
        """One view of a decoded image.

        Args:
            image_HWC: uint8 RGB.
            item_id: the image's id.
            number: 0 for the plain view, else which augmented one.
            partner: encoded image to mix in, where mixup is on.

        Returns:
            uint8 [3, size, size], and the share of this image in it: 1.0 where nothing was mixed in (also where the
            partner is a bad image; it has its own quarantine entry).
        """
        if number == 0:
            plain = plain_view(image_HWC, size=self.size, resize=self.resize, interpolation=self.interpolation)
            return plain, 1.0
        augment = build_augment(self.augment, size=self.size, interpolation=self.interpolation)
        generator = generator_for(item_id, self.seed, number)
        view = augment(image_HWC, generator)
        if not self.mixup_alpha or partner is None:
            return view, 1.0
        lam = sample_lam(self.mixup_alpha, generator)
        try:
            other = augment(decode(partner), generator)
        except ImageError:
            return view, 1.0
        # rounded to whole levels, so that mixed and plain views travel and are stored alike
        mixed = mixup_pair(view.float(), other.float(), lam).round().to(torch.uint8)
        return mixed, lam

    def views(self, data: bytes, item_id: str, partners: Sequence[bytes | None]) -> tuple[torch.Tensor, list[float]]:
        """View 0 and one augmented view per entry of `partners`, decoded once.

        Returns:
            uint8 [1 + K, 3, size, size] in channels_last memory, and the 1 + K shares.

        Raises:
            ImageError: `data` is no acceptable image.
        """
        image = decode(data)
        made = [self.view(image, item_id, 0)]
        made += [self.view(image, item_id, number, partner) for number, partner in enumerate(partners, start=1)]
        images = torch.stack([view.permute(1, 2, 0) for view, _ in made]).permute(0, 3, 1, 2)
        return images, [lam for _, lam in made]
