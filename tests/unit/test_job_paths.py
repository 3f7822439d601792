"""Which places a command may name that becomes a job: those that are the same wherever it runs."""

import pytest
from cyclopts.config import Env

from cnnray.cli import jobs
from cnnray.cli.app import app
from cnnray.errors import CnnrayError, OptionError

CLUSTER = ("--address", "http://127.0.0.1:1")
ENROLL = ("faces", "enroll", "s3://b/people", "--gallery", "staff", "--out", "s3://b/run", *CLUSTER)
STYLES = ("train", "stylize", "--content", "/shared/photos", "--out", "/shared/run", *CLUSTER)


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setattr(app, "config", [Env("CNNRAY_", command=False)])


def refuse(*words):
    _, bound, _ = app.parse_args(list(words), exit_on_error=False, print_error=False)
    jobs.refuse_local_paths(bound)


@pytest.mark.parametrize(
    "words",
    [
        (*ENROLL, "--record", "postgresql://u@h/d"),
        (*ENROLL, "--record", "/shared/galleries.db"),
        (*STYLES, "--style", "mona=/shared/mona.jpg", "--style", "night=s3://b/night.jpg"),
        ("features", "build", "s3://b/photos", "--out", "s3://b/run", "--label-column", "labels", *CLUSTER),
        ("stylize", "/shared/photos", "--style", "stained_glass=0.7", "--out", "/shared/run", *CLUSTER),
    ],
    ids=" ".join,
)
def test_places_that_all_machines_reach_pass(words, tmp_path, monkeypatch):
    (tmp_path / "labels").mkdir()
    monkeypatch.chdir(tmp_path)
    refuse(*words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (ENROLL, "'galleries.db' would be a file in the job's folder"),
        ((*ENROLL, "--record", "mine.db"), "expected --record or CNNRAY_RECORD, a database that the whole cluster"),
        ((*STYLES, "--style", "mona=mona.jpg"), "got 'mona=mona.jpg'"),
        ((*STYLES, "--style", "mona=pictures/night.jpg"), "got 'mona=pictures/night.jpg'"),
        (("features", "build", "mona.jpg", "--out", "/shared/run", *CLUSTER), "as source .* got 'mona.jpg'"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_places_of_this_machine_are_refused(words, message, tmp_path, monkeypatch):
    (tmp_path / "mona.jpg").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OptionError, match=message):
        refuse(*words)


def test_a_record_of_the_environment_counts(monkeypatch):
    monkeypatch.setenv("CNNRAY_RECORD", "postgresql://u@h/d")
    refuse(*ENROLL)


class Client:
    """A dashboard that fails at one question."""

    def __init__(self, fault):
        self._fault = fault

    def __getattr__(self, name):
        def answer(*args, **options):
            if name == self._fault:
                raise ConnectionError("the tunnel\nis gone")
            return "j1"

        return answer

    async def tail_job_logs(self, job):
        if self._fault == "tail_job_logs":
            raise RuntimeError("the tunnel is gone")
        yield "a line\n"


@pytest.mark.parametrize("fault", ["submit_job", "tail_job_logs", "get_job_status", "get_job_info"])
def test_a_dashboard_that_goes_away_is_one_sentence(monkeypatch, fault, capsys):
    client = Client(fault)
    if fault == "get_job_info":
        monkeypatch.setattr(Client, "get_job_status", lambda self, job: "SUCCEEDED", raising=False)
    monkeypatch.setattr(jobs, "_connect", lambda address: client)
    words = ["features", "build", "s3://b/photos", "--out", "s3://b/run", *CLUSTER]
    _, bound, _ = app.parse_args(words, exit_on_error=False, print_error=False)
    with pytest.raises(CnnrayError, match="took no job|the connection to .* broke") as caught:
        jobs.submit(words, bound, None, as_json=False)
    assert "\n" not in str(caught.value)
