# The project's commands. `make help` lists them.
.DEFAULT_GOAL := help
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PYTHON ?= $(shell command -v python3.11 || command -v python3)
PYTEST := $(BIN)/pytest -q -p no:cacheprovider
# On a terminal the demo keeps its servers up until Ctrl-C, so that the links can be clicked.
KEEP := $(shell [ -t 0 ] && [ -z "$$CI" ] && echo --keep)
SOURCES := pilot tests docs scripts

.PHONY: docs bench-check bench-page fuzz soak image payload-image help setup demo demo-quick test test-unit test-integration test-kube test-containers test-e2e replay-faults escape lint type fmt bench bench-docs bench-peers peers-lock bench-redaction sbom faults long lock clean

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-18s %s\n", $$1, $$2}'

setup: $(STAMP) ## install what is missing on this machine (as root: with apt) and the locked Python packages into .venv
	@scripts/prepare-machine python apptainer image

$(STAMP): requirements.lock pyproject.toml
	@scripts/prepare-machine python
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the locked Python packages into $(VENV)"
	@$(BIN)/pip install -q --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e . 2>$(VENV)/install.log \
	  || { cat $(VENV)/install.log; exit 1; }
	@touch $(STAMP)

demo: setup ## a PanDA world on this machine: 18 real pipetask jobs, run in Apptainer, with links to their logs
	@image=$$(scripts/build-payload-image) && $(BIN)/pilot-sandbox demo --image "$$image" $(KEEP)

demo-quick: setup ## the same with two jobs
	@image=$$(scripts/build-payload-image) && $(BIN)/pilot-sandbox demo --image "$$image" --quick $(KEEP)

test: setup lint type ## everything: lint, types, unit, contract, integration, container and end-to-end tests
	@scripts/prepare-machine postgresql faults browser containers kube bench
	$(PYTEST) -n 2 --dist loadfile tests/unit tests/contract tests/kube tests/integration
	$(PYTEST) tests/faults
	$(PYTEST) tests/escape
	$(PYTEST) tests/containers
	image=$$(scripts/build-payload-image) && PAYLOAD_IMAGE=$$image $(PYTEST) tests/e2e

test-unit: $(STAMP) ## unit and contract tests only
	$(PYTEST) -n 2 --dist loadfile tests/unit tests/contract

test-integration: setup ## tests on real servers, processes, containers and a real browser
	@scripts/prepare-machine faults browser bench
	$(PYTEST) -n 2 --dist loadfile tests/integration

test-kube: $(STAMP) ## the Kubernetes objects and the Terraform example
	@scripts/prepare-machine kube
	$(PYTEST) tests/kube

test-containers: setup ## the pilot's image, and workers as Harvester submits them, under podman
	@scripts/prepare-machine containers kube
	$(PYTEST) tests/containers

test-e2e: setup ## real pipetask jobs from the queue to their log URLs
	@scripts/prepare-machine postgresql containers
	image=$$(scripts/build-payload-image) && PAYLOAD_IMAGE=$$image $(PYTEST) tests/e2e

# SEED decides every plan; SAMPLE=k takes k of the 336 single faults; PAIRS=m adds m pairs; DISK=w adds at most w failing writes, of
# one at each place where a pilot writes; ONLY=name repeats one run.
SEED ?= 1
PAIRS ?= 0
DISK ?= 0
faults: setup ## the fault laboratory: make faults SEED=n [SAMPLE=k] [PAIRS=m] [DISK=w] [ONLY=run]
	@scripts/prepare-machine faults
	@$(BIN)/python -m tests.faults --seed $(SEED) --pairs $(PAIRS) --disk $(DISK) $(if $(SAMPLE),--sample $(SAMPLE)) $(if $(ONLY),--only $(ONLY))

replay-faults: setup ## each fault of the miniature pipeline, and the same job again by pilot-replay: is the diagnosis the same?
	@image=$$(scripts/build-payload-image) && PAYLOAD_IMAGE=$$image $(BIN)/python -m tests.e2e.diagnoses --replay

escape: setup ## attempts to break out of a payload's confinement, on each rung; prints a table
	@$(BIN)/python -m tests.escape

long: setup ## hours: all faults and 2,000 pairs of them, a real outage of five minutes, stops at random instants, 5,000 jobs in one pilot
	@scripts/prepare-machine faults
	@$(BIN)/python -m tests.faults --seed $(SEED) --pairs 2000 --disk 1000
	@$(BIN)/python -m tests.faults.stops --outage-s 300
	@$(BIN)/python -m tests.bench.soak --jobs 5000 --json build/soak-long.json

lint: $(STAMP) ## ruff: rules and formatting
	@$(BIN)/ruff check $(SOURCES)
	@$(BIN)/ruff format --check -q $(SOURCES)

type: $(STAMP) ## mypy --strict
	@$(BIN)/mypy

fmt: $(STAMP) ## format the code
	@$(BIN)/ruff check --fix -q $(SOURCES); $(BIN)/ruff format $(SOURCES)

# PARTS: turnaround, fleet, live_logs, staging, bundle, hostile; all when none is named. QUICK=1: only whether it works.
bench: setup bench-peers ## measure; writes build/bench.json and prints tables: make bench [PARTS="..."] [QUICK=1]
	@scripts/prepare-machine bench
	@$(BIN)/python -m tests.bench $(PARTS) $(if $(QUICK),--quick)

bench-docs: $(STAMP) ## the tables of build/bench.json into docs/performance.md
	@$(BIN)/python -m tests.bench.docs

PEERS := build/peers
bench-peers: $(PEERS)/.installed ## what staging is compared with, into build/peers (by hash)

$(PEERS)/.installed: tests/bench/peers.lock
	@test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	@echo "installing the peers of the staging benchmark into $(PEERS)"
	@$(PEERS)/bin/pip install -q --disable-pip-version-check --require-hashes -r tests/bench/peers.lock
	@touch $@

peers-lock: $(STAMP) ## renew tests/bench/peers.lock (hashed, no index URLs)
	@$(BIN)/$(COMPILE) --upgrade --allow-unsafe -o tests/bench/peers.lock tests/bench/peers.in

fuzz: setup ## 100,000 malformed job definitions and 10,000 hostile server answers
	@$(BIN)/python -m tests.bench.fuzz

soak: setup ## 500 one-second jobs in one pilot: does it grow? (ten minutes)
	@$(BIN)/python -m tests.bench.soak

bench-redaction: $(STAMP) ## how fast secrets are found, and a million random cases of which none may leak
	@$(BIN)/python -m tests.bench.redaction

bench-page: $(STAMP) ## the page of a twelve-hour job: its size, what it costs, how soon Chromium has drawn it
	@scripts/prepare-machine browser
	@$(BIN)/python -m tests.bench.job_page

bench-check: $(STAMP) ## how long pilot-start --check takes, also when all servers are silent
	@$(BIN)/python -m tests.bench.check

sbom: $(STAMP) ## build/sbom.json (CycloneDX) and docs/licences.md
	@$(BIN)/python scripts/sbom

# BASE: an image by digest, a folder or a SIF file; without one, Debian from packages. The others: scripts/build-image says.
image: $(STAMP) ## the pilot's container image: make image [BASE=...] [SHAPE=standalone|onto] [NAME=...] [APPTAINER=no] [BASE_PYTHON=...]
	@scripts/prepare-machine containers
	@scripts/build-image $(if $(BASE),--base $(BASE)) $(if $(SHAPE),--shape $(SHAPE)) $(if $(NAME),--name $(NAME)) \
	  $(if $(BASE_PYTHON),--python $(BASE_PYTHON)) $(if $(filter no,$(APPTAINER)),--without-apptainer)

payload-image: setup ## a payload image: make payload-image SOURCE=... [OUTPUT=x.sif] [KEY=private.pem] [TO=gs://... [PUBLISH="options"]]
	@scripts/make-payload-image $(SOURCE) $(if $(OUTPUT),--output $(OUTPUT)) $(if $(KEY),--key $(KEY)) $(if $(TO),--to $(TO) $(PUBLISH))

SITE ?= build/docs
docs: $(STAMP) ## the documentation as a site, build/docs/index.html; warnings are errors
	@$(BIN)/python -m sphinx -q -W --keep-going -E -b html -c docs/site -d $(SITE).read docs $(SITE)
	@echo $(SITE)/index.html

COMPILE := pip-compile -q --generate-hashes --strip-extras --no-header --no-emit-index-url --no-emit-trusted-host --no-emit-find-links
lock: ## renew requirements.lock and the image's (hashed, no index URLs)
	@$(BIN)/$(COMPILE) $(if $(KEEP_VERSIONS),,--upgrade) --allow-unsafe --extra sandbox --extra gcp-logging --extra dev --extra docs \
	  -o requirements.lock pyproject.toml
	@$(BIN)/$(COMPILE) --upgrade -c requirements.lock -o container/requirements.lock pyproject.toml

clean: ## remove what was built here; caches of images under ~/.cache/pilot stay
	@rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
