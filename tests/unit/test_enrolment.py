"""Who is in the gallery, and who is looked for."""

import numpy as np
import pytest

from cnnray.config import FacesEvaluateConfig
from cnnray.errors import OptionError
from cnnray.ops.enrolment import closed_set, open_set

# two people with one image, four with more
LABELS = np.array(["d", "a", "a", "b", "c", "c", "c", "d", "e", "f", "f"])


def test_in_a_closed_set_the_first_image_of_everybody_is_enrolled():
    gallery, probes = closed_set(LABELS)
    assert gallery.tolist() == [0, 1, 3, 4, 8, 9] and probes.tolist() == [2, 5, 6, 7, 10]


def test_strangers_have_several_images_and_none_in_the_gallery():
    gallery, probes = open_set(LABELS, 0.5, seed=3)
    enrolled = set(LABELS[gallery])
    assert len(gallery) == len(enrolled) == 4 and {"b", "e"} < enrolled
    assert sorted([*gallery, *probes]) == list(range(len(LABELS)))
    strangers = set(LABELS) - enrolled
    assert all(np.isin(np.flatnonzero(LABELS == name), probes).all() for name in strangers)
    assert all(at == np.flatnonzero(LABELS == LABELS[at])[0] for at in gallery)


def test_a_seed_always_chooses_the_same_strangers():
    def enrolled(labels, seed):
        return set(labels[open_set(labels, 0.5, seed).gallery_G])

    assert enrolled(LABELS, 1) == enrolled(LABELS[::-1], 1)
    assert len({frozenset(enrolled(LABELS, seed)) for seed in range(20)}) > 3


def test_lfws_numbers():
    """5,749 people, 1,680 of them with two images or more."""
    labels = np.concatenate([np.arange(5749), np.arange(1680)])
    gallery, probes = open_set(labels, 0.5, seed=0)
    assert len(gallery) == 4909 and len(probes) == 840 + 2 * 840


def test_nobody_may_be_left_to_be_a_stranger():
    assert open_set(np.array(["a", "a", "b"]), 0.5, seed=0).probes_P.tolist() == [1]
    assert closed_set(np.array([], np.str_)).gallery_G.tolist() == []


def test_options():
    for wrong in ({"strangers": 0.0}, {"strangers": 1.0}, {"pick": "left"}, {"embed": False}, {"seed": -1}):
        with pytest.raises(OptionError, match=next(iter(wrong))):
            FacesEvaluateConfig(**wrong)
