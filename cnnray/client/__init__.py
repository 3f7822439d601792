"""Typed HTTP client of the service: `Client(url).classify(path)`. Needs neither torch nor Ray."""

from cnnray.client.answers import (
    Answer,
    ClassShare,
    Detection,
    Face,
    FaceDetection,
    FaceVerification,
    Guess,
    Model,
    Object,
    Segmentation,
)
from cnnray.client.client import Client, Image

__all__ = [
    "Answer",
    "ClassShare",
    "Client",
    "Detection",
    "Face",
    "FaceDetection",
    "FaceVerification",
    "Guess",
    "Image",
    "Model",
    "Object",
    "Segmentation",
]
