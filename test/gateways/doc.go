// Package gateways tests a body's several gateways as processes of their own: what
// clients see and what evidence holds when one of them is killed under load.
//
// Trust: nothing here is for production; it only tests.
package gateways
