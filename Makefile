# Every target does its own set-up: a virtual environment in .venv, made again when the requirements change.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
BENCHMARKS := features head kills finetune segment scaling windows detect detect_speed faces_accuracy faces_speed faces_train gallery gallery_scores kill_enrol consistency gallery_http stylize atlas smoothing service overload soak fuzz_http chaos_serve scale job_overhead
READY := $(VENV)/.ready

.PHONY: demo test lint bench install clean

demo: $(READY)  ## the whole system on embedded data, offline; result in runs/demo
	$(BIN)/cnnray demo

# Two files at a time (tests/conftest.py divides them): most of the time goes into starting clusters and services.
test: $(READY)  ## all tests; `make test ARGS="tests/unit -k decode"` for some
	$(BIN)/python -m pytest -n 2 $(ARGS)

lint: $(READY)  ## format, style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(READY)  ## every benchmark, about two hours; each prints one JSON object as its last line
	for name in $(BENCHMARKS); do echo "== $$name"; $(BIN)/python benchmarks/$$name.py || exit 1; done

install: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@# an oracle of the tests; what it asks for of torch and numpy is older than what it works with
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps facenet-pytorch
	touch $(READY)

clean:
	rm -rf $(VENV) runs build *.egg-info
