GO        ?= go
FUZZTIME  ?= 30s
DURATION  ?= 10m
SEED      ?= 0
PLATFORMS := linux/amd64 linux/arm64 darwin/amd64 darwin/arm64 windows/amd64 windows/arm64
# The root module, and examples whose dependencies are kept out of it.
MODULES   := . $(patsubst %/go.mod,%,$(wildcard examples/*/go.mod))
# The tests run with the race detector. What else compiles does so too, to share
# their build cache: a cold one is most of the time that "make test" takes.
RACE      := -race
# gofmt of the toolchain that go.mod selects, which is not always the one on PATH.
GOFMT      = "$$($(GO) env GOROOT)/bin/gofmt"

.PHONY: help demo test test-full setup format tidy vet lint build generate bench soak fuzz clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-10s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## set up what is missing and run the quickstart
	@scripts/setup
	$(GO) run ./examples/quickstart

test: setup format tidy vet lint build ## set up what is missing, check everything, run the tests
	@set -e; for m in $(MODULES); do echo "go test $(RACE) -short ./... in $$m"; $(GO) test -C $$m $(RACE) -short -vet=off -parallel 4 -timeout 20m ./...; done

# -short does the same with fewer rounds in the few tests that take minutes.
test-full: setup ## run the tests with all their rounds
	@set -e; for m in $(MODULES); do $(GO) test -C $$m $(RACE) -timeout 30m ./...; done

setup: ## install what the tests need (Go itself excepted)
	@scripts/setup cc

format: ## fail on files that gofmt would change
	@files=$$($(GOFMT) -l .) || exit 1; \
	[ -z "$$files" ] || { printf 'not formatted; run gofmt -w on:\n%s\n' "$$files" >&2; exit 1; }

# Not in examples/ecosystem, where tidying fetches what the tests of its dependencies' dependencies
# need: a Docker client, several databases.
tidy: ## fail when a go.mod or go.sum is not what go mod tidy makes
	@set -e; for m in . tools; do $(GO) mod tidy -C $$m -diff; done

vet: ## go vet in every module
	@set -e; for m in $(MODULES); do $(GO) vet -C $$m $(RACE) ./...; done
	@$(GO) vet -C tools ./...

lint: bin/staticcheck ## staticcheck in every module
	@set -e; for m in $(MODULES); do (cd $$m && GOFLAGS="$$($(GO) env GOFLAGS) $(RACE)" "$(CURDIR)/bin/staticcheck" ./...); done
	@cd tools && ../bin/staticcheck ./...

# tools is a module of its own: staticcheck needs a newer Go than the library does.
bin/staticcheck: tools/go.mod tools/go.sum
	$(GO) build -C tools -o ../$@ honnef.co/go/tools/cmd/staticcheck

bin/compiles: tools/go.mod tools/go.sum tools/compiles/main.go
	$(GO) build -C tools -o ../$@ ./compiles

# A go build of six platforms from nothing takes ten minutes on two cores; checking all packages and
# tests from source finds the same errors. Here the tests build everything for real.
build: bin/compiles ## check that everything compiles on every platform
	@bin/compiles $(PLATFORMS)

generate: ## make the generated code of the examples again (fetches sqlc; takes minutes at first)
	cd examples/ecosystem && $(GO) generate ./...

bench: setup ## measure what is claimed, side by side; bench.json is for machines
	$(GO) run ./bench -json bench.json

soak: setup ## read and write under every fault for DURATION (10m), from SEED (a new one)
	$(GO) test $(RACE) -run '^TestSoak$$' -v -timeout 0 . ./dsqlproxy -soak.duration $(DURATION) -soak.seed $(SEED)

fuzz: ## run every fuzz target for FUZZTIME (30s), and name those that failed
	@failed=; for pkg in $$($(GO) list ./...); do \
		targets=$$($(GO) test -list '^Fuzz' $$pkg) || exit 1; \
		for f in $$(printf '%s\n' "$$targets" | sed -n '/^Fuzz/p'); do \
			echo "$$pkg $$f"; \
			$(GO) test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) $$pkg || failed="$$failed $$f"; \
		done; done; \
	[ -z "$$failed" ] || { echo "failed:$$failed" >&2; exit 1; }

clean: ## remove what the targets built
	rm -rf bin bench.json
