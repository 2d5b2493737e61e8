package service

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/civibus/civibus"
	"github.com/getkin/kin-openapi/openapi3"
)

// maxEndpoints bounds how many endpoints one description may have.
const maxEndpoints = 10_000

// Endpoints reads the endpoints of an OpenAPI 3 description, JSON or YAML, as
// the registry takes them: path parameters become "*", stars that stand for
// themselves "\*". They are sorted and without duplicates. References to other
// files are refused, so that the digest covers all of it.
func Endpoints(description []byte) ([]civibus.Endpoint, error) {
	if len(description) > maxDescription {
		return nil, fmt.Errorf("OpenAPI description: it has %d bytes, the rule is at most %d", len(description), maxDescription)
	}
	loader := openapi3.NewLoader()
	loader.IsExternalRefsAllowed = false
	doc, err := load(loader, description)
	if err != nil {
		return nil, fmt.Errorf("OpenAPI description: %w", err)
	}
	if !strings.HasPrefix(doc.OpenAPI, "3.") {
		return nil, fmt.Errorf("OpenAPI description: version %.20q, the rule is 3.x", doc.OpenAPI)
	}
	var out []civibus.Endpoint
	for path, item := range doc.Paths.Map() {
		glob, err := pathGlob(path)
		if err != nil {
			return nil, fmt.Errorf("OpenAPI description: path %.200q: %w", path, err)
		}
		if item == nil {
			continue
		}
		for method := range item.Operations() {
			out = append(out, civibus.Endpoint{Method: strings.ToUpper(method), Path: glob})
		}
	}
	if len(out) > maxEndpoints {
		return nil, fmt.Errorf("OpenAPI description: it has %d endpoints, the rule is at most %d", len(out), maxEndpoints)
	}
	slices.SortFunc(out, func(a, b civibus.Endpoint) int {
		if c := strings.Compare(a.Path, b.Path); c != 0 {
			return c
		}
		return strings.Compare(a.Method, b.Method)
	})
	return slices.Compact(out), nil
}

// load keeps a panic of the parser from anyone else.
func load(loader *openapi3.Loader, description []byte) (doc *openapi3.T, err error) {
	defer func() {
		if p := recover(); p != nil {
			doc, err = nil, fmt.Errorf("it cannot be parsed: %v", p)
		}
	}()
	doc, err = loader.LoadFromData(description)
	if err == nil && (doc == nil || doc.Paths == nil) {
		return nil, errors.New("it has no paths")
	}
	return doc, err
}

// pathGlob turns an OpenAPI path template into a glob of the registry.
func pathGlob(template string) (string, error) {
	if !strings.HasPrefix(template, "/") {
		return "", errors.New("the rule is that it starts with \"/\"")
	}
	var out strings.Builder
	for i := 0; i < len(template); i++ {
		switch c := template[i]; c {
		case '{':
			end := strings.IndexByte(template[i:], '}')
			if end < 2 || strings.ContainsAny(template[i+1:i+end], "{/") {
				return "", errors.New("the rule for a parameter is {NAME}")
			}
			out.WriteByte('*')
			i += end
			// Two parameters side by side are one run of characters; "**" would cross slashes.
			for i+1 < len(template) && template[i+1] == '{' {
				next := strings.IndexByte(template[i+1:], '}')
				if next < 2 {
					return "", errors.New("the rule for a parameter is {NAME}")
				}
				i += 1 + next
			}
		case '}':
			return "", errors.New("the rule for a parameter is {NAME}")
		case '*':
			out.WriteString(`\*`)
		case '\\':
			return "", errors.New("a backslash has no place in a path")
		default:
			out.WriteByte(c)
		}
	}
	return out.String(), nil
}
