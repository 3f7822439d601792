"""Embedders trained on thirty people, asked for ten others: what each loss makes of the network that it starts from.

    python benchmarks/faces_train.py [--epochs N]       about eight minutes on two cores

ORL, 40 people with ten photos each: people 1 to 30 are learned from (three of them choose the epoch), 31 to 40 are
never seen in training. Twice: from dlib's published network, which knows faces and is the default, and, as objects_*,
from EfficientNet-Lite0 at 112 px, which knows ImageNet's objects. Baseline: the features of each as it comes, of the
same aligned faces in the same views. Last line, one JSON object:

    triplet_rank1, siamese_rank1, binary_rank1, untrained_rank1
        one-shot identification of the ten: a photo of each is the gallery, the other 90 are looked for in it; each
        person's n-th photo once, n from 1 to 10, so the mean of 900 answers
    NAME_accuracy       of all 4,950 pairs of the ten people's photos, by ten folds
    NAME_seconds        of the whole training, with faces cut out and checkpoint measured
"""

import argparse
import json
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from cnnray import cluster
from cnnray.config import EmbedderConfig, FacesConfig
from cnnray.infer.face_results import pick_face
from cnnray.infer.faces import FacePipeline
from cnnray.nn.backbones import build_backbone, build_extractor
from cnnray.nn.embedders import (
    BACKBONE,
    EmbedderSpec,
    EmbeddingNet,
    LoadedEmbedder,
    build_embedding_net,
    input_of,
)
from cnnray.nn.face_weights import load_published
from cnnray.ops.verification import ten_folds
from cnnray.train.faces import train_faces
from cnnray.train.faces_task import architecture

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("CNNRAY_DATA", ROOT.parent / "shared" / "data"))
LEARNED, PHOTOS, FOLDS = 30, 10, 10
STARTS = {"": "dlib_resnet", "objects_": "efficientnet_lite0:size=112"}


class Features(torch.nn.Module):
    """The network's own features of faces in 0..255."""

    def __init__(self, name):
        super().__init__()
        self.extractor = build_extractor(build_backbone(name))

    def forward(self, faces):
        return self.extractor(faces if faces.dtype == torch.uint8 else faces / 255)


def untrained(config):
    """The pipeline with the network as it comes."""
    arch = architecture(config)
    given = input_of(arch)
    body = Features(arch["backbone"]) if arch["model"] == BACKBONE else build_embedding_net(arch, "default").body
    spec = EmbedderSpec(given["size"], given["num_features"], tuple(given["paddings"]), 1.0, {})
    net = EmbeddingNet(body).eval().requires_grad_(False)
    return FacePipeline(
        load_published("detector"), load_published("landmarks"), LoadedEmbedder("untrained", net, spec, "")
    )


def figures(pipeline, people):
    """Rank 1 of the mean gallery, and accuracy over pairs, of photos by person."""
    photos = [photo.read_bytes() for folder in people for photo in folder]
    faces = [pick_face(found, "central") for found in pipeline.predict(photos)]
    vectors = torch.from_numpy(np.stack([face.embedding_D for face in faces]))
    labels = np.repeat(np.arange(len(people)), PHOTOS)
    head = pipeline.embedder.net.head
    if head is None:
        scores = -torch.cdist(vectors, vectors).numpy()
    else:
        with torch.inference_mode():
            scores = head((vectors[:, None] - vectors).abs().flatten(0, 1)).reshape(len(vectors), -1).numpy()
    right = []
    for number in range(PHOTOS):
        gallery = np.arange(len(people)) * PHOTOS + number
        probes = np.setdiff1d(np.arange(len(labels)), gallery)
        right.append(labels[gallery][scores[np.ix_(probes, gallery)].argmax(1)] == labels[probes])
    a, b = np.triu_indices(len(labels), 1)
    same = labels[a] == labels[b]
    folds = np.where(same, np.cumsum(same), np.cumsum(~same)) % FOLDS
    return float(np.mean(right)), ten_folds(scores[a, b], same, folds).mean


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=6)
    epochs = parser.parse_args().epochs
    folder = Path(tempfile.mkdtemp(prefix="cnnray-faces-train-"))
    everybody = sorted((DATA / "orl").glob("s*"), key=lambda path: int(path.name[1:]))
    (folder / "people").mkdir()
    for person in everybody[:LEARNED]:
        (folder / "people" / person.name).symlink_to(person)
    others = [sorted(person.glob("*.pgm"), key=lambda path: int(path.stem)) for person in everybody[LEARNED:]]
    cluster.connect()
    began, answer = time.perf_counter(), {"epochs": epochs}
    for prefix, start in STARTS.items():
        config = FacesConfig(start=start, epochs=epochs, val_people=0.1)
        names = [f"{prefix}untrained_{name}" for name in ("rank1", "accuracy")]
        answer |= dict(zip(names, figures(untrained(config), others), strict=True))
        for loss in ("triplet", "siamese", "binary"):
            started, run = time.perf_counter(), str(folder / f"{prefix}{loss}")
            trained = train_faces(str(folder / "people"), run, replace(config, loss=loss))
            answer[f"{prefix}{loss}_seconds"] = round(time.perf_counter() - started, 1)
            pipeline = FacePipeline.load(EmbedderConfig(embedder=trained["checkpoint"]))
            names = [f"{prefix}{loss}_{name}" for name in ("rank1", "accuracy")]
            answer |= dict(zip(names, figures(pipeline, others), strict=True))
            print(json.dumps(answer), flush=True)
    answer["seconds"] = round(time.perf_counter() - began, 1)
    print(json.dumps({name: round(value, 4) if isinstance(value, float) else value for name, value in answer.items()}))


if __name__ == "__main__":
    main()
