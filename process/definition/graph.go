package definition

// Before are the steps that are needed, all of them or some, as they are written.
func (n *Needs) Before() []string {
	if n == nil {
		return nil
	}
	switch {
	case len(n.All) > 0:
		return n.All
	case len(n.Any) > 0:
		return n.Any
	}
	return n.Steps
}

// count is how many of the steps must be done.
func (n *Needs) count() int {
	switch {
	case n == nil:
		return 0
	case len(n.Any) > 0:
		return 1
	case n.Of > 0:
		return n.Of
	}
	return 0 // all that are not skipped
}

// order sorts the steps so that each comes after those it needs. A cycle is returned
// as the steps on it.
func order(steps []Step, index map[string]int) (sorted []int, cycle []string) {
	const (
		unseen = iota
		open
		done
	)
	state := make([]int, len(steps))
	var path []int
	var visit func(i int) bool
	visit = func(i int) bool {
		switch state[i] {
		case done:
			return true
		case open:
			for at := len(path) - 1; at >= 0; at-- {
				cycle = append(cycle, steps[path[at]].ID)
				if path[at] == i {
					break
				}
			}
			return false
		}
		state[i], path = open, append(path, i)
		for _, before := range steps[i].Needs.Before() {
			if j, ok := index[before]; ok && !visit(j) {
				return false
			}
		}
		state[i], path = done, path[:len(path)-1]
		sorted = append(sorted, i)
		return true
	}
	for i := range steps {
		if !visit(i) {
			return nil, cycle
		}
	}
	return sorted, nil
}

// bits is a set of steps.
type bits [MaxSteps / 64]uint64

func (b *bits) add(i int)      { b[i/64] |= 1 << (i % 64) }
func (b *bits) has(i int) bool { return b[i/64]>>(i%64)&1 == 1 }
func (b *bits) join(o *bits) {
	for i := range b {
		b[i] |= o[i]
	}
}

// ancestors are, for each step, all that come before it.
func ancestors(steps []Step, index map[string]int, sorted []int) []bits {
	out := make([]bits, len(steps))
	for _, i := range sorted {
		for _, before := range steps[i].Needs.Before() {
			j := index[before]
			out[i].add(j)
			out[i].join(&out[j])
		}
	}
	return out
}
