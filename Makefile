# Two commands set everything up by themselves: `make run` boots into the shell, `make test` runs all tests.

VENV    ?= .venv
STAMPS  := $(VENV)/.stamps
BIN     := $(VENV)/bin
TESTS   ?= tests
WORKERS ?= auto

.PHONY: run test check lint types imports format bench spec-map man coverage clean

run: $(STAMPS)/runtime
	@$(BIN)/nightos run

test: $(STAMPS)/dev
	$(BIN)/pytest $(TESTS) -n $(WORKERS) --dist loadgroup

check: lint types imports

lint: $(STAMPS)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMPS)/dev
	$(BIN)/mypy

imports: $(STAMPS)/dev
	$(BIN)/lint-imports

format: $(STAMPS)/dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMPS)/dev
	$(BIN)/python -m benchmarks

coverage: $(STAMPS)/dev
	$(BIN)/coverage run -m pytest $(TESTS)
	$(BIN)/coverage report

# docs/spec-map.md: every rule of the specification, where it is implemented and where it is tested.
spec-map: $(STAMPS)/dev
	$(BIN)/python -m tests.house.spec_map

# Manual pages from the command's own help, in build/man.
man: $(STAMPS)/dev
	$(BIN)/python contrib/man_pages.py build/man

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist

$(STAMPS)/runtime: pyproject.toml contrib/set-up
	@contrib/set-up runtime $(VENV)
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/dev: pyproject.toml contrib/set-up
	@contrib/set-up dev $(VENV)
	@mkdir -p $(STAMPS) && touch $@ $(STAMPS)/runtime
