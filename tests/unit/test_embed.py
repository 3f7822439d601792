"""The embedder: the same numbers wherever an image stands, compiled or not, with any number of threads."""

import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from cnnray.infer.embed import CPU_BATCH, Embedder, has_compiler
from cnnray.nn.backbones import build_backbone, build_extractor
from cnnray.nn.device import native_precision

SIZE = 64


@pytest.fixture(scope="module")
def extractor():
    return build_extractor(build_backbone("efficientnet_lite0"), "", "avg")


@pytest.fixture(scope="module")
def eager(extractor):
    return Embedder(extractor, SIZE, compile=False, precision="float32")


@pytest.fixture(scope="module")
def images():
    return torch.randint(0, 256, (11, 3, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_features_are_those_of_the_network(extractor, eager, images):
    with torch.no_grad():
        slow = torch.cat([extractor(image[None]) for image in images]).numpy()
    np.testing.assert_allclose(eager.embed(images), slow, rtol=1e-3, atol=1e-5)


def test_an_image_has_the_same_bits_at_any_place_beside_any_neighbours(eager, images):
    together = eager.embed(images)
    for number in range(len(images)):
        np.testing.assert_array_equal(eager.embed(images[number : number + 1])[0], together[number])
    np.testing.assert_array_equal(eager.embed(images.flip(0)), together[::-1])


def test_threads_at_once_and_more_cores_change_no_bit(eager, images):
    want = eager.embed(images)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        np.testing.assert_array_equal(eager.embed(images), want)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    with ThreadPoolExecutor(4) as pool:
        for got in pool.map(eager.embed, [images] * 8):
            np.testing.assert_array_equal(got, want)


def test_bfloat16_is_close_to_float32(extractor, eager, images):
    low = Embedder(extractor, SIZE, compile=False, precision="bfloat16").embed(images)
    high = eager.embed(images)
    cosine = (low * high).sum(1) / np.linalg.norm(low, axis=1) / np.linalg.norm(high, axis=1)
    assert low.dtype == np.float32 and not np.array_equal(low, high) and cosine.min() > 0.98


def test_without_a_compiler_it_runs_and_says_so(extractor, eager, images, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CXX", raising=False)
    assert not has_compiler()
    with pytest.warns(UserWarning, match=r"no C\+\+ compiler found"):
        embedder = Embedder(extractor, SIZE, precision="float32")
    assert not embedder.compiled
    np.testing.assert_array_equal(embedder.embed(images), eager.embed(images))


def test_a_compiler_that_fails_is_told_and_the_network_still_runs(extractor, eager, images, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda model: lambda x: (_ for _ in ()).throw(RuntimeError("broken tools")))
    with pytest.warns(UserWarning, match="broken tools"):
        embedder = Embedder(extractor, SIZE, precision="float32")
    np.testing.assert_array_equal(embedder.embed(images), eager.embed(images))


def test_compiled_features_agree_and_nothing_compiles_twice(extractor, eager, images):
    with warnings.catch_warnings(action="ignore"):  # of the compiler's own start-up
        embedder = Embedder(extractor, SIZE, precision="float32")
    assert embedder.compiled
    compiled_once = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    np.testing.assert_allclose(embedder.embed(images), eager.embed(images), rtol=1e-2, atol=1e-4)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(embedder.embed, [images[:3], images[: CPU_BATCH + 1]])
    np.testing.assert_array_equal(first, embedder.embed(images)[:3])
    np.testing.assert_array_equal(second, embedder.embed(images)[: CPU_BATCH + 1])
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == compiled_once


def test_the_precision_is_one_that_the_machine_has():
    assert native_precision(torch.device("cpu")) in ("float32", "bfloat16")
