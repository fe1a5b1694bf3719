# What is done with this repository. `make help` lists it.

SHELL       := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS   += --no-print-directory

GO      ?= go
BIN     := bin
TAGS    := nomsgpack
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
CACHE   := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/interrex

# Built without cgo, so that one binary runs on every Linux; the version comes
# from git once, here, so that two builds of a commit are the same.
BUILD := CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -tags $(TAGS) -ldflags '-s -w -X main.version=$(VERSION)'

# What is linted is compiled like that, so that one compilation does for both.
AS_BUILT := CGO_ENABLED=0 GOFLAGS="$${GOFLAGS:-} -trimpath"

# The deployment files are run through the real supervisord and systemd-analyze
# where these are installed; .ci/run installs them.
comma  := ,
DEPLOY := $(and $(shell command -v supervisord),$(shell command -v systemd-analyze))
TEST_TAGS := $(TAGS)$(if $(DEPLOY),$(comma)deploy)

# What is tested, and how else: make test PKG=./router/... ARGS='-run Hold -v'
PKG  ?= ./...
ARGS ?=
# Packages with whole clusters run one after the other, behind all others: side by
# side, the agents of a slow machine do not get the time to answer each other,
# and are right to move the primary.
CLUSTERS := ./cmd/interrex ./internal/acceptance ./internal/acceptance/cutoff
GO_TEST  = $(GO) test -race -tags $(TEST_TAGS) $(FAST) -timeout 60m $(ARGS)
# How often make bench kills the primary, and the file it writes its tables to;
# the folder that make chaos keeps (default: a temporary one, kept if something
# is found).
KILLS ?= 20
OUT   ?=

# Thirty test programs are linked in a quarter of the time without the tables for
# debuggers (traces and races need none); make lint vets.
FAST := -buildvcs=false -ldflags=-w -vet=off

LINT_VERSION := v2.15.0
LINT := $(CACHE)/tools/golangci-lint-$(LINT_VERSION)

.PHONY: help
help: ## List what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: build ## Kill the primary of three real servers under load and watch it fail over
	./$(BIN)/interrex demo

.PHONY: build
build: ## Build bin/interrex and bin/demoapp
	$(BUILD) -o $(BIN)/ ./cmd/interrex ./cmd/demoapp

.PHONY: fetch
fetch: build ## Fetch the servers that demo and tests run, once
	./$(BIN)/interrex sandbox fetch

.PHONY: test
test: need-cc fetch ## Run every test with the race detector, on real servers (PKG=, ARGS=)
	$(if $(DEPLOY),,@echo 'make test: docs/deploy is left out: install supervisor and systemd to test it too')
ifeq ($(PKG),./...)
	status=0; \
	$(GO_TEST) -p 2 $$($(GO) list -tags $(TEST_TAGS) ./... | grep -vxF "$$($(GO) list $(CLUSTERS))") || status=1; \
	$(GO_TEST) -p 1 $(CLUSTERS) || status=1; \
	exit $$status
else
	$(GO_TEST) -p 1 $(PKG)
endif

# Rounds of soak-failover and of detection.
ROUNDS ?= 20

.PHONY: soak-failover
soak-failover: fetch ## Kill and switch over under load, ROUNDS times, then a minute without etcd; count the rows
	$(GO) test -tags $(TAGS) -buildvcs=false -count=1 -v -timeout 2h -run '^(TestAlternatingKillsAndSwitchovers|TestEtcdGone)$$' ./internal/acceptance -args -rounds $(ROUNDS) -etcd-gone 1m -pause 2ms

.PHONY: detection
detection: fetch ## Make each fault of a real server, and silence a host, ROUNDS=20 times; print from fault to verdict against the bars
	CI=1 $(GO) test -tags $(TAGS) -buildvcs=false -count=1 -v -timeout 3h -run '^TestFaultsOfARealServerAreDeclared$$' ./cmd/interrex -args -rounds $(ROUNDS)
	CI=1 $(GO) test -tags $(TAGS) -buildvcs=false -count=1 -v -timeout 3h -run '^TestSilentHost$$' ./internal/acceptance/cutoff -args -rounds $(ROUNDS)

# How long soak keeps each of its noises up, and which of them (a pattern).
NOISE  ?= 30m
NOISES ?= ^(5_%_|four_|pauses_|connections_|large_|replicas_|agents_)

.PHONY: soak
soak: fetch ## Make all kinds of noise for NOISE=30m each under load, 3.5 h in all (NOISES=pauses): nobody may be failed over
	$(GO) test -tags $(TAGS) -buildvcs=false -count=1 -v -timeout 24h -p 1 -run '^(TestW9BadNetwork|TestNoiseMovesNobody)$$/$(NOISES)' ./internal/acceptance/... -args -noise $(NOISE)

# How long faults are struck, and what chooses them (default: drawn, and printed).
DURATION ?= 5m
SEED     ?=

.PHONY: chaos
chaos: fetch ## Break a real cluster at random under load, and check every answer (DURATION=, SEED=, OUT=)
	$(GO) run -tags $(TAGS) -buildvcs=false ./cmd/chaos -duration $(DURATION) -revision '$(VERSION)' $(if $(SEED),-seed $(SEED)) $(if $(OUT),-o '$(OUT)') $(ARGS)

# Seeds of sim, from SEED on (any, if none is named), processes to run them in,
# whether to print everything, and how many to run twice instead.
SEEDS   ?= 1000
WORKERS ?= $(shell nproc)
WORDS   ?=
REPLAY  ?=

.PHONY: sim
sim: ## Run the agents under simulated faults: SEEDS= schedules from SEED= on (WORDS=1: print one; REPLAY=: compare the traces of so many)
	@mkdir -p $(BIN)
	$(GO) test -c -tags $(TAGS) -buildvcs=false -o $(BIN)/sim.test ./internal/sim
	cd internal/sim && ../../$(BIN)/sim.test -test.run '^$(if $(REPLAY),TestReplay,TestSeeds)$$' -test.v -test.timeout 24h -seeds $(SEEDS) $(if $(REPLAY),-replays $(REPLAY)) -seed $(or $(SEED),0) $(if $(WORDS),-words,-workers $(WORKERS))

.PHONY: need-cc
need-cc:
	@command -v $$($(GO) env CC) >/dev/null || { echo 'make test: the race detector needs a C compiler: apt-get install gcc libc6-dev' >&2; exit 1; }

.PHONY: bench
bench: fetch ## Run the benchmarks, then kill primaries and measure (KILLS=, OUT=docs/benchmarks.md)
	$(GO) test -tags $(TAGS) -buildvcs=false -run '^$$' -bench . -benchmem -timeout 60m -p 1 $(ARGS) $(PKG)
	$(GO) run -tags $(TAGS) -buildvcs=false ./cmd/bench -interrex $(BIN)/interrex -revision '$(VERSION)' -kills $(KILLS) $(if $(OUT),-o '$(OUT)')

# How much of the model: all, quick or short.
SHARE ?= all

.PHONY: model
model: ## Check the model of the failover protocol with SPIN, and that its mutants are caught (SHARE=short)
	nice -n 15 ./docs/model/run.sh $(SHARE)

# Which rows faults runs, a pattern.
ROWS ?= .*

.PHONY: faults
faults: fetch ## Run the tests that docs/faults.md names (ROWS='M11|E.*'), and write down there how they ended
	$(GO) test -tags $(TAGS) -buildvcs=false -count=1 -v -timeout 2h -run '^TestFaults$$' ./docs -args -run-faults -rows '$(ROWS)' -revision '$(VERSION)'

.PHONY: lint
lint: $(LINT) ## Check format, vet, and the house rules
	@unformatted=$$(gofmt -l $$(git ls-files --cached --others --exclude-standard '*.go')); \
	  [ -z "$$unformatted" ] || { echo "not formatted (gofmt -w):" $$unformatted >&2; exit 1; }
	$(AS_BUILT) $(GO) vet -tags $(TAGS),deploy ./...
	$(AS_BUILT) $(LINT) run --timeout 15m $(PKG)

$(LINT):
	@echo 'building golangci-lint $(LINT_VERSION), once'
	@mkdir -p $(dir $@)build
	GOBIN=$(abspath $(dir $@)build) GOFLAGS= $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(LINT_VERSION)
	@mv $(dir $@)build/golangci-lint $@

.PHONY: docs
docs: ## Write the generated pages of docs anew
	$(GO) run -tags $(TAGS) -buildvcs=false ./cmd/interrex config reference > docs/configuration.md.new
	mv docs/configuration.md.new docs/configuration.md

.PHONY: clean
clean: ## Remove what was built
	rm -rf $(BIN)
