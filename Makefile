# make help lists the targets.
GO ?= go
TOOL = $(GO) tool -modfile=tools/go.mod
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS = -s -w -X main.version=$(VERSION)

.DEFAULT_GOAL := build

## build: bin/dominion, and bin/provisiond for initial file systems
.PHONY: build
build:
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/dominion ./cmd/dominion
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w' -o bin/provisiond ./cmd/provisiond

## demo: an overlord and 12 minions on this machine, until Ctrl-C
.PHONY: demo
demo: build
	@exec bin/dominion demo

## test: everything that must hold before a change lands
.PHONY: test
test: setup vet unit fleet test-boot fuzz-short
	@cat .test/summary

## setup: what the tests need beyond Go (Debian packages, when root)
.PHONY: setup
setup:
	@mkdir -p .test && rm -f .test/summary
	@tools/setup.sh

## vet: go vet, staticcheck and formatting
.PHONY: vet
vet:
	$(GO) vet ./...
	$(GO) vet -tags fleet ./...
	$(GO) vet -tags soak ./fleettest/
	$(GO) vet -tags bench ./confd/ ./delegation/ ./fleettest/ ./nodescript/ ./overlord/ ./store/
	$(GO) vet -tags faults ./session/
	$(GO) vet -tags boottest ./boot/
	$(TOOL) staticcheck ./...
	@out=$$(git ls-files '*.go' | grep -v '\.pb\.go$$\|\.connect\.go$$' | xargs $(TOOL) gofumpt -l); \
	  if [ -n "$$out" ]; then echo "gofumpt would change:"; echo "$$out"; exit 1; fi

## unit: all tests that need neither root nor many processes, under the race detector
.PHONY: unit
unit:
	@tools/testrun.sh unit -race -timeout 10m ./...
	@tools/testrun.sh faults -race -tags faults -run TestFaults ./session/

# The program of the fault tests: it drops and doubles answers when it is told to.
.PHONY: build-faults
build-faults:
	CGO_ENABLED=0 $(GO) build -trimpath -tags faults -o bin/dominion-faults ./cmd/dominion

## fleet: tests with whole fleets of processes, with a binary built without the race detector
.PHONY: fleet
fleet: build build-faults
	@DOMINION_BINARY=$(CURDIR)/bin/dominion DOMINION_FAULTS_BINARY=$(CURDIR)/bin/dominion-faults tools/testrun.sh fleet -tags fleet -run 'Fleet' -timeout 10m ./...

## test-boot: virtual machines boot from an overlord (Debian packages and a kernel, when root)
.PHONY: test-boot
test-boot: setup build
	@tools/setup-boot.sh .test/boot
	@DOMINION_BINARY=$(CURDIR)/bin/dominion DOMINION_BOOT_KERNEL=$(CURDIR)/.test/boot/kernel tools/testrun.sh boot -tags boottest -run TestBoot -count=1 -timeout 10m ./boot/
	@sed -n 's/.*: *\([^ ]* answers a call .*button\).*/boot: \1/p' .test/boot.json | tee -a .test/summary

## soak: 200 machines, 20 orders, and 40 by the map, everything breaks meanwhile (three quarters of an hour; DOMINION_SEED repeats a run)
.PHONY: soak
soak: build-faults
	DOMINION_FAULTS_BINARY=$(CURDIR)/bin/dominion-faults $(GO) test -tags soak -run Soak -count=1 -v -timeout 90m ./fleettest/

## fuzz-short: up to 10 s of each fuzz test, 3 minutes in all
.PHONY: fuzz-short
fuzz-short:
	@tools/fuzz.sh 10 180

## fuzz: 60 s of each fuzz test
.PHONY: fuzz
fuzz:
	@tools/fuzz.sh 60 0

## bench: every budget beside its measured figure
.PHONY: bench
bench: build
	@DOMINION_BINARY=$(CURDIR)/bin/dominion $(GO) test -tags bench -run TestBudgets -count=1 -v -timeout 30m ./confd/ ./delegation/ ./fleettest/ ./nodescript/ ./overlord/ ./store/

## lint: golangci-lint with the rules of .golangci.yml
.PHONY: lint
lint:
	$(GO) tool -modfile=tools/lint/go.mod golangci-lint run ./...

## generate: the code of api/*.proto (needs protoc), and docs/modules from the schemas
.PHONY: generate
generate:
	api/generate.sh
	$(GO) test ./module -run TestDocs -count=1 -update

## help: this list
.PHONY: help
help:
	@sed -n 's/^## //p' Makefile
