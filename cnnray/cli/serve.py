"""`cnnray serve`: the service."""

from typing import Annotated, Any

from cnnray.cli.app import Flat, serve
from cnnray.cli.cluster_token import show_token
from cnnray.cli.console import say
from cnnray.config import ServeConfig


@serve.command(name="up")
def serve_up(
    *,
    config: Annotated[ServeConfig, Flat] = ServeConfig(),  # noqa: B008 (frozen)
    address: str | None = None,
) -> None:
    """Start the service and keep it up until interrupted.

    Args:
        address: of a Ray cluster; without it a local one is started, which ends with this command.
    """
    import signal

    if config.proxy == "haproxy":
        from cnnray.serve.haproxy import prepare

        prepare()
    from cnnray.serve.app import down, up

    url = up(config, address)
    say(f"ready at {url}  (API: {url}/docs)  Ctrl-C ends it")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        signal.pause()
    except KeyboardInterrupt:
        say("ending")
    finally:
        down()


@serve.command(name="build")
def serve_build(
    *,
    out: str,
    config: Annotated[ServeConfig, Flat] = ServeConfig(),  # noqa: B008 (frozen)
) -> None:
    """Write these options as Serve's configuration, for `cnnray serve deploy`, `ray serve deploy` and KubeRay.

    Args:
        out: YAML file or URI.
    """
    import yaml

    from cnnray import files
    from cnnray.serve.deploy_file import check_deploy, describe

    content = describe(config)
    check_deploy(content, out)
    head = "# The service on a cluster: cnnray serve deploy FILE --dashboard http://127.0.0.1:8265\n"
    files.write_bytes(out, (head + yaml.safe_dump(content, sort_keys=False)).encode())
    say(f"wrote {out}")


@serve.command(name="deploy")
def serve_deploy(
    file: str,
    /,
    *,
    dashboard: str = "http://127.0.0.1:8265",
    timeout_s: float = 600.0,
    trust_dashboard: bool = False,
) -> dict[str, Any]:
    """Start the service on a cluster, or replace the one that runs there; the old one answers until the new one does.

    Args:
        file: as `cnnray serve build` writes it.
        dashboard: of the cluster; RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH hold its token.
        timeout_s: seconds until the new version is given up.
        trust_dashboard: also where others reach the dashboard and it asks for no token.
    """
    show_token()
    from cnnray.serve.deploy_file import read_deploy_file
    from cnnray.serve.rollout import roll_out

    content = read_deploy_file(file)
    revision = roll_out(content, dashboard, timeout_s=timeout_s, trust_dashboard=trust_dashboard, report=say)
    say(f"revision {revision} answers")
    return {"revision": revision}
