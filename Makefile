# make demo     the whole story on scikit-learn's digits: pre-train, sample, probe, report
# make test     the tests
# make test-all the same; then the slow ones, and those against PyTorch and object stores,
#               for which it installs more
# make test-campaign  what takes longest: many kills, every layout of processes
# make test-oldest  the tests with the oldest libraries that setup.py takes, in .venv-oldest
# make test-notebooks  notebooks/ from top to bottom, in their short form
# make coverage the tests, and which lines they reach
# make lint     format and style
# make types    the types of what users call (installs mypy)
# make docs     the documentation as a site, site/index.html (installs mkdocs)
# make docs-images  the pictures of docs/, from the demo's run (installs playwright)
# VENV=DIR puts the environment elsewhere; SHORT=1 makes the demo take seconds.

VENV ?= .venv
PYTHON ?= $(shell for name in python3.11 python3.12 python3.13 python3; do \
	$$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$name && break; done)
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
VARIANT := $(if $(SHORT),test)
WORKDIR := runs/digits$(addprefix -,$(VARIANT))

.PHONY: demo test test-all test-campaign test-oldest test-notebooks coverage lint types \
	docs docs-images install

PYTEST := -m pytest -n 2 --dist loadfile --no-loadscope-reorder

demo: $(INSTALLED)
	$(BIN)/python -m ddae_jax.main --config=configs/digits.py$(addprefix :,$(VARIANT))
	@echo "report: $(WORKDIR)/report.html"

test: $(INSTALLED)
	$(BIN)/python $(PYTEST) -m "not slow and not campaign"

test-all: test
	$(BIN)/python -m pip install --quiet torch==2.13.0 s3fs==2026.9.0 \
		"moto[server]==5.2.5" gcsfs==2026.10.1 gcp-storage-emulator==2026.7.19
	$(BIN)/python $(PYTEST) -m "slow and not campaign"

test-campaign: $(INSTALLED)
	$(BIN)/python $(PYTEST) -m campaign

# Colab's Python where this machine has it.
OLDEST ?= .venv-oldest
OLDEST_PYTHON ?= $(shell for name in python3.13 "$(PYTHON)"; do \
	$$name --version >/dev/null 2>&1 && echo $$name && break; done)
test-oldest:
	test -x $(OLDEST)/bin/python || $(OLDEST_PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet --requirement requirements-oldest.txt
	$(OLDEST)/bin/python -m pip install --quiet --no-deps --editable .
	$(OLDEST)/bin/python $(PYTEST) -m "not slow and not campaign"

test-notebooks: $(INSTALLED)
	$(BIN)/python -m pip install --quiet nbmake==1.5.5 ipykernel==7.4.0
	DDAE_SHORT=1 $(BIN)/python -m pytest --nbmake --nbmake-timeout=900 notebooks

coverage: $(INSTALLED)
	$(BIN)/python $(PYTEST) -m "not campaign" --cov --cov-report=term

lint: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(INSTALLED)
	test -x $(BIN)/mypy || $(BIN)/python -m pip install --quiet mypy==2.4.1
	$(BIN)/python -m mypy

docs: $(INSTALLED)
	$(BIN)/python -m pip install --quiet mkdocs==1.6.1 mkdocs-material==9.8.2 \
		mkdocstrings==1.0.8 mkdocstrings-python==2.0.11
	rm -rf build/docs && mkdir -p build/docs/benchmarks
	cp -r README.md RESULTS.md CONTRIBUTING.md docs build/docs
	cp benchmarks/README.md build/docs/benchmarks
	$(BIN)/python -m mkdocs build --strict

docs-images: $(INSTALLED)
	test -f runs/digits/report.html || $(MAKE) demo
	$(BIN)/python -m pip install --quiet playwright==1.65.2
	$(BIN)/python -m benchmarks.docs_images

install: $(INSTALLED)

$(INSTALLED): setup.py requirements.lock
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	touch $(INSTALLED)
