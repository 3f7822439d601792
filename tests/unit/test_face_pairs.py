"""Lists of pairs of faces: LFW's format, CSV, and made up from folders."""

import uuid
from collections import Counter

import fsspec
import numpy as np
import pytest

from cnnray.data.face_pairs import image_numbers, list_people, read_face_pairs
from cnnray.data.make_face_pairs import make_face_pairs, write_face_pairs
from cnnray.errors import DataError

HEAD = "path_a,path_b,same\n"


@pytest.fixture
def root(tmp_path):
    """Two people as LFW names their images, one as a camera does, a link, and what is no image of anybody."""
    for name in ("Ann_A/Ann_A_0001.jpg", "Ann_A/Ann_A_0003.PNG", "Ann_A/notes.txt", "Ann_A/.Ann_A_0002.jpg"):
        put(tmp_path / "faces" / name)
    for name in ("Bob/Bob_0010.jpg", "Cy/x.jpg", "Cy/a.jpg", "empty/readme.txt", ".hidden/a.jpg", "beside.jpg"):
        put(tmp_path / "faces" / name)
    (tmp_path / "faces" / "Bob" / "Bob_0011.jpg").symlink_to(tmp_path / "faces" / "Bob" / "Bob_0010.jpg")
    return str(tmp_path / "faces")


def put(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def write(folder, text, name="pairs.txt"):
    (folder / name).write_text(text, newline="")
    return str(folder / name)


def message(folder, text, root, name="pairs.txt"):
    with pytest.raises(DataError) as caught:
        read_face_pairs(write(folder, text, name), root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_lfws_format_is_read(tmp_path, root):
    text = "2\t1\r\nAnn_A\t1\t3\r\nAnn_A\t1\tBob\t11\r\nCy\t1\t2\r\nBob\t10\tCy\t2\r\n\r\n"
    pairs = read_face_pairs(write(tmp_path, text), root)
    assert pairs.ids_a == ("Ann_A/Ann_A_0001.jpg", "Ann_A/Ann_A_0001.jpg", "Cy/a.jpg", "Bob/Bob_0010.jpg")
    assert pairs.ids_b == ("Ann_A/Ann_A_0003.PNG", "Bob/Bob_0011.jpg", "Cy/x.jpg", "Cy/x.jpg")
    assert pairs.paths_a[0] == f"{root}/Ann_A/Ann_A_0001.jpg" and pairs.paths_b[3] == f"{root}/Cy/x.jpg"
    assert pairs.same_N.tolist() == [True, False, True, False] and pairs.folds_N.tolist() == [0, 0, 1, 1]
    assert (pairs.same_N.dtype, pairs.folds_N.dtype) == (np.bool_, np.int64)
    assert list(pairs.images) == sorted({*pairs.ids_a, *pairs.ids_b})
    assert pairs.images["Cy/x.jpg"] == f"{root}/Cy/x.jpg"


def test_spaces_may_divide_and_tabs_may_not_be_needed(tmp_path, root):
    pairs = read_face_pairs(write(tmp_path, "2 1\nAnn_A 1 3\nAnn_A 1 Bob 11\nCy 1 2\nBob 10 Cy 2"), root)
    assert pairs.ids_b[1] == "Bob/Bob_0011.jpg"


def test_view_1_has_no_folds_and_gets_some(tmp_path, root):
    text = "2\nAnn_A\t1\t3\nCy\t1\t2\nAnn_A\t1\tBob\t11\nBob\t10\tCy\t2\n"
    pairs = read_face_pairs(write(tmp_path, text), root)
    assert pairs.same_N.tolist() == [True, True, False, False] and pairs.folds_N.tolist() == [0, 1, 0, 1]


def test_paths_are_made_absolute(tmp_path, root, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "2 1\nAnn_A 1 3\nAnn_A 1 Bob 11\nCy 1 2\nBob 10 Cy 2")
    assert read_face_pairs("pairs.txt", "faces").paths_a[0] == f"{root}/Ann_A/Ann_A_0001.jpg"


def test_a_root_may_be_any_uri():
    base = f"memory://{uuid.uuid4().hex}"
    for name in ("Ann/Ann_0001.jpg", "Ann/Ann_0002.jpg", "Bob/Bob_0001.jpg"):
        fsspec.filesystem("memory").pipe_file(f"{base}/{name}", b"")
    rows = f"Ann/Ann_0001.jpg,Ann/Ann_0002.jpg,1\nAnn/Ann_0001.jpg,{base}/Bob/Bob_0001.jpg,0\n" * 2
    fsspec.filesystem("memory").pipe_file(f"{base}/pairs.csv", (HEAD + rows).encode())
    pairs = read_face_pairs(f"{base}/pairs.csv", base)
    assert pairs.paths_a[1] == f"{base}/Ann/Ann_0001.jpg" and pairs.paths_b[1] == f"{base}/Bob/Bob_0001.jpg"
    assert pairs.ids_b[1] == pairs.paths_b[1]
    assert list_people(base) == {"Ann": ["Ann_0001.jpg", "Ann_0002.jpg"], "Bob": ["Bob_0001.jpg"]}


def test_a_csv_is_read(tmp_path, root):
    text = (
        "\ufeffpath_a, same ,path_b,fold,note\n"
        'Cy/a.jpg,TRUE,"Cy/x.jpg",7,"two\nlines"\n\n'
        f"{root}/Bob/Bob_0010.jpg,no,Ann_A/Ann_A_0003.PNG,3,\n"
        "Cy/a.jpg,0,beside.jpg,7,\n"
    )
    pairs = read_face_pairs(write(tmp_path, text, "pairs.csv"), root)
    assert pairs.ids_a == ("Cy/a.jpg", f"{root}/Bob/Bob_0010.jpg", "Cy/a.jpg")
    assert pairs.paths_b == (f"{root}/Cy/x.jpg", f"{root}/Ann_A/Ann_A_0003.PNG", f"{root}/beside.jpg")
    assert pairs.same_N.tolist() == [True, False, False] and pairs.folds_N.tolist() == [1, 0, 1]


def test_without_folds_both_kinds_are_dealt_in_turn(tmp_path, root):
    rows = [f"Cy/a.jpg,Cy/x.jpg,{int(at % 3 == 0)}\n" for at in range(45)]
    pairs = read_face_pairs(write(tmp_path, HEAD + "".join(rows), "pairs.csv"), root)
    for same, most in ((True, 2), (False, 3)):
        counts = Counter(pairs.folds_N[pairs.same_N == same].tolist())
        assert sorted(counts) == list(range(10)) and max(counts.values()) == most == min(counts.values()) + (most < 3)
    assert pairs.folds_N[:6].tolist() == [0, 0, 1, 1, 2, 3]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", '"FOLDS PAIRS" or "PAIRS", numbers from 1, in line 1 of {}, got \'\''),
        ("Ann_A\t1\t3\n", "in line 1 of {}, got 'Ann_A 1 3'"),
        ("2\t0\n", "in line 1 of {}, got '2 0'"),
        ("2\t1\nAnn_A\t1\t3\n", "expected 2 x 2 x 1 = 4 pairs in {}, as its line 1 says, got 1 lines"),
        ("1\nCy\t1\nCy\t1\tBob\t10\n", "expected \"NAME N N\" (one person) in line 2 of {}, got 'Cy 1'"),
        ("1\nCy\t1\tBob\t10\nCy\t1\t2\n", "expected \"NAME N N\" (one person) in line 2 of {}, got 'Cy 1 Bob 10'"),
        ("1\nCy\t1\t2\nCy\t1\t2\n", "expected \"NAME N NAME N\" (two people) in line 3 of {}, got 'Cy 1 2'"),
        ("1\nCy\t1\t2\nCy\t1\tCy\t2\n", "expected \"NAME N NAME N\" (two people) in line 3 of {}, got 'Cy 1 Cy 2'"),
        ("1\nCy\tone\t2\nCy\t1\tBob\t10\n", "in line 2 of {}, got 'Cy one 2'"),
        ("1\nCy\t0\t2\nCy\t1\tBob\t10\n", "in line 2 of {}, got 'Cy 0 2'"),
        ("1\t1\nCy\t1\t2\nCy\t1\tBob\t10\n", "expected two folds or more in {}, got 1"),
        ("1\nCy\t1\t2\nCy\t1\tBob\t10\n", "expected two folds or more in {}, got 1"),
    ],
)
def test_what_is_not_lfws_format_is_named(tmp_path, root, text, expected):
    assert expected.format(tmp_path / "pairs.txt") in message(tmp_path, text, root)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "expected columns path_a, path_b, same in line 1 of {}, but path_a, path_b, same is missing"),
        ("path_a,path_b,label\n", "same is missing; it has path_a, path_b, label"),
        (HEAD, "expected pairs of the same person and of different people in {}, got 0 and 0"),
        (HEAD + "Cy/a.jpg,Cy/x.jpg,1\n" * 2, "got 2 and 0"),
        (HEAD + "Cy/a.jpg,,1\n", "expected path_a and path_b in line 2 of {}, got 'Cy/a.jpg' and ''"),
        (HEAD + "Cy/a.jpg\n", "expected path_a and path_b in line 2 of {}, got 'Cy/a.jpg' and ''"),
        (HEAD + "a,b,1\na,b,maybe\n", "one of 1, true, yes, 0, false, no in line 3 of {}, got 'maybe'"),
        ("path_a,path_b,same,fold\na,b,1,first\n", "fold to be a whole number in line 2 of {}, got 'first'"),
        ("path_a,path_b,same,fold\na,b,1\n", "fold to be a whole number in line 2 of {}, got ''"),
        ("path_a,path_b,same,fold\na,b,1,4\na,b,0,4\n", "expected two folds or more in {}, got 1"),
    ],
)
def test_what_is_no_such_csv_is_named(tmp_path, root, text, expected):
    assert expected.format(tmp_path / "pairs.csv") in message(tmp_path, text, root, "pairs.csv")


def test_images_that_are_not_there_are_named(tmp_path, root):
    text = "2\nAnn_A\t1\t2\nCy\t1\t3\nAnn_A\t1\tDan\t11\nBob\t10\tCy\t2\n"
    expected = f"expected the images of {tmp_path}/pairs.txt in {root}, but 3 of 8 are not there, such as number 2 of "
    assert message(tmp_path, text, root) == expected + "Ann_A (line 2)"
    text = HEAD + "Cy/a.jpg,Cy/x.jpg,1\nCy/a.jpg,beside.jpg/b.jpg,0\n" * 2
    assert "2 of 8 are not there, such as beside.jpg/b.jpg (line 3)" in message(tmp_path, text, root, "pairs.csv")


def test_files_that_cannot_be_read_are_named(tmp_path, root):
    with pytest.raises(DataError, match="expected a list of pairs of faces, but there is nothing at .*no.txt"):
        read_face_pairs(str(tmp_path / "no.txt"), root)
    (tmp_path / "latin.txt").write_bytes("1\nJosé\t1\t2\n".encode("latin-1"))
    with pytest.raises(DataError, match="expected text in UTF-8 in .*latin.txt"):
        read_face_pairs(str(tmp_path / "latin.txt"), root)
    with pytest.raises(DataError, match="folder with a sub-folder of images for every person, but .*nowhere is none"):
        list_people(str(tmp_path / "nowhere"))
    (tmp_path / "bare").mkdir()
    with pytest.raises(DataError, match="expected a sub-folder of images for every person in .*bare, but found none"):
        list_people(str(tmp_path / "bare"))


def test_images_are_numbered_by_name_or_else_by_place():
    assert image_numbers("A_B", ["A_B_0012.jpg", "A_B_0002.png", "copy of A_B_0002.jpg", "A_B_12.jpg"]) == {
        2: "A_B_0002.png",
        12: "A_B_0012.jpg",
    }
    assert image_numbers("A", ["c.jpg", "a.txt", "b.jpg"]) == {1: "b.jpg", 2: "c.jpg"}
    assert image_numbers("A", []) == {}
    with pytest.raises(DataError, match="expected one image of each number of A, got A_0001.jpg and A_0001.png"):
        image_numbers("A", ["A_0001.png", "A_0001.jpg"])


def test_people_are_listed(root):
    assert list_people(root) == {
        "Ann_A": ["Ann_A_0001.jpg", "Ann_A_0003.PNG"],
        "Bob": ["Bob_0010.jpg", "Bob_0011.jpg"],
        "Cy": ["a.jpg", "x.jpg"],
    }


# --- made up ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def people():
    """Thirty: ten of them with one image, the others with two to six, numbered with gaps."""
    sizes = {f"Person_{at:02}": 1 if at % 3 == 0 else 2 + at % 5 for at in range(30)}
    return {name: [f"{name}_{3 * at + 2:04}.jpg" for at in range(size)] for name, size in sizes.items()}


def test_made_pairs_are_read_back(tmp_path, people):
    for name, images in people.items():
        for image in images:
            put(tmp_path / "faces" / name / image)
    uri, root = str(tmp_path / "made" / "pairs.txt"), str(tmp_path / "faces")
    write_face_pairs(uri, list_people(root), folds=3, pairs_per_fold=20, seed=5)
    pairs = read_face_pairs(uri, root)
    assert pairs.folds_N.tolist() == [0] * 40 + [1] * 40 + [2] * 40
    assert pairs.same_N.tolist() == ([True] * 20 + [False] * 20) * 3
    owners = [[name.partition("/")[0] for name in ids] for ids in (pairs.ids_a, pairs.ids_b)]
    assert [a == b for a, b in zip(*owners, strict=True)] == pairs.same_N.tolist()
    both = [frozenset(pair) for pair in zip(pairs.ids_a, pairs.ids_b, strict=True)]
    assert len(set(both)) == 120 and all(len(pair) == 2 for pair in both)
    folds = [{name for column in owners for name in np.array(column)[pairs.folds_N == fold]} for fold in range(3)]
    assert sum(map(len, folds)) == len(set.union(*folds)) > 20


def test_made_pairs_depend_on_people_and_seed_alone(people):
    def made(people, seed=1):
        return make_face_pairs(people, folds=3, pairs_per_fold=20, seed=seed)

    assert made(people) == made({name: people[name][::-1] for name in reversed(people)})
    assert made(people) != made(people, seed=2)
    assert made(people).startswith("3\t20\nPerson_")


def test_all_pairs_are_drawn_where_all_are_asked_for():
    people = {name: ["1.jpg", "2.jpg", "3.jpg"] for name in "abcd"}
    lines = make_face_pairs(people, folds=2, pairs_per_fold=6).splitlines()
    assert len(set(lines[1:])) == 24 and sum(line.count("\t") == 2 for line in lines[1:]) == 12


def test_every_fold_gets_people_with_several_images():
    people = {f"p{at}": ["1.jpg", "2.jpg"] if at < 10 else ["1.jpg"] for at in range(20)}
    for seed in range(5):
        assert make_face_pairs(people, folds=10, pairs_per_fold=1, seed=seed)


@pytest.mark.parametrize(("folds", "wanted"), [(2, 4), (31, 1)])
def test_too_few_people_are_named(folds, wanted):
    people = {"a": ["1.jpg", "2.jpg", "3.jpg"], "b": ["1.jpg", "2.jpg"], "c": [], "d": ["1.jpg"]}
    with pytest.raises(DataError, match=rf"expected {wanted} pairs of each kind in every fold, but the \d images of"):
        make_face_pairs(people, folds=folds, pairs_per_fold=wanted)
