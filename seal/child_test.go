package seal_test

// childMain is what the test binary does when a test starts it as another
// process; it reports whether it was.
func childMain() bool { return replayChild() }
