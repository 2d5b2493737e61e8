package policy

import "strings"

// MatchPath reports whether path as a whole matches X-Road's pattern: "*" is
// any run of characters but "/", "**" any run of characters, "\*" a star, and
// every other character itself. It allocates nothing and its time grows with
// the product of the two lengths at worst.
//
// A mismatch is mended by the last star only. Whatever an earlier star of the
// same kind could still take, the last one has taken in its place: a "*" lies
// in a segment that the slashes before it determine. Only where the last "*" has no
// room left is the last "**" extended, and then by a whole segment, because
// every start in the same segment would fail at the same slash.
func MatchPath(pattern, path string) bool {
	const none = -1
	var (
		p, s           int
		anyP, anyS     = none, 0 // pattern after the last "**", and where its run ends now
		starP, starS   = none, 0 // the same for the last "*"
		mendStar, mend bool
	)
	for {
		mend = false
		switch kind, c, n := token(pattern, p); {
		case kind == anyRun:
			p += n
			anyP, anyS, starP = p, s, none
			if p == len(pattern) {
				return true
			}
		case kind == segmentRun:
			p += n
			starP, starS = p, s
		case kind == end:
			if s == len(path) {
				return true
			}
			mend = true
		case s < len(path) && path[s] == c:
			p += n
			s++
		default:
			mend = true
		}
		if !mend {
			continue
		}
		mendStar = starP != none && starS < len(path) && path[starS] != '/'
		switch {
		case mendStar:
			starS++
			p, s = starP, starS
		case anyP == none, starP != none && starS == len(path):
			return false
		case starP != none:
			i := strings.IndexByte(path[anyS:], '/')
			if i < 0 {
				return false
			}
			anyS += i + 1
			p, s, starP = anyP, anyS, none
		case anyS == len(path):
			return false
		default:
			anyS++
			p, s = anyP, anyS
		}
	}
}

// The kinds of pattern tokens.
const (
	literal = iota
	segmentRun
	anyRun
	end
)

// token reads the pattern's token at i: its kind, its character if it is a
// literal, and its length.
func token(pattern string, i int) (kind int, c byte, n int) {
	if i >= len(pattern) {
		return end, 0, 0
	}
	switch c := pattern[i]; {
	case c == '*' && i+1 < len(pattern) && pattern[i+1] == '*':
		return anyRun, 0, 2
	case c == '*':
		return segmentRun, 0, 1
	case c == '\\' && i+1 < len(pattern) && pattern[i+1] == '*':
		return literal, '*', 2
	default:
		return literal, c, 1
	}
}
