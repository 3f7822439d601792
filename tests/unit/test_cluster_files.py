"""The files of cluster/: what Ray would refuse, what would be public or without end, and commands that are none."""

import ast
import json
import logging
import re
import shlex
from collections import Counter
from pathlib import Path

import click
import jsonschema
import pytest
import ray.autoscaler
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.v2.event_logger import AutoscalerEventLogger
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.instance_manager.subscribers.cloud_resource_monitor import CloudResourceMonitor
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil
from ray.core.generated.instance_manager_pb2 import Instance, InstanceUpdateEvent
from ray.scripts.scripts import cli as ray_cli

import cnnray
from cnnray.cli import app

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ROOT / "cluster"
FILES = sorted([*CLUSTER.glob("*.yaml"), *CLUSTER.glob("kuberay/*.yaml"), CLUSTER / "Dockerfile"])
LAUNCHED = ["aws", "gcp", "local"]  # by `ray up`
TOKEN = "/home/cnnray/.ray/auth_token"
# What the clouds' interfaces call them; Ray hands them on unseen.
NODE_KEYS = {
    "aws": "InstanceType ImageId SubnetIds SecurityGroupIds IamInstanceProfile MetadataOptions BlockDeviceMappings "
    "InstanceMarketOptions",
    "gcp": "machineType disks networkInterfaces metadata serviceAccounts scheduling",
}


def load(name):
    return yaml.safe_load((CLUSTER / f"{name}.yaml").read_text())


def check(config):
    """As `ray up` does before it speaks to a cloud."""
    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    jsonschema.validate(config, schema)
    prepared = prepare_config(config)
    validate_config(prepared)
    return prepared


@pytest.mark.parametrize("name", LAUNCHED)
def test_ray_takes_what_it_is_to_launch(name):
    config = load(name)
    prepared = check(config)
    assert prepared["docker"] == config["docker"] and prepared["head_start_ray_commands"][0] == "ray stop"
    for node in config.get("available_node_types", {}).values():
        assert set(node["node_config"]) <= set(NODE_KEYS[name].split()) and None not in node["node_config"].values()


@pytest.mark.parametrize("name", LAUNCHED)
@pytest.mark.parametrize(
    "change", [{"max_worker": 3}, {"idle_timeout_minutes": "5"}, {"docker": {"images": "x"}}, {"auth": {"user": "x"}}]
)
def test_and_refuses_a_key_that_nobody_knows_and_a_wrong_type(name, change):
    with pytest.raises(jsonschema.ValidationError):
        check(load(name) | change)


@pytest.mark.parametrize("name", LAUNCHED)
def test_a_launched_cluster_is_closed_and_bounded(name):
    config = load(name)
    assert 0 < config["max_workers"] <= 10 and 0 < config["idle_timeout_minutes"] <= 15
    for kind, node in config.get("available_node_types", {}).items():
        assert kind == "head" or (node["min_workers"] == 0 and 0 < node["max_workers"] <= 8), kind
    options = " ".join(config["docker"]["run_options"])
    assert "RAY_AUTH_MODE=token" in options and f"RAY_AUTH_TOKEN_PATH={TOKEN}" in options
    assert config["file_mounts"] == {TOKEN: "~/.ray/auth_token"}
    assert "--dashboard-host=127.0.0.1" in config["head_start_ray_commands"][-1]


@pytest.mark.parametrize("name", ["aws", "gcp"])
def test_its_machines_have_no_public_address_and_rights_of_our_own(name):
    config = load(name)
    assert config["provider"]["use_internal_ips"] and config["auth"]["ssh_proxy_use_node_id"]
    assert config["provider"]["cache_stopped_nodes"] is False
    for node in config["available_node_types"].values():
        machine = node["node_config"]
        assert "accessConfigs" not in str(machine) and "AssociatePublicIpAddress" not in str(machine)
        assert "cnnray-" in str(machine["IamInstanceProfile" if name == "aws" else "serviceAccounts"])
        assert name == "gcp" or machine["SecurityGroupIds"] and machine["MetadataOptions"]["HttpTokens"] == "required"


def launches(config, demands, passed_over=None):
    """Machines by kind that Ray's autoscaler starts from nothing for these demands."""
    config = AutoscalingConfig(config, skip_content_hash=True)
    request = SchedulingRequest(
        disable_launch_config_check=True,
        node_type_configs=config.get_node_type_configs(),
        max_num_nodes=config.get_max_num_worker_nodes(),  # the head, which is there, aside
        resource_requests=ResourceRequestUtil.group_by_count([ResourceRequestUtil.make(demand) for demand in demands]),
        recoverable_resource_availabilities=passed_over or {},
    )
    reply = ResourceDemandScheduler(AutoscalerEventLogger(logging.getLogger(__name__))).schedule(request)
    found = Counter({launch.instance_type: launch.count for launch in reply.to_launch})
    del found["head"], found["headgroup"]
    return dict(found)


@pytest.mark.parametrize("name", ["aws", "gcp"])
def test_machines_come_by_kind_spot_first_and_never_more_than_the_most(name):
    config = load(name)
    assert launches(config, [{"CPU": 0.25}]) == {"cpu-spot": 1}  # a job's driver, as the file's commands ask for it
    assert launches(config, [{"GPU": 1}]) == {"gpu-spot": 1}
    assert launches(config, [{"CPU": 1}] * 16) == {"cpu-spot": 2}
    assert launches(config, [{"GPU": 1, "CPU": 1}] * 5) == {"gpu-spot": 4, "gpu": 1}
    assert launches(config, [{"CPU": 8}] * 99) == {"cpu-spot": 8, "cpu": 2}  # and no GPU machine for work on CPUs
    assert sum(launches(config, [{"CPU": 8}, {"GPU": 1}] * 99).values()) == config["max_workers"] == 10


@pytest.mark.parametrize(("status", "kind"), [("ALLOCATION_FAILED", "gpu-spot"), ("ALLOCATION_TIMEOUT", "gpu")])
def test_ray_turns_to_the_other_kind_after_a_pod_that_never_came_but_not_after_a_refusal(status, kind):
    monitor = CloudResourceMonitor()
    event = InstanceUpdateEvent(new_instance_status=Instance.InstanceStatus.Value(status), instance_type="gpu-spot")
    monitor.notify([event])
    passed_over = monitor.get_recoverable_resource_availabilities()
    assert launches(load("aws"), [{"GPU": 1}], passed_over) == {kind: 1}


# What the files say in words.


def blocks(path):
    """Commands of a file's comments: indented lines, those that end in a backslash with the next."""
    comments = "\n".join(line[1:] for line in path.read_text().splitlines() if line.startswith("#"))
    return [line.strip() for line in re.sub(r"\\\n\s*", "", comments).splitlines() if line.startswith("   ")]


def commands():
    """Of all files: (file, words), without variables before and redirections behind, those behind "--" once more."""
    for path in FILES:
        inline = [line for line in re.findall(r"`((?:cnnray|ray) [^`]+)`", path.read_text()) if re.search("--|/", line)]
        for line in [*blocks(path), *inline]:
            line = re.sub(r"^(\w+=\S+ )+", "", line)
            if re.match(r"(cnnray|ray|kubectl|docker|python) ", line):
                words = shlex.split(re.sub(r"\[[^\]]*\]|\.\.\.| > .*", "", line), comments=True)
                yield path.name, words
                if "--" in words:
                    yield path.name, words[words.index("--") + 1 :]


COMMANDS = list(commands())


def parse(words):
    """Raise what the command line would say."""
    if words[0] == "cnnray":
        app.parse_args(words[1:], exit_on_error=False, print_error=False)
    elif words[0] == "python":
        job = ast.parse((ROOT / "jobs" / Path(words[1]).name).read_text())
        call = next(node for node in ast.walk(job) if isinstance(node, ast.Call) and ast.unparse(node.func) == "main")
        parse(["cnnray", *(part.value for part in call.args[0].elts if isinstance(part, ast.Constant)), *words[2:]])
    elif words[0] == "ray":
        group, rest, context = ray_cli, words[1:], click.Context(ray_cli)
        while isinstance(group, click.Group):
            name, group, rest = group.resolve_command(context, rest)
        group.make_context(name, list(rest), parent=context)


def test_the_files_show_how_to_begin_to_use_and_to_end():
    shown = {" ".join(words[:3]) for _, words in COMMANDS}
    assert {"cnnray serve deploy", "ray job submit", "ray down -y", "kubectl apply -f", "docker build -f"} <= shown
    for name in LAUNCHED:
        mine = [" ".join(words) for file, words in COMMANDS if file == f"{name}.yaml"]
        for verb in ("ray up -y", "ray dashboard", "ray attach", "ray down -y"):
            assert any(line.startswith(f"{verb} cluster/{name}.yaml") for line in mine), verb


@pytest.mark.parametrize(("name", "words"), COMMANDS, ids=str)
def test_a_command_of_a_file_is_one_and_what_it_names_is_there(name, words):
    parse(words)
    paths = [word for word in words if re.match(r"(cluster|jobs)/", word)]
    assert all((ROOT / path).exists() for path in paths)


def test_a_command_that_is_none_would_be_seen():
    for line in ("ray job submit --working-dirs .", "ray ups x", "cnnray serve deploys x", "python jobs/none.py"):
        with pytest.raises(Exception, match=r"(?i)no such|unknown|unused|deploys"):
            parse(shlex.split(line))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_file_names_this_version_says_what_it_costs_and_opens_nothing(path):
    text = path.read_text()
    tags = set(re.findall(r"cnnray:(\d[\w.-]*\w)", text))
    assert tags <= {cnnray.__version__, f"{cnnray.__version__}-gpu"}
    assert not re.search(r"LoadBalancer|NodePort|dashboard-host[=:]\W*0\.0\.0\.0|RAY_AUTH_MODE\W+disabled", text)
    assert path.name == "serve.yaml" or re.search(r"^# (Machines|Size)\b", text, flags=re.M)
    assert re.search(r"\bChange\b", text)
