"""Recognition end to end over HTTP, in galleries of 1,000 and 100,000 people.

    python benchmarks/gallery_http.py [--identities 1000 100000] [--requests 100]       about 3 minutes on two cores

One client asks one service who is in photos of LFW (CNNRAY_DATA, or ../shared/data; lfw_dev), one photo a request. The
gallery, in SQLite, has people made of embeddings of these photos with noise, and some of the people themselves. Last
line, one JSON object: by size p50_ms and p99_ms of a request, search_ms (median of the gallery's part: database, index
and names), search_share of a request, enroll_p50_ms, found (share of the enrolled who were recognised by the photo that
enrolled them).
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np
from crowd import fill

from cnnray.client import Client
from cnnray.config import ServeConfig
from cnnray.errors import ServiceError
from cnnray.infer.faces import FacePipeline
from cnnray.infer.gallery.record import Record
from cnnray.serve.app import down, up

DATA = Path(os.environ.get("CNNRAY_DATA", Path(__file__).resolve().parent.parent.parent / "shared" / "data"))
NAME = "crowd"


def photos(count):
    folders = sorted(path for path in (DATA / "lfw_dev").rglob("*") if path.suffix.lower() in (".jpg", ".png"))
    return [path.read_bytes() for path in folders[:: max(1, len(folders) // count)]][:count]


def crowd(contents, size, seed=0):
    """Embeddings of people who are not there: those of photos with noise."""
    found = FacePipeline.load().predict(contents)
    known_ND = np.stack([photo.faces[0].embedding_D for photo in found if photo.faces])
    rng = np.random.default_rng(seed)
    picked = [rng.integers(len(known_ND), size=size) for _ in range(3)]
    made_ND = known_ND[picked[0]] + 0.6 * (known_ND[picked[1]] - known_ND[picked[2]])
    made_ND += 0.05 * rng.normal(size=made_ND.shape).astype(np.float32)
    return (made_ND / np.linalg.norm(made_ND, axis=1, keepdims=True)).astype("<f4")


def measure(client, contents, enrolled):
    known = 0
    enroll_times, times, shares, searches = [], [], [], []
    for at, content in enumerate(contents[:enrolled]):
        began = time.perf_counter()
        try:
            client.enroll(NAME, f"real-{at}", [content], accept_conflict=True, accept_quality=True, pick="largest")
        except ServiceError as error:
            assert error.code == "no_face", error
        enroll_times.append(time.perf_counter() - began)
    for _ in range(3):
        client.recognize(NAME, contents[0])
    for at, content in enumerate(contents):
        began = time.perf_counter()
        answer = client.recognize(NAME, content)
        times.append(time.perf_counter() - began)
        searches.append(answer.timings["search_ms"] / 1000)
        shares.append(searches[-1] / times[-1])
        known += at < enrolled and any(face.identity and face.identity.id == f"real-{at}" for face in answer.faces)
    ms = [round(1000 * float(np.percentile(times, share)), 1) for share in (50, 99)]
    return {
        "p50_ms": ms[0],
        "p99_ms": ms[1],
        "search_ms": round(1000 * float(np.median(searches)), 2),
        "search_share": round(float(np.median(shares)), 3),
        "enroll_p50_ms": round(1000 * float(np.median(enroll_times)), 1),
        "found": round(known / enrolled, 3),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--identities", type=int, nargs="+", default=[1000, 100_000])
    parser.add_argument("--requests", type=int, default=100)
    args = parser.parse_args()
    contents = photos(args.requests)
    sizes = []
    for size in args.identities:
        with tempfile.TemporaryDirectory(prefix="cnnray-gallery-http-") as folder:
            record = f"{folder}/g.db"
            config = ServeConfig(faces="dlib_resnet", record=record, port=0, timeout_s=120)
            url = up(config)
            try:
                with Client(url) as client:
                    client.create_gallery(NAME)
                store = Record(record)
                fill(store, NAME, crowd(contents, size))
                store.close()
                down()
                with Client(up(config)) as client:
                    client.recognize(NAME, contents[0])
                    sizes.append({"identities": size} | measure(client, contents, args.requests // 2))
            finally:
                down()
        print(sizes[-1], flush=True)
    print(json.dumps(sizes[-1] | {"sizes": sizes}))


if __name__ == "__main__":
    main()
