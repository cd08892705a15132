# Two commands do everything: `make demo` and `make test`. Both set up .venv first.
PYTHON ?= python3
BIN := .venv/bin
OUT ?=
RUN = $(or $(OUT),$$(ls -td runs/*/ | head -1))

.PHONY: demo test test-all lint format lock clean

.venv/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q --disable-pip-version-check uv
	$(BIN)/uv pip install -q --python $(BIN)/python --compile-bytecode -e '.[dev]' -c constraints.txt
	@touch $@

demo: .venv/.ready
	$(BIN)/vitrail train recipes/mini.toml $(if $(OUT),--out $(OUT))
	$(BIN)/vitrail export $(RUN) --overwrite
	@HF_HUB_OFFLINE=1 $(BIN)/vitrail export $(RUN) --format html --overwrite 2>/dev/null || \
		echo "one page with the model inside (npm brings its runtime once): vitrail export $(RUN) --format html"
	@$(BIN)/vitrail report $(RUN)

lint: .venv/.ready
	$(BIN)/ruff check vitrail tests benchmarks
	$(BIN)/ruff format --check vitrail tests benchmarks
	$(BIN)/mypy

test: lint
	$(BIN)/pytest -n 2 --dist loadfile -m "not slow"

test-all: lint
	$(BIN)/pytest -n 2 --dist loadfile

format: .venv/.ready
	$(BIN)/ruff check --fix vitrail tests benchmarks
	$(BIN)/ruff format vitrail tests benchmarks

lock: .venv/.ready
	$(BIN)/uv pip compile -q pyproject.toml --extra dev --python-version 3.11 --no-header --no-annotate --no-emit-index-url --output-file constraints.txt

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache
