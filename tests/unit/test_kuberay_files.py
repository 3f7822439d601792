"""The files of cluster/kuberay/ as Kubernetes would judge them: every key is known, every pod closed and bounded."""

import copy
import functools
import ipaddress
import re
from pathlib import Path

import jsonschema
import pytest
import ray
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

from cnnray.serve.deploy_file import check_deploy, read_deploy_file
from tests.unit.test_cluster_files import CLUSTER, launches, parse

FOLDER = CLUSTER / "kuberay"
CLUSTERS = ["raycluster", "rayjob-features", "rayjob-train", "rayservice"]  # files with a cluster of Ray's
METADATA = {"name", "namespace", "labels", "annotations"}


def load(name):
    return list(yaml.safe_load_all((FOLDER / f"{name}.yaml").read_text()))


def strict(schema):
    """A CRD's schema that also refuses unknown keys; what has a default is not required, since the server fills it."""
    if not isinstance(schema, dict):
        return [strict(part) for part in schema] if isinstance(schema, list) else schema
    found = {key: strict(part) for key, part in schema.items()}
    known = schema.get("properties")
    if isinstance(known, dict) and "type" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        found["additionalProperties"] = False
        found["required"] = [key for key in schema.get("required", []) if "default" not in known.get(key, {})]
    return found


@functools.cache
def validator(path):
    crd = yaml.load(Path(path).read_text(), yaml.CSafeLoader)
    version = next(version for version in crd["spec"]["versions"] if version["name"] == "v1")
    assert version["served"]
    return jsonschema.Draft7Validator(strict(version["schema"]["openAPIV3Schema"]))


def check(resource, data_dir):
    assert resource["apiVersion"] == "ray.io/v1"
    validator(data_dir / "kuberay-crds" / f"ray.io_{resource['kind'].lower()}s.yaml").validate(resource)
    for key, value in walk(resource):
        assert key != "metadata" or set(value) <= METADATA, value


def walk(node):
    """Keys and values, at any depth."""
    pairs = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in pairs:
        yield key, value
        yield from walk(value)


def changed(node, key, new_key=None, value=None):
    """With one key renamed, or with another value, wherever it is."""
    if isinstance(node, list):
        return [changed(part, key, new_key, value) for part in node]
    if not isinstance(node, dict):
        return node
    other = {name: changed(part, key, new_key, value) for name, part in node.items() if name != key}
    return other | ({new_key or key: value or node[key]} if key in node else {})


@pytest.mark.parametrize("name", CLUSTERS)
def test_kubernetes_takes_it(name, data_dir):
    [resource] = load(name)
    check(resource, data_dir)
    assert resource["metadata"]["namespace"] == "cnnray"


@pytest.mark.parametrize("name", CLUSTERS)
@pytest.mark.parametrize(
    "key", ["idleTimeoutSeconds", "containerPort", "maxReplicas", "claimName", "drop", "secretName"]
)
def test_a_key_that_nobody_knows_is_refused_at_any_depth(name, key, data_dir):
    [resource] = load(name)
    with pytest.raises(jsonschema.ValidationError, match=f"{key}x"):
        check(changed(resource, key, new_key=f"{key}x"), data_dir)


@pytest.mark.parametrize("name", CLUSTERS)
@pytest.mark.parametrize("key", ["idleTimeoutSeconds", "containerPort", "maxReplicas", "runAsNonRoot", "mode"])
def test_a_wrong_type_is_refused(name, key, data_dir):
    [resource] = load(name)
    with pytest.raises(jsonschema.ValidationError):
        check(changed(resource, key, value="many"), data_dir)


def test_what_guards_the_purse_is_what_the_operator_knows(data_dir):
    for key in ("ttlSecondsAfterFinished", "activeDeadlineSeconds", "preRunningDeadlineSeconds", "backoffLimit"):
        with pytest.raises(jsonschema.ValidationError):
            check(changed(load("rayjob-train")[0], key, new_key=key.lower()), data_dir)
    with pytest.raises(jsonschema.ValidationError):
        check(changed(load("rayservice")[0], "stepSizePercent", value="25"), data_dir)


def ray_cluster(resource):
    """The spec of the cluster that a RayCluster is, or a RayJob and a RayService have."""
    spec = resource["spec"]
    return spec.get("rayClusterSpec") or spec.get("rayClusterConfig") or spec


def pods(resource):
    """Templates of all pods that come from it."""
    cluster = ray_cluster(resource)
    own = [resource["spec"]["submitterPodTemplate"]] if "submitterPodTemplate" in resource["spec"] else []
    return [*own, cluster["headGroupSpec"]["template"], *(group["template"] for group in cluster["workerGroupSpecs"])]


@pytest.mark.parametrize("name", CLUSTERS)
def test_a_cluster_asks_for_a_token_and_is_bounded(name):
    cluster = ray_cluster(load(name)[0])
    assert cluster["authOptions"] == {"mode": "token", "secretName": "cnnray-ray-token"}
    assert cluster["rayVersion"] == ray.__version__
    assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert cluster["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0"}
    assert cluster["enableInTreeAutoscaling"] and cluster["autoscalerOptions"]["idleTimeoutSeconds"] <= 600
    for group in cluster["workerGroupSpecs"]:
        assert 0 <= group["minReplicas"] == group["replicas"] <= group["maxReplicas"] <= 8
        assert group["groupName"] != "gpu" or group["minReplicas"] == 0


@pytest.mark.parametrize("name", CLUSTERS)
def test_every_pod_is_small_unprivileged_and_known_to_the_policy(name):
    [policy] = load("networkpolicy")
    known = policy["spec"]["podSelector"]["matchLabels"]
    for template in pods(load(name)[0]):
        assert known.items() <= template["metadata"]["labels"].items()
        security = template["spec"]["securityContext"]
        assert security["runAsNonRoot"] and security["runAsUser"] == 1000  # as USER in cluster/Dockerfile
        [container] = template["spec"]["containers"]
        limits, asked = container["resources"]["limits"], container["resources"]["requests"]
        assert {"cpu", "memory"} <= set(limits) and limits["memory"][-2:] == "Gi" and set(asked) == set(limits)
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        assert container["image"].endswith("-gpu") == ("nvidia.com/gpu" in limits)


def test_a_job_ends_and_leaves_nothing_running():
    for name, job in (("rayjob-features", "precompute_features"), ("rayjob-train", "finetune")):
        spec = load(name)[0]["spec"]
        assert spec["shutdownAfterJobFinishes"] and spec["ttlSecondsAfterFinished"] <= 3600
        assert spec["activeDeadlineSeconds"] <= 24 * 3600 and spec["preRunningDeadlineSeconds"] <= 3600
        assert spec["backoffLimit"] <= 3 and spec["submitterConfig"]["backoffLimit"] <= 3
        assert job in spec["entrypoint"]
        parse(spec["entrypoint"].split())


def test_the_service_is_that_of_the_file_beside(tmp_path):
    text = load("rayservice")[0]["spec"]["serveConfigV2"]
    (tmp_path / "serve.yaml").write_text(text)
    content = read_deploy_file(str(tmp_path / "serve.yaml"))
    assert content == read_deploy_file(str(CLUSTER / "serve.yaml")) == yaml.safe_load(text)
    with pytest.raises(Exception, match="unknown option 'clasifier'"):
        check_deploy(changed(content, "classifier", new_key="clasifier"), "here")


def test_ray_scales_the_cluster_as_its_file_says():
    config = _derive_autoscaling_config_from_ray_cr(copy.deepcopy(load("raycluster")[0]))
    assert config["idle_timeout_minutes"] == 5
    assert launches(config, [{"CPU": 0.25}]) == {"cpu": 1}  # a job's driver, as the file's commands ask for it
    assert launches(config, [{"GPU": 1}]) == {"gpu": 1}
    assert launches(config, [{"CPU": 1}] * 9) == {"cpu": 3}
    assert launches(config, [{"CPU": 4}, {"GPU": 1}] * 99) == {"cpu": 8, "gpu": 2}


# What has no CRD: the fields that these files use, as Kubernetes' API documents them.


def closed(required=(), **properties):
    return {"type": "object", "additionalProperties": False, "required": list(required), "properties": properties}


def listed(of, most=99):
    return {"type": "array", "minItems": 1, "maxItems": most, "items": of}


TEXT = {"type": "string", "minLength": 1}
TEXTS = {"type": "object", "additionalProperties": TEXT, "minProperties": 1}
SELECTOR = closed(["matchLabels"], matchLabels=TEXTS)
BLOCK = closed(["cidr"], cidr={"type": "string", "pattern": r"^\d+\.\d+\.\d+\.\d+/\d+$"})
PEERS = listed({**closed(podSelector=SELECTOR, namespaceSelector=SELECTOR, ipBlock=BLOCK), "minProperties": 1})
PORTS = listed(closed(["protocol", "port"], protocol={"enum": ["TCP", "UDP"]}, port={"type": "integer"}))
HEAD = {"apiVersion": TEXT, "kind": TEXT, "metadata": closed(["name", "namespace"], name=TEXT, namespace=TEXT)}
CORE = {
    "v1 Secret": closed([*HEAD, "type", "stringData"], **HEAD, type={"const": "Opaque"}, stringData=TEXTS),
    "v1 PersistentVolumeClaim": closed(
        [*HEAD, "spec"],
        **HEAD,
        spec=closed(
            ["accessModes", "resources"],
            accessModes=listed({"enum": ["ReadWriteMany"]}, most=1),
            resources=closed(["requests"], requests=closed(["storage"], storage={"type": "string", "pattern": "Gi$"})),
            storageClassName=TEXT,
        ),
    ),
    "networking.k8s.io/v1 NetworkPolicy": closed(
        [*HEAD, "spec"],
        **HEAD,
        spec=closed(
            ["podSelector", "policyTypes", "ingress", "egress"],
            podSelector=SELECTOR,
            policyTypes={"const": ["Ingress", "Egress"]},
            ingress=listed({**closed(["from"], **{"from": PEERS}, ports=PORTS)}),
            egress=listed({**closed(to=PEERS, ports=PORTS), "minProperties": 1}),
        ),
    ),
}


def check_core(resource):
    jsonschema.validate(resource, CORE[f"{resource['apiVersion']} {resource['kind']}"])


@pytest.mark.parametrize(
    ("name", "key"), [("secrets", "stringData"), ("volume", "accessModes"), ("networkpolicy", "podSelector")]
)
def test_what_comes_with_kubernetes_has_its_fields(name, key):
    for resource in load(name):
        check_core(resource)
        for other in (changed(resource, key, new_key=f"{key}s"), changed(resource, key, value=7)):
            with pytest.raises(jsonschema.ValidationError):
                check_core(other)


def test_what_the_pods_want_is_in_the_other_files():
    secrets = {secret["metadata"]["name"]: secret["stringData"] for secret in load("secrets")}
    assert set(secrets) == {"cnnray-ray-token", "cnnray-postgres"} and set(secrets["cnnray-ray-token"]) == {
        "auth_token"
    }
    assert all("REPLACE" in value for values in secrets.values() for value in values.values())
    wanted = [pair for name in CLUSTERS for pair in walk(load(name)[0])]
    assert {value["name"] for key, value in wanted if key == "secretRef"} <= set(secrets)
    assert {value for key, value in wanted if key == "claimName"} == {load("volume")[0]["metadata"]["name"]}


def test_only_the_operator_and_who_is_let_in_reach_the_pods():
    spec = load("networkpolicy")[0]["spec"]
    ports = {rule["port"] for entry in spec["ingress"][1:] for rule in entry["ports"]}
    assert ports == {8000, 8265}
    guests, gateway = spec["ingress"][-2:]
    assert guests["from"] == [{"namespaceSelector": {"matchLabels": {"cnnray-client": "true"}}}]
    assert [rule["port"] for entry in (guests, gateway) for rule in entry["ports"]] == [8000, 8000]
    networks = [ipaddress.ip_network(peer["ipBlock"]["cidr"]) for peer in gateway["from"]]
    assert networks[0].is_private and len(networks) == 3 and all(network.prefixlen >= 16 for network in networks)
    assert re.search("80 to 169.254.169.254", (FOLDER / "networkpolicy.yaml").read_text())
    assert not any(rule.get("port") == 80 for entry in spec["egress"] for rule in entry.get("ports", []))
