# `make` lists the targets. ARGS is passed to the command: make test ARGS="-p exodrive-domain", make run ARGS=--ephemeral
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

TARGET := $(or $(CARGO_TARGET_DIR),target)
ARGS ?=
# The path has our nats-server, independent of the target folder, and a Rust that rustup put into the home folder, also
# without a login shell.
export PATH := $(CURDIR)/.tools/bin:$(PATH):$(or $(CARGO_HOME),$(HOME)/.cargo)/bin
export SQLX_OFFLINE := true
# Colour for a person, plain text for a log file.
export CARGO_TERM_COLOR ?= auto

.PHONY: help tools run test chaos fuzz demo bench check sbom sqlx openapi clean

help: ## This table
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

tools: ## Install missing tools: compiler, Postgres, Redis, nats-server
	@scripts/bootstrap

run: tools ## Build and start everything, with private NATS, Postgres and Redis; Ctrl-C stops it
	@cargo build --bin exodrive
	@exec "$(TARGET)/debug/exodrive" up $(ARGS)

# Most tests wait more than they compute, so more of them run at once than there are cores; not so many that their
# connections to the one Postgres run out.
TEST_THREADS ?= $(shell n=$$((2 * $$(nproc))); echo $$((n < 8 ? n : 8)))

test: ## Build and run every test, with real servers; slow ones are named
	@began=$$SECONDS; status=0; \
	{ scripts/bootstrap --tests && cargo build --workspace --bins \
	  && "$(TARGET)/debug/test-servers" \
	     cargo nextest run --workspace --test-threads $(TEST_THREADS) $(ARGS); } \
	  || status=$$?; \
	echo "make test: $$((SECONDS - began)) s"; \
	exit $$status

# The kind of fault of the table: 1 for all, or a name in its first column.
FAULT ?= 1

chaos: ## Cut, delay and lose connections thousands of times, kill and hang servers, fill a disk; prints a table
	@scripts/bootstrap --tests && cargo build --workspace --bins
	@EXODRIVE_CHAOS=$(FAULT) "$(TARGET)/debug/test-servers" \
	  cargo nextest run --workspace --profile chaos --no-capture -E 'test(chaos::) | test(cluster::) | test(full_database::) | test(half_open::)' $(ARGS)

# Of each target.
SECONDS ?= 5

fuzz: ## Look for inputs that break what reads bytes of strangers, SECONDS=5 for each target
	@scripts/fuzz $(SECONDS) $(ARGS)

demo: tools ## A guided tour: fleet, booking, mail, on a running system (starts one if none runs)
	@cargo build --bin exodrive
	@exec "$(TARGET)/debug/exodrive" demo $(ARGS)

bench: tools ## Measure throughput and latency on this machine
	@cargo build --release --workspace --bins
	@cargo build --release --manifest-path bench-cqrs-es/Cargo.toml --target-dir bench-cqrs-es/target
	@exec "$(TARGET)/release/bench" $(ARGS)

check: ## Formatting, lints and documentation, warnings are errors
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

sbom: ## Write what the program is made of (CycloneDX) into target/exodrive.cdx.json
	@mkdir -p "$(TARGET)"
	@scripts/sbom > "$(TARGET)/exodrive.cdx.json.new"
	@mv "$(TARGET)/exodrive.cdx.json.new" "$(TARGET)/exodrive.cdx.json"
	@echo "$(TARGET)/exodrive.cdx.json"

sqlx: tools ## Check the SQL again and rewrite .sqlx
	@scripts/sqlx-prepare

openapi: ## Rewrite api/openapi.json from the code
	@cargo build --bin exodrive
	@"$(TARGET)/debug/exodrive" openapi > api/openapi.json.new
	@mv api/openapi.json.new api/openapi.json

clean: ## Remove the build's output (.exodrive and .tools stay)
	cargo clean
