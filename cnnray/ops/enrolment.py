"""Who is in the gallery when identification is measured, and who is looked for.

One image of each person is in the gallery, the first one; others are probes.

    closed set   all people are in the gallery
    open set     some of the people with two or more images are strangers: they are not in the gallery, and all their
                 images are impostors. People with a single image are in it for others to be taken for.

In LFW 1,680 of 5,749 people have two or more images. With half of them strangers 4,909 people are in the gallery.

Legend: N images, in an order that decides which is a person's first; G and P of them, by their place in it.
"""

from collections import Counter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[Any]


class Enrolment(NamedTuple):
    """Places of images: in the gallery, and of those that are looked for in it."""

    gallery_G: NDArray[np.int64]
    probes_P: NDArray[np.int64]


def closed_set(labels_N: Labels) -> Enrolment:
    """Everybody is enrolled."""
    return _enrol(labels_N, np.zeros(len(labels_N), np.bool_))


def open_set(labels_N: Labels, strangers: float, seed: int) -> Enrolment:
    """Strangers are left out of the gallery.

    Args:
        labels_N: who it is, str or int.
        strangers: share of the people with two or more images, in (0, 1); rounded to people, half to even.
        seed: of the choice. Same people and seed: same strangers, whatever the order of the images.
    """
    several = sorted(name for name, count in Counter(labels_N.tolist()).items() if count > 1)
    chosen = np.random.default_rng(seed).permutation(len(several))[: round(strangers * len(several))]
    return _enrol(labels_N, np.isin(labels_N, [several[at] for at in chosen]))


def _enrol(labels_N: Labels, stranger_N: NDArray[np.bool_]) -> Enrolment:
    first_N = np.zeros(len(labels_N), np.bool_)
    first_N[np.unique(labels_N, return_index=True)[1]] = True
    gallery_N = first_N & ~stranger_N
    return Enrolment(np.flatnonzero(gallery_N), np.flatnonzero(~gallery_N))
