"""What determines the value of a feature, and the key under which it is known."""

import functools
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from cnnray.config import FeaturesConfig
from cnnray.nn.backbones import Backbone
from cnnray.nn.spec import BackboneSpec
from cnnray.ops.seeds import seed_for
from cnnray.ops.views import ViewMaker

# Raised when decoding, augmentation or pooling change what they produce: features of older code are then recomputed.
TRANSFORM_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything but the image that a feature's value depends on.

    Attributes:
        backbone, weights_sha256, tap, pool: the frozen network.
        precision: "float32" or "bfloat16".
        dtype: of the stored numbers.
        maker: makes the views.
        version: of the transforms.
    """

    backbone: str
    weights_sha256: str
    tap: str
    pool: str
    precision: str
    dtype: str
    maker: ViewMaker
    version: int = TRANSFORM_VERSION

    def key(self, content: bytes, item_id: str, view: int, partner: bytes | None = None) -> bytes:
        """sha256 (32 bytes) of all that determines the feature of `view`; view 0 does not depend on id and seed."""
        digest = _digest(self, view == 0).copy()
        digest.update(str(0 if view == 0 else seed_for(item_id, self.maker.seed, view)).encode())
        digest.update(content)
        digest.update(hashlib.sha256(partner).digest() if partner is not None else b"")
        return digest.digest()

    def keys(self, data: bytes, item_id: str, partners: Sequence[bytes | None]) -> list[bytes]:
        """Keys of view 0 and of one augmented view per entry of `partners`."""
        content = hashlib.sha256(data).digest()
        return [self.key(content, item_id, 0)] + [
            self.key(content, item_id, view, partner) for view, partner in enumerate(partners, start=1)
        ]


@functools.lru_cache(maxsize=8)  # asked for with every image
def _digest(recipe: Recipe, plain: bool) -> "hashlib._Hash":
    """The hash so far, of what images have in common; a plain view depends on nothing random."""
    maker = asdict(recipe.maker)
    if plain:
        maker = {name: maker[name] for name in ("size", "resize", "interpolation")}
    return hashlib.sha256(json.dumps({**asdict(recipe), "maker": maker}, sort_keys=True).encode())


def build_view_maker(spec: BackboneSpec, augment: str, seed: int, mixup_alpha: float = 0.0) -> ViewMaker:
    """What makes the views of images for a network; the arguments are those of `ViewMaker`."""
    return ViewMaker(
        size=spec.input_size,
        resize=spec.resize,
        interpolation=spec.interpolation,
        augment=augment,
        mixup_alpha=mixup_alpha,
        seed=seed,
    )


def build_recipe(config: FeaturesConfig, backbone: Backbone, precision: str) -> Recipe:
    """The recipe of a run: `config` with names resolved to what they mean here."""
    spec = backbone.spec
    maker = build_view_maker(spec, config.augment, config.seed, config.mixup_alpha)
    return Recipe(
        backbone=backbone.name,
        weights_sha256=backbone.weights_sha256,
        tap=config.tap or spec.default_tap,
        pool=config.pool,
        precision=precision,
        dtype=config.dtype,
        maker=maker,
    )
