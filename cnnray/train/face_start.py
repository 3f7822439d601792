"""Where an embedder made of a backbone starts: at what its features say of the training people in closed form.

A random layer on top of a network that was trained for objects forgets what the network knows, and a few hundred faces
do not bring it back: on ORL (30 people learned from, ten others asked for, one-shot) the network's own features were
right for 84 % of the photos, trained from a random layer for 73 %, and whitened within people, without any training,
for 94 %.
"""

import torch
from torch import Tensor, nn

from cnnray.config import FacesConfig
from cnnray.nn.checkpoint import Card, save_checkpoint
from cnnray.nn.device import native_precision, single_threaded
from cnnray.nn.embedders import BackboneEmbedder, build_embedding_net
from cnnray.nn.face_weights import TASK
from cnnray.ops.seeds import seed_for
from cnnray.ops.whitening import whiten_within
from cnnray.train.face_data import FaceData, face_units
from cnnray.train.faces_task import architecture
from cnnray.train.image_data import to_tensors

_FACES = 1000  # that are looked at
_VIEWS = 4  # random ones of each
_BATCH = 32
_LENGTH = 10.0  # of the projection as a whole: a learning rate of 1e-3 then moves it by some per cent in an epoch


def prepare_start(data: FaceData, config: FacesConfig, uri: str) -> None:
    """Write the checkpoint that training starts from; the same one on any number of cores.

    Args:
        data: whose training faces are looked at.
        uri: of the checkpoint's folder.
    """
    torch.manual_seed(config.seed)
    net = build_embedding_net(architecture(config), config.weights)
    assert isinstance(net.body, BackboneEmbedder)
    with single_threaded(torch.device("cpu")):
        _fit(net.body, data, config)
    save_checkpoint(uri, net.state_dict(), Card(task=TASK, arch=architecture(config)))


def _fit(body: BackboneEmbedder, data: FaceData, config: FacesConfig) -> None:
    """Set everything of the embedder that training faces decide."""
    if config.weights == "none":
        _settle_norms(body, data, config)
    features, labels = _look(body.eval(), data, config)
    body.mean.copy_(features.mean(0))
    body.std.copy_(features.std(0, correction=0).clamp(min=1e-6))
    projection = whiten_within((features - body.mean) / body.std, labels, config.num_features)
    with torch.no_grad():
        body.projection.weight.copy_(projection * (_LENGTH / projection.norm()))
        body.projection.bias.zero_()


def _settle_norms(body: BackboneEmbedder, data: FaceData, config: FacesConfig) -> None:
    """Give batch norms without statistics those of the faces, or features would change with the first steps."""
    momenta = {norm: norm.momentum for norm in body.modules() if isinstance(norm, nn.modules.batchnorm._BatchNorm)}
    for norm in momenta:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
    _look(body.train(), data, config)
    for norm, momentum in momenta.items():
        norm.momentum = momentum


def _look(body: BackboneEmbedder, data: FaceData, config: FacesConfig) -> tuple[Tensor, Tensor]:
    """Features of random views of training faces, of whole people as far as _FACES go, and the people's numbers."""
    people = torch.from_numpy(data.train_people)
    order = sorted(range(int(people.max()) + 1), key=lambda person: seed_for(str(person), config.seed, 0))
    rank = torch.empty(len(order), dtype=torch.int64).scatter_(0, torch.tensor(order), torch.arange(len(order)))
    rows = rank[people].argsort(stable=True)[:_FACES]
    # numbers of views that no epoch asks for, which count from 1
    units = [unit for view in range(1, _VIEWS + 1) for unit in face_units(data.train, rows.numpy(), -view, _BATCH)]
    low, found = native_precision(torch.device("cpu")) == "bfloat16", []
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=low):
        for batch in data.stream(units, data.maker):
            found.append(body.features(to_tensors(batch)[0].contiguous(memory_format=torch.channels_last)))
    return torch.cat(found).clone(), people[rows].repeat(_VIEWS)
