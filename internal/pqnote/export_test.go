package pqnote

import "github.com/civibus/civibus"

// Belongs reports whether a signature line, with or without its newline, says
// that it is the key's under a name.
func Belongs(line, name string, key civibus.PublicKey) bool {
	_, ok := open(line, name, key)
	return ok
}
