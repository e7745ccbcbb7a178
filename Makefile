# `make demo` and `make test` need Python >= 3.10 and make; everything else they set up themselves.
PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin
READY   = $(VENV)/.installed

.PHONY: demo test lint docs notebooks bench clean

demo: $(READY)
	$(BIN)/deepclust train

test: lint
	@# Tests keep to one thread each, so that several run side by side; a worker takes about 1.5 GB.
	$(BIN)/python -m pytest --numprocesses=auto --maxprocesses=4 --dist=worksteal

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	@# PaCMAP asks for faiss-cpu, which would overwrite faiss-gpu; the faiss that is there serves it.
	$(BIN)/python -m pip install --quiet --no-deps "pacmap>=0.8"
	@touch $@

# The documentation site, in site/; a link that leads nowhere is an error.
docs: $(READY)
	$(BIN)/mkdocs build --strict --quiet

# Runs the notebooks and stores what they show; they want Debian's dataset-fashion-mnist and wordnet-base.
notebooks: $(READY)
	PATH="$(CURDIR)/$(BIN):$$PATH" OMP_NUM_THREADS=1 $(BIN)/jupyter execute --inplace examples/*.ipynb

# Every benchmark at a size that ends within 20 minutes on two cores; docs/benchmarks.md has the full sizes.
# The rows go to benchmarks/latest/; `make bench RECORD=1` writes them where git tracks them.
bench: $(READY)
	@set -e; for script in initialization neighbors kmeans hungarian step_speed memory time_to_accuracy out_of_core plan \
		agglomerative silhouette outputs extraction launches threads gpu large leaderboard; do \
		$(BIN)/python benchmarks/$$script.py --quick $(if $(RECORD),--record); done

clean:
	rm -rf $(VENV) runs site
