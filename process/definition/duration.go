package definition

import (
	"encoding/json"
	"fmt"
	"strconv"
	"time"
)

// Duration is a length of time, written as ISO 8601 does with days, hours, minutes
// and seconds ("P3D", "PT12H"); a day has 24 hours.
type Duration time.Duration

var units = []struct {
	letter byte
	length time.Duration
	time   bool // after the T
}{{'D', 24 * time.Hour, false}, {'H', time.Hour, true}, {'M', time.Minute, true}, {'S', time.Second, true}}

// ParseDuration reads the one shortest form of a duration.
func ParseDuration(s string) (Duration, error) {
	bad := fmt.Errorf("duration %.40q, the rule is ISO 8601 with D, H, M and S, such as P3D or PT12H", s)
	if len(s) < 3 || s[0] != 'P' || len(s) > 32 {
		return 0, bad
	}
	var sum time.Duration
	rest, unit, inTime := s[1:], 0, false
	for rest != "" {
		if rest[0] == 'T' && !inTime {
			rest, inTime = rest[1:], true
			continue
		}
		digits := 0
		for digits < len(rest) && rest[digits] >= '0' && rest[digits] <= '9' {
			digits++
		}
		n, err := strconv.ParseUint(rest[:digits], 10, 20)
		if err != nil || digits == len(rest) {
			return 0, bad
		}
		for unit < len(units) && (units[unit].letter != rest[digits] || units[unit].time != inTime) {
			unit++
		}
		if unit == len(units) {
			return 0, bad
		}
		sum += time.Duration(n) * units[unit].length
		rest = rest[digits+1:]
		unit++
	}
	if d := Duration(sum); d.String() == s {
		return d, nil
	}
	return 0, fmt.Errorf("duration %.40q, the shortest form is %q", s, Duration(sum))
}

// String writes the shortest form.
func (d Duration) String() string {
	rest := time.Duration(d)
	if rest <= 0 {
		return "PT0S"
	}
	out, inTime := "P", false
	for _, u := range units {
		n := rest / u.length
		if n == 0 {
			continue
		}
		if u.time && !inTime {
			out, inTime = out+"T", true
		}
		out += strconv.FormatInt(int64(n), 10) + string(u.letter)
		rest -= n * u.length
	}
	return out
}

// MarshalJSON writes the shortest form.
func (d Duration) MarshalJSON() ([]byte, error) { return json.Marshal(d.String()) }

// UnmarshalJSON reads it.
func (d *Duration) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	var err error
	*d, err = ParseDuration(s)
	return err
}

// MarshalYAML writes the shortest form.
func (d Duration) MarshalYAML() (any, error) { return d.String(), nil }

// UnmarshalYAML reads it.
func (d *Duration) UnmarshalYAML(decode func(any) error) error {
	var s string
	if err := decode(&s); err != nil {
		return err
	}
	var err error
	*d, err = ParseDuration(s)
	return err
}
