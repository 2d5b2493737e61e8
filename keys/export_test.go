package keys

import (
	"github.com/civibus/civibus/keys/pkcs8"
	"github.com/civibus/civibus/keys/secret"
)

// Changed is the folder of a change of the passphrase that counts.
const Changed = changed

// CheapPassphrase is ReadPassphrase without the cost of a guess.
func CheapPassphrase(source secret.Source) (*Passphrase, error) {
	return readPassphrase(source, pkcs8.Cost{N: 2, R: 8, P: 1})
}

// ChangePassphraseIn is ChangePassphrase with a function that hears of each step.
func ChangePassphraseIn(dir string, old, next *Passphrase, step func(string)) (int, error) {
	return changePassphrase(dir, old, next, step)
}
