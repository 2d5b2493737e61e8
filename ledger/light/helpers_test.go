package light_test

import "strings"

// contains says whether one of the texts has a part.
func contains(texts []string, part string) bool {
	for _, t := range texts {
		if strings.Contains(t, part) {
			return true
		}
	}
	return false
}
