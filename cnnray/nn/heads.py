"""Classification heads: stored features [N, D] in, logits [N, K] out."""

import torch
from torch import Tensor, nn

from cnnray.errors import OptionError, UnknownNameError

_SMALLEST_STD = 1e-6


class Head(nn.Module):
    """Standardises features, then maps them to logits.

    The features' own mean and deviation, not the batch's, are used: they are set once from the training features
    and travel with the weights, so training and service see the same numbers at any batch size.

    Attributes:
        mean: [D], subtracted.
        std: [D], divided by; above 0.
        body: the layers; the last one starts at 0, so that every class begins with the same probability and the
            first loss is ln K.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, body: nn.Sequential, num_features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(num_features))
        self.register_buffer("std", torch.ones(num_features))
        self.body = body

    def set_standardisation(self, mean: Tensor, std: Tensor) -> None:
        """Take over the training features' mean [D] and standard deviation [D].

        A feature that never varied (std under 1e-6) is only centred: it carries nothing, and dividing by its
        rounding error would turn a new image's tiny difference into the strongest feature.
        """
        for name, value in (("mean", mean), ("std", std)):
            if value.shape != self.mean.shape or not torch.isfinite(value).all():
                raise OptionError(f"expected a finite {name} of shape {list(self.mean.shape)}, got {list(value.shape)}")
        self.mean.copy_(mean)
        self.std.copy_(torch.where(std < _SMALLEST_STD, torch.ones_like(std), std))

    def forward(self, features_ND: Tensor) -> Tensor:
        """Logits [N, K] of features [N, D] of any float dtype; computed in the weights' dtype."""
        x: Tensor = self.body((features_ND.to(self.mean.dtype) - self.mean) / self.std)
        return x


def _linear(num_features: int, num_classes: int, hidden: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(nn.Dropout(dropout), nn.Linear(num_features, num_classes))


def _mlp(num_features: int, num_classes: int, hidden: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(num_features, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, num_classes)
    )


HEADS = {"linear": _linear, "mlp": _mlp}


def build_head(kind: str, num_features: int, num_classes: int, hidden: int = 512, dropout: float = 0.0) -> Head:
    """A head with fresh weights (from torch's global generator; a linear head draws nothing in effect).

    Args:
        kind: "linear" (softmax regression) or "mlp" (one hidden layer of `hidden` ReLU units).
        num_features: D of the features.
        num_classes: K, at least 1.
        dropout: probability from 0 up to, not including, 1 of dropping an input of the last layer in training.

    Raises:
        UnknownNameError: no such kind.
        OptionError: a size under 1, or a dropout outside [0, 1).
    """
    if kind not in HEADS:
        raise UnknownNameError("head", kind, HEADS)
    for name, size in (("num_features", num_features), ("num_classes", num_classes), ("hidden", hidden)):
        if size < 1:
            raise OptionError(f"{name} must be at least 1, got {size}")
    if not 0 <= dropout < 1:
        raise OptionError(f"dropout must be at least 0 and below 1, got {dropout}")
    body = HEADS[kind](num_features, num_classes, hidden, dropout)
    last = body[-1]
    assert isinstance(last, nn.Linear)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return Head(body, num_features)
