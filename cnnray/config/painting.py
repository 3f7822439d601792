"""How a trained network paints."""

from dataclasses import dataclass

from cnnray.config.checks import at_least, one_of
from cnnray.config.sources import SourceConfig
from cnnray.errors import OptionError


@dataclass(frozen=True, kw_only=True)
class PaintConfig(SourceConfig):
    """`cnnray stylize --method fast`.

    Attributes:
        painter: checkpoint folder of a trained network; "" is the one that comes with cnnray.
        strength: share of the painting, 0 to 1; the rest is the photo.
        keep_colors: whether the photo's colours stay, and only light and dark are painted.
        longest_side: px to which larger photos are brought; 0 leaves all as they are.
        format: of the paintings, "jpg" or "png".
        label_column: not used; photos have no labels.
    """

    painter: str = ""
    strength: float = 1.0
    keep_colors: bool = False
    longest_side: int = 0
    format: str = "jpg"
    label_column: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.strength <= 1:
            raise OptionError(f"strength must be from 0 to 1, got {self.strength}")
        at_least("longest_side", self.longest_side, 0)
        one_of("format", self.format, ("jpg", "png"))
