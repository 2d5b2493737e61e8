package ledger_test

func childMain() int { return 0 }
