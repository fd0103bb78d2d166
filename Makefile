# make run: from nothing to a served model.  make test: the whole CPU suite.  make lint: ruff.
# make types: pyright.  make docs: the pages of docs/ as a site.  make hooks: git hooks that lint before a commit.
# make test-page: the page in a real headless Chromium; installs Playwright and, on Debian, the browser.
# make abuse: 10,000 mutated bodies and schemathesis at length.  make lm-eval: lm-evaluation-harness against a server.
# make exactness: the whole exactness matrix (hours; goes on where it was stopped).  make soak: thousands of requests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
OUT ?= runs/quickstart
MINUTES ?= 600
JOBS ?= 1
REQUESTS ?= 6000

.PHONY: run test test-page lint types docs hooks abuse lm-eval exactness soak clean

run: $(VENV)/installed
	$(BIN)/hyla quickstart --out $(OUT) --serve

test: $(VENV)/installed-test
	$(BIN)/python -m pytest

test-page: $(VENV)/installed-test
	@command -v chromium || command -v chromium-browser || command -v google-chrome \
	  || { echo "installing Debian's package chromium"; \
	       S=$$(test $$(id -u) = 0 || echo sudo); $$S apt-get update -qq && $$S apt-get install -y -qq chromium; } \
	  || { echo "no Chromium and no way to install it here; install chromium or google-chrome and try again"; exit 1; }
	$(PIP) install --quiet -c constraints.txt -e '.[test,page]'
	$(BIN)/python -m pytest tests/browser/check_page.py

lint: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed-test
	$(BIN)/pyright --pythonpath $(BIN)/python

docs: $(VENV)/installed-test
	$(PIP) install --quiet -c constraints.txt -e '.[docs]'
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs build/docs
	@echo build/docs/index.html

hooks: $(VENV)/installed-test
	$(BIN)/pre-commit install

abuse: $(VENV)/installed-test
	$(BIN)/python -m pytest -m slow -s tests/server/test_abuse.py

lm-eval: $(VENV)/installed-test
	$(PIP) install --quiet -c constraints.txt -e '.[test,evals]'
	$(BIN)/python -m pytest -m slow -s tests/server/test_lm_eval.py

exactness: $(VENV)/installed-test
	OMP_NUM_THREADS=1 PYTHONPATH=tests $(BIN)/python -m matrix.run --results runs/exactness.jsonl \
	  --minutes $(MINUTES) --jobs $(JOBS)

soak: $(VENV)/installed-test
	OMP_NUM_THREADS=1 PYTHONPATH=tests:tests/engine $(BIN)/python -m soak.run --requests $(REQUESTS)

clean:
	rm -rf $(VENV) build dist src/*.egg-info

$(VENV)/created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed; name it with: make PYTHON=/path/to/python3 ..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
	  || { echo "Python's venv module is missing; on Debian: sudo apt install python3-venv"; exit 1; }
	@rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	@touch $@

# Torch comes first and from the constraints, so that no other requirement can choose another build of it.
$(VENV)/installed: $(VENV)/created pyproject.toml constraints.txt
	$(PIP) install --quiet -c constraints.txt torch
	$(PIP) install --quiet -c constraints.txt -e .
	@touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(PIP) install --quiet -c constraints.txt -e '.[test]'
	@touch $@
