// Package events carries asynchronous messages between bodies: CloudEvents that a
// service publishes on its topics, and that other bodies subscribe to by access right.
//
// A publisher hands events to its own gateway, which answers when they are on its disk
// (the outbox). The subscriber's gateway fetches them in batches, each by an exchange
// like every other: the request asks by the method SUBSCRIBE for what comes after a
// cursor, and thereby acknowledges what came before; the answer is a batch that the
// provider seals, over whose events a salted Merkle tree allows to prove each alone. So
// policy, seals, evidence and receipts are those of exchanges. What arrived is on the
// subscriber's disk (the inbox) before the next request acknowledges it; from there it is
// pushed to a webhook, or fetched, by the body's own system, at its own pace.
//
// Trust: a provider can withhold events that it published, and the subscriber sees no
// more than a cursor that does not move; it cannot deny or change one that it delivered. A
// subscriber that lies about its cursor harms itself only. Whoever controls the files of
// this room can destroy what is not delivered yet; what was delivered is proved by the
// evidence log. The body's own systems are trusted as far as the gateway's client rules
// authenticate them.
package events
