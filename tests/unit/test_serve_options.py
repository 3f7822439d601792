"""What `up` and `build` refuse before anything is started (starting Ray is an error in this tier)."""

import socket

import pytest
from ray import serve

from cnnray.config import ServeConfig
from cnnray.errors import CheckpointError, OptionError
from cnnray.serve.app import build, parse_config, up


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "example.org", ""])
def test_a_host_that_others_reach_needs_an_explicit_option(host):
    with pytest.raises(OptionError, match="allow_unauthenticated"):
        up(ServeConfig(classifier="somewhere", host=host))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_hosts_pass_to_the_next_check(host, tmp_path):
    with pytest.raises(CheckpointError):
        up(ServeConfig(classifier=str(tmp_path / "absent"), host=host))


def test_the_explicit_option_is_heard(tmp_path):
    with pytest.raises(CheckpointError):
        up(ServeConfig(classifier=str(tmp_path / "absent"), host="0.0.0.0", allow_unauthenticated=True))


def test_a_service_without_a_model_is_refused():
    with pytest.raises(OptionError, match="no model: expected one of the options classifier, .*, faces"):
        build({})


def test_what_embeds_faces_is_a_name_or_a_checkpoint(tmp_path):
    assert isinstance(build({"faces": "dlib_resnet", "face_views": "4"}), serve.Application)
    with pytest.raises(CheckpointError, match="expected an embedder .dlib_resnet, .* or a checkpoint"):
        up(ServeConfig(faces="arcface"))
    with pytest.raises(CheckpointError, match=f"no checkpoint at {tmp_path}"):
        up(ServeConfig(faces=str(tmp_path / "absent")))


def test_build_gives_an_application_to_serve_run_too():
    for args in (ServeConfig(classifier="c"), {"classifier": "c", "replicas": "2"}):
        assert isinstance(build(args), serve.Application)


def test_options_come_as_text_too():
    config = parse_config({"classifier": "c", "port": "80", "gpu": "true", "batch_wait_ms": "2.5"})
    assert (config.port, config.gpu, config.batch_wait_ms, config.replicas) == (80, True, 2.5, 1)


@pytest.mark.parametrize(
    "args, message",
    [
        ({"clasifier": "c"}, "unknown option 'clasifier'; known: classifier"),
        ({"port": "many"}, "option port: .*got 'many'"),
        ({"replicas": 0}, "replicas must be at least 1"),
        ({"faces": "dlib_resnet", "face_views": 3}, "face_views must be 1, 2 or 4, got 3"),
        ({"port": 70000}, "port must be from 0 to 65535"),
        ({"timeout_s": 0}, "timeout_s must be above 0"),
        ({"max_body_mb": "nan"}, "max_body_mb must be above 0"),
    ],
)
def test_wrong_options_are_named(args, message):
    with pytest.raises(OptionError, match=message):
        parse_config(args)


def test_a_taken_port_is_told_at_once(monkeypatch, tmp_path):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OptionError, match=f"cannot listen on 127.0.0.1 port {port}"):
            up(ServeConfig(classifier=str(tmp_path), port=port))
