"""What is asked of the pipeline of faces."""

from dataclasses import dataclass, fields

from cnnray.config.checks import at_least, one_of
from cnnray.config.prediction import PredictConfig
from cnnray.errors import OptionError

PICKS = ("largest", "central", "only")


@dataclass(frozen=True, kw_only=True)
class FaceSearchConfig:
    """Which faces are looked for in an image.

    Attributes:
        confidence: least score of a face, see `cnnray.nn.faces.DlibDetector`; lower ones find more, and more that is
            none.
        smallest_face: side in px of the smallest faces looked for, from 20; smaller takes longer, with the square. In
            images of more than 4 Mpx it grows with them.
        rotated: also look for faces that lie on their side or upside down, in five times the time. Without it they are
            missed, or found with landmarks that are wrong.
        most: faces of an image, best first.
    """

    confidence: float = 0.0
    smallest_face: int = 40
    rotated: bool = False
    most: int = 100

    def __post_init__(self) -> None:
        at_least("smallest_face", self.smallest_face, 20)
        at_least("most", self.most, 1)
        if not -1 <= self.confidence <= 2:
            raise OptionError(f"confidence must be from -1 to 2, got {self.confidence}")

    @property
    def search(self) -> "FaceSearchConfig":
        """These options alone, of a class with more."""
        return FaceSearchConfig(**{field.name: getattr(self, field.name) for field in fields(FaceSearchConfig)})


@dataclass(frozen=True, kw_only=True)
class EmbedderConfig:
    """What turns an aligned face into numbers.

    Attributes:
        embedder: a name that `cnnray.nn.embedders` lists, or the checkpoint of one that was trained here.
        embedder_weights: of a name: "default", or as that network says (such as "casia-webface"), or a path or URI.
        views: times that a face is looked at, in another crop and mirrored; see `cnnray.nn.embedders`.
    """

    embedder: str = "dlib_resnet"
    embedder_weights: str = "default"
    views: int = 2

    def __post_init__(self) -> None:
        if self.views not in (1, 2, 4):
            raise OptionError(f"views must be 1, 2 or 4, got {self.views}")


@dataclass(frozen=True, kw_only=True)
class VerifyConfig(FaceSearchConfig, EmbedderConfig):
    """`cnnray faces verify`.

    Attributes:
        threshold: largest distance of two faces of one person; -1 is the embedder's own.
        pick: which face of an image with several: the "largest", the most "central", or "only", which refuses several.
    """

    threshold: float = -1.0
    pick: str = "largest"

    def __post_init__(self) -> None:
        FaceSearchConfig.__post_init__(self)
        EmbedderConfig.__post_init__(self)
        one_of("pick", self.pick, PICKS)
        if self.threshold != -1 and not 0 <= self.threshold <= 2:
            raise OptionError(f"threshold is a distance from 0 to 2, or -1; got {self.threshold}")


@dataclass(frozen=True, kw_only=True)
class FacesPredictConfig(PredictConfig, FaceSearchConfig, EmbedderConfig):
    """`cnnray faces detect` over a whole source.

    Attributes:
        embed: also store each face's embedding.
        crops: also store each aligned face as a JPEG of 150 px.
        draw: also store each image with its faces.
    """

    embed: bool = False
    crops: bool = False
    draw: bool = False

    def __post_init__(self) -> None:
        PredictConfig.__post_init__(self)
        FaceSearchConfig.__post_init__(self)
        EmbedderConfig.__post_init__(self)


@dataclass(frozen=True, kw_only=True)
class FacesEvaluateConfig(FacesPredictConfig):
    """`cnnray evaluate faces`.

    Attributes:
        pairs: list of pairs to verify, LFW's pairs.txt or a CSV; see `cnnray.data.face_pairs`.
        identification: also look for everybody in a gallery, see `cnnray.ops.enrolment`.
        pick: which face of an image with several: the most "central", the "largest", or "only", which takes several
            for none.
        strangers: share of the people with two or more images who are left out of the gallery, to see whether they are
            taken for somebody in it.
        seed: of the choice of these people.
        draw_worst: mistakes of each kind that the report shows.
    """

    pairs: str = ""
    identification: bool = False
    pick: str = "central"
    strangers: float = 0.5
    seed: int = 0
    draw_worst: int = 12
    embed: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("pick", self.pick, PICKS)
        at_least("draw_worst", self.draw_worst, 0)
        at_least("seed", self.seed, 0)
        if not 0 < self.strangers < 1:
            raise OptionError(f"strangers must be a share above 0 and below 1, got {self.strangers}")
        if not self.embed:
            raise OptionError("embed must be on: faces are compared by their embeddings")
