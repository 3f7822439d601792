"""Serve's configuration files: what is written can be read, and what Ray would swallow is refused."""

from pathlib import Path

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from cnnray.config import ServeConfig
from cnnray.errors import DataError, OptionError
from cnnray.serve.app import REVISION, build, parse_config
from cnnray.serve.deploy_file import IMPORT_PATH, check_deploy, describe, read_deploy_file, unknown_keys
from cnnray.serve.rollout import with_revision


def written(tmp_path, text):
    path = tmp_path / "serve.yaml"
    path.write_text(text)
    return str(path)


def test_options_come_back_from_what_is_written(tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path)
    config = ServeConfig(
        classifier="run", faces="dlib_resnet", keys=str(tmp_path), host="0.0.0.0", port=8123, gpu=True,
        replicas_of={"faces": "1:4"}, cors_origins=("https://example.org",), timeout_s=12,
    )  # fmt: skip
    content = read_deploy_file(written(tmp_path, yaml.safe_dump(describe(config))))
    args = content["applications"][0]["args"]
    assert args["classifier"] == str(tmp_path / "run")
    assert set(args) == {
        "classifier", "faces", "keys", "host", "port", "gpu", "replicas_of", "cors_origins", "timeout_s"
    }  # fmt: skip
    back = parse_config({**args, "classifier": "run"})
    assert back == config
    assert content["http_options"] == {"host": "0.0.0.0", "port": 8123, "request_timeout_s": 22.0}
    assert ServeDeploySchema.model_validate(content).applications[0].import_path == IMPORT_PATH


def test_a_range_without_quotes_is_no_number_in_base_60(tmp_path):
    text = yaml.safe_dump(describe(ServeConfig(faces="dlib_resnet", replicas="1:4"))).replace("'1:4'", "1:4")
    assert "replicas: 1:4\n" in text and yaml.safe_load("1:4") == 64
    assert read_deploy_file(written(tmp_path, text))["applications"][0]["args"]["replicas"] == "1:4"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"aplications": []}, "unknown key aplications in here; known there: applications, .*proxy_location"),
        ({"http_options": {"hots": "x"}}, "unknown key http_options.hots"),
        ({"logging_config": {"encodings": "JSON"}}, "logging_config.encodings: Extra inputs"),
    ],
)
def test_keys_that_nobody_knows_are_refused(change, words):
    with pytest.raises((OptionError, DataError), match=words):
        check_deploy(describe(ServeConfig(faces="dlib_resnet")) | change, "here")


@pytest.mark.parametrize(
    ("deployment", "key"),
    [
        ({"max_queued_reqs": 5}, "max_queued_reqs"),
        ({"autoscaling_config": {"min_replica": 1}}, "autoscaling_config.min_replica"),
        ({"ray_actor_options": {"num_cpu": 1}}, "ray_actor_options.num_cpu"),
    ],
)
def test_so_are_keys_of_deployments(deployment, key):
    content = describe(ServeConfig(faces="dlib_resnet"))
    content["applications"][0]["deployments"] = [{"name": "Faces"}, {"name": "Ingress", **deployment}]
    assert [at for at, _ in unknown_keys(ServeDeploySchema, content)] == [f"applications.0.deployments.1.{key}"]
    with pytest.raises(OptionError, match=f"unknown key applications.0.deployments.1.{key} in here"):
        check_deploy(content, "here")


def test_options_of_the_service_are_checked_before_a_cluster_sees_them():
    def refused(words, http=None, **args):
        content = describe(ServeConfig(faces="dlib_resnet"))
        content["applications"][0]["args"] |= args
        content["http_options"] |= http or {}
        with pytest.raises(OptionError, match=words):
            check_deploy(content, "here")

    refused("unknown option 'clasifier'", clasifier="x")
    refused("expected host 127.0.0.1 in http_options of here, .*; got '0.0.0.0'", http={"host": "0.0.0.0"})
    refused("host 0.0.0.0 lets other machines reach", http={"host": "0.0.0.0"}, host="0.0.0.0")
    refused("expected an absolute path or a URI as record in here, got 'galleries.db'", record="galleries.db")
    refused("expected an absolute path or a URI as classifier in here, got 'runs/x'", classifier="runs/x")
    refused("the service has no model: expected one of the options classifier", faces="")
    refused("whether a cluster has HAProxy its nodes' environment decides", proxy="haproxy")
    refused("expected a port in here, got 0", http={"port": 0}, port=0)


def test_what_is_no_configuration_is_refused(tmp_path):
    with pytest.raises(DataError, match="expected YAML in"):
        read_deploy_file(written(tmp_path, "a: [1"))
    for text in ("", "- 1", "applications: 3", "applications: [{name: x}]"):
        with pytest.raises(DataError, match="expected Serve's configuration in"):
            read_deploy_file(written(tmp_path, text))
    with pytest.raises(DataError, match="absent.yaml, but there is no file"):
        read_deploy_file(str(tmp_path / "absent.yaml"))


def test_a_revision_marks_the_service_alone_and_is_no_option():
    content = describe(ServeConfig(faces="dlib_resnet"))
    content["applications"].append({"name": "other", "import_path": "a:b", "route_prefix": "/other"})
    marked = with_revision(content, "one")
    assert [app.get("args", {}).get(REVISION) for app in marked["applications"]] == ["one", None]
    assert REVISION not in content["applications"][0]["args"]
    build(marked["applications"][0]["args"])


def test_the_file_that_comes_along_says_what_the_command_would_write():
    path = Path(__file__).resolve().parent.parent.parent / "cluster" / "serve.yaml"
    content = read_deploy_file(str(path))
    config = parse_config(content["applications"][0]["args"])
    assert config.keys and describe(config) == content
