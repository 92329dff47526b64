# The developer interface. `make demo` and `make test` set everything up by themselves.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: install demo test check bench bench-peers mutants soak clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "covey needs Python 3.11 or later; set PYTHON=")'
	@echo "setting up $(VENV): about 1.5 GB, a minute or two"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: install  ## train a small CNN on scikit-learn's digits at four simulated sites
	$(BIN)/python examples/hello_digits/job.py

test: install  ## the whole suite without the long runs
	$(BIN)/python -m pytest -q -m 'not soak'

check: install  ## lint, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p covey
	$(BIN)/mypy --explicit-package-bases tests benchmarks
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/python -m pytest -q tests/test_layout.py

bench: install  ## measure; writes benchmarks/RESULTS.md
	$(BIN)/python -m benchmarks

bench-peers: install  ## measure beside the peers, in environments of their own; writes benchmarks/PEERS.md
	$(BIN)/python -m benchmarks.peers

mutants: install  ## change the mailbox, supervision, buffers and leases; writes tests/mutation/RESULTS.md
	$(BIN)/python -m tests.mutation

soak: install  ## long runs: seeded federations and sessions that fail, cut links, fuzzing
	$(BIN)/python -m pytest -q -m soak --timeout 3600

clean:
	rm -rf $(VENV) .venv-peers build dist *.egg-info covey_runs
