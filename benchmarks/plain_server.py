"""The service that a user would write: FastAPI and uvicorn, the same networks in fp32, one request at a time.

    python benchmarks/plain_server.py --port PORT --classifier CHECKPOINT --detector CHECKPOINT --people 20

What benchmarks/service.py compares with. POST /classify, /detect and /recognize take an image as the body. It ends when
its standard input does.
"""

import argparse
import io
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import uvicorn
from fastapi import FastAPI, Request
from PIL import Image
from served import people
from starlette.concurrency import run_in_threadpool
from torchvision.ops import batched_nms
from torchvision.transforms import v2
from torchvision.transforms.functional import pil_to_tensor

from cnnray.infer.classify import load_parts
from cnnray.nn.checkpoint import load_checkpoint
from cnnray.nn.detectors import build_detector
from cnnray.nn.embedders import load_embedder
from cnnray.nn.face_weights import load_published
from cnnray.ops.align import align_faces

CONFIDENCE, OVERLAP = 0.3, 0.5
ENLARGED = 2  # so that faces of 40 px are found
VIEWS = 2
NICENESS = 15  # that Ray gives its workers: whatever else runs on the machine takes as much from both
THRESHOLD = 0.6  # of dlib's distance


def open_image(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content)).convert("RGB")


class Classify:
    def __init__(self, checkpoint: str) -> None:
        self.extractor, self.head, card = load_parts(checkpoint)
        self.classes, given = card.classes, card.input
        mode = v2.InterpolationMode(given["interpolation"])
        self.transform = v2.Compose([v2.Resize(given["resize"], mode), v2.CenterCrop(given["size"])])

    def __call__(self, content: bytes) -> dict[str, Any]:
        view = pil_to_tensor(self.transform(open_image(content)))
        probabilities = self.head(self.extractor(view[None])).softmax(1)[0]
        best = probabilities.topk(5)
        rows = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        top = [{"label": self.classes[label], "probability": value} for label, value in rows]
        return {"label": top[0]["label"], "top": top}


class Detect:
    def __init__(self, checkpoint: str) -> None:
        tensors, card = load_checkpoint(checkpoint)
        self.net = build_detector(card.arch, len(card.classes)).eval()
        self.net.load_state_dict(tensors)
        self.classes, self.size = card.classes, card.input["size"]

    def __call__(self, content: bytes) -> dict[str, Any]:
        image = open_image(content)
        small = v2.functional.resize(image, None, max_size=self.size)
        square = v2.functional.pad(small, [0, 0, self.size - small.width, self.size - small.height], [124, 116, 104])
        (found,) = self.net.candidates(self.net(pil_to_tensor(square)[None]), self.size)
        cells, labels = (found.scores_AK > CONFIDENCE).nonzero(as_tuple=True)
        scores, boxes = found.scores_AK[cells, labels], found.boxes_A4[cells] * (image.width / small.width)
        kept = batched_nms(boxes, scores, labels, OVERLAP)[:300]
        rows = zip(boxes[kept].tolist(), scores[kept].tolist(), labels[kept].tolist(), strict=True)
        return {"objects": [{"label": self.classes[at], "score": score, "box": box} for box, score, at in rows]}


class Recognize:
    def __init__(self, num_people: int) -> None:
        self.detector, self.forest = (load_published(part).eval() for part in ("detector", "landmarks"))
        self.embedder = load_embedder("dlib_resnet", "default")
        known = {name: self.embed(paths[0].read_bytes()) for name, paths in people(num_people).items()}
        found = {name: central for name, (central, *_) in known.items()}
        self.names, self.known_ND = list(found), torch.stack(list(found.values()))

    def embed(self, content: bytes) -> list[torch.Tensor]:
        """Of every face; surest first."""
        image = open_image(content)
        image_CHW = pil_to_tensor(image)
        large = pil_to_tensor(image.resize((ENLARGED * image.width, ENLARGED * image.height), Image.BILINEAR))
        (found,) = self.detector.find(large[None])
        landmarks, spec = self.forest(image_CHW, found.boxes_N4 / ENLARGED), self.embedder.spec
        views = []
        for padding, mirrored in spec.views(VIEWS):
            faces = align_faces(image_CHW, landmarks, spec.size, padding)
            views.append(self.embedder.net(faces.flip(3) if mirrored else faces))
        return list(torch.nn.functional.normalize(torch.stack(views).mean(0), dim=1))

    def __call__(self, content: bytes) -> dict[str, Any]:
        faces = []
        for embedded in self.embed(content):
            distances = (self.known_ND - embedded).norm(dim=1)
            best = int(distances.argmin())
            faces.append({"identity": self.names[best] if distances[best] < THRESHOLD else None})
        return {"faces": faces}


def build_app(models: dict[str, Callable[[bytes], dict[str, Any]]]) -> FastAPI:
    app, lock = FastAPI(), threading.Lock()

    def locked(name: str, content: bytes) -> dict[str, Any]:
        with lock, torch.inference_mode():
            return models[name](content)

    @app.post("/{name}")
    async def answer(name: str, request: Request) -> dict[str, Any]:
        return await run_in_threadpool(locked, name, await request.body())

    return app


def end_with_parent() -> None:
    sys.stdin.read()
    os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--classifier", required=True)
    parser.add_argument("--detector", required=True)
    parser.add_argument("--people", type=int, required=True)
    args = parser.parse_args()
    os.nice(NICENESS)
    threading.Thread(target=end_with_parent, daemon=True).start()
    with torch.inference_mode():
        models = {
            "classify": Classify(args.classifier),
            "detect": Detect(args.detector),
            "recognize": Recognize(args.people),
        }
    assert np.isfinite(models["recognize"].known_ND.numpy()).all()
    uvicorn.run(build_app(models), host="127.0.0.1", port=args.port, log_level="warning")


if __name__ == "__main__":
    main()
