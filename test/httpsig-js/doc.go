// Package httpsigjs cross-checks seals with two independent implementations
// of RFC 9421 in JavaScript; it has only tests.
//
// Trust: nothing here is part of the product. The two packages are run on
// messages made for the test and see no keys but the test's.
package httpsigjs
