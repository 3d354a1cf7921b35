# All the set-up there is: each target makes what it needs first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help venv demo test soak soak-galera lint format protos wheel clean

help: ## Say what there is to make
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

venv: $(VENV)/ready ## Make .venv with everything that development needs

$(VENV)/ready: setup.cfg pyproject.toml tools/make-venv
	@PYTHON=$(PYTHON) tools/make-venv

demo: venv ## Run a server, two clients and a service at each end, until Ctrl-C
	@$(BIN)/fleetspeak demo $(ARGS)

test: venv ## Run all tests, those against the released Go programs too
	@tools/need-debian mariadb-server galera-4 rsync redis-server haproxy systemd tinyproxy-bin zsh fish
	@PYTHON=$(BIN)/python tools/get-peer
	$(BIN)/python -m pytest --numprocesses=3 --dist=loadfile $(ARGS)

soak: venv ## Kill client, daemons and server at random for five minutes, and look for every message
	SOAK_SECONDS=300 $(BIN)/python -m pytest -s tests/fleet/test_random_kills.py $(ARGS)

soak-galera: venv ## Kill nodes of a Galera cluster at random for five minutes, under load, and account for everything
	@tools/need-debian mariadb-server galera-4 rsync haproxy
	GALERA_SOAK_SECONDS=300 $(BIN)/python -m pytest -s tests/galera/soak.py $(ARGS)

lint: venv ## Check style and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: venv ## Put the code into its style
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

protos: ## Generate fleetspeak/src from protos
	tools/make-protos

wheel: venv ## Build dist/*.whl
	$(BIN)/python -m build --wheel

clean: ## Remove everything that was made
	rm -rf .venv .venv-protoc .venv-upstream .cache build dist *.egg-info
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
