// Package upgrade replaces the software of running networks: bodies as separate
// processes on this machine's loopback, of builds that differ. What it tests takes
// minutes, most of them to build, so it runs where CIVIBUS_UPGRADE is set;
// test/fault/run sets it.
package upgrade
