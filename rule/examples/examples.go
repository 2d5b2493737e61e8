// Package examples holds rules that are complete, with examples of what they say, to
// begin from.
//
// Trust: it holds files and decides nothing.
package examples

import "embed"

// Files are the examples: NAME.yaml with NAME.cases.yaml.
//
//go:embed *.yaml
var Files embed.FS
