# make train and make test work in a fresh clone on a bare Debian machine: they set everything up first.
PYTHON ?= python3
BIN := .venv/bin
TASK ?= peg_insert
ARGS ?=
WORKERS ?= 2
DEFAULT := not slow and not gpu and not cluster

# Without ARGS in two parts: tests that keep real time have the machine to themselves, the others share it.
define run_tests
$(if $(strip $(ARGS)),$(BIN)/pytest $(ARGS),\
$(BIN)/pytest -n $(WORKERS) --dist loadfile -m '$(DEFAULT) and not alone'; shared=$$?; \
$(BIN)/pytest -m '$(DEFAULT) and alone' && exit $$shared)
endef

.PHONY: train test check format lint type arch bench bench-buffer bench-learning docs setup clean

train: setup  ## set up, then train the default task
	$(BIN)/robolearn train $(TASK) $(ARGS)

test: setup  ## set up, then run the default test suite; ROS tests run where rclpy is, others say why not
	$(run_tests)

check: setup lint type arch  ## everything a commit must pass
	$(run_tests)

setup: .venv/.stamp

.venv/.stamp: pyproject.toml setup.py constraints.txt scripts/setup.sh
	sh scripts/setup.sh $(PYTHON)

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

type: setup
	$(BIN)/mypy

arch: setup
	$(BIN)/lint-imports

bench: setup  ## speed: simulation, learners, plans of actions, buffer, robot host, ROS; needs the bench extra
	$(BIN)/pip install -q -c constraints.txt -e '.[bench]'
	for name in sim expert buffer rlpd policy host ros; do $(BIN)/python bench/bench_$$name.py || exit 1; done

bench-buffer: setup  ## speed of the replay buffer beside its peers; needs the bench extra
	$(BIN)/pip install -q -c constraints.txt -e '.[bench]'
	OMP_NUM_THREADS=1 $(BIN)/python bench/bench_buffer.py $(ARGS)

bench-learning: setup  ## learning: all suites, three seeds; takes many hours
	$(BIN)/python bench/bench_learning.py $(ARGS)

docs: setup  ## check that links between documents hold
	$(BIN)/pytest -q tests/test_docs.py

clean:
	rm -rf .venv build *.egg-info
