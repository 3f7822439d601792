"""How well people are told apart, against dlib-bin as its users call it, on the same photos and pairs.

    python benchmarks/faces_accuracy.py [--root FOLDER --pairs FILE]      about four minutes on two cores

FOLDER has a folder of photos for every person, FILE is LFW's pairs.txt: with Labeled Faces in the Wild itself the
figures are the official ones. Without them: 79 people of LFW with 1,229 photos, and 6,000 pairs drawn from them with a
seed, no person in two of the ten folds. Baseline: dlib-bin's frontal detector (HOG, enlarged once), its five landmarks
and its network; the same weights as ours. Last line, one JSON object, of each way NAME (dlib, ours: the default,
views_1, views_4, faces_80: without enlargement):

    NAME_accuracy, NAME_standard_error   of the pairs, mean of ten folds
    NAME_tar_at_far_0.001                share of pairs of one person that pass where 0.1 % of others do
    NAME_rank_1                          one-shot: the first photo of each person is the gallery, all others are probes
    NAME_fnir_at_fpir_0.01               half of the people with two photos or more are strangers
    NAME_not_found                       photos without a face
"""

import argparse
import json
import os
import tempfile
from pathlib import Path

import dlib
import numpy as np

from cnnray.config import EmbedderConfig, FaceSearchConfig
from cnnray.data.face_judges import GalleryJudge, PairJudge
from cnnray.data.face_pairs import list_people, read_face_pairs
from cnnray.data.make_face_pairs import write_face_pairs
from cnnray.data.meant_faces import MeantFaces
from cnnray.errors import ImageError
from cnnray.infer.face_results import pick_face
from cnnray.infer.faces import FacePipeline
from cnnray.nn.face_weights import PUBLISHED, _in_package

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("CNNRAY_DATA", ROOT.parent / "shared" / "data"))
TOGETHER, STRANGERS, SEED = 128, 0.5, 0


def by_dlib(paths):
    """dlib's embeddings of the most central face; NaN without one."""
    find = dlib.get_frontal_face_detector()
    predictor = dlib.shape_predictor(_in_package(PUBLISHED["landmarks"].name))
    network = dlib.face_recognition_model_v1(_in_package(PUBLISHED["embedder"].name))
    found = np.full((len(paths), 128), np.nan, np.float32)
    for at, path in enumerate(paths):
        photo = dlib.load_rgb_image(path)
        boxes = find(photo, 1)
        if len(boxes):
            middle = dlib.point(photo.shape[1] // 2, photo.shape[0] // 2)
            box = min(boxes, key=lambda box: (box.center() - middle).x ** 2 + (box.center() - middle).y ** 2)
            found[at] = network.compute_face_descriptor(photo, predictor(photo, box))
    return found


def by_us(paths, views, search):
    """Our embeddings; NaN without a face."""
    pipeline = FacePipeline.load(EmbedderConfig(views=views))
    found = np.full((len(paths), 128), np.nan, np.float32)
    for start in range(0, len(paths), TOGETHER):
        photos = [Path(path).read_bytes() for path in paths[start : start + TOGETHER]]
        for at, answer in enumerate(pipeline.predict(photos, search), start=start):
            if not isinstance(answer, ImageError) and answer.faces:
                found[at] = pick_face(answer, "central").embedding_D
    return found


def figures(paths, labels, embeddings, pairs):
    faces = MeantFaces(
        tuple(paths), tuple(paths), labels, embeddings, np.full((len(paths), 5, 2), np.nan, np.float32), {}, {}
    )
    told, gallery = PairJudge(faces, pairs, None).figures, GalleryJudge(faces, STRANGERS, SEED)
    return {
        "accuracy": told["accuracy"],
        "standard_error": told["accuracy_standard_error"],
        "threshold": told["threshold"],
        "tar_at_far_0.001": told["tar_at_far_0.001"],
        "rank_1": gallery.closed["rank_1"],
        "fnir_at_fpir_0.01": gallery.open["fnir_at_fpir_0.01"],
        "not_found": int(np.isnan(embeddings[:, 0]).sum()),
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", default=str(DATA / "lfw_dev"))
    parser.add_argument("--pairs", default="")
    args = parser.parse_args()
    people = list_people(args.root)
    paths = [str(Path(args.root) / name / image) for name, images in people.items() for image in images]
    labels = np.array([name for name, images in people.items() for _ in images])
    file = args.pairs
    if not file:
        file = tempfile.mkdtemp(prefix="cnnray-faces-accuracy-") + "/pairs.txt"
        write_face_pairs(file, people, seed=SEED)
    pairs = read_face_pairs(file, args.root)
    answer = {"photos": len(paths), "people": len(people), "pairs": len(pairs.paths_a)}
    ways = {
        "dlib": lambda: by_dlib(paths),
        "ours": lambda: by_us(paths, 2, FaceSearchConfig()),
        "views_1": lambda: by_us(paths, 1, FaceSearchConfig()),
        "views_4": lambda: by_us(paths, 4, FaceSearchConfig()),
        "faces_80": lambda: by_us(paths, 2, FaceSearchConfig(smallest_face=80)),
    }
    for name, way in ways.items():
        found = figures(paths, labels, way(), pairs)
        answer |= {f"{name}_{key}": round(value, 4) if value is not None else None for key, value in found.items()}
        print(json.dumps({name: found}), flush=True)
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
