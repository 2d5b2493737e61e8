// Package gateways tests bodies whose gateways are processes of their own: what clients
// see and what evidence holds when one of several is killed under load, and what
// becomes of processes that run at several bodies while one after the other is killed.
//
// Trust: nothing here is for production; it only tests.
package gateways
