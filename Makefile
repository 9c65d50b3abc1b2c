# `make demo` and `make test` do all their own set-up, in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check
READY := $(VENV)/.ready

.PHONY: setup demo test lint docs bench clean

setup: $(READY)

# torch goes in first and exactly: a plain `torch` may bring several GB of CUDA.
$(READY): setup.py constraints.txt $(wildcard edge_nodes/native/*.cpp edge_nodes/native/*.h) $(wildcard launch/*.py config/*.yaml config/*.xml libexec/*)
	@echo "== 1/4 virtual environment in $(VENV)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "== 2/4 torch and build tools"
	$(PIP) install -c constraints.txt "torch==2.13.0" "setuptools" wheel pybind11
	@echo "== 3/4 libraries, and the C++ extension (about a minute)"
	$(PIP) install -c constraints.txt --no-build-isolation -e ".[ros,dashboard,train,reference,dev]"
	@echo "== 4/4 ready"
	@touch $@

demo: setup
	$(BIN)/edge-nodes demo

test: setup lint
	$(BIN)/python -m pytest

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: setup
	$(BIN)/python -m edge_nodes.reference

bench: setup
	mkdir -p demo
	$(BIN)/edge-nodes bench graph --json demo/bench_graph.json

clean:
	rm -rf $(VENV) build install log demo *.egg-info edge_nodes/native/*.so
