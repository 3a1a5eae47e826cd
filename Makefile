# Each target is one visible command. Needs Python 3.11 and make; everything else goes into .venv.
PYTHON ?= python3.11
BIN := .venv/bin
PROMPT ?= a red fire hydrant
OUT ?= out/demo
SIZE ?= demo
TRAINER ?= cpu
DATA ?= data/scenes
VAL ?= $(DATA)
CACHE ?= data/cache/train
PLAN ?= configs/render/small.yaml
COUNT ?= 96
MADE := data/objects/objects.jsonl

.DEFAULT_GOAL := help
.PHONY: help demo test lint bench render-env render-data cache-stage1 train-stage1 train-stage2 train-direct evaluate \
	evaluate-text demo-weights-stage1 demo-weights-stage2 demo-weights-judge demo-weights-direct

help:  ## show this list
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 24

.venv/.installed: setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] < (3, 11))' || \
		{ echo "instant3d needs Python 3.11; name yours: make PYTHON=/path/to/python3.11" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[data,ray,test,lint]'
	@touch $@

demo: .venv/.installed  ## a sentence to a 3D asset by the bundled weights: PROMPT="a blue boat" OUT=folder
	$(BIN)/instant3d generate "$(PROMPT)" -o $(OUT)

.venv-render/.installed: requirements-render.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
		{ echo "bpy needs Python 3.11; name yours: make PYTHON=/path/to/python3.11" >&2; exit 2; }
	$(PYTHON) -m venv .venv-render
	.venv-render/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-render.txt
	@touch $@

render-env: .venv-render/.installed  ## Blender and BlenderProc for rendering, in an environment of their own (1.5 GB)

test: .venv/.installed .venv-render/.installed  ## run all tests (no network, no GPU)
	$(BIN)/python -m pytest -q -n 2 --dist loadfile

lint: .venv/.installed  ## check style, formatting and types
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy src

bench: .venv/.installed  ## measure speed: beside a plain textbook path, full-size SDXL, prompt to asset, converted peers, reading scenes
	$(BIN)/python -m benchmarks.speed
	$(BIN)/python -m benchmarks.sdxl
	$(BIN)/python -m benchmarks.split
	$(BIN)/python -m benchmarks.peers
	$(BIN)/python -m benchmarks.loader

render-data: MANIFEST = $(if $(OBJECTS),$(filter %.jsonl,$(OBJECTS)) $(wildcard $(OBJECTS)/*.jsonl),$(MADE))
render-data: .venv/.installed  ## objects to checked and packed scenes: OBJECTS=folder|objects.jsonl PLAN=file DATA=folder
ifndef OBJECTS  # a small set to try it all with: made objects, and those of examples/
	$(BIN)/python -m data_prep.sources procedural --count $(COUNT) -o $(MADE)
	$(BIN)/python -m data_prep.sources folder examples/objects -o $(MADE)
endif
	$(BIN)/python -m data_prep.render $(or $(OBJECTS),$(MADE)) -o $(DATA) --plan $(PLAN) $(ARGS)
	$(BIN)/instant3d doctor $(DATA) -o $(DATA)/doctor.json || test $$? -eq 1
	$(BIN)/python -m data_prep.report $(DATA) $(addprefix --objects ,$(firstword $(MANIFEST))) \
		--doctor $(DATA)/doctor.json -o $(DATA)/report.html
	$(BIN)/instant3d pack $(DATA) -o $(DATA)-shards
	@echo "next: make train-stage2 DATA=$(DATA)   or, from the tars: make train-stage2 DATA=$(DATA)-shards"

cache-stage1: .venv/.installed  ## scenes to latents and embeddings: SCENES=folder MODEL=folder|Hub id CACHE=folder
	$(BIN)/instant3d cache-stage1 $(or $(SCENES),$(error SCENES=folder of scenes)) \
		--model $(or $(MODEL),$(error MODEL=folder or Hub id of an SDXL)) -o $(CACHE) $(ARGS)

train-stage1: .venv/.installed  ## train the generator of views: SIZE=demo|one_gpu_lora|paper TRAINER=cpu|... CACHE=folder
	$(BIN)/instant3d fit stage1 -c configs/trainer/$(TRAINER).yaml -c configs/stage1/$(SIZE).yaml \
		--data.train='["$(CACHE)"]' $(ARGS)

train-stage2: .venv/.installed  ## train the reconstructor: SIZE=demo|one_gpu|paper TRAINER=cpu|... DATA=folder VAL=folder
	$(BIN)/instant3d fit -c configs/stage2/$(SIZE).yaml -c configs/trainer/$(TRAINER).yaml \
		--data.train='["$(DATA)"]' --data.val='["$(VAL)"]' $(ARGS)

train-direct: .venv/.installed  ## train text to triplane: SIZE=tiny|demo|paper|release TRAINER=cpu|... PROMPTS=animals|file
	$(BIN)/instant3d fit direct -c configs/trainer/$(TRAINER).yaml -c configs/direct/$(SIZE).yaml \
		$(if $(PROMPTS),--data.prompts=$(PROMPTS)) $(ARGS)

evaluate: OUT = out/evaluation
evaluate: .venv/.installed  ## measure against both baselines: SCENES=folder OUT=folder
	$(BIN)/instant3d evaluate reconstruction $(or $(SCENES),$(error SCENES=folder of scenes)) -o $(OUT)

evaluate-text: OUT = out/evaluation-text
evaluate-text: .venv/.installed  ## do the assets show what was asked for? PROMPTS=file OUT=folder
	$(BIN)/instant3d evaluate text --prompts $(or $(PROMPTS),configs/prompts/held_out.txt) -o $(OUT)

demo-weights-stage1: .venv/.installed  ## make stage 1's bundled weights anew, in some hours: OBJECTS=folder with a manifest
	$(BIN)/python -m data_prep.render $(or $(OBJECTS),$(error OBJECTS=folder with a manifest.jsonl)) \
		--split train --licenses CC0-1.0,MIT,MIT-0 --plan configs/render/grids.yaml -o data/scenes/grids
	$(BIN)/python -m data_prep.recolour data/scenes/grids --frames 4 --without configs/prompts/held_out.txt -o data/scenes/painted
	$(BIN)/python -m data_prep.procedural -o data/procedural
	$(BIN)/python -m data_prep.render data/procedural --split train --plan configs/render/grids.yaml -o data/scenes/procedural_grids
	$(BIN)/python -m instant3d.stage1.scratch data/scenes/painted -o runs/stage1-base
	$(BIN)/instant3d cache-stage1 data/scenes/painted --model runs/stage1-base -o data/cache/painted
	$(BIN)/instant3d cache-stage1 data/scenes/procedural_grids --model runs/stage1-base -o data/cache/procedural
	$(BIN)/instant3d fit stage1 -c configs/trainer/cpu.yaml -c configs/stage1/demo.yaml
	$(BIN)/instant3d export runs/stage1_demo -o checkpoints/stage1-demo

demo-weights-judge: .venv/.installed  ## make the judge of `evaluate text` anew, from what demo-weights-stage1 rendered
	$(BIN)/python -m data_prep.recolour data/scenes/grids --only configs/prompts/judged_objects.txt -o data/scenes/judge
	$(BIN)/instant3d train-judge data/scenes/judge -o checkpoints/judge

demo-weights-stage2: .venv/.installed  ## make the bundled weights anew: OBJECTS=folder with a manifest of real objects
	$(BIN)/python -m data_prep.procedural -o data/procedural
	$(BIN)/python -m data_prep.render data/procedural --split train --plan configs/render/small.yaml -o data/scenes/procedural
	$(BIN)/python -m data_prep.render data/procedural --split dev --plan configs/render/small.yaml -o data/scenes/held_out
	$(BIN)/python -m data_prep.render $(or $(OBJECTS),$(error OBJECTS=folder with a manifest.jsonl)) \
		--split train --licenses CC0-1.0,MIT,MIT-0 --plan configs/render/small.yaml -o data/scenes/real
	$(BIN)/instant3d fit -c configs/stage2/demo.yaml -c configs/trainer/cpu.yaml --data.val='["data/scenes/held_out"]' \
		--data.train='["data/scenes/real", "data/scenes/real", "data/scenes/procedural"]'  # real ones count twice
	$(BIN)/instant3d export runs/cpu -o runs/stage2-first
	$(BIN)/python -m data_prep.recolour data/scenes/real --colours 1 --without configs/prompts/held_out.txt -o data/scenes/real_painted
	$(BIN)/instant3d fit stage2 -c configs/trainer/cpu.yaml -c configs/stage2/demo.yaml -c configs/stage2/demo_generated.yaml
	$(BIN)/instant3d export runs/stage2_generated -o checkpoints/stage2-demo

demo-weights-direct: .venv/.installed  ## make the one-pass system's bundled weights anew, in 1.5 hours: OBJECTS=folder with a manifest
	$(BIN)/python -m data_prep.render $(or $(OBJECTS),$(error OBJECTS=folder with a manifest.jsonl)) \
		--keep configs/direct/demo_objects.txt --plan configs/render/rings.yaml -o data/scenes/rings
	$(BIN)/python -m data_prep.recolour data/scenes/rings --only configs/prompts/judged_objects.txt \
		--without configs/prompts/held_out.txt -o data/scenes/direct
	$(BIN)/instant3d fit direct -c configs/trainer/cpu.yaml -c configs/direct/demo.yaml
	$(BIN)/instant3d export runs/direct_demo -o checkpoints/direct-demo
