package archive

import "io"

// NewReader reads a body from anywhere.
func NewReader(a *Archive, src io.Reader, name string) (io.Reader, error) {
	return a.newReader(src, name)
}
