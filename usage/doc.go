// Package usage keeps what a citizen is shown of who used her data: one record for each
// exchange under a right that concerns persons (spec/usage.md).
//
// The path of one record:
//
//  1. The provider's gateway finds the person, by the consumer's word or by the body's
//     own rule (Keeper.Subject), or refuses the exchange before the service is called.
//  2. It makes the record with a fresh salt, puts the commitment into the evidence record,
//     and hands both to the evidence log, which makes them durable by one write.
//  3. Store follows the evidence log and keeps an index by person, from which nobody finds
//     a person without the body's key. It is derived: lost, it is built again.
//  4. Store.Sum closes a period: the count of each class and the root over the
//     commitments, which the registry anchors. API answers portals.
//
// Trust: the consumer is believed about whom it asks for where the provider has no rule of
// its own. An attacker who controls the store's directory reads who was asked about under
// which pseudonym, and can destroy the index, which then is built from the evidence log;
// one who also has the body's key can tell whether somebody whom he names was asked about.
// One who controls the process can leave records out: the anchored periods show that.
package usage
