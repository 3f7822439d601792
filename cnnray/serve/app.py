"""The service: `build` composes the Serve application, `up` runs it on this machine or a cluster, `down` ends it."""

import contextlib
import dataclasses
import io
import logging
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import ray
from pydantic import TypeAdapter, ValidationError
from ray import serve
from ray.exceptions import RayError
from ray.serve.config import HTTPOptions, ProxyLocation
from ray.serve.schema import ApplicationStatus, LoggingConfig

from cnnray.client import Client
from cnnray.cluster import connect, dashboard_url
from cnnray.config import PLACES, ServeConfig
from cnnray.errors import OptionError, ServiceError
from cnnray.infer.classify import Classifier
from cnnray.infer.detect import Detector
from cnnray.infer.gallery.record import Record
from cnnray.infer.segment import Segmenter
from cnnray.infer.stylize_jobs import StylizeJobs
from cnnray.serve import classify, detect, faces, galleries, haproxy, segment, stylize, stylize_jobs
from cnnray.serve.access import is_loopback
from cnnray.serve.dashboard import check_joined
from cnnray.serve.ingress import Ingress, max_in_flight
from cnnray.serve.keys import read_keys
from cnnray.serve.ports import claim, free_port
from cnnray.serve.replica import Replica, deploy

APP = "cnnray"
REVISION = "revision"  # of the arguments: no option, but what makes Serve build the same options again
START_SECONDS = 180.0
GRACE_SECONDS = 10.0  # that Serve waits longer than the application, whose own answer is problem+json
# For the processes of a service. Without the first glibc makes a heap for nearly every thread, and each keeps what its
# threads once held, so that they grow for as long as they run. Without the second the threads that work on one image
# spin for long when they wait for each other: where another model has the core, that takes ten times as long.
ENVIRONMENT = {"MALLOC_ARENA_MAX": "2", "GOMP_SPINCOUNT": "1000"}
_POLL_SECONDS = 0.2
# By the option that asks for them.
REPLICAS: dict[str, type[Replica]] = {
    classify.NAME: classify.Classifier,
    detect.NAME: detect.Detector,
    segment.NAME: segment.Segmenter,
    faces.NAME: faces.Faces,
    stylize.NAME: stylize.Painter,
}


def build(args: ServeConfig | Mapping[str, Any]) -> serve.Application:
    """The Serve application, for `up`, `serve run cnnray.serve.app:build classifier=...` and `serve build`.

    Args:
        args: ServeConfig, or its fields by name, as values or as text (`serve run` passes text).

    Raises:
        OptionError: an unknown option, a value of the wrong type, or no model at all.
    """
    if not isinstance(args, ServeConfig):
        args = parse_config({name: value for name, value in args.items() if name != REVISION})
    config = args
    check_has_models(config)
    places: Any = {name: _absolute(getattr(config, name)) for name in PLACES}
    config = dataclasses.replace(config, **places)
    models = {name: deploy(name, REPLICAS[name], config) for name in _wanted(config)}
    if config.stylize_jobs:
        models[stylize_jobs.NAME] = stylize_jobs.deploy(config)
    if config.record:
        models[galleries.NAME] = galleries.deploy(config)
    ingress = serve.deployment(
        name="Ingress",
        num_replicas=config.most_replicas,
        # The guard refuses what is too much, as problem+json; Serve's own limit stays above it, for health checks.
        max_ongoing_requests=2 * max_in_flight(config),
        max_surge_percent=config.max_surge_percent,
        ray_actor_options={"num_cpus": 0},
    )
    return ingress(serve.ingress()(Ingress)).bind(config, models)


def _absolute(place: str) -> str:
    """Ray's workers run in folders of their own. (As `files.absolute`, and it takes the URL of a database.)"""
    return str(Path(place).absolute()) if place and "://" not in place else place


def parse_config(args: Mapping[str, Any]) -> ServeConfig:
    """ServeConfig from fields by name; text becomes numbers and booleans where those are expected.

    Raises:
        OptionError: names the option that is unknown or does not fit.
    """
    known = [field.name for field in dataclasses.fields(ServeConfig)]
    unknown = [name for name in args if name not in known]
    if unknown:
        raise OptionError(f"unknown option {unknown[0]!r}; known: {', '.join(known)}")
    try:
        return TypeAdapter(ServeConfig).validate_python(dict(args))
    except ValidationError as error:
        fault = error.errors()[0]
        raise OptionError(f"option {fault['loc'][0]}: {fault['msg']}, got {fault['input']!r}") from error


def up(config: ServeConfig, address: str | None = None) -> str:
    """Start the service and return once every model has answered a self-test.

    It runs until `down`; without `address` (or RAY_ADDRESS) also no longer than this process, whose cluster it uses.

    Args:
        address: of a Ray cluster, see `cnnray.cluster.connect`.

    Returns:
        the URL.

    Raises:
        OptionError: a host that others can reach without keys or allow_unauthenticated, a folder of keys without any, a
            port that is taken, no model, more replicas than a local cluster has cores or GPUs, another cluster whose
            dashboard answers everybody.
        CheckpointError: a checkpoint is absent, damaged or of another task.
        RecordError: the galleries' database cannot be opened.
        ServiceError: it did not become ready; says what Serve reports. Nothing is left running then.
    """
    check_host(config)
    if config.keys and not read_keys(config.keys)[0]:
        raise OptionError(f"expected keys in {config.keys}, but it has none: cnnray serve keys create makes them")
    local = not (address or os.environ.get("RAY_ADDRESS"))
    if config.proxy == "haproxy":
        _check_haproxy(local)
    if local or config.port == 0:
        config = dataclasses.replace(config, port=_claim_port(config))
    app = build(config)
    _check_models(config)
    for name, value in ENVIRONMENT.items():  # of a local cluster's processes, whose parent this one is
        os.environ.setdefault(name, value)
    connect(address, cpus=len(_wanted(config)) + _jobs(config))
    if local:
        _check_fits(config)  # another cluster may grow
    else:
        check_joined(dashboard_url(), trust=config.allow_unauthenticated)
    if serve.status().proxies:
        raise OptionError("Serve already runs on this cluster: end that service first")
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    try:
        return _run(app, config)
    except BaseException:
        down()
        raise


def down() -> None:
    """End the service that `up` started, and Serve with it where nothing else runs; nothing there is no error."""
    if not ray.is_initialized():
        return
    with contextlib.redirect_stdout(io.StringIO()):  # Ray prints that what it ends was still waited for
        if set(serve.status().applications) <= {APP}:
            serve.shutdown()
        else:
            serve.delete(APP)


def _run(app: serve.Application, config: ServeConfig) -> str:
    logs = LoggingConfig(**logging_options(config))
    options = HTTPOptions(
        host=config.host,
        port=config.port,
        # Only a backstop for when the application itself hangs: its own, earlier limit answers with problem+json.
        request_timeout_s=config.timeout_s + GRACE_SECONDS,
    )
    try:
        serve.start(proxy_location=ProxyLocation.HeadOnly, http_options=options, logging_config=logs)
    except RayError as error:
        last = " ".join(str(error).split("RuntimeError: ")[-1].split())
        raise ServiceError(f"Serve did not start: {last}") from error
    target = serve.RunTarget(target=app, name=APP, route_prefix="/", logging_config=logs)
    serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)
    deadline = time.monotonic() + START_SECONDS
    _wait_running(deadline)
    url = _url(config)
    with Client(url) as client:
        client.wait_ready(max(1.0, deadline - time.monotonic()))
    return url


def logging_options(config: ServeConfig) -> dict[str, Any]:
    """Of Serve's LoggingConfig: JSON lines; its own lines about requests have their paths, so they are never on."""
    level = "INFO" if config.access_log else "WARNING"
    place = {"logs_dir": _absolute(config.logs)} if config.logs else {}
    return {"encoding": "JSON", "log_level": level, "enable_access_log": False, **place}


def _wait_running(deadline: float) -> None:
    while True:
        app = serve.status().applications.get(APP)
        if app is not None and app.status == ApplicationStatus.RUNNING:
            return
        failed = app is not None and app.status == ApplicationStatus.DEPLOY_FAILED
        if failed or time.monotonic() > deadline:
            raise ServiceError(f"the service did not start: {_reason(app)}")
        time.sleep(_POLL_SECONDS)


def _reason(app: Any) -> str:
    if app is None:
        return "Serve does not know the application"
    return why_not(app.message, [(name, d.status, d.message) for name, d in app.deployments.items()])


def why_not(message: str, deployments: Iterable[tuple[str, str, str]]) -> str:
    """What Serve says about an application, and about deployments (name, status, message) that are not well: a line."""
    lines = [f"{name}: {text}" for name, status, text in deployments if text and status != "HEALTHY"]
    return " ".join(" ".join([message, *lines]).split())


def check_host(config: ServeConfig) -> None:
    """Others may reach a service only where something decides who they are.

    Raises:
        OptionError: they could, and nothing does.
    """
    if not (config.keys or config.allow_unauthenticated or is_loopback(config.host)):
        raise OptionError(
            f"host {config.host} lets other machines reach a service without keys: expected the option keys, a "
            "loopback host (127.0.0.1), or allow_unauthenticated where something in front of it decides who may ask"
        )


def check_has_models(config: ServeConfig) -> None:
    """Raises OptionError where there is nothing that a service would answer with."""
    if not _wanted(config) and not config.stylize_jobs:
        known = ", ".join([*REPLICAS, stylize_jobs.NAME])
        raise OptionError(f"the service has no model: expected one of the options {known}")


def no_haproxy() -> OptionError:
    """What to say where somebody asks for HAProxy on a cluster that runs."""
    return OptionError(
        "expected proxy default with an address: whether a cluster has HAProxy its nodes' environment decides "
        "(RAY_SERVE_ENABLE_HA_PROXY=1 before ray start)"
    )


def _check_haproxy(local: bool) -> None:
    if not local:
        raise no_haproxy()
    haproxy.check_prepared()


def _wanted(config: ServeConfig) -> list[str]:
    return [name for name in REPLICAS if getattr(config, name)]


def _check_models(config: ServeConfig) -> None:
    """A bad checkpoint is told before anything is started, not by a replica's log."""
    given = ((Classifier.load, config.classifier), (Detector.load, config.detector), (Segmenter.load, config.segmenter))
    for load, checkpoint in given:
        if checkpoint:
            load(checkpoint, device="cpu")
    if config.painter:
        stylize.load_painter(config, device="cpu")
    if config.faces:
        faces.load_pipeline(config, device="cpu")
    if config.record:
        Record(config.record).close()
    if config.stylize_jobs:
        StylizeJobs(config.stylize_jobs)


def _check_fits(config: ServeConfig) -> None:
    """A model's replica reserves a core or a GPU, as does a painting job; they would wait for ever for one that is not
    there.

    Galleries reserve nothing. For one replica of each model there are always cores: `up` lets them share what there is.
    """
    kind = "GPU" if config.gpu else "CPU"
    has = int(ray.cluster_resources().get(kind, 0))
    count = sum(max(1, config.replica_range(name)[0]) for name in _wanted(config))
    jobs = _jobs(config)
    wanted = count * (config.gpu_share if config.gpu else 1) + jobs
    if wanted > has:
        beside = f" and {jobs} painting jobs at once" if jobs else ""
        raise OptionError(f"{count} replicas{beside} need {wanted:g} {kind}s, but Ray has {has} on this machine")


def _jobs(config: ServeConfig) -> int:
    """How many paintings may be made at once."""
    return config.stylize_jobs_at_once if config.stylize_jobs else 0


def _claim_port(config: ServeConfig) -> int:
    """The port to use; asked for before Ray starts, because Serve retries a taken one without a word."""
    if not config.port:
        return free_port(config.host)
    try:
        claim(config.host, config.port)
    except OSError as error:
        raise OptionError(f"cannot listen on {config.host} port {config.port}: {error.strerror or error}") from error
    return config.port


def _url(config: ServeConfig) -> str:
    """Where this machine reaches the service: a host that means "every address" is reached on loopback."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(config.host, config.host)
    return f"http://[{host}]:{config.port}" if ":" in host else f"http://{host}:{config.port}"
