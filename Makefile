# Every target sets up what it needs. `make help` lists them.
.DEFAULT_GOAL := help
.PHONY: help setup demo ui test test-fast test-wild docs check lock check-conda-yaml benchmark clean moved

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
UV := $(BIN)/uv pip compile pyproject.toml --universal --python-version 3.11 --no-header --no-annotate \
      --no-emit-index-url --no-emit-find-links --quiet
# Each file of tests in one of three processes, in the order of tests/conftest.py: what its tests share is made once. Three on two
# cores, because a fifth of the time is waiting for programs that tests end or stop.
TESTS := -n 3 --dist loadfile --no-loadscope-reorder
# Programs that `mlflow run` starts must find the project's Python first.
export PATH := $(CURDIR)/$(BIN):$(PATH)
export MLFLOW_DISABLE_TELEMETRY := true
export NO_ALBUMENTATIONS_UPDATE := 1

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: .venv/bin/conda ## install the locked versions into .venv (several GB), and prepare MLflow's store

# An environment works only in the folder where it was made. After a move, .venv/ready names another folder: build anew.
ifneq ($(shell cat .venv/ready 2>/dev/null),$(CURDIR))
.venv/ready: moved
endif

.venv/ready: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { \
	  echo "camparison needs Python 3.11, found: $(PYTHON). Give another with: make PYTHON=/path/to/python3.11 ..." >&2; exit 1; }
	@echo "camparison: installing the locked versions into .venv (several GB, a few minutes, once)"
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --progress-bar on --no-deps --requirement requirements.txt
	@echo '$(CURDIR)' > $@
	$(BIN)/python -m experiments.tracking prepare

.venv/ready-dev: .venv/ready requirements-dev.txt
	$(BIN)/python -m pip install --quiet --progress-bar on --no-deps --requirement requirements-dev.txt
	@touch $@

# `mlflow run .` asks for conda, even on a machine without conda.
.venv/bin/conda: experiments/system/conda.sh .venv/ready
	@install -m 755 $< $@

demo: setup ## train with and without Cutout on built-in images, compare both, and show where to look
	$(BIN)/python -m experiments.compare --dataset scenes --seeds 3 --train_images 2000 --epochs 6 --batch_size 100 --test_flip false

ui: setup ## start the MLflow UI on http://127.0.0.1:5000
	$(BIN)/python -m experiments.tracking ui

test: check ## check the code and run all tests but the wild ones (at most 12 minutes on two cores)
	$(BIN)/python -m pytest $(TESTS) -m "not wild" --budget 720

test-fast: .venv/ready-dev ## run the tests without servers, browsers, `mlflow run`, logged trainings and studies (90 seconds)
	$(BIN)/python -m pytest $(TESTS) -m "not slow and not wild" --budget 90

test-wild: .venv/ready-dev ## run the long lists of tests: many networks, environments, chaos, examples
	HYPOTHESIS_PROFILE=many $(BIN)/python -m pytest $(TESTS) -m "wild or hypothesis"

docs: .venv/ready-dev ## write docs/options.md and the tree in docs/layout.md from the code
	$(BIN)/python -m benchmarks.documents

check: .venv/ready-dev ## check format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

lock: .venv/ready-dev ## choose new versions: requirements.txt, requirements-dev.txt and conda.yaml
	$(UV) --output-file requirements.txt
	$(UV) --extra dev --no-emit-package opencv-python --output-file requirements-dev.txt
	@{ sed '/^# pip:/,$$d' conda.yaml; echo '# pip: written by `make lock` from requirements.txt'; \
	  echo '  - pip:'; sed "s/^/      - \"/; s/$$/\"/" requirements.txt; } > conda.yaml.new && mv conda.yaml.new conda.yaml

check-conda-yaml: .venv/ready-dev ## build a new environment from conda.yaml and train in it (downloads gigabytes)
	rm -rf .cache/conda-yaml && mkdir -p .cache/conda-yaml
	git archive HEAD | tar -x -C .cache/conda-yaml
	cd .cache/conda-yaml && MLFLOW_ENV_ROOT=$(CURDIR)/.cache/conda-yaml/envs $(CURDIR)/$(BIN)/python -m mlflow run . --env-manager=uv \
	  -P dataset=scenes -P train_images=500 -P epochs=1
	rm -rf .cache/conda-yaml

benchmark: setup ## measure the seconds and CPU seconds of each phase of a run
	$(BIN)/python -m benchmarks.phases

clean: ## remove the environment and caches; keep runs, pictures and data
	rm -rf .venv .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis
