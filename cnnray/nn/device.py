"""What this process computes on: the device, its native number format, and the cores that it may really use."""

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path

import torch

from cnnray.errors import OptionError

_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def choose_device(name: str) -> torch.device:
    """ "auto" is a GPU where there is one, else the CPU; "cpu", "cuda" and "cuda:N" are themselves.

    Raises:
        OptionError: another name, or a GPU that is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdecimal()):
        raise OptionError(f"device must be auto, cpu, cuda or cuda:N; got {name!r}")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise OptionError(f"expected a GPU for device {name!r}, but PyTorch sees {torch.cuda.device_count()} of them")
    return torch.device(name)


def gpu_batches(most: int) -> list[int]:
    """The numbers of images that a GPU is given at once: powers of two, up to the first that holds `most`.

    cuDNN makes a plan for each convolution and each number of images when it first sees them: 1.6 s for an
    EfficientNet-Lite0 on an H200, whose forward pass then takes 4 ms. PyTorch keeps the plans of each thread apart.
    """
    return [2**power for power in range((most - 1).bit_length() + 1)]


def pad_batch(images: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Zeros added below, so that there are as many images as `gpu_batches` has; on a CPU nothing.

    Args:
        images: [N, ...], N at least 1.
    """
    return fill_batch(images, gpu_batches(len(images))[-1]) if device.type == "cuda" else images


def fill_batch(images: torch.Tensor, count: int) -> torch.Tensor:
    """Zeros added below images [N, ...], so that there are `count`, which is at least N."""
    if count == len(images):
        return images
    return torch.cat([images, images.new_zeros(count - len(images), *images.shape[1:])])


def native_precision(device: torch.device) -> str:
    """Bfloat16 where `device` multiplies it natively (AMX, AVX512-BF16, GPUs since Ampere), else float32."""
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    capabilities = torch.cpu.get_capabilities()
    native = capabilities.get("amx_bf16") or capabilities.get("avx512_bf16")
    return "bfloat16" if native else "float32"


def num_cores(quota_file: Path = _QUOTA) -> int:
    """Cores that this process may use, at least 1: its affinity, and its container's quota (cgroup v2) rounded up."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = quota_file.read_text().split()
        return cores if quota == "max" else max(1, min(cores, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # no cgroup v2 here
        return cores


@contextlib.contextmanager
def single_threaded(device: torch.device) -> Iterator[None]:
    """One intra-op thread on a CPU: sums then have one order, and the numbers do not depend on the number of cores."""
    before = torch.get_num_threads()
    if device.type != "cpu" or before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
