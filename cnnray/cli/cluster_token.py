"""The token of a cluster, for commands that ask its dashboard."""

import os
from pathlib import Path


def show_token() -> None:
    """Let Ray send the token that is at hand, as RAY_AUTH_TOKEN, in RAY_AUTH_TOKEN_PATH or in ~/.ray; call it before
    Ray is imported, which asks whether to only then."""
    named = any(os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    if named or Path("~/.ray/auth_token").expanduser().exists():
        os.environ.setdefault("RAY_AUTH_MODE", "token")
