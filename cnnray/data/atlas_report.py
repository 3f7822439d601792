"""The pictures of an atlas of filters, and what is said of its layers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from cnnray.data.atlas_draw import TILE, Tiles
from cnnray.data.atlas_stage import KEPT
from cnnray.nn.backbones import Backbone
from cnnray.nn.layer_names import ConvLayer, conv_layers
from cnnray.nn.receptive import Field, receptive_fields
from cnnray.ops.show import Pixels, nine_beside_nine
from cnnray.ops.strongest import State

COLUMNS = 4  # cells in a row of a layer's picture
_GAP, _MARGIN, _CAPTION, _TITLE = 2, 8, 20, 34  # px
_INK, _BLANK = (28, 39, 51), 255
_LARGE = 2048  # px: an image so large that the receptive fields of all but a few layers fit into it


@dataclass(frozen=True, kw_only=True)
class LayerFacts:
    """What the atlas says of a layer.

    Attributes:
        name: see `conv_layers`.
        kind: in words.
        num_filters: all of them.
        num_dead: those that fire in no image.
        shown: numbers of those that are drawn.
        num_drawn: images that are drawn, of all shown filters together.
        stride: px of the image from one place of the map to the next.
        field: side in px of what a unit can see; 0 is all of an image, however large.
        image_size: height and width in px of the images; less than `field` where a unit sees all of them.
        map_size: height and width of the map.
    """

    name: str
    kind: str
    num_filters: int
    num_dead: int
    shown: NDArray[np.int64]
    num_drawn: int
    stride: int
    field: int
    image_size: int
    map_size: tuple[int, int]

    @property
    def sees(self) -> str:
        """What a unit sees, in words."""
        return f"{self.field} x {self.field} px" if 0 < self.field < self.image_size else "the whole image"

    def as_json(self) -> dict[str, Any]:
        """For the manifest."""
        numbers = {"filters": self.num_filters, "dead": self.num_dead, "drawn": len(self.shown)}
        return {"name": self.name, "kind": self.kind} | numbers | {"stride": self.stride, "field": self.field}


def describe_layers(backbone: Backbone, state: State, shown: Mapping[str, NDArray[np.int64]]) -> list[LayerFacts]:
    """Facts of the layers in `state`.

    Args:
        shown: of each layer, the filters that are drawn.
    """
    known, size = conv_layers(backbone), backbone.spec.input_size
    here = receptive_fields(backbone, (size, size), state)
    large = receptive_fields(backbone, (_LARGE, _LARGE), state)
    facts = []
    for name, layer in state.items():
        fires = layer.values_FK > 0
        stride, field = _geometry(here[name], large[name], size)
        rows, columns = here[name].rows.starts, here[name].columns.starts
        facts.append(
            LayerFacts(
                name=name,
                kind=_kind(known[name]),
                num_filters=len(fires),
                num_dead=int((~fires[:, 0]).sum()),
                shown=shown[name],
                num_drawn=int(fires[shown[name]].sum()),
                stride=stride,
                field=field,
                image_size=size,
                map_size=(len(rows), len(columns)),
            )
        )
    return facts


def layer_picture(filters: Sequence[int] | NDArray[np.int64], patches: Tiles, signals: Tiles) -> Pixels:
    """Cells in rows of COLUMNS: the number of a filter, its patches three by three beside what made it fire in each.

    Args:
        filters: numbers, in the order of the cells; none gives a white line.
        patches, signals: by (filter, rank); what is not there stays white.

    Returns:
        uint8 RGB; all cells have one size, see `cell_size`.
    """
    high, wide = cell_size()
    rows = -(-len(filters) // COLUMNS)
    sheet = np.full((max(rows * high, 1), COLUMNS * wide, 3), _BLANK, np.uint8)
    for number, filter in enumerate(np.asarray(filters).tolist()):
        top, left = number // COLUMNS * high, number % COLUMNS * wide
        sheet[top : top + high, left : left + wide] = _cell(filter, patches, signals)
    return sheet


def layer_strip(layer: LayerFacts, patches: Tiles, signals: Tiles) -> Pixels:
    """A layer's name above one row of its picture: COLUMNS of its shown filters, evenly spread."""
    shown = layer.shown
    picked = shown[np.linspace(0, len(shown) - 1, COLUMNS).round().astype(int)] if len(shown) > COLUMNS else shown
    row = layer_picture(picked, patches, signals)
    title = Image.new("RGB", (row.shape[1], _TITLE), (_BLANK,) * 3)
    text = f"{layer.name}: {layer.num_filters} filters, each sees {layer.sees}"
    ImageDraw.Draw(title).text((_MARGIN // 2, _TITLE - 8), text, _INK, ImageFont.load_default(17), anchor="ls")
    return np.concatenate([np.asarray(title), row])


def cell_size() -> tuple[int, int]:
    """Height and width in px of a filter's cell in a layer's picture."""
    nine = 3 * TILE + 2 * _GAP
    return nine + _CAPTION + _MARGIN, 2 * nine + 4 * _GAP + _MARGIN


def _cell(filter: int, patches: Tiles, signals: Tiles) -> Pixels:
    blank = np.full((TILE, TILE, 3), _BLANK, np.uint8)
    left, right = ([tiles.get((filter, rank), blank) for rank in range(KEPT)] for tiles in (patches, signals))
    high, wide = cell_size()
    canvas = Image.new("RGB", (wide, high), (_BLANK,) * 3)
    canvas.paste(Image.fromarray(nine_beside_nine(left, right, _GAP)), (_MARGIN // 2, _CAPTION))
    font = ImageFont.load_default(13)
    ImageDraw.Draw(canvas).text((_MARGIN // 2, _CAPTION - 5), f"filter {filter}", _INK, font, anchor="ls")
    return np.asarray(canvas)


def _geometry(here: Field, large: Field, size: int) -> tuple[int, int]:
    """Stride and side of the receptive field; 0 where a unit sees all, however large that is."""
    axis = large.rows
    seen = int((axis.stops - axis.starts).max())
    if seen >= _LARGE:
        return round(size / len(here.rows.starts)), 0
    return int(np.diff(axis.starts).max()), seen


def _kind(layer: ConvLayer) -> str:
    conv = layer.conv
    high, wide = conv.kernel_size
    depthwise = "depthwise " if conv.groups == conv.in_channels > 1 else ""
    norm = ", batch norm" if layer.norm is not None else ""
    return f"{depthwise}convolution {high} x {wide} over {conv.in_channels} channels{norm}"
