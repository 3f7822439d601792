"""A small classifier checkpoint for tests: ImageNet's features and a random head, so that answers differ."""

import torch

from cnnray.nn.backbones import build_backbone, build_extractor
from cnnray.nn.checkpoint import Card, save_checkpoint
from cnnray.nn.heads import build_head

CLASSES = ["apple", "pear", "plum"]


def save_classifier(folder, classes=CLASSES):
    """Write the checkpoint into `folder` (str), with images of 96 px so that it is quick; returns the folder."""
    torch.manual_seed(0)
    backbone = build_backbone("efficientnet_lite0")
    extractor = build_extractor(backbone, "", "avg")
    head = build_head("linear", extractor.num_features, len(classes))
    torch.nn.init.normal_(head.body[-1].weight, std=0.05)
    spec = backbone.spec
    card = Card(
        task="classify",
        arch={
            "backbone": backbone.name, "tap": "", "pool": "avg", "head": "linear", "hidden": 512,
            "num_features": extractor.num_features, "backbone_sha256": backbone.weights_sha256,
        },
        classes=list(classes),
        input={
            "size": 96, "resize": 110, "interpolation": spec.interpolation,
            "mean": list(spec.mean), "std": list(spec.std),
        },
        metrics={"val_accuracy": 0.5},
    )  # fmt: skip
    tensors = {f"backbone.{name}": t for name, t in extractor.state_dict().items()}
    tensors |= {f"head.{name}": t for name, t in head.state_dict().items()}
    save_checkpoint(folder, tensors, card)
    return folder
