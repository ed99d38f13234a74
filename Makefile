# Every target does its own set-up: Python >= 3.11 with venv and pip is all that a machine needs.

PYTHON ?= python3
ARGS   ?=
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
NGINX  := $(shell PATH="$$PATH:/usr/sbin:/usr/local/sbin" command -v nginx)
PROMTOOL := $(shell command -v promtool)
BROWSER := $(shell command -v chromium || command -v chromium-browser || command -v google-chrome)
POSTGRES := $(firstword $(wildcard /usr/lib/postgresql/*/bin/postgres) $(shell command -v postgres))
SUITE  := not containers and not topologies and not browser and not vaults and not storage and not long$(if $(NGINX),, and not cluster)

.DEFAULT_GOAL := help
.PHONY: ui-test storage-test vault-test topologies help run test check ready cluster compose-test bench bench-peers bench-scale bench-streams exactness soak

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' $(MAKEFILE_LIST) | while IFS='|' read -r name what; do printf '%-13s %s\n' "$$name" "$$what"; done

run: $(STAMP) ## serve the providers whose keys the environment holds, or the demo (ARGS='--port 9090')
	@$(BIN)/modelmesh serve $(ARGS)

check: $(STAMP) ## lint, format, types, architecture
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: $(STAMP) ## all tests that need no container engine
	@$(if $(NGINX),,echo '*** nginx is not installed: the cluster tests are left out (Debian: apt-get install nginx-light)')
	@$(if $(PROMTOOL),,echo '*** promtool is not installed: two tests of the alerts are left out (Debian: apt-get install prometheus)')
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder -m '$(SUITE)' $(ARGS)

ready: check test ## what must be green before a change is handed over

cluster: $(STAMP) ## several nodes behind nginx, the long tests included
	$(BIN)/pytest -m '(cluster or long) and not containers and not topologies and not storage' $(ARGS)

ui-test: $(VENV)/.browser ## the operators' page in Chromium, in front of real nodes
	@$(if $(BROWSER),,echo '*** Chromium is not installed: the page is not looked at (Debian: apt-get install chromium)')
	$(BIN)/pytest tests/ui -m browser -rs $(ARGS)

vault-test: $(VENV)/.vaults ## secret vaults, by their own libraries
	$(BIN)/pytest tests/unit/shared_state/secret_stores -m vaults $(ARGS)

topologies: $(STAMP) ## the store under Sentinel and Redis Cluster, with failovers
	$(BIN)/pytest -m topologies $(ARGS)

storage-test: $(VENV)/.storage ## storages on PostgreSQL and S3, real servers
	@$(if $(POSTGRES),,echo '*** PostgreSQL is not installed: it is left out (Debian: apt-get install postgresql)')
	$(BIN)/pytest tests/storage -m storage -rs $(ARGS)

bench: $(STAMP) ## what a node costs beside nginx, into benchmarks/results (ARGS='--scenario unary32')
	$(BIN)/python -m benchmarks run $(ARGS)

bench-peers: $(STAMP) ## the same beside other gateways (installed into ~/.cache/modelmesh/peers, or $$MODELMESH_PEERS)
	$(BIN)/python -m benchmarks peers $(ARGS)

bench-scale: $(STAMP) ## what a request costs on 1 to 8 nodes, a model up to 1,000, docs/scaling.md (6 minutes; 2 with ARGS='--rounds 1 --seconds 2')
	$(BIN)/python -m benchmarks.scaling $(ARGS)

bench-streams: $(STAMP) ## thousands of open streams, time to the first token, slow readers (ARGS='--streams 1000')
	$(BIN)/python -m benchmarks.streams $(ARGS)

soak: $(STAMP) ## an hour of mixed load with aborts: nothing may grow (ARGS='--minutes 3')
	$(BIN)/python -m benchmarks.soak $(ARGS)

exactness: $(STAMP) ## the long outside test: no limit exceeded, books balance, amid all faults (ARGS='--faults node-kill --seeds 1')
	$(BIN)/python -m benchmarks.exactness $(ARGS)

compose-test: $(STAMP) ## the composition in containers (a Docker engine, or root on Debian, where one is installed)
	MODELMESH_INSTALL_ENGINE=1 $(BIN)/pytest -m containers $(ARGS)

$(VENV)/.browser $(VENV)/.vaults $(VENV)/.storage: $(VENV)/.%: $(STAMP)
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$*]'
	@touch $@

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("ModelMesh needs Python 3.11 or newer, this is %d.%d: make PYTHON=..." % v[:2])'
	@echo 'Setting up $(VENV) ...'
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@
