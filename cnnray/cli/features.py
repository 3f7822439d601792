"""`cnnray features`: frozen-backbone features."""

from typing import Annotated, Any

from cnnray.cli.app import Flat, features
from cnnray.cli.console import say
from cnnray.config import FeaturesConfig


@features.command(name="build")
def features_build(
    source: str,
    /,
    *,
    out: str,
    config: Annotated[FeaturesConfig, Flat] = FeaturesConfig(),  # noqa: B008 (frozen)
    address: str | None = None,
) -> dict[str, Any]:
    """Compute and store the features of every image; the same command resumes.

    Args:
        source: class folders, split folders, a flat folder, or a CSV or Parquet manifest; a path or URI.
        out: the run folder.
        address: of a Ray cluster; without it a local one is started.
    """
    from cnnray.data.features import build_features

    manifest = build_features(source, out, config, address=address)
    say(f"{manifest['features']:,} features of {manifest['images']:,} images in {out}")
    if manifest["quarantined"]:
        say(f"{manifest['quarantined']:,} bad images are listed in {out}/quarantine: {manifest['quarantine_codes']}")
    if manifest["reused"]:
        say(f"{manifest['reused']:,} features were known from earlier runs and not computed again")
    return manifest


@features.command(name="verify")
def features_verify(run: str, /) -> dict[str, Any]:
    """Check that every image is there exactly once per view, and every stored bit is as it was written.

    Args:
        run: a finished features run.
    """
    from cnnray.data.features import verify_features

    found = verify_features(run)
    say(f"{run} is complete and unchanged: {found['features']:,} features, {found['quarantined']:,} quarantined")
    return found
