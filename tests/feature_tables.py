"""Small synthetic feature tables: one Gaussian blob per class."""

import numpy as np

from cnnray.data.feature_store import FeatureTable


def make_table(
    counts=(12, 9, 6),
    *,
    dim=16,
    views=0,
    val_per_class=0,
    splits=True,
    spread=1.0,
    seed=0,
    dtype="float16",
    mixup=False,
):
    """A table with `counts[c]` training images of class c, and `val_per_class` validation images of each."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(len(counts), dim)) * spread
    rows = []
    for label, count in enumerate(counts):
        for number in range(count + val_per_class):
            split = "train" if number < count else "val"
            name = f"c{label}/{number:03d}.png"
            for view in range(1 + (views if split == "train" else 0)):
                mixed = mixup and view > 0
                rows.append(
                    {
                        "id": name,
                        "label": f"c{label}",
                        "split": split if splits else "",
                        "view": view,
                        "label_b": f"c{(label + 1) % len(counts)}" if mixed else None,
                        "lam": 0.75 if mixed else 1.0,
                        "feature": centres[label] + rng.normal(size=dim),
                    }
                )
    rows.sort(key=lambda row: (row["id"], row["view"]))
    text = {key: np.array([row[key] for row in rows], dtype=object) for key in ("id", "label", "split", "label_b")}
    return FeatureTable(
        ids=text["id"],
        labels=text["label"],
        splits=text["split"],
        labels_b=text["label_b"],
        views=np.array([row["view"] for row in rows], dtype=np.int32),
        lams=np.array([row["lam"] for row in rows], dtype=np.float32),
        features=np.array([row["feature"] for row in rows]).astype(dtype),
        manifest={"content_sha256": f"synthetic {seed}"},
    )
