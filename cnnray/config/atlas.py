"""What is shown of the filters of a network."""

from dataclasses import dataclass

from cnnray.config.checks import at_least, one_of
from cnnray.config.network import BackboneConfig
from cnnray.config.sources import SourceConfig


@dataclass(frozen=True, kw_only=True)
class AtlasConfig(SourceConfig):
    """`cnnray visualize filters`.

    The network is by default the one whose weights come with cnnray, so that the command works without a download.
    Pictures are clearest of networks with max pooling, such as squeezenet1_1 or vgg16.

    Attributes:
        backbone: as of `cnnray features build`.
        weights: of the backbone: "default" (shipped or downloaded), "none" (random) or path or URI.
        size: height and width in px at which the network sees the images; 0 is its own.
        layers: convolutions by name; empty is the first, and the last of three stages. A wrong name lists them all.
        filters: most that are drawn of a layer, evenly spread over those that fire; 0 draws all. The table of the
            strongest images has all of them anyway.
        rule: how signals go back through ReLUs: "deconv", "guided" or "gradient"; "" is what shows most of the network.
        label_column: not used; labels are not looked at.
    """

    backbone: str = "efficientnet_lite0"
    weights: str = "default"
    size: int = 0
    layers: tuple[str, ...] = ()
    filters: int = 64
    rule: str = ""
    label_column: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("filters", self.filters, 0)
        one_of("rule", self.rule, ("", "deconv", "guided", "gradient"))
        BackboneConfig(backbone=self.backbone, size=self.size)

    @property
    def network(self) -> str:
        """Network and size in one name, from which it can be built."""
        return BackboneConfig(backbone=self.backbone, size=self.size).network
