"""Connections to the database of the record: SQLite or PostgreSQL, made so that a commit that returns is on disk.

SQLite: write-ahead log, synchronous=FULL, deleted content overwritten (secure_delete); a writing transaction takes the
write lock as it begins, so that two processes never find each other half way.
PostgreSQL: its own defaults, in which a commit returns once its log is flushed.
"""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError

from cnnray.errors import OptionError, RecordError, one_line

_BUSY_SECONDS = 30
_WRITES = "cnnray_writes"
_MIGRATIONS = str(Path(__file__).parent / "migrations")
_VERSION_TABLE = "cnnray_galleries"
_MIGRATION_LOCK = 7_247_001  # any number that no other program asks PostgreSQL for


class Database:
    """The database behind a record; safe to use from several threads, opened anew in each process.

    Args:
        url: path of a SQLite file, which is made where there is none, or a postgresql:// URL.

    Raises:
        OptionError: another kind of URL, or the driver of PostgreSQL is not installed.
        RecordError: it cannot be opened, is damaged, or was written by a newer cnnray.
    """

    def __init__(self, url: str) -> None:
        self.url = _full_url(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self.shown = str(self.url.database) if self.is_sqlite else self.url.render_as_string(hide_password=True)
        with self.errors():
            self._engine = _sqlite_engine(self.url) if self.is_sqlite else _postgres_engine(self.url)
            try:
                _migrate(self)
            except BaseException:
                self.dispose()
                raise

    @contextlib.contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A transaction that sees one state of the database, and changes nothing."""
        with self.errors(), self._engine.connect() as connection:
            if not self.is_sqlite:
                connection = connection.execution_options(isolation_level="REPEATABLE READ")
            with connection.begin():
                yield connection

    @contextlib.contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A transaction that is committed, on disk, when this ends, or has changed nothing if it raises."""
        with self.errors(), self._engine.connect() as connection:
            connection = connection.execution_options(**{_WRITES: True})
            with connection.begin():
                yield connection

    @contextlib.contextmanager
    def outside(self) -> Iterator[sa.Connection]:
        """A connection without a transaction, for what cannot run in one."""
        with self.errors(), self._engine.connect() as connection:
            yield connection.execution_options(isolation_level="AUTOCOMMIT")

    def empty_log(self) -> bool:
        """Move SQLite's log into its file and cut it to nothing; False while another transaction needs it."""
        with self.outside() as connection:
            connection.exec_driver_sql("PRAGMA busy_timeout=0")  # or this waits as long as a writer would
            try:
                return not connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()[0]
            finally:
                connection.exec_driver_sql(f"PRAGMA busy_timeout={1000 * _BUSY_SECONDS}")

    def dispose(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Turn the database's errors into RecordError, with a sentence."""
        try:
            yield
        except (SQLAlchemyError, sqlite3.Error) as error:
            raise RecordError(self._sentence(error)) from error

    def _sentence(self, error: Exception) -> str:
        cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
        said = one_line(cause)
        code = getattr(cause, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_FULL or "No space left" in said:
            return f"no space left for {self.shown}; this change was not made, earlier ones are safe: free some space"
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return f"expected a database of galleries in {self.shown}, but it is damaged or something else: {said}"
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return f"another process has been writing to {self.shown} for {_BUSY_SECONDS} seconds; try again"
        return f"the database of the galleries, {self.shown}, failed: {said}"


def _full_url(url: str) -> sa.URL:
    if "://" not in url:
        return sa.URL.create("sqlite", database=str(Path(url).absolute()))
    try:
        parsed = sa.make_url(url)
    except (ArgumentError, ValueError) as error:
        raise OptionError(f"expected a path or a URL of a database, got {url!r}: {error}") from error
    if parsed.get_backend_name() not in ("sqlite", "postgresql") or not parsed.database:
        raise OptionError(
            f"expected the path of a SQLite file or postgresql://user@host/name, got {parsed.render_as_string()!r}"
        )
    return parsed.set(drivername="postgresql+psycopg") if parsed.get_backend_name() == "postgresql" else parsed


def _sqlite_engine(url: sa.URL) -> sa.Engine:
    folder = Path(str(url.database)).parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RecordError(f"cannot make the folder of {url.database}: {error.strerror}") from error
    engine = sa.create_engine(url, connect_args={"timeout": _BUSY_SECONDS}, pool_size=8, max_overflow=64)
    sa.event.listen(engine, "connect", _prepare_sqlite)
    sa.event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: sqlite3.Connection, _: Any) -> None:
    connection.isolation_level = None  # transactions begin where `_begin_sqlite` says
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        "secure_delete=ON",
        "foreign_keys=ON",
        "temp_store=MEMORY",  # no file in which erased rows might stay
    ):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin_sqlite(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get(_WRITES) else "BEGIN")


def _postgres_engine(url: sa.URL) -> sa.Engine:
    try:
        # a connection that the server closed, as it does when it restarts, is replaced before it is used
        return sa.create_engine(url, pool_pre_ping=True, pool_size=8, max_overflow=64)
    except (NoSuchModuleError, ModuleNotFoundError) as error:
        raise OptionError("PostgreSQL needs its driver: pip install 'cnnray[postgres]'") from error


def _migrate(database: Database) -> None:
    """Bring the tables to what this version of cnnray expects; several processes may try at once."""
    config = Config()
    config.set_main_option("script_location", _MIGRATIONS.replace("%", "%%"))
    newest = ScriptDirectory.from_config(config).get_current_head()
    with database.read() as connection:
        if _revision(connection) == newest:
            return
    with database.write() as connection:
        if not database.is_sqlite:
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(:n)"), {"n": _MIGRATION_LOCK})
        config.attributes |= {"connection": connection, "version_table": _VERSION_TABLE}
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            raise RecordError(
                f"the galleries in {database.shown} were written by a newer cnnray than this one: {error}"
            ) from error


def _revision(connection: sa.Connection) -> str | None:
    return MigrationContext.configure(connection, opts={"version_table": _VERSION_TABLE}).get_current_revision()
