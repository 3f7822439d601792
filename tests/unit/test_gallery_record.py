"""The record of galleries on SQLite and on PostgreSQL: one behaviour, whatever is behind it."""

import hashlib
import sqlite3
import threading

import numpy as np
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from cnnray.config import QualityPolicy
from cnnray.errors import GalleryError, OptionError, RecordError
from cnnray.infer.gallery import tables
from cnnray.infer.gallery.record import Record
from cnnray.infer.gallery.rows import Contract, NewFace, check_vectors

CONTRACT = Contract("dlib_resnet:views=2@0123456789ab", 8, 0.9)


def vector(seed, size=8):
    found = np.random.default_rng(seed).normal(size=size).astype(np.float32)
    return found / np.linalg.norm(found)


def face(seed):
    return NewFace(vector(seed), hashlib.sha256(str(seed).encode()).hexdigest(), {"size": 50.0})


def enroll(record, key, *seeds, gallery="staff"):
    with record.change(gallery) as change:
        person = change.find_identity(key) or change.add_identity(key, key, "{}")
        ids = change.add_faces(person.id, [face(seed) for seed in seeds])
        change.audit("enroll", person.id, faces=ids)
    return person.id, ids


def everything(record, gallery):
    with record.load_faces(gallery.id) as (version, count, blocks):
        rows = [
            (face_id, person, tuple(vector)) for block in blocks for face_id, person, vector in zip(*block, strict=True)
        ]
    assert len(rows) == count
    return version, rows


@pytest.fixture
def gallery(record):
    return record.create_gallery("staff", CONTRACT, QualityPolicy(min_size=30))


# ---- galleries -------------------------------------------------------------------------------------------------------


def test_galleries_are_created_listed_and_dropped(record, gallery):
    assert record.get_gallery("staff") == gallery
    assert gallery.contract == CONTRACT and gallery.policy.min_size == 30 and gallery.version == 0
    record.create_gallery("Guests-2", CONTRACT)
    enroll(record, "ada", 1, 2)
    assert [(row.name, people, faces) for row, people, faces in record.list_galleries()] == [
        ("Guests-2", 0, 0),
        ("staff", 1, 2),
    ]
    with pytest.raises(GalleryError, match="already") as caught:
        record.create_gallery("staff", CONTRACT)
    assert (caught.value.code, caught.value.http_status) == ("gallery_exists", 409)
    record.drop_gallery("staff")
    for use in (record.get_gallery, record.drop_gallery):
        with pytest.raises(GalleryError, match="no gallery 'staff'"):
            use("staff")
    assert record.changes_since(gallery.id, 0) is None
    again = record.create_gallery("staff", CONTRACT)
    assert again.id > gallery.id and again.token != gallery.token and everything(record, again) == (0, [])
    assert record.verify_audit(gallery.token) == 3, "the log outlives its gallery"


@pytest.mark.parametrize("name", ["", "a b", "../x", "a/b", "é", "-x", "x" * 65, "x\n"])
def test_names_of_galleries_are_plain(record, name):
    with pytest.raises(GalleryError, match="a gallery's name has") as caught:
        record.create_gallery(name, CONTRACT)
    assert caught.value.code == "bad_name"


# ---- changes ---------------------------------------------------------------------------------------------------------


def test_changes_lead_from_any_version_to_the_newest(record, gallery):
    """A copy that applies what it lacks, from wherever it stands, is the record."""
    rng = np.random.default_rng(0)
    states = [everything(record, gallery)]
    seeds = iter(range(1000))
    alive = []
    for _ in range(60):
        if alive and rng.random() < 0.4:
            key = alive.pop(rng.integers(len(alive)))
            with record.change("staff") as change:
                change.remove_identity(change.get_identity(key))
        else:
            key = f"p{next(seeds)}"
            enroll(record, key, *(next(seeds) for _ in range(rng.integers(1, 4))))
            alive.append(key)
        states.append(everything(record, gallery))
    newest, rows = states[-1]
    for version, before in states:
        delta = record.changes_since(gallery.id, version)
        changed = set(delta.changed_I.tolist())
        copy = [row for row in before if row[1] not in changed]
        copy += [(row[0], row[1], tuple(row[2])) for row in zip(*delta.faces, strict=True)]
        assert delta.version == newest and sorted(copy) == sorted(rows)
        gone = {row[0] for row in before} - {row[0] for row in rows}
        assert delta.removed or not gone


def test_a_photo_is_enrolled_once_for_a_person(record, gallery):
    person, (first, second) = enroll(record, "ada", 1, 2)
    assert enroll(record, "ada", 2, 3, 3)[1][:1] == [second]
    _, rows = everything(record, gallery)
    assert len(rows) == 3 and {row[1] for row in rows} == {person}
    other, (third,) = enroll(record, "bob", 1)
    assert third not in (first, second) and other != person


def test_an_error_undoes_all_of_a_change(record, gallery):
    enroll(record, "ada", 1)
    before, entries = everything(record, gallery), record.verify_audit(gallery.token)
    with pytest.raises(ZeroDivisionError), record.change("staff") as change:
        change.add_faces(change.add_identity("bob", "Bob", "{}").id, [face(2)])
        change.remove_identity(change.get_identity("ada"))
        change.audit("enroll", 1)
        raise ZeroDivisionError
    assert everything(record, gallery) == before and record.verify_audit(gallery.token) == entries
    assert record.changes_since(gallery.id, before[0]).version == before[0]


def test_writers_in_threads_leave_numbers_without_gaps(record, gallery):
    failures = []

    def work(name):
        try:
            for at in range(15):
                enroll(record, f"{name}-{at}", hash((name, at)) % 2**32)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    seen, versions = {}, [0]
    while len(seen) < 60 and not failures:  # a reader that follows meanwhile misses nobody
        delta = record.changes_since(gallery.id, versions[-1])
        seen |= dict(zip(delta.faces.face_ids_N.tolist(), delta.faces.identity_ids_N.tolist(), strict=True))
        versions.append(delta.version)
    for thread in threads:
        thread.join()
    assert not failures
    version, rows = everything(record, gallery)
    assert version == 120 and {row[0]: row[1] for row in rows} == seen
    with record.database.read() as connection:
        numbers = (
            connection.execute(sa.select(tables.changes.c.number).order_by(tables.changes.c.number)).scalars().all()
        )
    assert numbers == list(range(1, 121)) and versions == sorted(versions)
    assert record.verify_audit(gallery.token) == 61


def test_ids_are_never_given_again(record, gallery):
    person, (first,) = enroll(record, "ada", 1)
    with record.change("staff") as change:
        change.remove_identity(change.get_identity("ada"))
    again, (second,) = enroll(record, "ada", 1)
    assert again > person and second > first


# ---- requests --------------------------------------------------------------------------------------------------------


def test_a_request_key_stands_for_one_request(record, gallery):
    with record.change("staff") as change:
        assert change.find_answer("k", "f") is None
        ada = change.add_identity("ada", "Ada", "{}")
        change.remember_answer("k", "f", ada.id, {"key": "ada"})
    with record.change("staff") as change:
        assert change.find_answer("k", "f") == {"key": "ada"}
        with pytest.raises(GalleryError, match="used for something else") as caught:
            change.find_answer("k", "other")
        assert (caught.value.code, caught.value.http_status) == ("key_reused", 409)
        change.remove_identity(ada)
    with record.change("staff") as change, pytest.raises(GalleryError, match="erased since") as caught:
        change.find_answer("k", "f")
    assert caught.value.http_status == 410


# ---- people ----------------------------------------------------------------------------------------------------------


def test_people_are_listed_in_pages(record, gallery):
    keys = [
        f"{name}/{at}".replace("/", "-") for name in ("Ærøskøbing", "张伟", "o'neil", "a%b", "Ω") for at in range(3)
    ]
    ids = [enroll(record, key, *range(100 * at, 100 * at + at % 3))[0] for at, key in enumerate(keys)]
    found, after = [], 0
    while page := record.list_identities(gallery, after, 4):
        found += page
        after = page[-1].id
    assert [(row.key, row.id, row.faces) for row in found] == [
        (k, i, at % 3) for at, (k, i) in enumerate(zip(keys, ids, strict=True))
    ]
    row, faces = record.get_identity(gallery, keys[5])
    assert row.faces == 2 == len(faces) and faces[0].quality == {"size": 50.0}
    assert record.find_identities([ids[0], 10**9]) == {ids[0]: record.get_identity(gallery, keys[0])[0]}


# ---- the audit log ---------------------------------------------------------------------------------------------------


def test_the_audit_log_shows_what_was_changed_in_it(record, gallery):
    for at in range(5):
        enroll(record, f"p{at}", at)
    with record.database.read() as connection:
        rows = connection.execute(sa.select(tables.audit).order_by(tables.audit.c.number)).mappings().all()
    hashes = [row["hash"] for row in rows]
    assert record.verify_audit(gallery.token, hashes[2]) == 6 and len(set(hashes)) == 6
    assert record.audit_hash(gallery.token, rows[3]["version"]) == hashes[3]
    attacks = {
        "changed": sa.update(tables.audit).where(tables.audit.c.number == 3).values(details="{}"),
        "taken out": sa.delete(tables.audit).where(tables.audit.c.number == 3),
        "rewritten": sa.update(tables.audit).where(tables.audit.c.number == 3).values(hash="0" * 64),
    }
    for attack in attacks.values():
        with pytest.raises(RecordError, match=r"entry [34] of gallery"), record.database.write() as connection:
            connection.execute(attack)
            from cnnray.infer.gallery import audit

            audit.verify(connection, gallery.token)
    with record.database.write() as connection:
        connection.execute(sa.delete(tables.audit).where(tables.audit.c.number == 6))
    assert record.verify_audit(gallery.token) == 5
    with pytest.raises(RecordError, match="cut off"):
        record.verify_audit(gallery.token, hashes[5])


# ---- the database ----------------------------------------------------------------------------------------------------


def test_migrations_make_the_tables_that_are_described(record):
    with record.database.read() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": "cnnray_galleries"})
        assert context.get_current_revision() == "0001"
        assert compare_metadata(context, tables.metadata) == []


def test_a_record_by_a_newer_program_is_refused(record, record_url):
    with record.database.write() as connection:
        connection.execute(sa.text("UPDATE cnnray_galleries SET version_num = '9999'"))
    with pytest.raises(RecordError, match="written by a newer cnnray"):
        Record(record_url)


def test_processes_that_start_at_once_make_one_record(record_url):
    records, failures = [], []

    def start():
        try:
            records.append(Record(record_url))
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=start) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures and len(records) == 6
    records[0].create_gallery("staff", CONTRACT)
    assert all(record.get_gallery("staff").contract == CONTRACT for record in records)
    for record in records:
        record.close()


def test_sqlite_is_durable_and_overwrites_what_is_deleted(tmp_path):
    record = Record(str(tmp_path / "deep" / "er" / "g.db"))
    with record.database.outside() as connection:
        values = {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in
                  ("journal_mode", "synchronous", "secure_delete", "foreign_keys", "temp_store")}  # fmt: skip
    assert values == {"journal_mode": "wal", "synchronous": 2, "secure_delete": 1, "foreign_keys": 1, "temp_store": 2}
    record.close()


@pytest.mark.parametrize(
    "url",
    ["mysql://u@h/d", "postgresql://", "sqlite://", "postgresql://u:p@h:port/d", "http://x/y"],
)
def test_urls_of_other_databases_are_refused(url):
    with pytest.raises(OptionError, match="expected"):
        Record(url)


def test_something_else_in_place_of_the_database(tmp_path):
    (tmp_path / "g.db").write_bytes(b"this is no database" * 500)
    with pytest.raises(RecordError, match="damaged or something else"):
        Record(str(tmp_path / "g.db"))
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordError, match="folder"):
        Record(str(tmp_path / "file" / "g.db"))
    other = sqlite3.connect(tmp_path / "other.db")
    other.execute("CREATE TABLE galleries (id INTEGER)")
    other.close()
    with pytest.raises(RecordError, match="galleries"):
        Record(str(tmp_path / "other.db"))


def test_a_damaged_page_is_an_error_and_not_an_answer(tmp_path):
    path = tmp_path / "g.db"
    record = Record(str(path))
    gallery = record.create_gallery("staff", CONTRACT)
    for at in range(300):
        enroll(record, f"p{at}", at)
    record.purge()
    record.close()
    content = bytearray(path.read_bytes())
    content[4096 * 3 :] = bytes(255 - byte for byte in content[4096 * 3 :])
    path.write_bytes(content)
    with pytest.raises(RecordError, match="damaged"):
        everything(Record(str(path)), gallery)


def test_no_server_is_one_clear_sentence():
    with pytest.raises(RecordError, match=r"postgresql\+psycopg://u:\*\*\*@127.0.0.1:9/d, failed: .*refused") as caught:
        Record("postgresql://u:secret@127.0.0.1:9/d")
    assert caught.value.http_status == 503 and "secret" not in str(caught.value)


# ---- vectors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (np.ones((1, 4)) / 2, r"embeddings of 8 numbers, got \[1, 4\]"),
        (np.ones(8) / np.sqrt(8), r"got \[8\]"),
        (np.full((1, 8), np.nan), "got NaN or infinity"),
        (np.ones((2, 8)), "got one of length 2.828"),
        (np.zeros((1, 8)), "length 0"),
    ],
)
def test_vectors_that_are_no_embeddings(vectors, message):
    with pytest.raises(GalleryError, match=message) as caught:
        check_vectors(vectors, 8)
    assert caught.value.code == "bad_vector"


def test_embeddings_come_back_bit_by_bit(record, gallery):
    enroll(record, "ada", *range(50))
    _, rows = everything(record, gallery)
    assert [row[2] for row in rows] == [tuple(vector(seed)) for seed in range(50)]
