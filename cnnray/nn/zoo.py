"""The table of `cnnray models`: what every backbone costs, and how fast it is on this machine."""

import statistics
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from cnnray.nn.backbones import BACKBONES, find_spec
from cnnray.nn.spec import BackboneSpec
from cnnray.ops.costs import LayerCosts, count_costs, layer_costs

MEASURED_BATCH = {"cpu": 4, "cuda": 64}
_MIN_PASSES = 2
_BYTES = ("weight_bytes", "activation_bytes")


@dataclass(frozen=True, kw_only=True)
class ModelRow:
    """One backbone.

    Attributes:
        name: for --backbone.
        input_size: height and width of its images, px.
        params: weights and biases, its ImageNet classifier included.
        macs: multiply-accumulates of one image.
        size_mb: of its weights in float32, in 10^6 bytes.
        weights: where its published weights come from.
        images_per_s: measured in float32 in evaluation mode, uncompiled; None where it was not measured.
        taps: names of its stages, for --tap.
    """

    name: str
    input_size: int
    params: int
    macs: int
    size_mb: float
    weights: str
    images_per_s: float | None
    taps: tuple[str, ...]


def model_table(*, measure: bool, seconds: float = 1.0) -> list[ModelRow]:
    """All backbones in the order of the registry; nothing is downloaded.

    Args:
        measure: time forward passes with random weights (the speed does not depend on them).
        seconds: about how long each network is timed, after one pass to warm up; the least is two passes, which
            takes longer for the largest networks on CPUs.
    """
    return [_row(spec, seconds if measure else None) for spec in BACKBONES.values()]


def cost_table(name: str) -> list[LayerCosts]:
    """Layers of a backbone that compute with weights or hold some, at its own input size; then their sum.

    Args:
        name: with a scale or without, see `find_spec`.

    Returns:
        rows whose names begin with that of their stage, such as "layer1.0.conv1"; the last one is named "all".

    Raises:
        UnknownNameError: no such backbone.
        OptionError: a scale that it cannot have.
    """
    spec = find_spec(name)
    with torch.device("meta"):
        chain = nn.Sequential(OrderedDict(spec.stages(spec.build())))
    rows = [row for row in layer_costs(chain, 3, spec.input_size, spec.input_size) if row.macs or row.weight_bytes]
    sums = {part: sum(getattr(row, part) for row in rows) for part in ("params", "macs", *_BYTES)}
    return [*rows, LayerCosts(name="all", kind=f"{len(rows)} layers", output=rows[-1].output, **sums)]


def _row(spec: BackboneSpec, seconds: float | None) -> ModelRow:
    with torch.device("meta"):
        network = spec.build()
    costs = count_costs(network, 3, spec.input_size, spec.input_size)
    return ModelRow(
        name=spec.name,
        input_size=spec.input_size,
        params=costs.params,
        macs=costs.macs,
        size_mb=round(costs.size_bytes / 1e6, 1),
        weights=spec.source,
        images_per_s=None if seconds is None else images_per_second(network, spec.input_size, seconds),
        taps=spec.taps,
    )


def images_per_second(network: nn.Module, size: int, seconds: float) -> float:
    """Images of a small batch through `network` per second, on a GPU where there is one; the median pass.

    Args:
        network: may be on the meta device; gets constant weights and is moved to the device that is measured.
        size: height and width of the images, px.
        seconds: how long to measure, after one pass to warm up.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    batch = MEASURED_BATCH[device]
    network = network.eval().to_empty(device=device).to(memory_format=torch.channels_last)
    for tensor in (*network.parameters(), *network.buffers()):
        # Not what memory happens to hold: denormal numbers would slow a CPU down tenfold.
        nn.init.ones_(tensor) if tensor.ndim < 2 else nn.init.constant_(tensor, 1 / tensor[0].numel())
    images = torch.rand(batch, 3, size, size, device=device).contiguous(memory_format=torch.channels_last)

    def forward() -> None:
        network(images)
        if device == "cuda":
            torch.cuda.synchronize()

    with torch.inference_mode():
        forward()
        return batch / statistics.median(_pass_times(forward, seconds))


def _pass_times(forward: Callable[[], None], seconds: float) -> list[float]:
    times: list[float] = []
    while len(times) < _MIN_PASSES or sum(times) < seconds:
        start = time.perf_counter()
        forward()
        times.append(time.perf_counter() - start)
    return times
