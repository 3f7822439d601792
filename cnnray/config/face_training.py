"""How networks learn to embed faces."""

from dataclasses import dataclass

from cnnray.config.checks import at_least, one_of
from cnnray.config.faces import PICKS, FaceSearchConfig
from cnnray.config.sources import ManifestConfig
from cnnray.config.training import TrainConfig
from cnnray.errors import OptionError


@dataclass(frozen=True, kw_only=True)
class FacesConfig(TrainConfig, ManifestConfig, FaceSearchConfig):
    """`cnnray train faces`.

    Attributes:
        start: network to start from: "dlib_resnet" or "inception_resnet_v1", which know faces already, or a backbone
            that `cnnray models` lists.
        weights: of it: "default", "none" or as it says; or a path or URI.
        num_features: numbers of an embedding, of a backbone; the others have their own.
        loss: "triplet"; "siamese" (contrastive, of pairs); or "binary" (a logistic unit on the distance of a pair).
        mining: of triplets: "random", "semihard" or "hard" negatives; hard ones with the farthest positives too.
        margin: of the loss, between embeddings of length 1 (of triplets: of squared distances); 0 is 0.2 for triplets
            and 1 for pairs.
        images_per_person: K; a batch has batch_size / K people.
        unfreeze: stages of a backbone, counted from the top, that learn below the new layer; -1 chooses by the number
            of faces, see `cnnray.nn.finetune.default_unfreeze`, and all without weights. Of the others all learns.
        backbone_lr: learning rate of a pre-trained network, as a share of `lr`.
        augment: preset of the random views, see `cnnray.ops.face_views`.
        val_people: share of the people who are held out, whole, to validate with, where the source has no val split.
        pick: which face of a photo with several: the most "central", the "largest", or "only", which leaves out the
            photo.
        aligned: the images are aligned faces, cut out as by `cnnray.ops.align` with a padding of 0.25: nothing is
            searched for.
        max_bad: training is refused when a larger fraction of the images is bad or shows no face.
        monitor: the score is the share of validation faces whose nearest other one shows the same person.
        draw_worst: pairs that the report shows.
    """

    start: str = "dlib_resnet"
    weights: str = "default"
    num_features: int = 256
    loss: str = "triplet"
    mining: str = "semihard"
    margin: float = 0.0
    images_per_person: int = 4
    unfreeze: int = -1
    backbone_lr: float = 0.2
    augment: str = "standard"
    val_people: float = 0.2
    pick: str = "central"
    aligned: bool = False
    draw_worst: int = 8
    epochs: int = 20
    batch_size: int = 64
    weight_decay: float = 0.05
    clip: float = 10.0
    monitor: str = "score"
    max_bad: float = 0.1

    def __post_init__(self) -> None:
        TrainConfig.__post_init__(self)
        ManifestConfig.__post_init__(self)
        FaceSearchConfig.__post_init__(self)
        _check_choices(self)
        at_least("images_per_person", self.images_per_person, 2)
        at_least("num_features", self.num_features, 2)
        for name in ("margin", "draw_worst"):
            at_least(name, getattr(self, name), 0)
        at_least("unfreeze", self.unfreeze, -1)
        if self.batch_size % self.images_per_person or self.batch_size < 2 * self.images_per_person:
            raise OptionError(
                "batch_size must be a multiple of images_per_person and hold two people, got "
                f"{self.batch_size} of {self.images_per_person}"
            )
        if self.accumulate > 1:
            raise OptionError("accumulate must be 1: faces of one batch are compared with each other")
        for name in ("backbone_lr", "val_people"):
            if not 0 < getattr(self, name) <= (1 if name == "backbone_lr" else 0.9):
                raise OptionError(f"{name} is a share above 0 and at most 1 (0.9 of people), got {getattr(self, name)}")


def _check_choices(config: FacesConfig) -> None:
    one_of("loss", config.loss, ("triplet", "siamese", "binary"))
    one_of("mining", config.mining, ("random", "semihard", "hard"))
    one_of("augment", config.augment, ("none", "light", "standard", "strong"))
    one_of("pick", config.pick, PICKS)
