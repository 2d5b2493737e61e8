#!/bin/sh
# Regenerates the Go code of one .proto file with the plugin that tools.mod pins.
# usage: protoc.sh FILE (relative to the repository's root)
set -eu
cd "$(dirname "$0")/../.."
plugin=$(go tool -modfile=tools.mod -n protoc-gen-go)
exec protoc --plugin=protoc-gen-go="$plugin" --go_out=. --go_opt=paths=source_relative "$1"
