# Two commands do everything on a machine with git, Python 3.11 or newer, pip and make:
#   make run     set up, then run the assistant on the bundled clip with the bundled model
#   make test    set up, then run the tests
PYTHON ?= python3
UV := .uv/bin/uv
BIN := .venv/bin
OUT ?= out

.PHONY: setup run test robustness check docs format gpu lock nano compare clean

setup: .venv/.ready

# Every package is compared with the hash that its lock names, uv itself included; what has none is refused.
$(UV): setup.lock
	$(PYTHON) -m venv .uv
	.uv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r setup.lock
	touch $@

.venv/.ready: $(UV) requirements.lock pyproject.toml $(wildcard */*.py */*/*.py */*/*/*.py)
	test -d .venv || $(UV) venv --quiet --python $(PYTHON) .venv
	test -f .venv/.locked && cmp -s requirements.lock .venv/.locked || $(UV) pip sync --quiet --require-hashes --compile-bytecode --python .venv requirements.lock
	cp requirements.lock .venv/.locked
	$(UV) pip install --quiet --python .venv --no-deps --no-build-isolation --reinstall-package egolive -e .
	touch $@

run: setup
	$(BIN)/egolive run --out $(OUT)

# One process a core, four at most; a file's tests stay in one, for they share what is costly to make.
# ARGS is handed on: make test ARGS="-p randomly -x tests/test_cli.py"
PYTEST := $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test: setup
	$(PYTEST) -m "not gpu and not robustness" $(ARGS)

# Many repetitions, what takes long, and a thousand new examples of what hypothesis draws: some two hours.
robustness: setup
	$(PYTEST) -m "not gpu and (robustness or hypothesis)" --hypothesis-profile robustness $(ARGS)

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

# The documentation, into build/docs. Its packages have an environment and a lock of their own, so that `make run`
# does not install them; broken references are errors.
docs: $(UV)
	test -d .venv-docs || $(UV) venv --quiet --python $(PYTHON) .venv-docs
	$(UV) pip sync --quiet --require-hashes --python .venv-docs requirements.lock docs/requirements.lock
	$(UV) pip install --quiet --python .venv-docs --no-deps --no-build-isolation --reinstall-package egolive -e .
	.venv-docs/bin/sphinx-build --fail-on-warning --keep-going --nitpicky --fresh-env -q docs build/docs
	@echo "wrote build/docs/index.html"

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Everything that needs a GPU, within ten minutes: the 7B structure in each form, then the tests; prints JSON lines.
gpu: # uses the Python at hand, where a GPU build of torch is
	python3 -m egolive.benchmarks.cost.gpu_run $(ARGS)

# A nano from nothing, by two processes; give PROCESSES=1 on a machine with one GPU.
# About 6 hours on two cores; it can be interrupted, and goes on.
PROCESSES ?= 2
nano: setup
	$(BIN)/torchrun --standalone --nproc-per-node $(PROCESSES) $(BIN)/egolive train sft nano-sft

# Every engine from nano, and what each gains and loses: make compare JSON=compare.json
# About half an hour on an idle core; EPISODES=36 asks 2,000 questions, few of them about intent.
ENGINES ?= build/engines
JSON ?= compare.json
EPISODES ?= 100
compare: setup
	$(BIN)/egolive export nano --out $(ENGINES)/onnx-fp32
	set -e; for to in int8 int4 awq-int4; do \
	  $(BIN)/egolive quantize nano --to $$to --out $(ENGINES)/onnx-$$to; done
	$(BIN)/egolive quantize nano --to nf4 --out $(ENGINES)/torch-nf4
	$(BIN)/egolive quantize --compare nano $(addprefix $(ENGINES)/,onnx-fp32 onnx-int8 onnx-int4 onnx-awq-int4 torch-nf4) \
	  --episodes $(EPISODES) --json $(JSON) --plot $(ENGINES)/compare.png

lock: $(UV)
	$(UV) pip compile --quiet --universal --generate-hashes --no-header --no-emit-index-url \
	  --python-version 3.11 --extra train --extra quantize --extra demo --group dev pyproject.toml -o requirements.lock
	$(UV) pip compile --quiet --universal --generate-hashes --no-header --no-emit-index-url \
	  --python-version 3.11 --group docs --constraint requirements.lock -o docs/requirements.lock
	echo uv | $(UV) pip compile --quiet --universal --generate-hashes --no-header --no-emit-index-url --no-annotate \
	  --python-version 3.11 - -o setup.lock

clean:
	rm -rf .venv .venv-docs .uv build out *.egg-info .import_linter_cache .mypy_cache .ruff_cache .pytest_cache .hypothesis
