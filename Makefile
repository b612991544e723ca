# Needs Python 3.11 or later with pip, git and make; everything else is installed into .venv by the first target.
# Another Python: make test PYTHON=/path/to/python3.12

CANDIDATES := python3 python3.13 python3.12 python3.11
IS_RECENT := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))
PYTHON := $(shell for p in $(CANDIDATES); do $$p -c '$(IS_RECENT)' 2>/dev/null && echo $$p && break; done)

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
QUICKSTART := runs/quickstart/00_quickstart
# Threads that wait for each other sleep: where another program has one of the cores, spinning takes ten times as long.
export OMP_WAIT_POLICY ?= PASSIVE

.DEFAULT_GOAL := help
.PHONY: help quickstart test notebooks study results weights lab bench lint lock clean
.DELETE_ON_ERROR:

help:  ## Explain every target.
	@echo "OVeNet, the Offset Vector Network for semantic segmentation. Targets:"
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

quickstart: $(READY)  ## Train a small OVeNet on generated street scenes and show what it does (about 2 minutes).
	@mkdir -p $(dir $(QUICKSTART))
	@# A variable of this kind makes tqdm draw its bar as text, which a terminal and a page can show.
	SPYDER_TEXT_BAR=1 $(BIN)/papermill --no-progress-bar --stdout-file - --stderr-file - \
	  notebooks/00_quickstart.ipynb $(QUICKSTART).ipynb
	$(BIN)/jupyter nbconvert --log-level ERROR --CoalesceStreamsPreprocessor.enabled=True --to html $(QUICKSTART).ipynb
	@echo
	@echo "Done. Open the result in a browser:     $(CURDIR)/$(QUICKSTART).html"
	@echo "or in JupyterLab, to go on from there:  make lab, then $(QUICKSTART).ipynb"

test: $(READY) lint  ## Check style, run the unit tests, run every notebook against its stored output (8 to 11 minutes).
	@# Several processes with one thread each, which keep their byte code; the cells of a notebook stay together, in order.
	OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --numprocesses=auto --dist=loadfile --no-loadscope-reorder

notebooks: $(READY)  ## Run every notebook anew and store it with what it shows (N=04 for that one alone).
	@for notebook in notebooks/$(N)*.ipynb; do \
	  SPYDER_TEXT_BAR=1 $(BIN)/jupyter nbconvert --log-level ERROR --to notebook --execute --inplace $$notebook && \
	  $(BIN)/jupyter nbconvert --log-level ERROR --CoalesceStreamsPreprocessor.enabled=True --to notebook --inplace \
	    $$notebook || exit 1; done

PROTOCOL := synthetic-short
CORES := 2
study: $(READY)  ## Run and score every variant, make all tables and figures (PROTOCOL=synthetic-short CORES=2 to try it).
	OMP_NUM_THREADS=1 $(BIN)/python workflow/study.py $(PROTOCOL) --cores $(CORES)

results: $(READY)  ## Write results/tables/ and the results in README and docs/gpu.md anew from the runs in results/.
	$(BIN)/python -m ovenet_core report

weights: $(READY)  ## Fetch the initial weights of the CamVid runs into weights/ (70 MB to fetch).
	$(BIN)/python workflow/initial_weights.py

lab: $(READY)  ## Open JupyterLab in the browser.
	$(BIN)/jupyter lab

bench: $(READY)  ## Measure speed and memory of losses, networks, scores and input beside their bounds.
	$(BIN)/python tests/benchmarks/bench.py

lint: $(READY)  ## Check style and format of Python files and notebooks, and that imports point one way.
	$(BIN)/ruff check
	$(BIN)/ruff format --check --quiet
	$(BIN)/lint-imports --no-logo 2>/dev/null || $(BIN)/lint-imports

lock: $(READY)  ## Write requirements.lock anew from pyproject.toml, with the hash of every package.
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/python -m uv pip compile pyproject.toml --extra test --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-header --no-annotate --output-file requirements.lock

clean:  ## Remove the .venv, caches and the quick start's output; other runs/ and results/ stay.
	rm -rf $(VENV) runs/quickstart .pytest_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -prune -exec rm -rf {} +

# The locked packages, each checked by its hash, then this package itself. Made anew when either file changes.
# The lock is complete, so pip need not look for dependencies (--no-deps), which also saves time. Byte code is made by
# all cores afterwards, of what is not a test; a file that is meant for a newer Python is no error.
$(READY): requirements.lock pyproject.toml
	@$(or $(PYTHON),false) -c '$(IS_RECENT)' || { echo \
	  "This needs Python 3.11 or later with its venv module (Debian, Ubuntu: apt install python3-venv)." \
	  "Found: $$($(or $(PYTHON),python3) --version 2>&1). Name another: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --no-compile --no-deps --require-hashes -r requirements.lock
	@$(BIN)/python -m compileall -qq -j 0 -x '/tests?/' $(VENV)/lib || true
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

# The image at the top of the README.
results/figures/ovenet_overview.png: ovenet_core/figures/method_diagram.py ovenet_core/figures/network_figure.py | $(READY)
	$(BIN)/python -m ovenet_core.figures.method_diagram $@
