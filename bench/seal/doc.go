// Package seal holds the benchmarks of the seal: go test -bench . ./bench/seal
//
// Trust: nothing here is part of the product; it can at most report wrong
// figures.
package seal
