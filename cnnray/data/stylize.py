"""`cnnray stylize --method optimize`: one picture painted in the style of others, without Ray, resumable.

OUT/stylized.png    the painting
OUT/preview.jpg     how it stands, now and then
OUT/losses.csv      the losses of every step
OUT/report.html     the painting, what it was made of, curves of the losses
OUT/state           what a killed run goes on from; gone at the end
"""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnray import files
from cnnray.config import StylizeConfig
from cnnray.data.fetch import fetch_image
from cnnray.data.runs import RunFolder, check_owner
from cnnray.data.style_report import losses_csv, style_sections
from cnnray.errors import ImageError, OptionError
from cnnray.infer.style_state import load_style_state, save_style_state
from cnnray.infer.stylize import StyleOptimizer, StyleResult, StyleStep
from cnnray.nn.backbones import Backbone, build_backbone
from cnnray.ops.decode import decode
from cnnray.ops.overlay import jpeg, png
from cnnray.page import Picture, write_page

STYLIZED, PREVIEW, LOSSES, REPORT, STATE = "stylized.png", "preview.jpg", "losses.csv", "report.html", "state"
_KIND = "stylized picture"
_SHOWN = 480  # px of the inputs in the report
_SETTINGS = ("size", "style_scale", "style_loss", "content_loss", "variation_loss", "start", "keep_colors")
_METHOD = ("optimizer", "steps", "lr", "seed", "smooth")

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class _Input:
    """A picture that was named: what for, where, its hash, and uint8 RGB."""

    role: str
    uri: str
    sha256: str
    image_HWC: Pixels

    @classmethod
    def read(cls, role: str, uri: str) -> "_Input":
        content = fetch_image(uri)
        try:
            return cls(role, uri, hashlib.sha256(content).hexdigest(), decode(content))
        except ImageError as error:
            raise ImageError(error.code, f"{role} {uri}: {error}") from error


def stylize(
    image: str,
    styles: Sequence[str],
    out: str,
    config: StylizeConfig,
    *,
    on_step: Callable[[StyleStep, int], None] | None = None,
) -> dict[str, Any]:
    """Paint a picture; the same call resumes after a kill.

    Args:
        image: path or URI of the content.
        styles: of the style pictures, mixed by `config.style_weight`.
        out: run folder, see above.
        config: how.
        on_step: called after every step with its losses and the number of all steps.

    Returns:
        the manifest: inputs, height, width, steps, losses of the painting, weights_sha256, ...

    Raises:
        DataError, ImageError: a picture is absent, or none.
        OptionError, UnknownNameError, CheckpointError, StorageError: as `StyleOptimizer`; where a loss is no number
            the last good picture is in the preview.
        RunFolderError: the run is finished, or another.
    """
    inputs = [_Input.read("content", image), *(_Input.read("style", uri) for uri in styles)]
    inputs += [_Input.read("mask", config.mask)] if config.mask else []
    inputs += [_Input.read("start", config.start)] if config.start not in ("content", "noise") else []
    backbone = build_backbone(config.backbone, config.weights)
    optimizer = _optimizer(inputs, config, backbone)
    run = RunFolder.open(files.absolute(out), config, _KIND, source=_source(inputs, backbone))
    state = load_style_state(run.path(STATE))
    if state is not None:
        optimizer.restore(state)
    begun, first = time.perf_counter(), optimizer.num_done
    result = _paint(optimizer, run, config, on_step)
    seconds = (time.perf_counter() - begun) / max(optimizer.num_steps - first, 1)
    facts = {"seconds_per_step": round(seconds, 4), "weights_sha256": backbone.weights_sha256}
    return _finish(run, inputs, result, optimizer, facts)


def _optimizer(inputs: Sequence[_Input], config: StylizeConfig, backbone: Backbone) -> StyleOptimizer:
    styles = [one.image_HWC for one in inputs if one.role == "style"]
    single = {one.role: one.image_HWC for one in inputs if one.role != "style"}
    mask_HW = np.rint(single["mask"].mean(axis=2)).astype(np.uint8) if "mask" in single else None
    given = {"mask_HW": mask_HW, "start_HWC": single.get("start")}
    return StyleOptimizer(single["content"], styles, config, **given, backbone=backbone)


def _source(inputs: Sequence[_Input], backbone: Backbone) -> str:
    """All that the result depends on beside the settings."""
    return ", ".join([*(f"{one.role} {one.sha256}" for one in inputs), f"weights {backbone.weights_sha256}"])


def _paint(
    optimizer: StyleOptimizer,
    run: RunFolder,
    config: StylizeConfig,
    on_step: Callable[[StyleStep, int], None] | None,
) -> StyleResult:
    def keep(row: StyleStep) -> None:
        if on_step is not None:
            on_step(row, optimizer.num_steps)
        if row.step % config.save_every == 0:
            check_owner(run.uri, run.token)
            save_style_state(run.path(STATE), optimizer.state())
            _show(optimizer, run)

    try:
        return optimizer.run(keep)
    except OptionError as error:
        _show(optimizer, run)
        raise OptionError(f"{error}; the last good picture is {run.path(PREVIEW)}") from error


def _show(optimizer: StyleOptimizer, run: RunFolder) -> None:
    files.write_bytes(run.path(PREVIEW), jpeg(optimizer.picture))
    files.write_bytes(run.path(LOSSES), losses_csv(optimizer.history))


def _finish(
    run: RunFolder, inputs: Sequence[_Input], result: StyleResult, optimizer: StyleOptimizer, facts: Mapping[str, Any]
) -> dict[str, Any]:
    content = png(result.image_HWC)
    height, width = result.image_HWC.shape[:2]
    losses = {name: round(getattr(result.losses, name), 6) for name in ("loss", "style", "content", "variation")}
    files.write_bytes(run.path(STYLIZED), content)
    _show(optimizer, run)
    figures = {"steps": optimizer.num_steps, "s per step": facts["seconds_per_step"], **losses}
    settings = _settings(run.config, optimizer)
    sections = style_sections(content, _captioned(inputs, run.config), result.history, figures, settings)
    write_page(run.path(REPORT), "Style transfer", sections, f"{width} x {height} px, {run.config.backbone}")
    manifest = run.finish(
        {
            "inputs": [{name: value for name, value in vars(one).items() if name != "image_HWC"} for one in inputs],
            "height": height,
            "width": width,
            "sizes": [f"{wide} x {high}" for high, wide in optimizer.sizes],
            "steps": optimizer.num_steps,
            "losses": losses,
            "style_taps": list(optimizer.taps.style),
            "content_taps": list(optimizer.taps.content),
            **facts,
            "sha256": hashlib.sha256(content).hexdigest(),
        }
    )
    files.remove(run.path(STATE))
    return manifest


def _settings(config: StylizeConfig, optimizer: StyleOptimizer) -> dict[str, str]:
    values = asdict(config)
    sizes = ", ".join(f"{wide} x {high}" for high, wide in optimizer.sizes)
    taps = {"style taps": ", ".join(optimizer.taps.style), "content taps": ", ".join(optimizer.taps.content)}
    return (
        {name: str(values[name]) for name in _SETTINGS}
        | {"sizes": sizes}
        | taps
        | {name: str(values[name]) for name in _METHOD}
    )


def _captioned(inputs: Sequence[_Input], config: StylizeConfig) -> list[Picture]:
    weights = iter(config.style_weight)
    pictures = []
    for one in inputs:
        weight = f", weight {next(weights):g}" if one.role == "style" and config.style_weight else ""
        pictures.append(Picture(jpeg(_small(one.image_HWC), 90), f"{one.role}{weight}\n{one.uri}"))
    return pictures


def _small(image_HWC: Pixels) -> Pixels:
    step = max(1, max(image_HWC.shape[:2]) // _SHOWN)
    return np.ascontiguousarray(image_HWC[::step, ::step])
