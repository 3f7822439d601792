"""Ray's dashboard: whoever reaches it runs programs on the cluster, so it must not answer everybody."""

import contextlib
from urllib.parse import urlsplit

import httpx

from cnnray.errors import OptionError
from cnnray.serve.access import is_loopback

_PATH = "/api/serve/applications/"


def check_dashboard(dashboard: str, *, trust: bool = False) -> None:
    """Refuse a dashboard that anybody on the network can use: whoever reaches it runs programs on the cluster.

    Raises:
        OptionError: nothing answers there, or it answers to everybody.
    """
    parts = urlsplit(dashboard)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise OptionError(f"expected the dashboard of a Ray cluster as http://HOST:8265, got {dashboard!r}")
    try:
        open_to_all = answers_everybody(dashboard)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise OptionError(f"expected a Ray dashboard at {dashboard}, but: {error or type(error).__name__}") from error
    if open_to_all and not trust:
        raise _open(dashboard, "--trust-dashboard")


def check_joined(dashboard: str, *, trust: bool = False) -> None:
    """The same of a cluster that this process has joined, whose dashboard need not be reachable from here.

    Raises:
        OptionError: it answers to everybody.
    """
    with contextlib.suppress(httpx.HTTPError, httpx.InvalidURL):
        if dashboard and not trust and answers_everybody(dashboard):
            raise _open(dashboard, "--allow-unauthenticated")


def _open(dashboard: str, flag: str) -> OptionError:
    return OptionError(
        f"the dashboard at {dashboard} runs programs for whoever reaches it: start the cluster with "
        "RAY_AUTH_MODE=token, or its dashboard on loopback (ssh -L 8265:127.0.0.1:8265 HOST), or say "
        f"{flag} where something else decides who reaches it"
    )


def answers_everybody(dashboard: str) -> bool:
    """Whether others than this machine's programs may use it: it has no loopback address and asks for no token.

    Raises:
        httpx.HTTPError, httpx.InvalidURL: nothing answers.
    """
    local = is_loopback(urlsplit(dashboard).hostname or "")
    return httpx.get(dashboard.rstrip("/") + _PATH, timeout=10, trust_env=not local).is_success and not local
