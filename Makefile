# Each target is one visible command. Needs Python 3.11 and make; everything else goes into .venv.
PYTHON ?= python3.11
RENDER_PYTHON ?= $(PYTHON)
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
fuzz: SECONDS = 600
SECONDS ?= 1500
SEED ?= 0
PARTS ?= stage1,stage2
# the trainer's config, the model's, and what of that differs with this trainer
with_configs = $(addprefix -c ,configs/trainer/$(TRAINER).yaml configs/$(1)/$(SIZE).yaml \
	$(wildcard configs/$(1)/$(SIZE)_$(TRAINER).yaml))

.DEFAULT_GOAL := help
.PHONY: help demo serve test test-fast fuzz lint docs wheels bench bench-gpu render-env render-data cache-stage1 train-stage1 train-stage2 train-direct evaluate \
	evaluate-text demo-weights

help:  ## show this list
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 24

.venv/.installed: setup.py setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] < (3, 11))' || \
		{ echo "instant3d needs Python 3.11; name yours: make PYTHON=/path/to/python3.11" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[data,ray,serve,test,lint]'
	@touch $@

demo: .venv/.installed  ## a sentence to a 3D asset by the bundled weights: PROMPT="a blue boat" OUT=folder
	$(BIN)/instant3d generate "$(PROMPT)" -o $(OUT)

.venv-render/.installed: requirements-render.txt
	@$(RENDER_PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
		{ echo "bpy needs Python 3.11; name yours: make RENDER_PYTHON=/path/to/python3.11" >&2; exit 2; }
	$(RENDER_PYTHON) -m venv .venv-render
	.venv-render/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-render.txt
	@touch $@

render-env: .venv-render/.installed  ## Blender and BlenderProc for rendering, in an environment of their own (1.5 GB)

serve: .venv/.installed  ## a page and an API at http://127.0.0.1:7860: ARGS="--port 8000"
	$(BIN)/instant3d serve $(ARGS)

test: .venv/.installed .venv-render/.installed  ## run all tests (no network, no GPU)
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

test-fast: .venv/.installed  ## run the tests that are not marked slow, in about a minute
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder -m "not slow"

fuzz: .venv/.installed  ## mutated files to all that reads files of strangers: SECONDS=600 TARGETS=glb,scene SEED=0
	$(BIN)/python -m tests.fuzz --seconds $(SECONDS) --seed $(SEED) $(if $(TARGETS),--targets $(TARGETS))

lint: .venv/.installed  ## check style, formatting and types
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy src data_prep

.venv/.docs: .venv/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	@touch $@

docs: .venv/.docs  ## build the documentation and the reference of all packages into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

wheels: .venv/.installed  ## build the wheels of instant3d and instant3d-demo-weights in dist/: pip install dist/*.whl
	rm -rf build dist wheels/demo_weights/build
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation -w dist . ./wheels/demo_weights
	@ls -1 dist

bench: .venv/.installed  ## measure speed: beside a plain textbook path, full-size SDXL, prompt to asset, converted peers, reading scenes
	$(BIN)/python -m benchmarks.speed
	$(BIN)/python -m benchmarks.sdxl
	$(BIN)/python -m benchmarks.split
	$(BIN)/python -m benchmarks.peers
	$(BIN)/python -m benchmarks.loader

bench-gpu: .venv/.installed  ## measure the fused renderer and training steps on this machine's GPU
	$(BIN)/python -m benchmarks.gpu

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
	$(BIN)/instant3d fit stage1 $(call with_configs,stage1) \
		--data.train='["$(CACHE)"]' $(ARGS)

train-stage2: .venv/.installed  ## train the reconstructor: SIZE=demo|one_gpu|paper TRAINER=cpu|... DATA=folder VAL=folder
	$(BIN)/instant3d fit stage2 $(call with_configs,stage2) \
		--data.train='["$(DATA)"]' --data.val='["$(VAL)"]' $(ARGS)

train-direct: .venv/.installed  ## train text to triplane: SIZE=tiny|demo|paper|release TRAINER=cpu|... PROMPTS=animals|file
	$(BIN)/instant3d fit direct $(call with_configs,direct) \
		$(if $(PROMPTS),--data.prompts=$(PROMPTS)) $(ARGS)

evaluate: OUT = out/evaluation
evaluate: .venv/.installed  ## measure against both baselines: SCENES=folder OUT=folder
	$(BIN)/instant3d evaluate reconstruction $(or $(SCENES),$(error SCENES=folder of scenes)) -o $(OUT)

evaluate-text: OUT = out/evaluation-text
evaluate-text: .venv/.installed  ## whether assets match their prompts: PROMPTS=file OUT=folder
	$(BIN)/instant3d evaluate text --prompts $(or $(PROMPTS),configs/prompts/held_out.txt) -o $(OUT)

demo-weights: OUT = runs/demo-weights
demo-weights: .venv/.installed  ## objects to demo weights and their cards: OBJECTS=folder SECONDS=1500 TRAINER=cpu|one_gpu PARTS=stage1,stage2 OUT=folder
	$(BIN)/python -m data_prep.demo_weights $(or $(OBJECTS),$(error OBJECTS=folder with a manifest.jsonl)) -o $(OUT) \
		--seconds $(SECONDS) --trainer $(TRAINER) --parts $(PARTS) $(ARGS)
