"""What galleries answer as JSON values, with the names that the service's API has."""

from typing import Any

from cnnray.infer.gallery.results import Match, Receipt, Recognition
from cnnray.infer.gallery.rows import GalleryRow, IdentityRow

Values = dict[str, Any]


def gallery_json(row: GalleryRow, identities: int, faces: int) -> Values:
    """A gallery of a list, with the numbers of its people and faces."""
    return {
        "name": row.name,
        "model": row.contract.model,
        "identities": identities,
        "faces": faces,
        "gallery_version": row.version,
        "calibrated": row.calibration is not None,
        "created_at": row.created_at,
    }


def identity_json(row: IdentityRow) -> Values:
    """A person."""
    values = {"id": row.key, "name": row.name, "metadata": row.metadata, "created_at": row.created_at}
    return values | {"num_faces": row.faces}


def receipt_json(receipt: Receipt) -> Values:
    """That somebody was erased."""
    values = {name: getattr(receipt, name) for name in ("gallery", "faces", "at", "audit_hash")}
    return values | {"identity": receipt.key, "gallery_version": receipt.version, "purged": dict(receipt.purged)}


def match_json(match: Match, found: Recognition) -> Values:
    """Whose a face of an answer is."""
    return {
        "decision": match.decision,
        "identity": match.identity and _known(match.identity),
        "score": match.score,
        "threshold": found.threshold,
        "calibrated": found.calibrated,
        "candidates": [_known(one.identity) | {"score": one.score} for one in match.candidates],
    }


def _known(row: IdentityRow) -> Values:
    return {"id": row.key, "name": row.name}
