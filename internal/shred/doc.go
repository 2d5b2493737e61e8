// Package shred keeps the keys of things that must be erasable one by one, wherever
// copies of them are: each thing is sealed under a key of its own, and destroying that
// key erases every copy of the thing, in backups and on disks that keep old blocks too.
//
// The keys are the leaves of a binary tree of seeds (Goldreich, Goldwasser, Micali: How
// to construct random functions, J. ACM 1986): a seed gives those of its two halves by
// SHA-256. At first there is one seed, of which all 2^64 keys follow. To destroy a key is
// to replace the seed above it by those of the branches beside its way down (a puncturable
// pseudorandom function: Boneh and Waters 2013; Kiayias et al. 2013). So the file grows
// with what was erased and never with what is kept, an old copy of it opens what was
// sealed later, and a newer copy opens what is in an older backup, but for what was erased.
//
// Trust: whoever reads the file opens everything that is sealed and not erased. Whoever
// keeps an old copy of the file opens what was erased since: copies are replaced when
// something was erased, and there should be few. That the file system and the medium let
// the overwritten file go is beyond this package.
package shred
