# Two commands do all the set-up: `make demo` and `make test`. Second runs start at once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
FAST := .venv-fast
SOURCES := src tests benchmarks

# make demo TRACE=AzureLLMInferenceTrace_conv.csv replays a trace of the Azure Public Dataset 2023.
TRACE ?=
ifneq ($(TRACE),)
REPLAY := --set 'workload.trace={format: azure, path: "$(TRACE)"}' --set 'workload.arrivals={kind: trace}' \
  --set 'workload.prompt={kind: trace}' --set 'workload.output={kind: trace}'
endif

.PHONY: demo test lint format bench fast clean

demo: $(VENV)/installed  ## predict a vision-language model split over encode, prefill and decode pools
	$(BIN)/triptych simulate examples/deployments/epd.yaml examples/workloads/vision-chat.yaml \
	  --out runs/demo --trace $(REPLAY)

test: lint  ## lint, types, import walls and all tests
	$(BIN)/pytest -n auto

lint: $(VENV)/installed-dev
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/installed-dev
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

bench: $(VENV)/installed  ## how fast the simulator is, plain and (where there is a C compiler) compiled
	$(BIN)/python benchmarks/simulator.py
	@if command -v cc >/dev/null; then $(MAKE) --no-print-directory fast && $(FAST)/bin/python benchmarks/simulator.py; fi

fast: $(FAST)/installed  ## the same program, its hot path compiled (needs a C compiler), in .venv-fast

# Built from a copy, so that no compiled module ever hides an edited source.
$(FAST)/installed: pyproject.toml $(shell find src -name '*.py' -o -name '*.json' -o -name '*.yaml')
	rm -rf $(FAST) && $(PYTHON) -m venv $(FAST) && mkdir $(FAST)/build
	cp -r src pyproject.toml README.md LICENSE $(FAST)/build/
	HATCH_BUILD_HOOKS_ENABLE=1 $(FAST)/bin/python -m pip install --quiet --disable-pip-version-check $(FAST)/build
	touch $@

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Triptych needs Python 3.11 or newer, and $(PYTHON) is older: make PYTHON=python3.12 ..." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

$(VENV)/installed-dev: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@ $(VENV)/installed

clean:
	rm -rf $(VENV) $(FAST) runs
