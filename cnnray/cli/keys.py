"""`cnnray serve keys`: who may ask a service."""

from dataclasses import asdict
from typing import Annotated, Any

from cyclopts import App, Parameter

from cnnray.cli.app import serve
from cnnray.cli.console import say, table

keys = App(name="keys", help="Keys that callers of the service show.")
serve.command(keys)


@keys.command(name="create")
def create(
    name: str,
    /,
    *,
    keys: str,
    scope: Annotated[tuple[str, ...], Parameter(negative=())] = ("infer",),
    per_minute: int = 0,
    days: float = 0.0,
) -> dict[str, Any]:
    """Make a key; it is shown once, and stored nowhere.

    Callers send it as "Authorization: Bearer KEY"; `cnnray query` takes it from the environment, CNNRAY_API_KEY.

    Args:
        name: of whoever gets it.
        keys: folder of the keys, as of `cnnray serve up --keys`.
        scope: what it is good for, several times for more: infer (all models, but no galleries), faces:read (see
            galleries, recognise), faces:write (enrol, change, erase), admin (everything, and drop galleries).
        per_minute: requests that it is good for; 0 is without limit.
        days: until it expires; 0 never does.
    """
    from cnnray.serve.keys import create_key

    key, shown = create_key(keys, name, scope, per_minute=per_minute, days=days)
    say(f"key {key.id} for {name}, good for {', '.join(key.scopes)}; it is shown only now:")
    say(shown)
    return _row(key) | {"key": shown}


@keys.command(name="list")
def list_all(*, keys: str) -> dict[str, Any]:
    """The keys of a folder, without what is secret.

    Args:
        keys: folder of the keys.
    """
    from cnnray.serve.keys import read_keys

    found, faults = read_keys(keys)
    for fault in faults:
        say(f"no key: {fault}")
    rows = [_row(key) for key in found]
    table("Keys", rows, ["id", "name", "scopes", "per_minute", "created", "expires"])
    return {"keys": rows}


@keys.command(name="revoke")
def revoke(id: str, /, *, keys: str) -> dict[str, Any]:
    """Revoke a key: services refuse it within seconds.

    Args:
        id: of the key, its eight characters after "cnnray_".
        keys: folder of the keys.
    """
    from cnnray.serve.keys import revoke_key

    key = revoke_key(keys, id)
    say(f"key {key.id} of {key.name} is revoked")
    return _row(key)


def _row(key: Any) -> dict[str, Any]:
    row = {name: value for name, value in asdict(key).items() if name != "digest"}
    return row | {"scopes": list(key.scopes)}
