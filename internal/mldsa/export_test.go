package mldsa

// SignDeterministically makes the signatures that vectors hold.
func (k *PrivateKey) SignDeterministically(message []byte) ([]byte, error) {
	return k.sign(message, false)
}
