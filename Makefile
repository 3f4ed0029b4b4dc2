# What a person wants, one target each. `make` alone explains them.
.DEFAULT_GOAL := help
SHELL := /bin/bash

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
MODEL := $(or $(TOKENMILL_DEMO_MODEL),.models/smollm2-135m-instruct)
PROTOS := $(wildcard protos/tokenmill/v1/*.proto)
# No test or service ever asks a model hub; what is needed is on this machine.
export HF_HUB_OFFLINE := 1
export TOKENMILL_DEMO_MODEL := $(MODEL)

.PHONY: help setup model run demo test test-fast test-slow test-clients test-page test-prometheus test-images bench check \
  image chart schema requirements format protos baseline clean

help: ## Explain the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## Create the virtual environment with everything in it (the other targets do it themselves)

$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "setup: installing into $(VENV) (a few minutes the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --constraint constraints.txt --editable '.[gateway,tokenizer,worker,cli,otel,bench,dev]'
	@touch $@

model: $(STAMP) ## Fetch the demo model and convert it, once
	@$(BIN)/python -m cli.demo_model --folder $(MODEL)

demo: $(STAMP) ## Start the three services, stream one answer of the demo model, stop
	@$(BIN)/python -m cli.demo --model $(MODEL) $(ARGS)

run: $(STAMP) ## Keep the three services up on the demo model until Ctrl-C
	@$(BIN)/python -m cli.up --model $(MODEL) $(ARGS)

test: model ## Run all tests but the slow ones
	@$(BIN)/python -m pytest -m "not slow" $(ARGS)

test-fast: $(STAMP) ## Run the tests that need no model, in a minute or two
	@$(BIN)/python -m pytest -m "not slow and not model" --numprocesses 2 --dist loadfile $(ARGS)

test-slow: model ## Run the slow tests
	@$(BIN)/python -m pytest -m slow --timeout 3600 $(ARGS)

image: ## Build the services' images with docker, podman or buildah (ARGS="gateway worker-cuda"; deploy/images/README.md)
	@deploy/images/build.sh $(ARGS)

test-images: model ## Build the images on a base of Debian's packages, look into them, and run them as a cluster would
	@deploy/images/test.sh $(BIN)/python $(MODEL)

requirements: $(STAMP) ## Pin what the images install, with hashes, as constraints.txt has it (ARGS="--upgrade")
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[deploy]'
	@deploy/images/requirements/compile.sh $(BIN)/uv $(ARGS)

bench: model ## Measure engine and stack beside the alternatives (ARGS="--quick", "--only decode,stack", "--publish")
	@$(BIN)/python -m benchmarks --model $(MODEL) $(ARGS)

test-clients: model ## Build and run the clients in other languages, and buf curl, against a running stack
	@clients/test.sh $(BIN)/python $(MODEL)

test-page: model ## Drive the page with a headless Chromium and take the screenshots in docs/images
	@tests/page/test.sh $(BIN)/python $(MODEL)

test-prometheus: $(STAMP) ## Have a real Prometheus scrape the services, and evaluate dashboard and alerts
	@deploy/prometheus/test.sh $(BIN)/python

chart: $(STAMP) ## Check the Helm chart, its examples, alerts and Containerfiles, without a cluster
	@deploy/check.sh $(BIN)/python $(ARGS)

schema: $(STAMP) ## Write the chart's values.schema.json from the services' settings
	@$(BIN)/python -m deploy.schema

check: $(STAMP) ## Check format, lint, types, the contract, and that generated code is in sync
	@$(BIN)/ruff format --check --quiet . && $(BIN)/ruff check --quiet .
	@$(BIN)/mypy
	@cd protos && ../$(BIN)/buf lint && ../$(BIN)/buf format --diff --exit-code
	@cd protos && ../$(BIN)/buf breaking --against baseline.binpb
	@rm -rf $(VENV)/generated && $(MAKE) --no-print-directory protos OUT=$(VENV)/generated
	@diff -r --exclude='*.proto' --exclude=__init__.py --exclude=__pycache__ --exclude=py.typed \
	  $(VENV)/generated/tokenmill protos/tokenmill || { echo "generated code is not in sync: run make protos"; exit 1; }
	@echo "check: all good"

format: $(STAMP) ## Format the code and the protos
	@$(BIN)/ruff format --quiet . && $(BIN)/ruff check --fix . && cd protos && ../$(BIN)/buf format --write

OUT := protos
protos: $(STAMP) ## Generate the Python of the contract beside it
	@mkdir -p $(OUT) && rm -f $(OUT)/tokenmill/v1/*_pb2*
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m grpc_tools.protoc -Iprotos \
	  --python_out=$(OUT) --grpc_python_out=$(OUT) --mypy_out=quiet:$(OUT) --mypy_grpc_out=quiet:$(OUT) $(PROTOS)
	@rm -f $(OUT)/tokenmill/v1/generation_pb2_grpc.py*

baseline: $(STAMP) ## Make today's contract the released one (part of a release)
	@cd protos && ../$(BIN)/buf build --exclude-source-info --output baseline.binpb

clean: ## Remove what was built here (not the demo model)
	@rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
