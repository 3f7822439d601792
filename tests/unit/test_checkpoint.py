"""Checkpoints: whole, or refused; and safe against a kill at any step of a save."""

import dataclasses
import json
import os

import pytest
import safetensors.torch
import torch
from torch import nn

from cnnray import files
from cnnray.errors import CheckpointError, StorageError
from cnnray.nn import checkpoint
from cnnray.nn.checkpoint import Card, load_card, load_checkpoint, load_into, load_state_dict, save_checkpoint
from cnnray.nn.weights import content_sha256

CARD = Card(
    task="classify",
    arch={"backbone": "x", "num_features": 3},
    classes=["äpple", "päron"],
    input={"size": 4, "mean": [0.5, 0.1, 1e-5]},
    metrics={"accuracy": 0.1},
    data_hash="ab",
)


def tensors(value=1.0):
    return {"w": torch.full((2, 3), value), "n": torch.tensor(7), "h": torch.ones(3, dtype=torch.float16)}


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


@pytest.mark.parametrize("scheme", ["", "file://", "memory://"])
def test_what_is_saved_is_what_is_loaded(tmp_path, scheme):
    uri = f"{scheme}{tmp_path}/deep/model"
    written = save_checkpoint(uri, tensors(), CARD)
    loaded, card = load_checkpoint(uri, task="classify")
    assert same(loaded, tensors()) and card == written
    assert set(card.versions) == {"cnnray", "torch", "torchvision"} and len(card.weights_sha256) == 64
    assert dataclasses.replace(card, versions={}, weights_sha256="") == CARD
    assert [f.rpartition("/")[2] for f in files.list_files(uri)] == ["card.json", "model.safetensors"]


def test_layout_device_and_shared_memory_do_not_change_the_file(tmp_path):
    w = torch.arange(48.0).reshape(1, 3, 4, 4)
    a = save_checkpoint(f"{tmp_path}/a", {"x": w, "y": w}, CARD)
    b = save_checkpoint(f"{tmp_path}/b", {"y": w.clone(), "x": w.to(memory_format=torch.channels_last)}, CARD)
    assert a == b


def test_every_cut_of_either_file_is_refused(tmp_path):
    uri = str(tmp_path / "m")
    save_checkpoint(uri, tensors(), CARD)
    for name in ("model.safetensors", "card.json"):
        path = tmp_path / "m" / name
        whole = path.read_bytes()
        for length in range(len(whole)):
            path.write_bytes(whole[:length])
            with pytest.raises(CheckpointError):
                load_checkpoint(uri)
        path.write_bytes(whole + b"\n")
        with pytest.raises(CheckpointError):
            load_checkpoint(uri)
        path.write_bytes(whole)
    load_checkpoint(uri)


def test_every_flipped_bit_of_either_file_is_refused(tmp_path):
    uri = str(tmp_path / "m")
    save_checkpoint(uri, tensors(), CARD)
    for name in ("model.safetensors", "card.json"):
        path = tmp_path / "m" / name
        whole = path.read_bytes()
        for bit in range(len(whole) * 8):
            changed = bytearray(whole)
            changed[bit // 8] ^= 1 << bit % 8
            path.write_bytes(changed)
            with pytest.raises(CheckpointError):
                load_checkpoint(uri)
        path.write_bytes(whole)
    load_checkpoint(uri)


@pytest.mark.parametrize("name", ["model.safetensors", "card.json"])
def test_a_removed_file_is_named(tmp_path, name):
    uri = str(tmp_path / "m")
    save_checkpoint(uri, tensors(), CARD)
    os.remove(tmp_path / "m" / name)
    with pytest.raises(CheckpointError, match=name):
        load_checkpoint(uri)


def test_nothing_there_and_a_file_in_place_of_the_folder(tmp_path):
    (tmp_path / "file").write_text("x")
    for name in ("absent", "file"):
        with pytest.raises(CheckpointError, match="no checkpoint at"):
            load_checkpoint(str(tmp_path / name))


def test_another_task_is_refused(tmp_path):
    uri = str(tmp_path / "m")
    save_checkpoint(uri, tensors(), CARD)
    with pytest.raises(CheckpointError, match="task 'classify'; expected task 'detect'"):
        load_checkpoint(uri, task="detect")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "format 2; this version of cnnray reads format 1"),
        ({"surprise": 1}, "unknown \\['surprise'\\]"),
        ({"task": None}, "missing \\['task'\\]"),
        ({"classes": {"a": 1}}, "expected a list as 'classes'"),
        ({"metrics": {"accuracy": 0.9}}, "was changed"),
    ],
)
def test_an_edited_card_is_refused(tmp_path, change, message):
    uri = str(tmp_path / "m")
    save_checkpoint(uri, tensors(), CARD)
    path = tmp_path / "m" / "card.json"
    fields = json.loads(path.read_bytes()) | change
    path.write_text(json.dumps({k: v for k, v in fields.items() if v is not None}, indent=2) + "\n")
    with pytest.raises(CheckpointError, match=message):
        load_card(uri)


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the program catches it."""


def save_killed_at(uri, step, monkeypatch):
    """Save new weights over `uri`, killed before the `step`-th of its writes and renames; False when it ended."""
    calls = iter(range(100))

    def counted(real):
        def call(*args):
            if next(calls) == step:
                raise Killed
            return real(*args)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_bytes", counted(files.write_bytes))
        patch.setattr(files, "remove", counted(files.remove))
        patch.setattr(checkpoint, "_rename", counted(checkpoint._rename))
        try:
            save_checkpoint(uri, tensors(2.0), CARD)
        except Killed:
            return True
    return False


@pytest.mark.parametrize("step", range(5))
def test_a_kill_while_replacing_leaves_the_old_checkpoint_or_the_new(tmp_path, monkeypatch, step):
    uri = str(tmp_path / "m")
    save_checkpoint(uri, tensors(1.0), CARD)
    save_killed_at(uri, 1, monkeypatch)  # leaves an orphan beside the good one
    (tmp_path / "m" / ".card.json.0123abcd.tmp").write_text("half")  # and so does a kill within a write
    killed = save_killed_at(uri, step, monkeypatch)
    assert killed == (step < 4)  # write, commit, rename, clean
    loaded, _ = load_checkpoint(uri)
    assert same(loaded, tensors(1.0 if step < 2 else 2.0))
    save_checkpoint(uri, tensors(3.0), CARD)
    assert same(load_checkpoint(uri)[0], tensors(3.0))
    assert [f.rpartition("/")[2] for f in files.list_files(uri)] == ["card.json", "model.safetensors"]


@pytest.mark.parametrize("step", [0, 1])
def test_a_kill_in_the_first_save_leaves_no_checkpoint(tmp_path, monkeypatch, step):
    uri = str(tmp_path / "m")
    assert save_killed_at(uri, step, monkeypatch)
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        load_checkpoint(uri)


def test_a_reader_beside_a_writer_never_sees_a_mixture(tmp_path, monkeypatch):
    """A whole save happens between the reader's card and its weights."""
    uri = str(tmp_path / "m")
    save_checkpoint(uri, tensors(1.0), CARD)
    real, pending = checkpoint._weights_content, [2.0, 3.0]

    def after_a_save(*args):
        if pending:
            save_checkpoint(uri, tensors(pending.pop(0)), CARD)
        return real(*args)

    monkeypatch.setattr(checkpoint, "_weights_content", after_a_save)
    assert same(load_checkpoint(uri)[0], tensors(3.0))


def test_a_folder_that_cannot_be_written_is_a_storage_error(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError):
        save_checkpoint(f"{tmp_path}/file/m", tensors(), CARD)


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s, "epoch": 3}, lambda s: {"model": s}])
def test_foreign_weights_of_usual_shapes_are_read(tmp_path, wrap):
    path = str(tmp_path / "w.pth")
    torch.save(wrap({f"module.{k}": v for k, v in tensors().items()}), path)
    assert same(load_state_dict(path), tensors())


def test_foreign_safetensors_are_read(tmp_path):
    path = str(tmp_path / "w.safetensors")
    safetensors.torch.save_file(tensors(), path)
    assert same(load_state_dict(path), tensors())


def test_a_cut_foreign_file_is_refused(tmp_path):
    for name, save in (("w.pth", torch.save), ("w.safetensors", safetensors.torch.save_file)):
        path = tmp_path / name
        save(tensors(), path)
        whole = path.read_bytes()
        for length in range(0, len(whole), 97):
            path.write_bytes(whole[:length])
            with pytest.raises(CheckpointError, match="cannot read weights from"):
                load_state_dict(str(path))


def test_code_and_other_content_are_refused(tmp_path):
    path = str(tmp_path / "w.pth")
    torch.save(nn.Linear(2, 2), path)
    with pytest.raises(CheckpointError, match="without code"):
        load_state_dict(path)
    for content, seen in (([1, 2], "a list"), ({}, "an empty dict"), ({"epoch": 3}, "keys epoch")):
        torch.save(content, path)
        with pytest.raises(CheckpointError, match=seen):
            load_state_dict(path)
    for absent in (tmp_path / "absent.pth", tmp_path):
        with pytest.raises(CheckpointError, match="no file of weights"):
            load_state_dict(str(absent))


def test_weights_that_do_not_fit_are_named_and_nothing_is_copied():
    module = nn.Linear(3, 2)
    before = module.weight.clone()
    with pytest.raises(
        CheckpointError, match=r"missing bias; unexpected extra; wrong shape weight: expected \[2, 3\], got \[4, 3\]"
    ):
        load_into(module, {"weight": torch.zeros(4, 3), "extra": torch.zeros(1)}, "here")
    with pytest.raises(CheckpointError, match="missing bias"):
        load_into(module, {"weight": torch.zeros(2, 3)}, "here")
    assert torch.equal(module.weight, before)
    load_into(module, {"weight": torch.zeros(2, 3), "bias": torch.zeros(2)}, "here")
    assert not module.weight.any()


def test_content_hash_sees_names_types_shapes_and_bytes_but_not_order_or_layout():
    x = torch.arange(48.0).reshape(1, 3, 4, 4)
    base = content_sha256({"a": x, "b": torch.ones(2)})
    assert base == content_sha256({"b": torch.ones(2), "a": x.to(memory_format=torch.channels_last)})
    others = [
        {"a": x, "c": torch.ones(2)},
        {"a": x, "b": torch.ones(2, dtype=torch.float64)},
        {"a": x.reshape(3, 1, 4, 4), "b": torch.ones(2)},
        {"a": x, "b": torch.tensor([1.0, 1.0 + 2**-23])},
    ]
    assert len({base, *map(content_sha256, others)}) == 5
