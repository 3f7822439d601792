"""The command line: options from flags, file and environment; one-line errors with exit codes; answers on stdout."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cnnray import cli
from cnnray.config import FeaturesConfig
from cnnray.errors import QuarantineError, StorageError


@pytest.fixture
def asked(monkeypatch):
    """What `features build` was called with, in place of building."""
    calls = []

    def build_features(source, out, config, *, address=None):
        calls.append((source, out, config, address))
        return {"features": 1, "images": 1, "quarantined": 0, "reused": 0}

    monkeypatch.setattr("cnnray.data.features.build_features", build_features)
    return calls


def ends(capsys, code, *arguments):
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == code
    return capsys.readouterr().err.strip()


def test_flags_become_the_config(asked):
    cli.main(["features", "build", "src", "--out", "run", "--views", "3", "--no-compile", "--address", "auto"])
    assert asked == [("src", "run", FeaturesConfig(views=3, compile=False), "auto")]


def test_flags_win_over_environment_which_wins_over_the_file(asked, monkeypatch, tmp_path):
    (tmp_path / "c.toml").write_text('views = 1\nseed = 1\ndtype = "float32"\n')
    monkeypatch.setenv("CNNRAY_SEED", "2")
    monkeypatch.setenv("CNNRAY_VIEWS", "2")
    cli.main(["features", "build", "src", "--out", "run", "--config", str(tmp_path / "c.toml"), "--views", "3"])
    assert asked[0][2] == FeaturesConfig(views=3, seed=2, dtype="float32")


def test_json_is_one_object_on_stdout(asked, capsys):
    cli.main(["features", "build", "src", "--out", "run", "--json"])
    captured = capsys.readouterr()
    assert json.loads(captured.out)["features"] == 1
    assert "1 features of 1 images in run" in captured.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["features", "build", "src"], "--out"),
        (["features", "build", "src", "--out", "r", "--views", "x"], "unable to convert"),
        (["features", "build", "src", "--out", "r", "--viewz", "1"], "--viewz"),
        (["features", "build", "src", "--out", "r", "--pool", "max"], "pool must be one of avg, none; got 'max'"),
        (["features", "build", "src", "--out", "r", "--mixup-alpha", "1"], "views is 0"),
        (["features", "build", "src", "--out", "r", "--config", "/no/file.toml"], "expected a TOML file"),
        (["features", "build", "src", "--out", "r", "--backbone", "resnet9000"], "known: efficientnet_lite0"),
        (["features", "build", "src", "--out", "r", "--tap", "nowhere"], "known: "),
        (["features", "build", "src", "--out", "r", "--backbone", "residual"], "residual has no published weights"),
        (["features", "build", "src", "--out", "r", "--width", "2"], "only size can be changed"),
        (["features", "build", "src", "--out", "r", "--size", "16"], "size must be from 32 to 1024"),
        (["models", "--out", "r"], "expected the name of a backbone with --cost"),
        (["models", "--cost", "residual:phi=99"], "phi must be from -6 to 10"),
        (["features", "verify", "/no/such/run"], "it is no run folder"),
        (["dance"], "dance"),
        (["--config"], "expected a value after --config"),
    ],
    ids=lambda value: " ".join(value)[-40:] if isinstance(value, list) else "",
)
def test_wrong_input_is_one_line_and_exit_code_2(capsys, arguments, message):
    error = ends(capsys, 2, *arguments)
    assert message in error
    assert error.count("\n") == 0 and error.startswith("cnnray: ")


def test_an_unknown_key_in_the_file_is_refused(capsys, tmp_path):
    (tmp_path / "c.toml").write_text("viewz = 1\n")
    assert "viewz" in ends(capsys, 2, "features", "build", "s", "--out", "r", "--config", str(tmp_path / "c.toml"))


@pytest.mark.parametrize(("error", "code"), [(QuarantineError("5 of 9 bad"), 3), (StorageError("full"), 4)])
def test_every_kind_of_error_has_its_exit_code(capsys, monkeypatch, error, code):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr("cnnray.data.features.build_features", fail)
    assert ends(capsys, code, "features", "build", "src", "--out", "run") == f"cnnray: {error}"


def test_the_scale_of_a_network_comes_from_flags(asked):
    cli.main(["features", "build", "s", "--out", "r", "--backbone", "residual", "--width", "0.5", "--depth", "2"])
    assert asked[0][2].network == "residual:depth=2,width=0.5"


def test_the_costs_of_a_network_are_listed_and_drawn(capsys, tmp_path):
    cli.main(["models", "--cost", "mobilenet_v1:width=0.50,size=160", "--out", str(tmp_path / "page"), "--json"])
    captured = capsys.readouterr()
    layers = json.loads(captured.out)["layers"]
    assert layers[-1]["name"] == "all" and layers[-1]["macs"] == sum(row["macs"] for row in layers[:-1])
    page = (tmp_path / "page" / "report.html").read_text()
    assert "<h1>mobilenet_v1:size=160,width=0.5</h1>" in page and "block13" in page and "160 x 160 px" in page
    assert f"report in {tmp_path}/page/report.html" in captured.err


def test_the_page_of_a_run_is_not_replaced(capsys, tmp_path):
    (tmp_path / "config.toml").write_text("")
    assert "the folder of a run" in ends(capsys, 2, "models", "--cost", "residual", "--out", str(tmp_path))
    assert not (tmp_path / "report.html").exists()


def test_what_is_printed_after_the_answer_does_not_go_to_stdout(tmp_path):
    words = ["cnnray", "serve", "keys", "create", "shop", "--keys", str(tmp_path / "keys"), "--json"]
    program = f"import sys; sys.argv = {words}; from cnnray.cli import main; main(); print('late')"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(run.stdout)["name"] == "shop" and "late" in run.stderr


def test_help_names_every_command_and_goes_to_stdout():
    run = subprocess.run([sys.executable, "-m", "cnnray", "--help"], capture_output=True, text=True, check=True)
    for name in ("demo", "models", "features", "train", "evaluate", "predict", "serve", "query"):
        assert name in run.stdout


def test_help_is_quick():
    """No command's machinery is imported to show the help."""
    code = "import sys; from cnnray import cli; print([m for m in ('torch', 'ray', 'pyarrow') if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path.cwd())
    assert run.stdout.strip() == "[]"
