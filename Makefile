# One target for each task. `make help` lists them.

GO ?= go
GOFUMPT = $(GO) run mvdan.cc/gofumpt@v0.12.0
STATICCHECK = $(GO) run honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOVULNCHECK = $(GO) run golang.org/x/vuln/cmd/govulncheck@v1.9.0
CYCLONEDX = $(GO) run github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod@v1.10.0

# Every module of the repository, the library's own first.
MODULES = $(sort $(dir $(shell find . -name go.mod)))

# Makes `go list` print only the packages that have tests.
TESTED = -f '{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}{{end}}'

# What the tests need besides Go: for each purpose, the commands and the Debian packages that contain them.
RACE = "the race detector" gcc=gcc,libc6-dev
BROWSER = "the browser tests" chromium=chromium,fonts-liberation
PLAYERS = "the player tests" curl=curl wget=wget ffmpeg=ffmpeg
QUERY = "the test of the query on the audit log" jq=jq
FHIR = "the validation of FHIR resources" node=nodejs npm=npm
MODEL = "the model checker" spin=spin gcc=gcc,libc6-dev
READER = "the independent reader of examples/auditor" node=nodejs

.DEFAULT_GOAL := help

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

dev: ## Run the real Vault and MinIO to develop with, until Ctrl-C; their data is kept in recvault-dev
	@$(GO) build -o bin/ ./cmd/recvault
	@bin/recvault dev

test: test-tools servers ## Run every test of every module on real servers, with the race detector
	docs/model/run
	@$(MAKE) --no-print-directory modules

# The tests without the model; TESTFLAGS are more flags of go test.
modules:
	@set -e; for module in $(MODULES); do \
		tested=$$(cd $$module && $(GO) list $(TESTED) ./...); \
		if [ -n "$$tested" ]; then \
			echo "== test $$module"; \
			(cd $$module && RECVAULT_SERVERS=require CGO_ENABLED=1 $(GO) test -race $(TESTFLAGS) -timeout 30m ./...); \
		fi; \
	done
	@echo "== test ./, memory, without the race detector"
	RECVAULT_SERVERS=require $(GO) test $(TESTFLAGS) -run Memory ./storage/...

test-core: ## Run the tests that need nothing but Go
	$(GO) test ./...

browser: browser-tools servers ## Play recordings in a real browser, and re-enact the bug of 2020 there
	cd internal/browser && RECVAULT_SERVERS=require $(GO) test -count=1 ./...

clients: client-tools ## Play recordings with curl, wget and FFmpeg
	RECVAULT_SERVERS=require $(GO) test -count=1 ./internal/clients

interop: ## Write 1,000 recordings with recvault and with two Tinks, and read each with all three
	@cd internal/interop && $(GO) test -c -o ../../bin/interop.test . && ../../bin/interop.test

model: model-tools ## Check the model of rotation, and that the check can fail
	docs/model/run

vectors: vector-tools ## Run the test vectors of the recording format, and random recordings, in every reader
	$(GO) test -count=1 ./internal/vectors
	node examples/auditor/vectors.mjs
	RECVAULT_SERVERS=require $(GO) test -count=1 -run Random ./examples/auditor
	@echo "vectors: 0 differences in recvault's reader and in the auditor's, in 1000 random recordings and in" \
		"$$($(GO) run ./internal/vectors -counts)"

shards: servers ## Rotate with four processes at the same time, and kill two of them
	RECVAULT_SERVERS=require $(GO) test -count=1 -v -run Shards ./examples/rotation

property: servers ## Run puts, rotations and deletions in random order for a minute, and kill workers
	RECVAULT_SERVERS=require RECVAULT_PROPERTY=1m $(GO) test -count=1 -v -run Property ./vault/rotation

incident: servers ## Play an incident on a real Vault, and compare the report with what happened; then report on a log of 1 GiB
	@set -e; log=$$(mktemp); trap 'rm -f "$$log"' EXIT; \
		RECVAULT_SERVERS=require RECVAULT_AUDIT_LOG=1024 $(GO) test -count=1 -v -run Incident ./internal/auditlog >"$$log" || { cat "$$log"; exit 1; }; \
		sed -n 's/^ *[a-z_]*_test\.go:[0-9]*: //p' "$$log"

logins: servers ## Run services for a minute whose own tokens live 5 to 10 seconds
	RECVAULT_SERVERS=require RECVAULT_LOGINS=1m $(GO) test -count=1 -v -run Outlive ./keys/transit/login

service: servers ## Run the example service under load for ten minutes, with tokens that live 10 seconds
	cd examples/service && RECVAULT_SERVERS=require RECVAULT_SERVICE=10m $(GO) test -count=1 -v -timeout 30m -run Load .

lint: ## Check formatting, vet, staticcheck and go.mod in every module, and known vulnerabilities of the library and command
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
	@echo "== vulnerabilities"
	@.ci/vulnerabilities $(GOVULNCHECK)

sbom: ## Write the modules of the library and of the command as CycloneDX, into bin
	@.ci/sbom bin $(CYCLONEDX)

evidence: test-tools servers ## Gather what an auditor attaches to a report, in the folder evidence
	@$(GO) run ./internal/evidence -skip "$(EVIDENCE_SKIP)"

bench: servers ## Compare the speed of recvault, minio-go, tink-go and the standard library, and playback with and without telemetry
	RECVAULT_SERVERS=require $(GO) test ./internal/bench -run '^$$' -bench . -benchtime 1x -timeout 60m
	cd internal/observability && RECVAULT_SERVERS=require $(GO) test -run '^$$' -bench . -benchtime 1x .

servers: ## Build the real Vault, MinIO and versitygw for the tests into the user's cache, if they are missing
	@$(GO) run ./internal/testserver/build

clean: ## Remove the built servers and cached test results
	@$(GO) run ./internal/testserver/build -clean
	$(GO) clean -testcache

test-tools:
	@.ci/need $(RACE) $(BROWSER) $(PLAYERS) $(QUERY) $(FHIR) $(MODEL) $(READER)

browser-tools:
	@.ci/need $(BROWSER)

client-tools:
	@.ci/need $(PLAYERS)

model-tools:
	@.ci/need $(MODEL)

vector-tools:
	@.ci/need $(READER)

# Every target is a task.
.PHONY: $(shell awk -F: '/^[a-z-]+:/ {print $$1}' $(MAKEFILE_LIST))
