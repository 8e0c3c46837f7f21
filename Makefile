# `make quickstart` and `make test` set up what they need: a virtual environment in .venv with pinned packages.
RECENT := 'import sys; sys.exit(sys.version_info < (3, 11))'
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
  $$p -c $(RECENT) 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: quickstart tutorial test test-slow lint ui docs findings clean
.DEFAULT_GOAL := help

.PHONY: help
help:
	@echo "make quickstart   samples of a peptide with the shipped flow, weighted, then finetuned; a report of both"
	@echo "make tutorial     MD, training, sampling and a report of a flow of your own"
	@echo "make test         the tests"
	@echo "make test-slow    statistical and long tests"
	@echo "make lint         format, lint and types"
	@echo "make ui           the MLflow UI on http://127.0.0.1:5000"
	@echo "make docs         the documentation as a site, in site/"
	@echo "make notebooks    executes the notebooks of the documentation, and writes their outputs"
	@echo "make wheel        a wheel, in dist/"
	@echo "make findings     faults of public packages that are worked around here: which have changed"

$(STAMP): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || \
	  { rm -rf .venv; echo "no virtual environment could be made: install python3-venv"; exit 1; }
	@echo "installing pinned packages into .venv (once; one to three minutes)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable . \
	  --config-settings editable_mode=compat # the checkout itself on the path: boltzray.py is the package
	@touch $@

quickstart: $(STAMP)
	@$(BIN)/python jobs/quickstart.py $(ARGS)

tutorial: $(STAMP)
	@$(BIN)/python jobs/tutorial.py $(ARGS)

# Two workers: one for what runs Ray, one for the rest. For a debugger: make test ARGS="-n 0 tests/…"
test: $(STAMP)
	@$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadgroup $(ARGS)

test-slow: $(STAMP)
	@$(BIN)/python -m pytest -m slow $(ARGS)

# mypy and mkdocstrings do not run boltzray.py, so they are shown a folder of that name with the same content.
.PHONY: tree
tree:
	@rm -rf .build/types && mkdir -p .build/types/boltzray
	@for path in platform/* models molecules samplers; do ln -s ../../../$$path .build/types/boltzray/; done

lint: $(STAMP) tree
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@MYPYPATH=.build/types $(BIN)/mypy --explicit-package-bases .build/types/boltzray

ui: $(STAMP)
	@echo "runs: http://127.0.0.1:5000/#/experiments?workflowType=machine_learning"
	@[ -n "$$MLFLOW_TRACKING_URI" ] || cd "$${BOLTZRAY_HOME:-.}"; MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false \
	  "$(CURDIR)/$(BIN)/mlflow" ui --workers 1 --host 127.0.0.1 --port 5000 \
	  --backend-store-uri "$${MLFLOW_TRACKING_URI:-sqlite:///mlflow.db}"

.PHONY: notebooks
notebooks: $(STAMP)
	@$(BIN)/python docs/run_notebooks.py $(ARGS)

# The site has an environment of its own: nothing of it is needed to run BoltzRay.
DOCS := .build/docs
docs: $(DOCS)/.installed tree
	@NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --strict --quiet
	@echo "site/index.html"

$(DOCS)/.installed: requirements-docs.lock
	@$(PYTHON) -m venv $(DOCS)
	@$(DOCS)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-docs.lock
	@touch $@

# Of a copy of what git knows: setuptools leaves folders where it builds, and takes what it finds in them.
.PHONY: wheel
wheel: $(STAMP)
	@rm -rf .build/source && mkdir -p .build/source dist
	@git ls-files -z | grep -zvE '^(tests|docs|findings|benchmarks)/' | xargs -0 cp --parents -t .build/source
	@$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps -w dist .build/source
	@ls dist

findings:
	@mkdir -p .build; changed=0; for script in $(wildcard findings/*.sh); do \
	  log=.build/$$(basename $$script .sh).log; \
	  if PYTHON=$(PYTHON) bash $$script >$$log 2>&1; then echo "as before  $$script"; \
	  else echo "CHANGED    $$script, see $$log"; changed=1; fi; done; exit $$changed

clean:
	rm -rf .venv .build .pytest_cache .ruff_cache .mypy_cache
