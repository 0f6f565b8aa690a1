# make demo   the main job on a simulated landscape, from rasters to a served model
# make test   the checks and the tests
# make properties   looks for counterexamples to what must hold for every image, for some minutes
# make faults   breaks inputs and programs in fourteen hundred ways and looks at how they end, for most of an hour
# make audit   looks the versions of all packages up among known vulnerabilities
# make bench  how fast it is, against what else one might take; make bench ONLY=training_step
# Each does its whole set-up first, once.

# What the README names, and nothing that a shell may have left behind.
SHELL := /bin/sh
.SHELLFLAGS := -eu -c
.DELETE_ON_ERROR:
.PHONY: demo test test-oldest properties faults audit lint bench

EXTRAS := dev,distributed,serving
RUN := .venv/bin/python -m
# Building graphs, what the tests do most, keeps one core busy; a file's tests share what they made.
PYTEST := pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile

demo:
	@./install.sh .venv $(EXTRAS)
	@PATH="$(CURDIR)/.venv/bin:$$PATH" ./demo.sh demo

lint:
	@./install.sh .venv $(EXTRAS)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

test: lint
	$(RUN) $(PYTEST)

properties:
	@./install.sh .venv $(EXTRAS)
	$(RUN) pytest tests/stfnet_tf/test_properties.py --hypothesis-profile=long

# Small disks, for what happens when they are full, are mounted where this user may do that.
faults:
	@./install.sh .venv $(EXTRAS)
	$(RUN) faults.run --output=docs/faults.md

# Both ends, each in the environment that the tests use.
audit:
	@./install.sh .venv $(EXTRAS)
	@./install.sh .venv-oldest dev,addons,distributed,serving
	python3 -m venv .cache/audit && .cache/audit/bin/pip install --quiet pip-audit
	status=0; for end in .venv .venv-oldest; do \
	    $$end/bin/python -m pip freeze --exclude-editable > .cache/audit/$$end.txt; \
	    .cache/audit/bin/pip-audit --disable-pip --no-deps -r .cache/audit/$$end.txt || status=1; \
	done; exit $$status

# The oldest supported TensorFlow, and TensorFlow Addons with it.
test-oldest:
	@./install.sh .venv-oldest dev,addons,distributed,serving
	TF_USE_LEGACY_KERAS=1 .venv-oldest/bin/python -m $(PYTEST)

# Against PyTorch, too; an environment of its own, because that is large. ONLY=fusing,reading runs
# some, ROUNDS=9 repeats more often, QUICK=1 sees in a few minutes that all of it works.
bench:
	@./install.sh .venv-bench bench
	.venv-bench/bin/python -m benchmarks.run --only=$(ONLY) --rounds=$(or $(ROUNDS),5) \
	    $(if $(QUICK),--quick)
