"""How networks learn to paint."""

from dataclasses import dataclass

from cnnray.config.checks import at_least
from cnnray.config.sources import ManifestConfig
from cnnray.config.stylize import JudgeConfig
from cnnray.config.training import TrainConfig
from cnnray.errors import OptionError


@dataclass(frozen=True, kw_only=True)
class StyleTrainConfig(TrainConfig, ManifestConfig, JudgeConfig):
    """`cnnray train stylize`: one network that paints several styles, on photos without labels.

    Attributes:
        crop: side in px of the squares of photos that are painted.
        style_size: shorter side in px of the style pictures; larger shows their strokes larger; 0 is the crop's.
        width: channels of the first layer; twice and four times as many follow.
        blocks: residual blocks in the middle.
        style_loss, content_loss, variation_loss: weights of the losses, see `cnnray.nn.stylize.Losses`.
        val_fraction: of the photos.
        label_column: not used; photos have no labels.
    """

    crop: int = 192
    style_size: int = 0
    width: int = 16
    blocks: int = 5
    style_loss: float = 10.0
    content_loss: float = 2.0
    variation_loss: float = 2.0
    val_fraction: float = 0.05
    label_column: str = ""
    epochs: int = 40
    batch_size: int = 4
    lr: float = 2e-3
    weight_decay: float = 0.0
    ema: float = 0.99

    def __post_init__(self) -> None:
        TrainConfig.__post_init__(self)
        ManifestConfig.__post_init__(self)
        for name in ("width", "blocks"):
            at_least(name, getattr(self, name), 1)
        at_least("crop", self.crop, 64)
        if self.style_size and self.style_size < 32:
            raise OptionError(f"style_size must be at least 32 px, or 0, got {self.style_size}")
        for name in ("style_loss", "content_loss", "variation_loss"):
            at_least(name, getattr(self, name), 0)
        if not self.style_loss:
            raise OptionError("style_loss must be above 0: without it nothing is painted")
        if not 0 < self.val_fraction < 1:
            raise OptionError(f"val_fraction is a fraction between 0 and 1, got {self.val_fraction}")
