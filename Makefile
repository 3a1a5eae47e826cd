# Each target is one visible command. Needs Python 3.11 and make; everything else goes into .venv.
PYTHON ?= python3.11
BIN := .venv/bin
SCENE ?= examples/robot
OUT ?= out/demo

.DEFAULT_GOAL := help
.PHONY: help demo test lint bench train-stage2 evaluate render-data demo-weights-stage2

help:  ## show this list
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 24

.venv/.installed: setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] < (3, 11))' || \
		{ echo "instant3d needs Python 3.11; name yours: make PYTHON=/path/to/python3.11" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[data,test,lint]'
	@touch $@

demo: .venv/.installed  ## rebuild the example's four views in 3D: SCENE=folder OUT=folder
	$(BIN)/instant3d reconstruct $(SCENE) -o $(OUT)

test: .venv/.installed  ## run all tests (no network, no GPU)
	$(BIN)/python -m pytest -q -n 2 --dist loadfile

lint: .venv/.installed  ## check style, formatting and types
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy src

bench: .venv/.installed  ## measure speed beside a plain textbook path
	$(BIN)/python -m pytest -q -p no:xdist -o python_files='bench_*.py' --benchmark-columns=min,median,rounds tests/bench

render-data: .venv/.installed  ## render every model in OBJECTS=folder as a scene under DATA=folder
	$(BIN)/python -m data_prep.render $(or $(OBJECTS),$(error OBJECTS=folder of .glb or .obj files)) -o $(or $(DATA),data/scenes)

train-stage2: .venv/.installed  ## train the reconstructor: SIZE=demo|one_gpu|paper TRAINER=cpu|... ARGS='--more options'
	$(BIN)/instant3d fit -c configs/stage2/$(or $(SIZE),demo).yaml -c configs/trainer/$(or $(TRAINER),cpu).yaml $(ARGS)

evaluate: .venv/.installed  ## measure against both baselines: SCENES=folder OUT=folder
	$(BIN)/instant3d evaluate reconstruction $(or $(SCENES),$(error SCENES=folder of scenes)) -o $(OUT) --resolution 128

demo-weights-stage2: .venv/.installed  ## make the bundled weights anew: OBJECTS=folder of real models beside the procedural ones
	$(BIN)/python -m data_prep.procedural -o data/procedural
	$(BIN)/python -m data_prep.render data/procedural $(OBJECTS) -o data/scenes
	$(BIN)/instant3d fit -c configs/stage2/demo.yaml -c configs/trainer/cpu.yaml
