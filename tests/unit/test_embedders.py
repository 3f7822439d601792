"""The registry of embedders: names, checkpoints, what is refused; no weights of others are needed here."""

import dataclasses

import pytest
import torch

from cnnray.errors import CheckpointError, OptionError, UnknownNameError
from cnnray.nn.checkpoint import Card, save_checkpoint
from cnnray.nn.embedders import EMBEDDERS, EmbedderSpec, build_embedding_net, input_of, load_embedder

SMALL = {"model": "backbone", "backbone": "mobilenet_v1:size=64,width=0.25", "num_features": 16, "head": "logistic"}


def saved(folder, arch=SMALL, **changes):
    torch.manual_seed(0)
    net = build_embedding_net(arch)
    card = Card(task="faces", arch=dict(arch), input=input_of(arch) | {"threshold": 0.7}, metrics={"accuracy": 0.9})
    save_checkpoint(str(folder), net.state_dict(), dataclasses.replace(card, **changes))
    return net.eval()


def test_a_checkpoint_comes_back(tmp_path):
    net = saved(tmp_path / "a")
    found = load_embedder(str(tmp_path / "a"))
    faces = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8)
    torch.testing.assert_close(found.net(faces), net(faces))
    torch.testing.assert_close(found.net(faces).norm(dim=1), torch.ones(3))
    assert found.spec == EmbedderSpec(64, 16, (0.2, 0.25, 0.3), 0.7, {"accuracy": 0.9})
    assert found.name == SMALL["backbone"] and not any(p.requires_grad for p in found.net.parameters())
    differences = (found.net(faces) - found.net(faces.flip(3))).abs()
    torch.testing.assert_close(found.net.head(differences), net.head(differences))


def test_faces_may_be_floats_in_the_range_of_pixels(tmp_path):
    net = saved(tmp_path / "a")
    faces = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    torch.testing.assert_close(net(faces), net(faces.float()))


def test_views():
    spec = EMBEDDERS["dlib_resnet"].spec
    assert spec.views(1) == ((0.25, False),)
    assert spec.views(2) == ((0.3, False), (0.2, True))
    assert sorted(spec.views(4)) == [(0.2, False), (0.2, True), (0.3, False), (0.3, True)]


def test_a_head_starts_between_the_same_and_the_different():
    head = build_embedding_net(SMALL).head
    same, different = torch.zeros(1, 16), torch.full((1, 16), 0.25)
    assert head(same) > 3 and head(different) < -3


@pytest.mark.parametrize("model", ["dlib_resnet", "inception_resnet_v1"])
def test_published_networks_can_be_built_without_their_weights(model):
    arch = {"model": model}
    net, given = build_embedding_net(arch).eval(), input_of(arch)
    faces = torch.randint(0, 256, (2, 3, given["size"], given["size"]), dtype=torch.uint8)
    assert net(faces).shape == (2, given["num_features"])


def test_what_is_refused(tmp_path):
    with pytest.raises(
        UnknownNameError, match="unknown embedder 'arcface'; known: dlib_resnet, inception_resnet_v1, bac"
    ):
        build_embedding_net({"model": "arcface"})
    with pytest.raises(UnknownNameError, match="unknown verification head 'x'"):
        build_embedding_net({"model": "dlib_resnet", "head": "x"})
    with pytest.raises(
        CheckpointError, match=r"expected an embedder \(dlib_resnet, .*\) or a checkpoint: no checkpoint"
    ):
        load_embedder("arcface")
    saved(tmp_path / "a")
    with pytest.raises(OptionError, match="expected weights with an embedder's name"):
        load_embedder(str(tmp_path / "a"), "none")
    saved(tmp_path / "b", task="classify")
    with pytest.raises(CheckpointError, match="task 'classify'; expected task 'faces'"):
        load_embedder(str(tmp_path / "b"))
    saved(tmp_path / "c", arch={**SMALL, "head": ""})
    saved(tmp_path / "d", input={})
    with pytest.raises(CheckpointError, match="its card does not describe one: 'paddings'"):
        load_embedder(str(tmp_path / "d"))
