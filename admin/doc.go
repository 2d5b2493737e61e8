// Package admin is the administration interface of a node: HTTP over a Unix
// socket that only the node's user can open, its server and its client. The
// civibus commands are clients of it; openapi.yaml describes it.
//
// Trust: whoever can open the socket administers the body: changes that the
// body may make in the registry are signed with its admin key. An attacker who
// controls a request's content can at most have it refused; no private key and
// no body of an exchange ever crosses this interface.
package admin
