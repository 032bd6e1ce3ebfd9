#!/bin/sh
# Regenerates the Go code beside each .proto file. Needs protoc (Debian: protobuf-compiler).
set -eu
cd "$(dirname "$0")/.."
bin=$(mktemp -d)
trap 'rm -rf "$bin"' EXIT
go build -modfile=tools/go.mod -o "$bin/" google.golang.org/protobuf/cmd/protoc-gen-go connectrpc.com/connect/cmd/protoc-gen-connect-go
PATH="$bin:$PATH" protoc -I api --go_out=api --go_opt=paths=source_relative fleetpb/fleet.proto auditpb/audit.proto apipb/api.proto apipb/node.proto
PATH="$bin:$PATH" protoc -I api --connect-go_out=api --connect-go_opt=paths=source_relative apipb/api.proto apipb/node.proto
