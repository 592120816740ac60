# `make demo` and `make test` on a fresh clone are all that is needed; PYTHON=python3.12 chooses the interpreter.
PYTHON ?= python3
VENV ?= .venv
VENV_OPENMMLAB ?= .venv-openmmlab
VENV_DOCS ?= .venv-docs
DEMO_ARGS ?=
BOUNDS ?=
PYTEST := -m pytest -n 2 --dist loadfile

# Small tensors everywhere: threads within an operation would only wait for each other.
test test-slow test-bounds test-openmmlab: export OMP_NUM_THREADS = 1

.PHONY: demo test test-slow test-bounds test-openmmlab lint docs wheel check-wheel setup clean

demo: $(VENV)/.ready
	$(VENV)/bin/python tools/demo.py $(DEMO_ARGS)

test: $(VENV)/.ready
	$(VENV)/bin/python $(PYTEST)

test-slow: $(VENV)/.ready
	$(VENV)/bin/python $(PYTEST) -m slow

# Error bounds in 50 000 settings, and on large maps: minutes on two cores that do nothing else.
test-bounds: $(VENV)/.ready
	$(VENV)/bin/python -m pytest -n 2 -m slow $(BOUNDS) tests/layers/test_error_bounds.py

# The same suite with the original OpenMMLab packages, in an environment of its own, but for ops and layers: they import
# torch alone, and one file of them compares with mmcv.
test-openmmlab: $(VENV_OPENMMLAB)/.ready
	$(VENV_OPENMMLAB)/bin/python $(PYTEST) $(filter-out tests/ops tests/layers tests/helpers tests/conftest.py tests/__pycache__,$(wildcard tests/*)) tests/layers/test_forms.py

lint: $(VENV)/.ready
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/pyright --pythonpath $(VENV)/bin/python

# The site of the documentation, in build/site: index.html there opens in a browser, without a server or a network. A
# warning is an error. It takes Python 3.11 or later.
docs: $(VENV_DOCS)/.ready
	NO_MKDOCS_2_WARNING=1 $(VENV_DOCS)/bin/mkdocs build

# The wheel and the source distribution, in dist/.
wheel: $(VENV)/.ready
	$(VENV)/bin/python -m build

# Builds them and uses the wheel in bare environments: with torch alone, and with MMSegmentation.
check-wheel:
	PYTHON=$(PYTHON) .ci/check_wheel.sh

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml setup.py requirements/common.txt requirements/onedl.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install -c requirements/onedl.txt torch
	$(VENV)/bin/python -m pip install -c requirements/onedl.txt -e '.[onedl,dev]'
	$(VENV)/bin/python -m mmseg_invattn.doctor
	touch $@

$(VENV_OPENMMLAB)/.ready: pyproject.toml setup.py requirements/common.txt requirements/openmmlab.txt
	$(PYTHON) -m venv $(VENV_OPENMMLAB)
	$(VENV_OPENMMLAB)/bin/python -m pip install -c requirements/openmmlab.txt torch
	$(VENV_OPENMMLAB)/bin/python -m pip install -c requirements/openmmlab.txt -e '.[openmmlab,dev]'
	$(VENV_OPENMMLAB)/bin/python -m mmseg_invattn.doctor
	touch $@

$(VENV_DOCS)/.ready: requirements/docs.txt requirements/common.txt requirements/onedl.txt
	$(PYTHON) -m venv $(VENV_DOCS)
	$(VENV_DOCS)/bin/python -m pip install -r requirements/docs.txt
	touch $@

clean:
	rm -rf $(VENV) $(VENV_OPENMMLAB) $(VENV_DOCS) build dist work_dirs data/context_shapes
