"""`cnnray faces`: galleries, as wholes."""

from typing import Annotated, Any

from cnnray.cli.app import Flat, faces
from cnnray.cli.console import say, table
from cnnray.cli.gallery_doors import Local, open_door, open_record, say_if_nobody
from cnnray.config import CalibrateConfig, EnrollConfig, QualityPolicy, RecordConfig
from cnnray.errors import OptionError

_RECORD = RecordConfig()


@faces.command(name="create")
def faces_create(
    gallery: str,
    /,
    *,
    policy: Annotated[QualityPolicy, Flat] = QualityPolicy(),  # noqa: B008 (frozen)
    embedder: str = "dlib_resnet",
    embedder_weights: str = "default",
    views: int = 2,
    base_threshold: float = 0.0,
    record: Annotated[RecordConfig, Flat] = _RECORD,
) -> dict[str, Any]:
    """Make an empty gallery with a policy of its own; `faces enroll` makes one with the usual policy.

    Args:
        gallery: its name.
        embedder: of its faces, as of `faces enroll`.
        embedder_weights: see there.
        views: see there.
        base_threshold: least cosine of two faces of one person; 0 is the embedder's own.
    """
    from cnnray.infer.faces import FacePipeline
    from cnnray.infer.gallery.contracts import contract_of

    config = EnrollConfig(embedder=embedder, embedder_weights=embedder_weights, views=views)
    with open_record(record) as opened:
        opened.create_gallery(gallery, contract_of(FacePipeline.load(config), base_threshold), policy)
        found = Local(opened, record).open(gallery).describe()
    say(f"gallery {gallery} of {found['model']}")
    say_if_nobody(gallery, found["threshold"])
    return dict(found)


@faces.command(name="list")
def faces_list(
    *,
    gallery: str = "",
    identity: str = "",
    record: Annotated[RecordConfig, Flat] = _RECORD,
    url: str = "",
) -> dict[str, Any]:
    """List the galleries, the people of one, or the faces of a person.

    Args:
        gallery: its name; without it, all galleries are listed.
        identity: whose faces are listed.
        url: of a service whose galleries they are; without it, the record on this machine.
    """
    if identity and not gallery:
        raise OptionError(f"expected --gallery, of which {identity!r} is")
    with open_door(url, record) as door:
        if not gallery:
            found = door.list_galleries()
            rows = [row | {"calibrated": "yes" if row["calibrated"] else "no"} for row in found]
            table("Galleries", rows, ["name", "identities", "faces", "gallery_version", "calibrated", "model"])
            return {"galleries": found}
        if not identity:
            people = door.list_identities(gallery)
            table(f"People of {gallery}", people, ["id", "name", "num_faces", "created_at"])
            return {"gallery": gallery, "identities": people}
        person = door.identity(gallery, identity)
    rows = [
        {"face": str(face["id"]), "created_at": face["created_at"], "photo": face["source_sha256"][:12]}
        | {name: round(value, 2) for name, value in face["quality"].items() if name in ("size", "sharpness", "yaw")}
        for face in person["faces"]
    ]
    say(f"{person['id']}: {person['name']} {person['metadata'] or ''}".rstrip())
    table(f"Faces of {identity}", rows, list(rows[0]) if rows else ["face"])
    return person


@faces.command(name="drop")
def faces_drop(
    gallery: str,
    /,
    *,
    yes: bool = False,
    record: Annotated[RecordConfig, Flat] = _RECORD,
    url: str = "",
) -> dict[str, Any]:
    """Take a gallery out with all people in it, for good.

    Args:
        gallery: its name.
        yes: without it nothing is done.
        url: of a service whose gallery it is; without it, the record on this machine.
    """
    if not yes:
        raise OptionError(f"expected --yes to drop gallery {gallery!r} with all people in it")
    with open_door(url, record) as door:
        dropped = door.drop_gallery(gallery)
    say(f"dropped {gallery}; last entry of its audit log: {dropped['audit_hash']}")
    return dropped


@faces.command(name="calibrate")
def faces_calibrate(
    *,
    gallery: str,
    out: str,
    cohort: str = "",
    record: Annotated[RecordConfig, Flat] = _RECORD,
    config: Annotated[CalibrateConfig, Flat] = CalibrateConfig(),  # noqa: B008 (frozen)
    address: str | None = None,
) -> dict[str, Any]:
    """Measure the threshold of a gallery at a rate of false alarms, and use it from now on.

    Args:
        gallery: its name.
        out: folder for report.html.
        cohort: photos of strangers, as for `faces enroll`, or the folder of a finished `faces enroll`; without it the
            people of the gallery are strangers to each other.
        address: of a Ray cluster, for photos; without it a local one is started.
    """
    from cnnray.data.calibrate_gallery import calibrate_gallery

    with open_record(record) as opened:
        found = calibrate_gallery(Local(opened, record).open(gallery), out, config, cohort=cohort, address=address)
    say(
        f"threshold {found['threshold']:.4f} ({found['low']:.4f} to {found['high']:.4f}) for {config.fpir:g} of "
        f"strangers among {found['num_identities']:,} people, from {found['num_probes']:,} probes; report in {out}"
    )
    if found["extrapolated"]:
        say("too few people for that rate: the threshold is extrapolated")
    if found["num_doubtful"]:
        say(f"{found['num_doubtful']:,} probes are doubtful: people may be in the gallery twice, see the report")
    return found


@faces.command(name="rebuild")
def faces_rebuild(*, gallery: str, record: Annotated[RecordConfig, Flat] = _RECORD) -> dict[str, Any]:
    """Read a gallery's faces from the record again, build its index anew, verify its audit log.

    Args:
        gallery: its name.
    """
    with open_record(record) as opened:
        found = Local(opened, record).open(gallery)
        entries = opened.verify_audit(found.row.token)
        answer = found.rebuild() | {"audit_entries": entries}
    index = answer["index"]
    say(f"{answer['faces']:,} faces of {answer['identities']:,} people, version {answer['gallery_version']:,}")
    say(f"index: {', '.join(f'{name} {value}' for name, value in index.items())}")
    say(f"the audit log's {entries:,} entries fit")
    return dict(answer)


@faces.command(name="export")
def faces_export(out: str, /, *, gallery: str, record: Annotated[RecordConfig, Flat] = _RECORD) -> dict[str, Any]:
    """Write a gallery into one Parquet file: people, faces, contract and policy.

    Args:
        out: the file.
        gallery: its name.
    """
    from cnnray.data.gallery_files import export_gallery

    with open_record(record) as opened:
        found = export_gallery(Local(opened, record).open(gallery), out)
    say(f"{found['faces']:,} faces of {found['identities']:,} people in {out}")
    return found


@faces.command(name="import")
def faces_import(source: str, /, *, gallery: str, record: Annotated[RecordConfig, Flat] = _RECORD) -> dict[str, Any]:
    """Put the people of an exported file into a gallery, a new one or one of the same embedder.

    Args:
        source: the file.
        gallery: its name.
    """
    from cnnray.data.gallery_files import import_gallery

    with open_record(record) as opened:
        found = import_gallery(opened, gallery, source, record)
    say(f"{found['added']:,} of {found['faces']:,} faces added, of {found['identities']:,} people in the file")
    return found


@faces.command(name="audit")
def faces_audit(*, gallery: str, hash: str = "", record: Annotated[RecordConfig, Flat] = _RECORD) -> dict[str, Any]:
    """Verify that no entry of a gallery's audit log was changed, or taken out.

    Args:
        gallery: its name.
        hash: of an entry that must be there, from a receipt.
    """
    with open_record(record) as opened:
        row = opened.get_gallery(gallery)
        entries = opened.verify_audit(row.token, hash)
        last = opened.audit_hash(row.token, row.version)
    say(f"the audit log's {entries:,} entries fit" + (", the known one is among them" if hash else ""))
    return {"gallery": gallery, "entries": entries, "audit_hash": last}
