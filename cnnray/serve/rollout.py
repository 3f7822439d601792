"""A new version of the service on a cluster that runs, without an end of the old one before the new one answers."""

import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from ray.dashboard.modules.serve.sdk import ServeSubmissionClient
from ray.exceptions import RayError

from cnnray.errors import OptionError, ServiceError, one_line
from cnnray.serve.app import APP, REVISION, why_not
from cnnray.serve.dashboard import check_dashboard

_POLL_SECONDS = 0.5


def roll_out(
    content: Mapping[str, Any],
    dashboard: str,
    *,
    timeout_s: float = 600.0,
    trust_dashboard: bool = False,
    report: Callable[[str], None] = lambda line: None,
) -> str:
    """Bring a configuration of Serve onto the cluster of that dashboard and wait until it is what answers.

    Replicas of the new version start and pass their self-tests before old ones end. Checkpoints are read again, so that
    new weights under an old name are seen. A version that does not come up leaves the old one where it is.

    Args:
        content: see `read_deploy_file`.
        dashboard: of the cluster, "http://HOST:8265". Ray's own variables hold its token.
        timeout_s: seconds until the new version is given up.
        trust_dashboard: also where others reach the dashboard and it asks for no token.
        report: is told what Serve says, whenever that changes.

    Returns:
        the revision that answers now.

    Raises:
        OptionError: no dashboard there; it is open to the network; or Serve listens elsewhere already.
        ServiceError: the new version did not come up; says why.
    """
    check_dashboard(dashboard, trust=trust_dashboard)
    client = _connect(dashboard)
    revision = uuid.uuid4().hex
    try:
        _check_listening(client.get_serve_details(), content)
        client.deploy_applications(with_revision(content, revision))
    except OSError as error:
        raise ServiceError(f"the connection to the dashboard at {dashboard} broke: {one_line(error)}") from error
    except RuntimeError as error:
        raise ServiceError(f"the cluster refused the configuration: {one_line(error)}") from error
    _wait(client, revision, time.monotonic() + timeout_s, report)
    return revision


def with_revision(content: Mapping[str, Any], revision: str) -> dict[str, Any]:
    """The configuration with the service's args marked as new, so that Serve builds it again."""
    applications = [dict(application) for application in content["applications"]]
    for application in applications:
        if application.get("name") == APP:
            application["args"] = {**application.get("args", {}), REVISION: revision}
    return {**content, "applications": applications}


def _connect(dashboard: str) -> ServeSubmissionClient:
    try:
        return ServeSubmissionClient(dashboard)
    except (OSError, RuntimeError, ValueError, RayError) as error:  # OSError: requests' errors are of it
        raise OptionError(f"expected a Ray dashboard at {dashboard}, but: {one_line(error)}") from error


def _check_listening(details: Mapping[str, Any], content: Mapping[str, Any]) -> None:
    """Where Serve listens is settled when it starts; it would ignore another place."""
    if not details.get("applications"):
        return
    now, wanted = details.get("http_options") or {}, content.get("http_options") or {}
    for name in ("host", "port"):
        if name in wanted and name in now and wanted[name] != now[name]:
            raise OptionError(
                f"Serve on this cluster listens on {now['host']} port {now['port']}; expected that in http_options, "
                f"got {name} {wanted[name]} (ray serve shutdown ends Serve, with all that runs there)"
            )


def _wait(
    client: ServeSubmissionClient, revision: str, deadline: float, report: Callable[[str], None] = lambda line: None
) -> None:
    said = ""
    while True:
        app = _state_of(client)
        config = app.get("deployed_app_config") or {}
        status = app.get("status")
        ours = (config.get("args") or {}).get(REVISION) == revision
        if ours and status == "RUNNING":
            return
        state = f"{status or 'starting'}{': ' if (why := _reason(app)) else ''}{why}"
        if ours and status == "DEPLOY_FAILED":
            raise ServiceError(f"the new version did not start, the old one goes on: {why}")
        if time.monotonic() > deadline:
            raise ServiceError(f"the new version is not ready yet, the old one goes on: {state}")
        if state != said:
            report(state)
        said = state
        time.sleep(_POLL_SECONDS)


def _state_of(client: ServeSubmissionClient) -> Mapping[str, Any]:
    """What Serve says of the service; that the dashboard does not answer, where that is so for the moment."""
    try:
        found: Mapping[str, Any] = client.get_serve_details().get("applications", {}).get(APP, {})
        return found
    except (OSError, RuntimeError) as error:
        return {"message": f"the dashboard does not answer: {one_line(error)}"}


def _reason(app: Mapping[str, Any]) -> str:
    deployments = app.get("deployments", {}).items()
    rows = [(name, one.get("status", ""), one.get("message") or one.get("status", "")) for name, one in deployments]
    return why_not(app.get("message", ""), rows)
