package tiles

// ParseBundle splits a bundle into its entries.
func ParseBundle(raw []byte) ([][]byte, error) { return parseBundle(raw) }
