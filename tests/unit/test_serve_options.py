"""What `up` and `build` refuse before anything is started (starting Ray is an error in this tier)."""

import socket

import pytest
from ray import serve
from ray.serve.config import AutoscalingConfig

from cnnray.config import MODELS, ServeConfig
from cnnray.errors import CheckpointError, OptionError, UnknownNameError
from cnnray.serve.app import build, parse_config, up
from cnnray.serve.ingress import ROUTERS
from cnnray.serve.keys import create_key
from cnnray.serve.replica import scaling


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "example.org", ""])
def test_a_host_that_others_reach_needs_keys_or_an_explicit_option(host, tmp_path):
    with pytest.raises(OptionError, match="without keys: expected the option keys, .* or allow_unauthenticated"):
        up(ServeConfig(classifier="somewhere", host=host))
    keys = str(tmp_path / "keys")
    with pytest.raises(OptionError, match="expected keys in .*/keys, but it has none: cnnray serve keys create"):
        up(ServeConfig(classifier="somewhere", host=host, keys=keys, allow_unauthenticated=True))


def test_with_keys_any_host_will_do(tmp_path):
    create_key(str(tmp_path / "keys"), "a", ("infer",))
    with pytest.raises(CheckpointError):
        up(ServeConfig(classifier=str(tmp_path / "absent"), host="0.0.0.0", keys=str(tmp_path / "keys")))


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


def test_replicas_are_a_number_or_follow_what_waits():
    config = parse_config({"classifier": "c", "replicas": "1:4", "replicas_of": {"detector": "0:2", "faces": 3}})
    ranges = {name: config.replica_range(name) for name in MODELS}
    assert ranges == dict.fromkeys(MODELS, (1, 4)) | {"detector": (0, 2), "faces": (3, 3)}
    assert config.most_replicas == 4 and parse_config({"classifier": "c", "replicas": "2"}).replica_range() == (2, 2)
    assert set(MODELS) == set(ROUTERS)
    assert scaling(config, 3, 3) == {"num_replicas": 3}
    found = scaling(config, 0, 2)["autoscaling_config"]
    assert (found["min_replicas"], found["initial_replicas"], found["max_replicas"]) == (0, 1, 2)
    assert found["target_ongoing_requests"] == config.max_batch_size / 2
    AutoscalingConfig(**found)  # as Ray reads it


@pytest.mark.parametrize(
    "args, message",
    [
        ({"clasifier": "c"}, "unknown option 'clasifier'; known: classifier"),
        ({"port": "many"}, "option port: .*got 'many'"),
        ({"replicas": 0}, "replicas must be a number from 1 or MIN:MAX with 0 <= MIN <= MAX, got 0"),
        ({"replicas": "3:2"}, "replicas must be a number from 1 or MIN:MAX"),
        ({"replicas": "1:"}, "replicas must be a number from 1 or MIN:MAX"),
        ({"replicas_of": {"detector": "0:0"}}, "replicas_of detector must be a number from 1 or MIN:MAX"),
        ({"gpu_share": 1.5}, "gpu_share must be above 0 and at most 1, got 1.5"),
        ({"scale_down_s": 0}, "scale_down_s must be above 0"),
        ({"faces": "dlib_resnet", "face_views": 3}, "face_views must be 1, 2 or 4, got 3"),
        ({"port": 70000}, "port must be from 0 to 65535"),
        ({"timeout_s": 0}, "timeout_s must be above 0"),
        ({"max_body_mb": "nan"}, "max_body_mb must be above 0"),
        ({"cors_origins": ["*"]}, "expected cors_origins such as https://example.org, got '\\*'"),
        ({"cors_origins": ["https://a.b/path"]}, "expected cors_origins such as"),
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


def test_a_model_that_there_is_not_is_named_with_those_that_there_are():
    with pytest.raises(UnknownNameError, match="model in replicas_of 'detecter'; known: classifier, detector"):
        parse_config({"classifier": "c", "replicas_of": {"detecter": 2}})
