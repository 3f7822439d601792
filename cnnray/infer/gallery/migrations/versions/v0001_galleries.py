"""The first tables: galleries, identities, faces, changes, requests, audit."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Make them."""
    op.create_table(
        "galleries",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("name", sa.String(64), nullable=False, unique=True),
        sa.Column("token", sa.String(32), nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("num_features", sa.Integer, nullable=False),
        sa.Column("base_threshold", sa.Text, nullable=False),
        sa.Column("policy", sa.Text, nullable=False),
        sa.Column("calibration", sa.Text),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.String(32), nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "identities",
        sa.Column("id", _ID, primary_key=True),
        _of_gallery(),
        sa.Column("key", sa.String(128), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("metadata", sa.Text, nullable=False),
        sa.Column("created_at", sa.String(32), nullable=False),
        sa.UniqueConstraint("gallery_id", "key"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "faces",
        sa.Column("id", _ID, primary_key=True),
        _of_gallery(),
        sa.Column("identity_id", _ID, sa.ForeignKey("identities.id", ondelete="CASCADE"), nullable=False),
        sa.Column("embedding", sa.LargeBinary, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("source_sha256", sa.String(64), nullable=False),
        sa.Column("quality", sa.Text, nullable=False),
        sa.Column("created_at", sa.String(32), nullable=False),
        sa.UniqueConstraint("identity_id", "source_sha256"),
        sqlite_autoincrement=True,
    )
    op.create_index("faces_of_gallery", "faces", ["gallery_id", "identity_id", "id"])
    op.create_table(
        "changes",
        _of_gallery(primary_key=True),
        sa.Column("number", sa.BigInteger, primary_key=True),
        sa.Column("kind", sa.String(8), nullable=False),
        sa.Column("face_id", sa.BigInteger, nullable=False),
        sa.Column("identity_id", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "requests",
        _of_gallery(primary_key=True),
        sa.Column("key", sa.String(128), primary_key=True),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("identity_id", sa.BigInteger, nullable=False),
        sa.Column("answer", sa.Text),
        sa.Column("created_at", sa.String(32), nullable=False),
    )
    op.create_index("requests_of_identity", "requests", ["identity_id"])
    op.create_table(
        "audit",
        sa.Column("token", sa.String(32), primary_key=True),
        sa.Column("number", sa.BigInteger, primary_key=True),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("at", sa.String(32), nullable=False),
        sa.Column("action", sa.String(32), nullable=False),
        sa.Column("identity_id", sa.BigInteger, nullable=False),
        sa.Column("details", sa.Text, nullable=False),
        sa.Column("previous", sa.String(64), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
    )


def _of_gallery(primary_key: bool = False) -> sa.Column[int]:
    key = sa.ForeignKey("galleries.id", ondelete="CASCADE")
    return sa.Column("gallery_id", _ID, key, primary_key=primary_key, nullable=False)
