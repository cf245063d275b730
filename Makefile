# Everything a contributor needs; plain `make` says what there is. Nothing here wants root, apt or a C compiler.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 $(RUN) -m pip -qq

# The package is installed editable: tests then always run what is checked out, and no stale copy. What an editable
# install does not follow (metadata, and the C sink, which lands beside its source) is what the stamps depend on. The
# compiler is part of a stamp's name, so that a sink built by one is not taken for the work of another.
STAMP = $(VENV)/.has-$(1)-$(notdir $(firstword $(CC)))
SOURCES := pyproject.toml $(wildcard fastidm/_hotpath.c)

.DEFAULT_GOAL := help
.PHONY: help demo test check check-c asan docs bench bench-full bench-micro bench-compare bench-tools faults-table fuzz build clean
.DELETE_ON_ERROR:

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(call STAMP,run) ## download 256 MiB from a throttled local server, get killed half-way, resume, verify
	@$(RUN) -m fastidm.demo --show

test: $(call STAMP,test) ## run the tests, against real servers on this machine
	@$(RUN) -m pytest -n 2 --dist worksteal

check: $(call STAMP,dev) check-c ## lint, types, and the warnings of the C compiler
	@failed=0; $(RUN) -m ruff check --output-format concise . || failed=1; $(RUN) -m mypy || failed=1; exit $$failed

# The sanitised sink is built beside copies of package and tests, so it is never taken for the real one, and what the tests
# start finds it as well. The interpreter is not sanitised: the library comes by LD_PRELOAD, and what Python never frees
# is no leak. What the sink leaks the tests see themselves.
SANITIZE := -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
asan: $(call STAMP,test) ## run the tests of the C sink under AddressSanitizer and UBSan
	@include=$$($(RUN) -c 'import sysconfig; print(sysconfig.get_path("include"))'); \
	suffix=$$($(RUN) -c 'import sysconfig; print(sysconfig.get_config_var("EXT_SUFFIX"))'); \
	python=$$(cd $(VENV)/bin && pwd)/python; library=$$($(CC) -print-file-name=libasan.so 2>/dev/null); \
	if ! printf '#include <Python.h>\n' | $(CC) -isystem "$$include" -x c -c -o /dev/null - 2>/dev/null; then \
	    echo "asan: no working compiler with Python's headers (CC=$(CC)), nothing is tested"; exit 1; fi; \
	if [ ! -e "$$library" ]; then \
	    echo "asan: the compiler has no libasan.so (CC=$(CC); it comes with gcc), nothing is tested"; exit 1; fi; \
	rm -rf build/asan && mkdir -p build/asan && cp -R fastidm tests pyproject.toml setup.cfg build/asan && cd build/asan && \
	rm -f fastidm/_hotpath.*.so && \
	$(CC) -g -O1 -Wall -Wextra -Werror $(SANITIZE) -shared -fPIC -isystem "$$include" fastidm/_hotpath.c -o "fastidm/_hotpath$$suffix" && \
	LD_PRELOAD=$$library PYTHONMALLOC=malloc ASAN_OPTIONS=detect_leaks=0:handle_sigbus=0 UBSAN_OPTIONS=print_stacktrace=1 \
	$$python -m pytest -p no:cacheprovider tests/storage/test_sink*.py

docs: $(call STAMP,docs) ## build the documentation as a web site in build/site
	@$(RUN) -m mkdocs build --quiet --strict

bench: $(call STAMP,bench) ## compare with other tools on this machine, and write a report, in about 6 minutes
	@$(RUN) -m benchmarks --quick

bench-full: $(call STAMP,bench) ## the same with large files, 9 repetitions and every tool that is installed, in hours
	@$(RUN) -m benchmarks --full

bench-micro: $(call STAMP,bench) ## time the hot paths one by one
	@$(RUN) -m pytest -p no:cacheprovider benchmarks/micro

bench-compare: $(call STAMP,bench) ## what got slower since BASE: make bench-compare BASE=REV [HEAD=REV]
	@test -n "$(BASE)" || { echo "which revision? make bench-compare BASE=main"; exit 2; }
	@$(RUN) -m benchmarks.compare "$(BASE)" $(if $(HEAD),"$(HEAD)")

bench-tools: $(call STAMP,bench) ## install the rivals that pip and, as root, apt can give
	@$(RUN) -m benchmarks.install

faults-table: $(call STAMP,test) ## meet the same faults with fastidm, curl and aria2c, for docs/reliability.md (10 minutes)
	@mkdir -p build && $(RUN) -m tests.reliability.faults_table --output build/faults.md; status=$$?; \
	$(RUN) -m tests.reliability.document build/faults.md && exit $$status

fuzz: $(call STAMP,fuzz) ## fuzz each parser of hostile input for FUZZ_SECONDS (default 20)
	@$(RUN) -m tests.fuzz --seconds $(or $(FUZZ_SECONDS),20) $(FUZZ)

build: $(call STAMP,run) ## make the wheel and the sdist in dist/
	@$(PIP) install build
	@$(RUN) -m build --outdir dist .

clean: ## remove everything that make made
	rm -rf $(VENV) build dist fastidm.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage .coverage.*
	rm -f fastidm/_hotpath.*.so
	find fastidm tests benchmarks -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

# Warnings in Python's own headers are not ours, hence -isystem.
check-c: $(call STAMP,dev)
	@include=$$($(RUN) -c 'import sysconfig; print(sysconfig.get_path("include"))'); \
	if [ ! -e fastidm/_hotpath.c ]; then echo "C: there is no fastidm/_hotpath.c, nothing is checked"; \
	elif ! printf '#include <Python.h>\n' | $(CC) -isystem "$$include" -x c -c -o /dev/null - 2>/dev/null; then \
	    echo "C: no working compiler with Python's headers (CC=$(CC)), _hotpath.c is not checked"; \
	else $(CC) -O2 -Wall -Wextra -Wconversion -Werror -isystem "$$include" -c -o /dev/null fastidm/_hotpath.c \
	    && echo "C: no warnings"; fi

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "fastidm needs Python 3.11 or newer: make PYTHON=python3.11")'
	@echo "creating $(VENV)"
	@$(PYTHON) -m venv $(VENV)

# $(1): name of the stamp; $(2): what pip installs; $(3): the stamps that it makes true as well
define installed
$(call STAMP,$(1)): $(SOURCES) | $(VENV)/bin/python
	@echo "installing fastidm$(patsubst .%,%,$(2)) into $(VENV)"
	@find $(VENV) -maxdepth 1 -name '.has-*' ! -name '$(notdir $(call STAMP,*))' -delete
	@rm -f fastidm/_hotpath.*.so
	@$(PIP) install --editable '$(2)'
	@touch $(foreach name,$(1) $(3),$(call STAMP,$(name)))
endef
$(eval $(call installed,run,.,))
$(eval $(call installed,test,.[test],run))
$(eval $(call installed,dev,.[dev],run test))
$(eval $(call installed,bench,.[bench],run))
$(eval $(call installed,docs,.[docs],run))
$(eval $(call installed,fuzz,.[fuzz],run))
