# Two commands are enough on a fresh machine with Python 3.11 or newer: `make sweep` and `make test`.
# Each prints the commands it stands for; the second time nothing is installed again.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: sweep sweeps figures claims test faults check soak bench bench-gpu environment clean

environment: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "kdtune needs Python 3.11 or newer; PYTHON=python3.12 make ... names another")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

sweep: environment
	$(BIN)/python -m kdtune.sweep sweeps/fickle.yaml
	$(BIN)/python analysis/fickle.py results/fickle
	$(BIN)/kdtune report results/fickle

# Every sweep at laptop scale, one after the other; one that fails does not keep the next from its turn. Again: nothing
# that is finished is repeated. Statuses of 128 and more are signals: then the rest is not begun.
sweeps: environment
	@failed=0; said=; for file in sweeps/*.yaml; do \
	    command="$(BIN)/python -m kdtune.sweep $$file --profile laptop"; \
	    echo "$$command"; began=$$(date +%s); \
	    $$command; status=$$?; \
	    case $$status in 0) ended=done;; *) ended="status $$status"; failed=1;; esac; \
	    said="$$said$$(printf '%-40s %-10s %5d s' $$file "$$ended" $$(($$(date +%s) - began)))\n"; \
	    [ $$status -lt 128 ] || break; \
	done; printf "\n$$said"; exit $$failed

# Every figure that the results allow, of every profile, into figures/ beside each table; what lacks is said.
figures: environment
	@for table in results/*/*/results.parquet; do \
	    folder=$$(dirname $$(dirname $$table)); script=analysis/$$(basename $$folder).py; \
	    [ -f $$script ] && [ -f $$table ] || continue; \
	    command="$(BIN)/python $$script $$folder --profile $$(basename $$(dirname $$table))"; \
	    echo "$$command"; $$command || failed=1; \
	done; exit $${failed:-0}

# What all results say of the paper's claims, into results/figures/.
claims: environment
	$(BIN)/python analysis/claims.py results

# Two at a time, a file of tests to each: half of them wait for Ray, for disks, for processes that start.
test: environment
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

check: environment
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Processes killed, two sweeps at once: one after the other, as each counts on the machine's two cores.
faults: environment
	$(BIN)/python -m pytest -m faults

soak: environment
	$(BIN)/python -m pytest -m soak --timeout=3600

# What kdtune's parts cost, beside what one would use instead: benchmarks/README.md. A quarter of an hour on an idle machine.
bench: environment
	@for name in step attack corrupted slots sweep planning driver dispatch; do \
	    echo "$(BIN)/python benchmarks/$$name.py"; $(BIN)/python benchmarks/$$name.py || exit; \
	done

# A student's training on a GPU: whatever machine has one; no Ray. Eight minutes. Without: python benchmarks/gpu.py --tiny
bench-gpu: environment
	$(BIN)/python benchmarks/gpu.py

clean:
	rm -rf .venv
