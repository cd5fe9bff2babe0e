# One door to every task: `make` lists them.

CARGO ?= cargo
PYTHON ?= python3
FUZZ_SECONDS ?= 20
# Where cargo puts the release binary, also when the environment has moved the target directory out of the clone.
export WATTRIBUTE_BIN ?= $(or $(CARGO_TARGET_DIR),target)/release/wattribute

.PHONY: help build test lint chart chart-bless e2e e2e-cluster e2e-guest e2e-node bench accuracy fuzz metrics ci

help: ## list the tasks
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 11

build: ## the release binary
	$(CARGO) build --release --locked

test: ## unit, golden and integration tests
	$(CARGO) test --locked

lint: ## format and clippy, warnings are errors
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings

e2e: build ## the release binary against the real Collector and Prometheus (TESTS=name … for some of them)
	e2e/components/build.sh otelcol prometheus promtool >/dev/null
	$(PYTHON) e2e/run.py $(TESTS)

chart: build ## the chart, rendered by the real Helm: rights, privileges, examples, queries
	$(PYTHON) e2e/chart/check.py --promtool "$$(e2e/components/build.sh promtool)"

chart-bless: ## the rendered examples and deploy/kubernetes.yaml anew, after a change of the chart
	$(PYTHON) e2e/chart/check.py --bless

e2e-cluster: build ## pods of a real etcd and kube-apiserver with RBAC on (TESTS=name … for some of them)
	e2e/components/build.sh kube-apiserver etcd helm otelcol >/dev/null
	$(PYTHON) e2e/cluster/run.py $(TESTS)

e2e-guest: build ## the release binary in guests: powercap zones, /dev/ipmi0, an ACPI power meter; pods under systemd and cgroup v2
	$(PYTHON) e2e/guest/run.py

e2e-node: build ## the chart on a real node of this machine: kubelet, containerd, pods (root, cgroup v1)
	$(PYTHON) e2e/node/run.py

bench: ## cost of a tick
	benches/run.sh

accuracy: ## how right the figures are: idle, shares and books against the truth and beside other rules; a plot (SVG=path)
	$(CARGO) bench --locked --bench accuracy -- $(SVG)

fuzz: ## every fuzz target for FUZZ_SECONDS (needs nightly Rust and cargo-fuzz)
	@if $(CARGO) +nightly fuzz --version >/dev/null 2>&1; then \
	  targets=$$($(CARGO) +nightly fuzz list) || exit 1; \
	  for target in $$targets; do \
	    echo "fuzzing $$target for $(FUZZ_SECONDS) s"; \
	    seeds=fuzz/corpus/$$target; mkdir -p $$seeds; \
	    case $$target in machine|replay) seeds="$$seeds tests/machines";; esac; \
	    $(CARGO) +nightly fuzz run "$$target" $$seeds -- -max_total_time=$(FUZZ_SECONDS) || exit 1; \
	  done; \
	else \
	  echo "skipped: needs \`rustup toolchain install nightly\` and \`cargo install cargo-fuzz\`"; \
	fi

metrics: ## METRICS.md, from the table in the binary
	$(CARGO) run --release --locked --quiet -- metrics > METRICS.md.new
	mv METRICS.md.new METRICS.md

ci: ## what the CI runs, from an empty machine on
	.ci/run
