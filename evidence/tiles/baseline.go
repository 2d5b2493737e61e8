package tiles

import (
	"context"
	"fmt"

	"github.com/transparency-dev/tessera/client"
)

// TesseraProofs returns a function that builds the inclusion proof of a leaf
// with Tessera's own builder. bench/evidence compares Tree with it.
func TesseraProofs(dir string, size uint64) (func(index uint64) error, error) {
	ctx := context.Background()
	fetcher := client.FileFetcher{Root: dir}
	builder, err := client.NewProofBuilder(ctx, size, fetcher.ReadTile)
	if err != nil {
		return nil, fmt.Errorf("proof builder: %w", err)
	}
	return func(index uint64) error {
		_, err := builder.InclusionProof(ctx, index)
		return err
	}, nil
}
