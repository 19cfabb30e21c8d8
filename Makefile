# One target for each thing that people do here. `make help` lists them.

GO ?= go
GOFUMPT = $(GO) run mvdan.cc/gofumpt@v0.12.0
STATICCHECK = $(GO) run honnef.co/go/tools/cmd/staticcheck@v0.8.2

# Every module of the repository, the library's own first.
MODULES = $(sort $(dir $(shell find . -name go.mod)))

# What `go list` prints for packages that have tests.
TESTED = -f '{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}{{end}}'

.DEFAULT_GOAL := help

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

test: servers race-tools browser-tools client-tools model ## Run every test of every module on real servers, with the race detector
	@set -e; for module in $(MODULES); do \
		tested=$$(cd $$module && $(GO) list $(TESTED) ./...); \
		if [ -n "$$tested" ]; then \
			echo "== test $$module"; \
			(cd $$module && RECVAULT_SERVERS=require CGO_ENABLED=1 $(GO) test -race -timeout 30m ./...); \
		fi; \
	done
	@echo "== test ./, what the race detector would distort"
	RECVAULT_SERVERS=require $(GO) test -run Memory ./storage/...

test-core: ## Run the tests that need nothing but Go
	$(GO) test ./...

browser: servers browser-tools ## Play recordings in a real browser, and re-enact the bug of 2020 there
	cd internal/browser && RECVAULT_SERVERS=require $(GO) test -count=1 ./...

clients: client-tools ## Play recordings with curl and ffmpeg
	RECVAULT_SERVERS=require $(GO) test -count=1 ./internal/clients

model: model-tools ## Check the model of rotation, and that the check can fail
	docs/model/run

shards: servers ## Rotate with four processes at once, two of which are killed
	RECVAULT_SERVERS=require $(GO) test -count=1 -v -run Shards ./examples/rotation

property: servers ## Interleave puts, rotations and deletions at random, with workers killed, for a minute
	RECVAULT_SERVERS=require RECVAULT_PROPERTY=1m $(GO) test -count=1 -v -run Property ./vault/rotation

lint: ## Check formatting, vet, staticcheck and go.mod in every module
	@unformatted=$$($(GOFUMPT) -l .); \
		if [ -n "$$unformatted" ]; then echo "not gofumpt-formatted:"; echo "$$unformatted"; exit 1; fi
	@set -e; for module in $(MODULES); do \
		echo "== lint $$module"; \
		(cd $$module && $(GO) mod tidy -diff); \
		packages=$$(cd $$module && $(GO) list ./...); \
		if [ -n "$$packages" ]; then \
			(cd $$module && $(GO) vet ./... && $(STATICCHECK) ./...); \
		fi; \
	done

bench: servers ## Measure recvault against minio-go, tink-go and the standard library, side by side
	RECVAULT_SERVERS=require $(GO) test ./internal/bench -run '^$$' -bench . -benchtime 1x -timeout 60m

servers: ## Build the real Vault and MinIO for the tests, once, into the user's cache
	@$(GO) run ./internal/testserver/build

clean: ## Remove the built servers and cached test results
	@$(GO) run ./internal/testserver/build -clean
	$(GO) clean -testcache

race-tools:
	@.ci/need gcc gcc libc6-dev

browser-tools:
	@.ci/need chromium chromium fonts-liberation

model-tools:
	@.ci/need spin spin
	@.ci/need gcc gcc libc6-dev

client-tools:
	@.ci/need curl curl
	@.ci/need wget wget
	@.ci/need ffmpeg ffmpeg

.PHONY: help test test-core browser clients model shards property lint bench servers clean \
	race-tools browser-tools client-tools model-tools
