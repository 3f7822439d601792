"""Verification and identification of real people, against the same computed by hand from the pipeline's answers."""

import json

import numpy as np
import pytest

from cnnray import cli
from cnnray.config import FacesEvaluateConfig
from cnnray.data.evaluate_faces import evaluate_faces
from cnnray.data.face_pairs import list_people, read_face_pairs
from cnnray.data.make_face_pairs import write_face_pairs
from cnnray.data.predict import read_predictions
from cnnray.data.predict_faces import SCHEMA
from cnnray.errors import DataError, OptionError, QuarantineError, RunFolderError
from cnnray.infer.face_results import pick_face
from cnnray.infer.faces import FacePipeline
from cnnray.ops.enrolment import open_set
from cnnray.ops.verification import ten_folds
from tests.killing import kill_all, start_command, wait_for_parts
from tests.people import link_people, nobody
from tests.unit.test_embedders import SMALL, saved

pytestmark = pytest.mark.usefixtures("ray_cluster")
CLOSE = 1e-5


@pytest.fixture(scope="module")
def source(data_dir, tmp_path_factory):
    """Eight people with five photos each, and one with a single photo."""
    folder = link_people(data_dir, tmp_path_factory.mktemp("people") / "src", people=8)
    return link_people(data_dir, folder, people=1, images=1, first=30)


@pytest.fixture(scope="module")
def pairs(source, tmp_path_factory):
    uri = str(tmp_path_factory.mktemp("pairs") / "pairs.txt")
    write_face_pairs(uri, list_people(str(source)), folds=2, pairs_per_fold=20)
    return uri


@pytest.fixture(scope="module")
def config(pairs, tmp_path_factory):
    """By a network with random weights, which often errs: figures of 1 would tell nothing of how they are computed."""
    folder = tmp_path_factory.mktemp("embedder")
    saved(folder, arch={**SMALL, "head": ""})
    return FacesEvaluateConfig(pairs=pairs, identification=True, embedder=str(folder), draw_worst=2)


@pytest.fixture(scope="module")
def run(ray_cluster, source, config, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "out"
    return out, evaluate_faces(str(source), str(out), config)


def embeddings(source, names, config):
    """By name."""
    photos = [(source / name).read_bytes() for name in names]
    answers = FacePipeline.load(config).predict(photos)
    return {name: pick_face(answer, "central").embedding_D for name, answer in zip(names, answers, strict=True)}


def names_in(source):
    return sorted(f"{path.parent.name}/{path.name}" for path in source.glob("*/*"))


@pytest.fixture(scope="module")
def known(source, config):
    return embeddings(source, names_in(source), config)


def test_pairs(run, source, pairs, known):
    own = run[1]["pairs"]
    given = read_face_pairs(pairs, str(source))
    distances = np.array([np.linalg.norm(known[a] - known[b]) for a, b in zip(given.ids_a, given.ids_b, strict=True)])
    same, different = np.sort(distances[given.same_N]), np.sort(distances[~given.same_N])
    folds = ten_folds(-distances, given.same_N, given.folds_N)
    assert own["accuracy"] == pytest.approx(folds.mean, abs=CLOSE)
    assert own["accuracy_std"] == pytest.approx(folds.std, abs=CLOSE)
    assert own["auc"] == pytest.approx(np.mean(same[:, None] < different), abs=CLOSE) and own["auc"] < 0.95
    assert own["tar_at_far_0.1"] == pytest.approx(np.mean(same < different[4]), abs=CLOSE)  # 4 of 40 may pass
    assert different[3] - CLOSE <= own["tar_at_far_0.1_threshold"] < different[4]
    assert own["tar_at_far_0.01"] is None  # 1 % of 40 pairs is none
    assert (own["num_pairs"], own["num_same"], own["num_not_found"], run[1]["unit"]) == (80, 40, 0, "distance")


def look_for(name, gallery, known):
    """Distances to everybody of a gallery (names of images by person)."""
    return {who: float(np.linalg.norm(known[name] - known[image])) for who, image in gallery.items()}


def first_images(known, without=()):
    gallery = {}
    for name in sorted(known):
        gallery.setdefault(name.split("/")[0], name)
    return {who: name for who, name in gallery.items() if who not in without}


def test_closed_set(run, known):
    own, gallery, ranks = run[1]["closed_set"], first_images(known), []
    for name in sorted(set(known) - set(gallery.values())):
        away = look_for(name, gallery, known)
        ranks.append(sum(value <= away[name.split("/")[0]] for value in away.values()))
    for k in (1, 5):
        assert own[f"rank_{k}"] == pytest.approx(np.mean(np.array(ranks) <= k), abs=CLOSE)
    assert 0.1 < own["rank_1"] < own["rank_5"] < 1
    assert (own["num_identities"], own["num_mated"], own["num_not_enrolled"]) == (9, 32, 0)


def test_open_set(run, known):
    """Half of the eight people with several photos are strangers; the ninth is in the gallery."""
    own = run[1]["open_set"]
    labels = np.array([name.split("/")[0] for name in sorted(known)])
    enrolled = {str(name) for name in labels[open_set(labels, 0.5, seed=0).gallery_G]}
    strangers = set(labels.tolist()) - enrolled
    gallery = first_images(known, without=strangers)
    nearest = sorted(min(look_for(n, gallery, known).values()) for n in known if n.split("/")[0] in strangers)
    missed, limit = [], nearest[2]  # 2 of 20 strangers may be nearer
    for name in sorted(set(known) - set(gallery.values())):
        if (who := name.split("/")[0]) in gallery:
            away = look_for(name, gallery, known)
            missed.append(away[who] > min(away.values()) or away[who] >= limit)
    assert own["fnir_at_fpir_0.1"] == pytest.approx(np.mean(missed), abs=CLOSE)
    assert own["fnir_at_fpir_0.1_threshold"] == pytest.approx(limit, abs=CLOSE)
    assert (own["num_identities"], own["num_mated"], own["num_impostors"]) == (5, 16, 20)
    assert own["fnir_at_fpir_0.01"] is None and not [name for name in own if name.startswith("rank")]


def test_what_is_written(run, source, config):
    out, metrics = run
    assert json.loads((out / "metrics.json").read_text()) == metrics
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["images"] == metrics["images"] == 41 and manifest["metrics"]["pairs"] == metrics["pairs"]
    page = (out / "report.html").read_text()
    for title in (
        "Verification",
        "Different people",
        "least alike",
        "Identification",
        "stranger",
        "Taken for somebody",
    ):
        assert title in page
    assert "<h2>Without a face" not in page and page.count("data:image/jpeg") == 6
    with pytest.raises(RunFolderError, match="finished"):
        evaluate_faces(str(source), str(out), config)


def test_photos_of_nobody_and_broken_ones_are_nobodys(data_dir, tmp_path):
    """A face that is missing is never recognised; whose it was in the gallery, is not either."""
    source = link_people(data_dir, tmp_path / "src", people=3, images=4)
    first, second, third = sorted(path.name for path in source.iterdir())
    (source / first / f"{first}_0000.jpg").write_bytes(nobody())  # in the gallery
    (source / second / f"{second}_0099.jpg").write_bytes(b"rubbish")
    (source / third / f"{third}_0099.jpg").symlink_to(data_dir / "faces" / "2007_007763.jpg")  # seven faces
    photos = {name: sorted(f"{name}/{path.name}" for path in (source / name).iterdir()) for name in (first, second)}
    lines = [(*photos[first][:2], 1), (*photos[first][1:3], 1), (*photos[second][:2], 1), (*photos[second][-2:], 1)]
    lines += [(photos[first][at], photos[second][at], 0) for at in range(4)]
    text = "path_a,path_b,same\n" + "".join(f"{a},{b},{same}\n" for a, b, same in lines)
    (tmp_path / "pairs.csv").write_text(text)
    out, config = (
        tmp_path / "out",
        FacesEvaluateConfig(pairs=str(tmp_path / "pairs.csv"), identification=True, pick="only"),
    )
    with pytest.raises(QuarantineError, match="1 of 15 images"):
        evaluate_faces(str(source), str(out), config)
    metrics = json.loads((out / "metrics.json").read_text())
    alone = {f"{first}/{first}_0000.jpg", f"{third}/{third}_0099.jpg"}
    assert alone <= set(metrics["without_face_images"]) and metrics["quarantined"] == 1
    assert metrics["without_face"] == len(metrics["without_face_images"])
    assert metrics["pairs"]["num_not_found"] >= 3  # two with nobody, one with the broken file
    closed = metrics["closed_set"]
    assert closed["num_not_enrolled"] == 1 and closed["num_mated"] == 12
    assert closed["num_not_found"] >= 2 and closed["rank_1"] <= 6 / 12
    page = (out / "report.html").read_text()
    for part in ("Without a face", "no face was found", "several faces were found", "not_an_image"):
        assert part in page


def test_only_the_images_that_pairs_name_are_read(source, tmp_path):
    names = names_in(source)
    lines = [f"{names[0]},{names[1]},1", f"{names[0]},{names[5]},0", f"{names[5]},{names[6]},1"]
    lines += [f"{source / names[1]},{names[6]},false"]
    (tmp_path / "pairs.csv").write_text("\n".join(["path_a,path_b,same", *lines]))
    metrics = evaluate_faces(str(source), str(tmp_path / "out"), FacesEvaluateConfig(pairs=f"{tmp_path}/pairs.csv"))
    assert metrics["pairs"]["num_pairs"] == 4 and metrics["pairs"]["auc"] == 1
    assert metrics["images"] == 5  # one of them has two names
    assert "closed_set" not in metrics and "Identification" not in (tmp_path / "out" / "report.html").read_text()


def test_a_verification_head_decides_by_its_probability(source, pairs, tmp_path):
    saved(tmp_path / "checkpoint")
    config = FacesEvaluateConfig(pairs=pairs, embedder=str(tmp_path / "checkpoint"), draw_worst=1)
    metrics = evaluate_faces(str(source), str(tmp_path / "out"), config)
    given, pipeline = read_face_pairs(pairs, str(source)), FacePipeline.load(config)
    own = embeddings(source, sorted({*given.ids_a, *given.ids_b}), config)
    answers = [pipeline.compare(own[a], own[b]) for a, b in zip(given.ids_a, given.ids_b, strict=True)]
    probabilities = np.array([answer.probability for answer in answers])
    assert metrics["unit"] == "probability"
    same, different = probabilities[given.same_N], np.sort(probabilities[~given.same_N])
    assert metrics["pairs"]["auc"] == pytest.approx(np.mean(same[:, None] > different), abs=0.01)
    assert metrics["pairs"]["tar_at_far_0.1_threshold"] == pytest.approx(min(same[same > different[-5]]), abs=0.01)
    assert "probability from" in (tmp_path / "out" / "report.html").read_text()


def test_killed_evaluations_go_on_and_end_with_the_same_figures(source, config, run, tmp_path):
    out = tmp_path / "out"
    words = ["evaluate", "faces", source, "--out", out, "--pairs", config.pairs, "--identification"]
    words += ["--embedder", config.embedder, "--draw-worst", config.draw_worst]
    driver = start_command(*words)
    wait_for_parts(out / "predictions", 1, driver)
    kill_all(driver)
    assert not (out / "manifest.json").exists()
    again, whole = evaluate_faces(str(source), str(out), config), run[1]
    for part in ("pairs", "closed_set", "open_set"):
        assert again.pop(part) == pytest.approx(whole[part], abs=CLOSE)
    assert again == {name: value for name, value in whole.items() if name in again}
    ids = read_predictions(str(out), SCHEMA)["id"].to_pylist()
    assert ids == read_predictions(str(run[0]), SCHEMA)["id"].to_pylist() == names_in(source)


def test_what_is_refused_before_anything_is_read(source, tmp_path):
    out = str(tmp_path / "out")
    with pytest.raises(OptionError, match="expected --pairs FILE, --identification, or both"):
        evaluate_faces(str(source), out, FacesEvaluateConfig())
    (tmp_path / "pairs.csv").write_text(
        "path_a,path_b,same\n" + 2 * "Nobody/1.jpg,Nobody/2.jpg,1\nNobody/1.jpg,X/2.jpg,0\n"
    )
    with pytest.raises(DataError, match="8 of 8 are not there, such as Nobody/1.jpg"):
        evaluate_faces(str(source), out, FacesEvaluateConfig(pairs=f"{tmp_path}/pairs.csv"))
    assert not (tmp_path / "out").exists()


def test_sources_without_people(data_dir, tmp_path):
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat" / "a.jpg").write_bytes(nobody())
    with pytest.raises(DataError, match="a sub-folder of images for every person in .*, but 1 of 1 images have none"):
        evaluate_faces(str(tmp_path / "flat"), str(tmp_path / "a"), FacesEvaluateConfig(identification=True))
    source = link_people(data_dir, tmp_path / "single", people=3, images=1)
    config = FacesEvaluateConfig(identification=True)
    with pytest.raises(DataError, match="got 3 people with at most 1 images"):
        evaluate_faces(str(source), str(tmp_path / "b"), config)
    # and once that is put right, the same command goes on
    for path in source.glob("*/*"):
        path.unlink()
        for name in ("1.jpg", "2.jpg"):
            (path.parent / name).write_bytes(nobody())
    metrics = evaluate_faces(str(source), str(tmp_path / "b"), config)
    assert metrics["without_face"] == 6 and metrics["closed_set"]["rank_1"] == 0
    assert metrics["open_set"]["num_not_enrolled"] == 1


def test_a_list_of_pairs_that_changed_under_a_killed_run(source, tmp_path):
    out, given, names = tmp_path / "out", tmp_path / "pairs.csv", names_in(source)
    rows = [(names[0], names[1], 1), (names[0], names[1], 1), (names[0], names[6], 0), (names[1], names[6], 0)]
    given.write_text("path_a,path_b,same\n" + "".join(f"{a},{b},{same}\n" for a, b, same in rows))
    config = FacesEvaluateConfig(pairs=str(given))
    evaluate_faces(str(source), str(out), config)
    (out / "manifest.json").unlink()
    given.write_text(given.read_text().replace(names[6], names[7]))
    with pytest.raises(DataError, match=f"2 of 8 are others, such as .*{names[7]}"):
        evaluate_faces(str(source), str(out), config)


def test_the_command(source, pairs, tmp_path, capsys):
    cli.main(["evaluate", "faces", str(source), "--out", str(tmp_path / "out"), "--pairs", pairs, "--json"])
    captured = capsys.readouterr()
    own = json.loads(captured.out)["pairs"]
    assert own["num_pairs"] == 80 and own["accuracy"] > 0.95 and 0.3 < own["threshold"] < 0.6
    assert "accuracy" in captured.err and "±" in captured.err and "rank 1" not in captured.err
    assert f"report in {tmp_path / 'out'}/report.html" in captured.err
