"""Whether a person of a gallery should score by the best of several faces or by their mean.

    python benchmarks/gallery_scores.py                        about 90 seconds on two cores, most of it for embedding

Photos of LFW (79 people with 10 to 20 each) and of the ORL database (40 with 10), embedded by the default embedder, of
each photo the most central face. In each of 200 seeded splits of a database half of the people are strangers; of each
of the others some photos are enrolled, and the rest are looked for. `best`: a person scores by the most similar of the
enrolled faces. `mean`: by the mean of their embeddings, brought back to length 1. With one face both are the same.

Claim: the mean is no worse. Last line, one JSON object: DATABASE_FACES_WAY_FIGURE with `faces` enrolled, and figures

    rank_1                     share of the probes whose own person is the first
    fnir_at_fpir_0.01, _0.1    share of the probes that are missed where this share of strangers' photos is taken for
                               somebody
    mean_less_best_FIGURE      mean over splits of the difference
    mean_lower_FIGURE, best_lower_FIGURE   share of the splits where the figure is lower by that way
"""

import argparse
import json
import os
from pathlib import Path

import numpy as np

from cnnray.errors import ImageError
from cnnray.infer.face_results import pick_face
from cnnray.infer.faces import FacePipeline
from cnnray.ops.identification import compare_probes, identification, open_set_curve

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("CNNRAY_DATA", ROOT.parent / "shared" / "data"))
TOGETHER, STRANGERS, SPLITS = 128, 0.5, 200
ENROLLED = (1, 2, 3, 5, 8)
FPIRS = (0.01, 0.1)


def embed(root):
    """Embeddings of length 1 and people's names; photos without a face are left out."""
    paths = sorted(path for path in Path(root).glob("*/*") if path.suffix in (".jpg", ".pgm"))
    pipeline, found, names = FacePipeline.load(), [], []
    for start in range(0, len(paths), TOGETHER):
        some = paths[start : start + TOGETHER]
        for path, answer in zip(some, pipeline.predict([path.read_bytes() for path in some]), strict=True):
            if not isinstance(answer, ImageError) and answer.faces:
                found.append(pick_face(answer, "central").embedding_D)
                names.append(path.parent.name)
    return np.stack(found), np.array(names)


def split(labels, enrolled, seed):
    """Places of the enrolled photos and of the probes."""
    rng, names = np.random.default_rng(seed), np.unique(labels)
    strangers = set(rng.permutation(names)[: round(STRANGERS * len(names))].tolist())
    gallery, probes = [], []
    for name in names:
        places = rng.permutation(np.flatnonzero(labels == name))
        num = 0 if name in strangers or len(places) <= enrolled else enrolled
        gallery += places[:num].tolist()
        probes += places[num:].tolist()
    return np.array(gallery), np.array(probes)


def means(embeddings, labels):
    """One embedding of length 1 for each person, and the names."""
    names = np.unique(labels)
    sums = np.stack([embeddings[labels == name].sum(axis=0) for name in names])
    return sums / np.linalg.norm(sums, axis=1, keepdims=True), names


def figures(probes, probe_labels, gallery, gallery_labels):
    found = compare_probes(probes @ gallery.T, probe_labels, gallery_labels)
    curve = open_set_curve(found)
    return [identification(found, ranks=(1,))[1], *(curve.fnir_at_fpir(fpir).fnir for fpir in FPIRS)]


def compare(embeddings, labels, enrolled):
    """Figures [splits, 2 ways, figures]."""
    rows = []
    for seed in range(SPLITS):
        gallery, probes = split(labels, enrolled, seed)
        faces, names, looked = embeddings[gallery], labels[gallery], (embeddings[probes], labels[probes])
        rows.append([figures(*looked, faces, names), figures(*looked, *means(faces, names))])
    return np.array(rows)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", default=str(DATA))
    args = parser.parse_args()
    names = ["rank_1", *(f"fnir_at_fpir_{fpir:g}" for fpir in FPIRS)]
    answer = {"splits": SPLITS}
    for database in ("lfw_dev", "orl"):
        embeddings, labels = embed(Path(args.data) / database)
        answer |= {f"{database}_photos": len(labels), f"{database}_people": len(np.unique(labels))}
        for enrolled in ENROLLED:
            rows = compare(embeddings, labels, enrolled)
            for at, name in enumerate(names):
                best, mean, less = *rows[:, :, at].mean(axis=0), rows[:, 1, at] - rows[:, 0, at]
                found = {"best": best, "mean": mean, "mean_less_best": less.mean()}
                found |= {"mean_lower": np.mean(less < 0), "best_lower": np.mean(less > 0)}
                found = {way: round(float(value), 4) for way, value in found.items()}
                print(json.dumps({"database": database, "enrolled": enrolled, "figure": name, **found}), flush=True)
                answer |= {f"{database}_{enrolled}_{way}_{name}": value for way, value in found.items()}
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
