"""Faces in photos, and what they embed to, against dlib itself on the same cores.

    python benchmarks/faces_speed.py [--rounds N]       about three minutes on two cores

The same weights and the same photos: group photos of `faces/` brought to 640 x 480 px, and LFW's portraits. Baseline:
dlib-bin as its users call it, a photo or an aligned face after the other (it uses one core); its detector without
enlargement, and ours then looks for faces of the same 80 px. In turn, medians. Last line, one JSON object:

    embed_ratio       embeddings per second over dlib's `compute_face_descriptor`, of one view of the same aligned faces
    embed_ratio_default  with the two views of our default
    detect_ratio      photos of 640 x 480 px per second over `cnn_face_detection_model_v1`
    detect_ratio_small   ours looking for faces of 40 px, our default, over dlib's of 80 px
    pipeline_ratio    files of portraits to embeddings: read, decoded, detected, aligned, embedded; one view
    pipeline_ratio_default  with our defaults, 40 px and two views
"""

import argparse
import json
import os
import statistics
import time
from pathlib import Path

import dlib
import numpy as np
import torch
from PIL import Image

from cnnray.config import EmbedderConfig, FaceSearchConfig
from cnnray.infer.faces import FacePipeline
from cnnray.nn.device import num_cores
from cnnray.nn.face_weights import PUBLISHED, _in_package

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("CNNRAY_DATA", ROOT.parent / "shared" / "data"))
SIZE, PORTRAITS = (640, 480), 24
LARGE, SMALL = FaceSearchConfig(smallest_face=80), FaceSearchConfig()


def theirs(detector, predictor, embedder, paths):
    """As dlib's own examples do it."""
    found = []
    for path in paths:
        photo = dlib.load_rgb_image(str(path))
        for face in detector(photo, 0):
            chip = dlib.get_face_chip(photo, predictor(photo, face.rect), size=150, padding=0.25)
            found.append(embedder.compute_face_descriptor(chip))
    return found


def measure(runs, rounds):
    """Median seconds of each run, in turn."""
    seconds = {name: [] for name in runs}
    for run in runs.values():
        run()
    for _ in range(rounds):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(times) for name, times in seconds.items()}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    file = {part: _in_package(known.name) for part, known in PUBLISHED.items()}
    detector = dlib.cnn_face_detection_model_v1(file["detector"])
    predictor, embedder = dlib.shape_predictor(file["landmarks"]), dlib.face_recognition_model_v1(file["embedder"])
    one, two = FacePipeline.load(EmbedderConfig(views=1)), FacePipeline.load()
    people = sorted(path for path in (DATA / "lfw_dev").iterdir() if path.is_dir())[:PORTRAITS]
    portraits = [sorted(person.glob("*.jpg"))[0] for person in people]
    groups = [Image.open(path).convert("RGB").resize(SIZE) for path in sorted((DATA / "faces").glob("*.jpg"))]
    photos = [np.asarray(photo) for photo in groups]
    chips = [found.faces[0].crop_HWC for found in one.predict([path.read_bytes() for path in portraits], embed=False)]
    chips = [np.ascontiguousarray(chip) for chip in chips] * 2
    faces = torch.from_numpy(np.stack(chips)).permute(0, 3, 1, 2)

    embed = measure(
        {
            "dlib": lambda: [embedder.compute_face_descriptor(chip) for chip in chips],
            "ours": lambda: one.embed([faces]),
            "default": lambda: two.embed([faces, faces.flip(3)]),
        },
        rounds,
    )
    detect = measure(
        {
            "dlib": lambda: [detector(photo, 0) for photo in photos],
            "ours": lambda: one.predict(photos, LARGE, embed=False),
            "default": lambda: one.predict(photos, SMALL, embed=False),
        },
        rounds,
    )
    whole = measure(
        {
            "dlib": lambda: theirs(detector, predictor, embedder, portraits),
            "ours": lambda: one.predict([path.read_bytes() for path in portraits], LARGE),
            "default": lambda: two.predict([path.read_bytes() for path in portraits], SMALL),
        },
        rounds,
    )
    answer = {}
    for name, times in (("embed", embed), ("detect", detect), ("pipeline", whole)):
        answer[f"{name}_ratio"] = round(times["dlib"] / times["ours"], 1)
        answer[f"{name}_ratio_{'small' if name == 'detect' else 'default'}"] = round(
            times["dlib"] / times["default"], 1
        )
    counts = {"embed": len(chips), "detect": len(photos), "pipeline": len(portraits)}
    for name, times in (("embed", embed), ("detect", detect), ("pipeline", whole)):
        answer |= {f"{name}_{who}_ms": round(1000 * took / counts[name], 2) for who, took in times.items()}
    answer |= {"cores": num_cores(), "precision": one.precision}
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
