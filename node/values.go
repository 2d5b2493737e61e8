package node

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Duration is a time.Duration that is written as "1m30s" in the file.
type Duration time.Duration

// MarshalText writes Go's form without zero tail units.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// String returns the shortest of Go's forms, e.g. 5m and not 5m0s.
func (d Duration) String() string {
	s := time.Duration(d).String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// UnmarshalText reads Go's form; "7d" is days.
func (d *Duration) UnmarshalText(text []byte) error {
	s := string(text)
	if days, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.Atoi(days)
		if err == nil && n >= 0 && n <= 36500 {
			*d = Duration(time.Duration(n) * 24 * time.Hour)
			return nil
		}
	}
	v, err := time.ParseDuration(s)
	if err != nil {
		return fmt.Errorf("duration %q: the rule is a number and a unit, e.g. 500ms, 30s, 5m, 12h or 30d", s)
	}
	*d = Duration(v)
	return nil
}

// Limit is a Duration that bounds something and that can be set to "0s", which is
// no bound and not the default.
type Limit time.Duration

// NoLimit is what "0s" in the file stands for.
const NoLimit Limit = -1

// Duration returns the bound, 0 if there is none.
func (l Limit) Duration() time.Duration { return max(time.Duration(l), 0) }

// MarshalText writes the form of the file.
func (l Limit) MarshalText() ([]byte, error) { return Duration(l.Duration()).MarshalText() }

// String returns the form of the file.
func (l Limit) String() string { return Duration(l.Duration()).String() }

// UnmarshalText reads a Duration, of which zero is no bound.
func (l *Limit) UnmarshalText(text []byte) error {
	var d Duration
	if err := d.UnmarshalText(text); err != nil {
		return err
	}
	if *l = Limit(d); d == 0 {
		*l = NoLimit
	}
	if d < 0 {
		return fmt.Errorf("duration %q: the rule is 0s, which is no limit, or more", text)
	}
	return nil
}

// Size is a number of bytes that is written as "1MiB" in the file.
type Size int64

var sizeUnits = []struct {
	name string
	size int64
}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"B", 1}}

// MarshalText writes the largest unit that divides the size.
func (s Size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// String returns the form of the file.
func (s Size) String() string {
	for _, u := range sizeUnits {
		if s != 0 && int64(s)%u.size == 0 {
			return strconv.FormatInt(int64(s)/u.size, 10) + u.name
		}
	}
	return "0B"
}

// UnmarshalText reads a number with a unit B, KiB, MiB or GiB.
func (s *Size) UnmarshalText(text []byte) error {
	in := string(text)
	for _, u := range sizeUnits {
		digits, ok := strings.CutSuffix(in, u.name)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(digits, 10, 64)
		if err != nil || n < 0 || n > math.MaxInt64/u.size {
			break
		}
		*s = Size(n * u.size)
		return nil
	}
	return fmt.Errorf("size %q: the rule is a number and a unit, e.g. 512KiB, 1MiB or 2GiB", in)
}
