package main

import (
	"context"
	"errors"
)

func startCivibus(ctx context.Context, b *bench) (*variant, error) { return nil, errors.New("x") }
