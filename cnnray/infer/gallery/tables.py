"""The tables of the record. A change here needs a new file in migrations/versions.

Times are text, ISO 8601 in UTC; what is JSON is text, with sorted keys. Ids are never given a second time.
"""

from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

_ID = BigInteger().with_variant(Integer, "sqlite")  # SQLite counts up its own integers alone

metadata = MetaData()

# `token` tells two galleries of one name apart, one of which was dropped; `version` is the newest change's number.
galleries = Table(
    "galleries",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("name", String(64), nullable=False, unique=True),
    Column("token", String(32), nullable=False),
    Column("model", Text, nullable=False),
    Column("num_features", Integer, nullable=False),
    Column("base_threshold", Text, nullable=False),
    Column("policy", Text, nullable=False),
    Column("calibration", Text),
    Column("version", BigInteger, nullable=False),
    Column("created_at", String(32), nullable=False),
    sqlite_autoincrement=True,
)

identities = Table(
    "identities",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("gallery_id", _ID, ForeignKey("galleries.id", ondelete="CASCADE"), nullable=False),
    Column("key", String(128), nullable=False),
    Column("name", Text, nullable=False),
    Column("metadata", Text, nullable=False),
    Column("created_at", String(32), nullable=False),
    UniqueConstraint("gallery_id", "key"),
    sqlite_autoincrement=True,
)

# `embedding` is float32, little-endian; `source_sha256` is the photo's, or the embedding's own where it came alone.
faces = Table(
    "faces",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("gallery_id", _ID, ForeignKey("galleries.id", ondelete="CASCADE"), nullable=False),
    Column("identity_id", _ID, ForeignKey("identities.id", ondelete="CASCADE"), nullable=False),
    Column("embedding", LargeBinary, nullable=False),
    Column("model", Text, nullable=False),
    Column("source_sha256", String(64), nullable=False),
    Column("quality", Text, nullable=False),
    Column("created_at", String(32), nullable=False),
    UniqueConstraint("identity_id", "source_sha256"),
    Index("faces_of_gallery", "gallery_id", "identity_id", "id"),
    sqlite_autoincrement=True,
)

# One row for each face that came or went (kind "added", "removed"), and for what changes no face ("identity",
# "settings"; face_id 0). Numbers of a gallery have no gaps, and are committed in their order.
changes = Table(
    "changes",
    metadata,
    Column("gallery_id", _ID, ForeignKey("galleries.id", ondelete="CASCADE"), primary_key=True),
    Column("number", BigInteger, primary_key=True),
    Column("kind", String(8), nullable=False),
    Column("face_id", BigInteger, nullable=False),
    Column("identity_id", BigInteger, nullable=False),
)

# Keys of idempotency: `answer` is what the first request was told, NULL once that person is erased.
requests = Table(
    "requests",
    metadata,
    Column("gallery_id", _ID, ForeignKey("galleries.id", ondelete="CASCADE"), primary_key=True),
    Column("key", String(128), primary_key=True),
    Column("fingerprint", String(64), nullable=False),
    Column("identity_id", BigInteger, nullable=False),
    Column("answer", Text),
    Column("created_at", String(32), nullable=False),
    Index("requests_of_identity", "identity_id"),
)

# A hash chain for each gallery, which outlives the gallery; says numbers, never names.
audit = Table(
    "audit",
    metadata,
    Column("token", String(32), primary_key=True),
    Column("number", BigInteger, primary_key=True),
    Column("version", BigInteger, nullable=False),
    Column("at", String(32), nullable=False),
    Column("action", String(32), nullable=False),
    Column("identity_id", BigInteger, nullable=False),
    Column("details", Text, nullable=False),
    Column("previous", String(64), nullable=False),
    Column("hash", String(64), nullable=False),
)
