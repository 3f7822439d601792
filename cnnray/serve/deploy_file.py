"""Serve's own configuration file for this service: written from options, and read with more doubt than Ray has.

Ray accepts keys that it does not know without a word, and listens to the whole network unless it is told otherwise.
"""

import dataclasses
import re
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from ray.serve.config import AutoscalingConfig
from ray.serve.schema import ServeDeploySchema

from cnnray import files
from cnnray.config import PLACES, ServeConfig
from cnnray.errors import DataError, OptionError, one_line
from cnnray.serve.app import (
    APP,
    ENVIRONMENT,
    GRACE_SECONDS,
    REPLICAS,
    check_has_models,
    check_host,
    logging_options,
    no_haproxy,
    parse_config,
)

IMPORT_PATH = "cnnray.serve.app:build"
_OF_HTTP = ("host", "port")
_LOOSE = {"autoscaling_config": AutoscalingConfig}  # fields that Ray's schema has as any mapping


class _Loader(yaml.SafeLoader):
    """As YAML 1.2 has it: 1:4 is text, where YAML 1.1 takes it for 64, a number in base 60."""


_NO_COLON = "(?!.*:)"
_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, re.compile(_NO_COLON + form.pattern, form.flags) if tag.endswith((":int", ":float")) else form)
        for tag, form in resolvers
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def describe(config: ServeConfig) -> dict[str, Any]:
    """Serve's configuration for a service with these options, as JSON values.

    Paths that are there become absolute: the machines of a cluster work in folders of their own.
    """
    usual = ServeConfig()
    fields = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    args = {name: _absolute(value) for name, value in fields.items() if value != getattr(usual, name)}
    args = {name: list(value) if isinstance(value, tuple) else value for name, value in args.items()}
    application = {"name": APP, "route_prefix": "/", "import_path": IMPORT_PATH, "args": args}
    return {
        "proxy_location": "EveryNode",
        "http_options": {
            "host": config.host,
            "port": config.port,
            "request_timeout_s": config.timeout_s + GRACE_SECONDS,
        },
        "logging_config": logging_options(config),
        "applications": [application | {"runtime_env": {"env_vars": ENVIRONMENT}}],
    }


def read_deploy_file(path: str) -> dict[str, Any]:
    """Serve's configuration of a YAML file, whose every key is known and whose service would be built as it says.

    Raises:
        StorageError: the file cannot be read.
        DataError: there is none, it is no YAML, or no configuration of Serve.
        OptionError: a key that nobody knows, or an option of the service that does not fit.
    """
    try:
        content = yaml.load(files.read_bytes(path), _Loader)
    except FileNotFoundError as error:
        raise DataError(f"expected Serve's configuration at {path}, but there is no file") from error
    except yaml.YAMLError as error:
        raise DataError(f"expected YAML in {path}: {one_line(error)}") from error
    check_deploy(content, path)
    return dict(content)


def check_deploy(content: Any, place: str) -> None:
    """Refuse what Ray would accept and not do; raises as `read_deploy_file`.

    Args:
        content: of a configuration, as YAML gives it.
        place: where it stands, for the message.
    """
    try:
        ServeDeploySchema.model_validate(content)
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(str(part) for part in fault["loc"])
        raise DataError(f"expected Serve's configuration in {place}: {where or 'the file'}: {fault['msg']}") from error
    for key, known in unknown_keys(ServeDeploySchema, content):
        raise OptionError(f"unknown key {key} in {place}; known there: {', '.join(known)}")
    for application in content["applications"]:
        if application["import_path"] == IMPORT_PATH:
            _check_service(application, content.get("http_options", {}), place)


def unknown_keys(schema: type[BaseModel], content: Any, where: str = "") -> Iterator[tuple[str, list[str]]]:
    """Keys that the schema does not have, each as a.b.0.c with those that it has there."""
    for key, value in content.items():
        field = schema.model_fields.get(key)
        if field is None:
            yield f"{where}{key}", sorted(schema.model_fields)
            continue
        inner = _LOOSE.get(key) or _model(field.annotation)
        if inner is None:
            continue
        items = enumerate(value) if isinstance(value, list) else [("", value)]
        for number, item in items:
            if isinstance(item, Mapping):
                yield from unknown_keys(inner, item, f"{where}{key}.{number}{'.' if number != '' else ''}")


def _model(annotation: Any) -> type[BaseModel] | None:
    """The schema that is part of a type, if there is one."""
    if isinstance(annotation, type):
        return annotation if issubclass(annotation, BaseModel) else None
    return next((found for part in typing.get_args(annotation) if (found := _model(part))), None)


def _check_service(application: Mapping[str, Any], http: Mapping[str, Any], place: str) -> None:
    config = parse_config(application.get("args", {}))
    for name in _OF_HTTP:
        told, asked = http.get(name), getattr(config, name)
        if told != asked:
            raise OptionError(
                f"expected {name} {asked} in http_options of {place}, as the service's args have it; got {told!r}"
            )
    check_host(config)
    check_has_models(config)
    if config.proxy != ServeConfig.proxy:
        raise no_haproxy()
    if not config.port:
        raise OptionError(f"expected a port in {place}, got 0: every machine of a cluster listens on the same one")
    for name in (*PLACES, *REPLICAS):
        value = getattr(config, name)
        is_place = bool(value) if name in PLACES else "/" in value  # a model may have a name
        if is_place and not files.is_absolute(value):
            raise OptionError(f"expected an absolute path or a URI as {name} in {place}, got {value!r}")


def _absolute(value: Any) -> Any:
    return str(Path(value).absolute()) if isinstance(value, str) and value and Path(value).exists() else value
