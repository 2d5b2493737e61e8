//go:build pkcs11 && cgo

package pkcs11

import (
	"errors"
	"fmt"
	"sync"

	p11 "github.com/miekg/pkcs11"
)

// library is a PKCS#11 library in this process. The standard knows one
// initialisation for a process, so all modules of one path share it.
type library struct {
	path string

	mu         sync.RWMutex // held shared while a call is made, alone to initialise
	ctx        *p11.Ctx
	users      int
	generation uint64 // counts initialisations: sessions of an older one are gone
}

// libraries are those that were loaded. They stay loaded, since many do not
// survive being unloaded.
var libraries struct {
	mu     sync.Mutex
	byPath map[string]*library
}

// openLibrary loads and initialises the library at path, or joins its users.
func openLibrary(path string) (*library, error) {
	libraries.mu.Lock()
	defer libraries.mu.Unlock()
	l := libraries.byPath[path]
	if l == nil {
		ctx := p11.New(path)
		if ctx == nil {
			return nil, fmt.Errorf("load PKCS#11 module %s: it is missing or no PKCS#11 library for this machine", path)
		}
		l = &library{path: path, ctx: ctx}
		if libraries.byPath == nil {
			libraries.byPath = make(map[string]*library)
		}
		libraries.byPath[path] = l
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.users == 0 {
		if err := l.initialise(); err != nil {
			return nil, err
		}
	}
	l.users++
	return l, nil
}

func (l *library) initialise() error {
	if err := l.ctx.Initialize(); err != nil && !errors.Is(err, p11.Error(p11.CKR_CRYPTOKI_ALREADY_INITIALIZED)) {
		return fmt.Errorf("initialise PKCS#11 module %s: %w", l.path, err)
	}
	l.generation++
	return nil
}

// again initialises the library anew, unless somebody did so since generation.
// Many libraries look for tokens at this time only.
func (l *library) again(generation uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.generation != generation {
		return nil
	}
	_ = l.ctx.Finalize() // it may have lost its initialisation with the token
	return l.initialise()
}

func (l *library) close() error {
	libraries.mu.Lock()
	defer libraries.mu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.users--
	if l.users > 0 {
		return nil
	}
	if err := l.ctx.Finalize(); err != nil && !errors.Is(err, p11.Error(p11.CKR_CRYPTOKI_NOT_INITIALIZED)) {
		return fmt.Errorf("finalise PKCS#11 module %s: %w", l.path, err)
	}
	return nil
}
