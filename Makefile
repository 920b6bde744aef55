# make demo    set up, then learn the handwritten digits: fit, evaluate, sample
# make test    set up, then lint, types and all tests
# make quick   set-up, then a small version of every benchmark
# make check   lint, types, licences and security advisories of what is installed
# make audit   security advisories again; fails where none could be looked up, as a release must
# make soak    set up, then run the longest tests, try every promise of docs/reliability.md in full, write that page
# make docs    set up, then build the documentation: every tutorial is executed, a warning is an error
# make linkcheck   the same, then try every link to elsewhere; needs a network
# make browser install a Chromium for the tests of pages, if there is none
# make lock    write constraints.txt and lock.txt anew for pyproject.toml; UPGRADE=--upgrade takes the newest versions
# make clean   remove what the above made, but for .venv

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
COMPILE := build/uv/bin/uv pip compile --quiet --no-header --no-annotate --universal --python-version 3.11 \
	--extra test --extra docs --no-emit-package pip pyproject.toml

# threads that spin while they wait crawl on a busy machine
export OMP_WAIT_POLICY := PASSIVE

.PHONY: demo test quick soak check audit docs linkcheck browser lock clean

demo: $(VENV)/.installed
	$(BIN)/python examples/digits_table.py write build/demo
	$(BIN)/isthmus fit build/demo/digits_train.csv -o build/demo/model --latent-dim 10 --force
	$(BIN)/isthmus evaluate build/demo/model build/demo/digits_test.csv
	$(BIN)/isthmus sample build/demo/model -n 6 -o build/demo/samples.csv --force
	$(BIN)/python examples/digits_table.py show build/demo/samples.csv

test: check browser
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2

quick: $(VENV)/.installed
	rm -rf build/quick
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.run all --quick
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.time_limits --quick

soak: $(VENV)/.installed
	rm -rf build/reliability
	OMP_NUM_THREADS=1 $(BIN)/pytest -m "reliability or soak" --soak -n 2 tests
	$(BIN)/python tests/reliability/table.py

check: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pip-licenses >/dev/null
	$(BIN)/python .ci/audit.py

audit: $(VENV)/.installed
	$(BIN)/python .ci/audit.py --strict

docs: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/sphinx-build -W --keep-going -q docs build/docs
	@echo "the documentation is build/docs/index.html"

linkcheck: docs
	$(BIN)/sphinx-build --keep-going -q -b linkcheck docs build/linkcheck

browser: $(VENV)/.installed
	@for name in chromium chromium-browser google-chrome; do command -v $$name >/dev/null && exit 0; done; \
	sudo=$$(test "$$(id -u)" = 0 || echo sudo -n); \
	{ $$sudo apt-get update -qq && $$sudo apt-get install -qqy chromium fonts-dejavu-core; } \
	|| $(BIN)/playwright install chromium \
	|| echo "no browser can be installed here: the tests of pages will be skipped"

$(VENV)/.installed: pyproject.toml constraints.txt lock.txt
	@$(PYTHON) -c 'import sys; sys.exit("isthmus needs Python 3.11 or later: make PYTHON=..." if sys.version_info < (3, 11) else 0)'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing isthmus and what it needs into $(VENV); the first time takes minutes"
	$(PIP) --no-deps --require-hashes -r lock.txt
	$(PIP) --no-build-isolation -c constraints.txt -e '.[test,docs]'
	@touch $@

lock:
	@test -x build/uv/bin/uv || { $(PYTHON) -m venv build/uv && build/uv/bin/pip install --quiet uv; }
	$(COMPILE) -o constraints.txt $(UPGRADE)
	$(COMPILE) -c constraints.txt --generate-hashes -o lock.txt \
		$$(sed -nE 's/^(torch|triton|cuda-[a-z]+|nvidia-[a-z0-9-]+)==.*/--no-emit-package \1/p' constraints.txt)

clean:
	rm -rf build docs/auto .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find src tests examples docs benchmarks -name __pycache__ -prune -exec rm -rf {} +
