// Package examples has the first definitions of processes: the birth of a child,
// moving house, and an application for asylum with a local variant. They are models:
// the acts that they cite stand for those of a country, and who uses one adapts it.
//
// Trust: none is needed; a definition is checked like anybody's.
package examples

import "embed"

// Files are the definitions, one YAML file each.
//
//go:embed *.yaml
var Files embed.FS
