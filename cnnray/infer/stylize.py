"""One picture in the style of others, by changing its pixels until a network sees that style, and the content, in it.

Gatys, Ecker and Bethge 2016, Image Style Transfer Using Convolutional Neural Networks: the losses, and their descent
Gatys et al. 2016, arXiv:1606.05897: luminance-only transfer
Gatys et al. 2016, arXiv:1611.07865: coarse to fine, and styles guided by masks

Colours are kept by painting in light and dark alone, not by taking them over at the end: the network then judges what
will be seen, and a third of the numbers have to be found.

On a CPU the same settings give the same bits with the same number of threads, also when a run is gone on from a state.

Legend: planes [1, 3 (RGB) or 1 (luminance), H, W] in [0, 1].
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cnnray.config import StylizeConfig
from cnnray.errors import OptionError
from cnnray.infer.style_levels import Level, Pictures
from cnnray.nn.backbones import Backbone, build_backbone
from cnnray.nn.device import choose_device
from cnnray.nn.optimizer_state import flat_state, restore_state
from cnnray.nn.stylize import Losses, Perceiver, find_taps, style_losses
from cnnray.ops.planes import resized, to_pixels
from cnnray.ops.seeds import generator_for

Pixels = NDArray[np.uint8]

_BORDER = 16  # px that are mirrored: the stride of the deepest taps
_BEYOND = 10.0  # weight of the mean square of what is outside of [0, 1], where L-BFGS may go
_LAST_LR = 0.1  # of Adam at the end of a level, as a share: large steps leave noise
_LBFGS = {"max_iter": 1, "max_eval": 8, "history_size": 10, "tolerance_grad": 0.0, "tolerance_change": 0.0}


@dataclass(frozen=True)
class StyleStep:
    """The losses of a picture before a step, not weighed but for their sum.

    Attributes:
        step: counted from 1, over all levels.
        height, width: of the picture, px.
        loss: weighed sum.
        style, content, variation: see `cnnray.nn.stylize.Losses`.
    """

    step: int
    height: int
    width: int
    loss: float
    style: float
    content: float
    variation: float


@dataclass(frozen=True)
class StyleState:
    """All that an unfinished painting is gone on from.

    Attributes:
        tensors: the planes and the optimiser's memory, on the CPU.
        facts: of the optimiser, JSON values.
        history: one row for each step that is done.
    """

    tensors: dict[str, Tensor]
    facts: Any
    history: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class StyleResult:
    """A finished painting.

    Attributes:
        image_HWC: uint8 RGB.
        losses: of the picture.
        history: of all steps.
    """

    image_HWC: Pixels
    losses: StyleStep
    history: list[StyleStep]


class StyleOptimizer:
    """A picture while it is painted; not for several threads.

    Args:
        content_HWC: uint8 RGB.
        styles: uint8 RGB pictures, of any size each.
        config: all but what is said of files in it.
        mask_HW: uint8, white (255) is painted, black stays exactly as it is; None paints all. Resized to the content.
        start_HWC: uint8 RGB, gone on from in place of what `config.start` says. Resized to the content.
        backbone: None builds the one that the config names. It is changed and moved, see `Perceiver`.

    Attributes:
        num_steps, num_done: steps of all levels, and those that are done.
        sizes: height and width of the levels, coarse to fine.
        history: one row for each step that is done.

    Raises:
        OptionError, UnknownNameError: pictures that are too small, an empty mask, other weights than styles; backbone,
            taps or device that are not there.
        CheckpointError, StorageError: as `build_backbone`.
    """

    def __init__(
        self,
        content_HWC: Pixels,
        styles: Sequence[Pixels],
        config: StylizeConfig,
        *,
        mask_HW: Pixels | None = None,
        start_HWC: Pixels | None = None,
        backbone: Backbone | None = None,
    ) -> None:
        self._config, self._device = config, choose_device(config.device)
        self._pictures = Pictures.of(content_HWC, styles, config, mask_HW=mask_HW, start_HWC=start_HWC)
        backbone = backbone or build_backbone(config.backbone, config.weights)
        self.taps = find_taps(backbone, config.style_taps, config.content_taps)
        self._perceiver = Perceiver(backbone, self.taps.every, smooth=config.smooth, border=_BORDER).to(self._device)
        self.sizes = self._pictures.sizes(config.pyramid)
        self.num_steps, self.history = config.steps * len(self.sizes), list[StyleStep]()
        self._enter(0, self._first_planes())

    @property
    def num_done(self) -> int:
        """Steps that are done."""
        return len(self.history)

    @property
    def picture(self) -> Pixels:
        """The painting now, uint8 RGB, in the size of its level; after a failure the last one with finite losses."""
        return to_pixels(self._canvas.finished(self._planes.detach()))

    def run(self, on_step: Callable[[StyleStep], None] | None = None) -> StyleResult:
        """Paint what is left to do.

        Args:
            on_step: called after every step; it may ask for the picture and the state.

        Raises:
            OptionError: a loss is not a finite number; the picture is the last one that was good.
        """
        while self.num_done < self.num_steps:
            row = self.step()
            if on_step is not None:
                on_step(row)
        with torch.no_grad():
            losses = self._row(self._losses())
        return StyleResult(self.picture, losses, list(self.history))

    def step(self) -> StyleStep:
        """One step of descent; raises as `run`."""
        level, number = divmod(self.num_done, self._config.steps)
        if not number and level:
            self._enter(level, resized(self._planes.detach(), *self.sizes[level]))
        before, seen = self._planes.detach().clone(), list[StyleStep]()
        self._optimizer.param_groups[0]["lr"] = self._lr(number)

        def evaluate() -> Tensor:
            self._optimizer.zero_grad()
            losses = self._losses()
            total = self._total(losses)
            total.backward()
            if not seen:
                seen.append(self._row(losses))
            return total

        self._optimizer.step(evaluate)  # type: ignore[arg-type]
        self._check(before, seen[0])
        self.history.append(seen[0])
        return seen[0]

    def state(self) -> StyleState:
        """What `restore` needs."""
        tensors, facts = flat_state(self._optimizer)
        history = [asdict(row) for row in self.history]
        return StyleState(tensors | {"planes": self._planes.detach().cpu().clone()}, facts, history)

    def restore(self, state: StyleState) -> None:
        """Go on from a state of an optimiser of the same pictures and settings."""
        self.history = [StyleStep(**row) for row in state.history]
        level, number = divmod(max(self.num_done - 1, 0), self._config.steps)
        self._enter(level, state.tensors["planes"].to(self._device))
        if state.history:
            restore_state(self._optimizer, state.tensors, state.facts)

    def _first_planes(self) -> Tensor:
        if self._pictures.start is not None:
            return self._canvas_like(self._pictures.start)
        if self._config.start == "noise":
            height, width = self.sizes[0]
            channels = 1 if self._config.keep_colors else 3
            return torch.rand(1, channels, height, width, generator=generator_for("stylize", self._config.seed, 0))
        return self._canvas_like(self._pictures.content)

    def _canvas_like(self, planes: Tensor) -> Tensor:
        """In the size and with the channels of the first level."""
        return self._pictures.seen(resized(planes, *self.sizes[0]))

    def _enter(self, level: int, planes: Tensor) -> None:
        """Begin a level with these planes, of its size."""
        self._canvas = self._pictures.canvas(*self.sizes[level]).to(self._device)
        self._level = Level.of(self._canvas, self._perceiver, self.taps, self._config)
        self._planes = planes.to(self._device).clone().requires_grad_()
        self._good = self._planes.detach().clone()
        if self._config.optimizer == "adam":
            self._optimizer: torch.optim.Optimizer = torch.optim.Adam([self._planes], self._config.lr)
        else:
            self._optimizer = torch.optim.LBFGS([self._planes], 1.0, line_search_fn="strong_wolfe", **_LBFGS)  # type: ignore[arg-type]

    def _lr(self, number: int) -> float:
        """Of a step of a level: half a cosine down."""
        if self._config.optimizer == "lbfgs":
            return 1.0
        fallen = (1 + math.cos(math.pi * number / self._config.steps)) / 2
        return self._config.lr * (_LAST_LR + (1 - _LAST_LR) * fallen)

    def _losses(self) -> Losses:
        image = self._canvas.shown(self._planes)
        level = self._level
        return style_losses(self._perceiver(image), level.grams, level.content, image, self._canvas.mask)

    def _total(self, losses: Losses) -> Tensor:
        beyond = (self._planes - self._planes.clamp(0, 1)).square().mean()
        return self._weighed(losses) + _BEYOND * beyond

    def _weighed(self, losses: Losses) -> Tensor:
        weights = (self._config.style_loss, self._config.content_loss, self._config.variation_loss)
        return sum((weight * loss[0] for weight, loss in zip(weights, losses, strict=True)), torch.zeros(()))

    def _row(self, losses: Losses) -> StyleStep:
        """Of the step that comes next."""
        height, width = self._planes.shape[2:]
        parts = [float(loss.detach()) for loss in (self._weighed(losses), *losses)]
        return StyleStep(self.num_done + 1, height, width, *parts)

    def _check(self, before: Tensor, row: StyleStep) -> None:
        """Keep what was good before this step; go back to it where the step left nothing that can be seen."""
        with torch.no_grad():
            if math.isfinite(row.loss):
                self._good = before
            if not math.isfinite(row.loss) or not bool(self._planes.isfinite().all()):
                self._planes.copy_(self._good)
                raise OptionError(
                    f"the loss of step {row.step} is {row.loss:g} and cannot be followed: style {row.style:g}, content "
                    f"{row.content:g}; expected a smaller lr, smaller weights of the losses, or another backbone"
                )
            if self._config.optimizer == "adam":
                self._planes.clamp_(0, 1)
