"""torch.hub's cache with random weights in place of what torchvision publishes."""

import os
from pathlib import Path

import torch
from torchvision.models import get_model, get_model_weights

from cnnray.nn.torchvision_detectors import DETECTORS


def publish(name):
    """As after the download of this network's weights into the cache in $TORCH_HOME; returns the network."""
    torch.manual_seed(0)
    net = get_model(name, weights=None, **({"weights_backbone": None} if name in DETECTORS else {})).eval()
    cache = Path(os.environ["TORCH_HOME"]) / "hub" / "checkpoints"
    cache.mkdir(parents=True, exist_ok=True)
    torch.save(net.state_dict(), cache / get_model_weights(name).DEFAULT.url.rpartition("/")[2])
    return net
