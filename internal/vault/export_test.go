package vault

// OnStep has fn called while an erasure goes on, to copy what a crash would leave.
func (d *DB) OnStep(fn func(step string)) { d.step = fn }
