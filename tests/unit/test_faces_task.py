"""Embedders of faces in the training loop: losses, what learns, and workers that add up to one."""

import dataclasses

import pytest
import torch

from cnnray.config import FacesConfig
from cnnray.errors import CheckpointError, OptionError, UnknownNameError
from cnnray.nn.checkpoint import Card, save_checkpoint
from cnnray.nn.embedders import BackboneEmbedder, VerificationHead, build_embedding_net
from cnnray.train import faces_task
from cnnray.train.faces_task import FacesTask, architecture
from cnnray.train.optim import build_optimizer, set_trainable

LOSSES = ["triplet", "siamese", "binary"]
TINY = FacesConfig(
    start="mobilenet_v1:size=64,width=0.25",
    weights="none",
    num_features=8,
    batch_size=8,
    images_per_person=2,
    precision="float32",
)


def tuned(**changes):
    return dataclasses.replace(TINY, **changes)


def batch(seed=3, people=4):
    """People who are told apart by their colour, two images of each."""
    generator = torch.Generator().manual_seed(0)
    colours = torch.randint(30, 220, (people, 3, 1, 1), generator=generator).repeat_interleave(2, 0)
    noise = torch.randint(-25, 25, (2 * people, 3, 64, 64), generator=generator)
    images = (colours + noise).clamp(0, 255).to(torch.uint8).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(people).repeat_interleave(2)
    return images, labels, torch.arange(2 * people), torch.tensor([seed])


def built(config):
    torch.manual_seed(0)
    task = FacesTask(config)
    return task, task.build()


# ---- losses ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES)
def test_the_loss_falls(loss):
    task, net = built(tuned(loss=loss, lr=3e-3))
    optimizer = build_optimizer(task.groups(net), task.config)
    means = []
    for number in range(12):
        step = task.step(net, batch(number))
        mean = step.loss / step.weight
        optimizer.zero_grad()
        mean.backward()
        optimizer.step()
        means.append(mean.item())
    assert step.num_examples == 8 and means[-1] < 0.7 * means[0], means


@pytest.mark.parametrize("mining", ["random", "semihard", "hard"])
def test_every_mining_gives_a_gradient(mining):
    task, net = built(tuned(mining=mining))
    step = task.step(net, batch())
    step.loss.backward()
    assert step.loss > 0 and all(p.grad.isfinite().all() for p in net.parameters())
    assert net.body.projection.weight.grad.abs().sum() > 0


def test_random_negatives_depend_on_the_seed_of_the_batch():
    task, net = built(tuned(mining="random"))
    net.eval()
    losses = [task.step(net, batch(seed)).loss.item() for seed in (1, 1, 2, 3)]
    assert losses[0] == losses[1] and len(set(losses)) > 1


@pytest.mark.parametrize(("loss", "margin"), [("triplet", 0.2), ("siamese", 1.0)])
def test_a_margin_of_0_is_that_of_the_loss(loss, margin):
    losses = []
    for config in (tuned(loss=loss), tuned(loss=loss, margin=margin), tuned(loss=loss, margin=2 * margin)):
        task, net = built(config)
        step = task.step(net.eval(), batch())
        losses.append((step.loss / step.weight).item())
    assert losses[0] == losses[1] < losses[2]


class Given(torch.nn.Module):
    """The first numbers of images as their embeddings."""

    head = None

    def forward(self, images):
        return torch.nn.functional.normalize(images.float().flatten(1), dim=1)


def test_the_score_counts_faces_whose_nearest_other_one_is_the_same_persons():
    angles = torch.tensor([0.0, 10.0, 21.0, 60.0, 70.0]).deg2rad()  # the third is nearer to the second
    images = torch.stack([angles.cos(), angles.sin()], 1)
    labels = torch.tensor([0, 0, 1, 1, 1])
    step = FacesTask(TINY).step(Given(), (images, labels, torch.arange(5), torch.tensor([0])))
    assert (step.score.item(), step.num_examples) == (4, 5)
    alone = FacesTask(TINY).step(Given(), (images, torch.arange(5), torch.arange(5), torch.tensor([0])))
    assert alone.score.item() == 0 and alone.loss.item() == 0 and alone.weight.item() == 0


# ---- workers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("world", [2, 3])
def test_workers_sums_are_those_of_one(monkeypatch, loss, world):
    """Embeddings of all, taken from one pass, stand for those that others send; batch norms are those of evaluation."""
    task, net = built(tuned(loss=loss))
    net.eval()
    images, labels, numbers, seed = batch()
    whole = task.step(net, (images, labels, numbers, seed))
    parameters = list(net.parameters())
    gradient = torch.autograd.grad(whole.loss, parameters)
    monkeypatch.setattr(faces_task, "gather_rows", lambda rows, own, total: net(images))
    steps = [task.step(net, (images[r::world], labels, numbers[r::world], seed)) for r in range(world)]
    for name in ("loss", "weight", "score"):
        torch.testing.assert_close(sum(getattr(step, name) for step in steps), getattr(whole, name))
    assert [step.num_examples for step in steps] == [len(images[r::world]) for r in range(world)]
    found = torch.autograd.grad(sum(step.loss for step in steps), parameters)
    for ours, theirs in zip(found, gradient, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


# ---- what learns -----------------------------------------------------------------------------------------------------


def learning(config, num_images=0):
    """Names of stages that learn, and the shares of the learning rate."""
    torch.manual_seed(0)
    task = FacesTask(config, num_images=num_images)
    net = build_embedding_net(architecture(config))
    groups = task.groups(net)
    set_trainable(net, groups, 0)
    names = [name for name, _ in net.body.extractor.lower.named_children()]
    active = [
        name
        for name, stage in net.body.extractor.lower.named_children()
        if any(p.requires_grad for p in stage.parameters())
    ]
    assert all(p.requires_grad for p in net.body.projection.parameters())
    assert net.head is None or all(p.requires_grad for p in net.head.parameters())
    return names, active, [group.lr_scale for group in groups]


def test_which_stages_learn():
    names, active, _ = learning(tuned(unfreeze=0))
    assert active == []
    _, active, _ = learning(tuned(unfreeze=2))
    assert active == names[-2:]
    _, active, _ = learning(tuned(unfreeze=-1))
    assert active == names
    _, active, _ = learning(tuned(unfreeze=len(names), loss="binary"))
    assert active == names
    with pytest.raises(OptionError, match=f"expected unfreeze of at most {len(names)}, .* got {len(names) + 1}"):
        learning(tuned(unfreeze=len(names) + 1))


def test_a_pre_trained_network_learns_more_slowly_and_as_far_down_as_images_bear():
    config = tuned(weights="default", backbone_lr=0.3)
    names, active, rates = learning(config, num_images=100)
    assert active == [] and rates == [1.0]
    _, active, rates = learning(config, num_images=20_000)
    assert active == names and rates == [0.3, 1.0]
    _, active, _ = learning(config, num_images=1500)
    assert 0 < len(active) < len(names) and active == names[-len(active) :]
    _, active, rates = learning(dataclasses.replace(config, weights="none"), num_images=100)
    assert active == names and rates == [1.0, 1.0]
    _, active, _ = learning(dataclasses.replace(config, unfreeze=1), num_images=100)
    assert active == names[-1:]


@pytest.mark.parametrize("loss", ["triplet", "binary"])
def test_published_embedders_learn_as_a_whole(loss):
    config = tuned(start="dlib_resnet", weights="default", loss=loss)
    net = build_embedding_net(architecture(config))
    groups = FacesTask(config).groups(net)
    set_trainable(net, groups, 0)
    assert all(p.requires_grad for p in net.parameters())
    assert [group.lr_scale for group in groups] == ([0.2, 1.0] if loss == "binary" else [0.2])


# ---- what it is built from -------------------------------------------------------------------------------------------


def test_architectures():
    assert architecture(TINY) == {"model": "backbone", "backbone": TINY.start, "num_features": 8, "head": ""}
    assert architecture(tuned(start="dlib_resnet", loss="binary")) == {"model": "dlib_resnet", "head": "logistic"}
    with pytest.raises(UnknownNameError, match="arcface"):
        architecture(tuned(start="arcface"))
    _, net = built(tuned(loss="binary"))
    assert isinstance(net.body, BackboneEmbedder) and isinstance(net.head, VerificationHead)
    assert built(TINY)[1].head is None


def test_training_starts_at_what_was_prepared(tmp_path):
    torch.manual_seed(5)
    net, uri = build_embedding_net(architecture(TINY)), str(tmp_path / "start")
    save_checkpoint(uri, net.state_dict(), Card(task="faces", arch=architecture(TINY)))
    found = FacesTask(TINY, uri).build()
    assert all(torch.equal(tensor, found.state_dict()[name]) for name, tensor in net.state_dict().items())
    with pytest.raises(CheckpointError):
        FacesTask(tuned(num_features=9), uri).build()
