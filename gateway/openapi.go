package gateway

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"go.yaml.in/yaml/v3"
)

// hideServers removes scheme and host from the servers of an OpenAPI
// description, so that consumers do not learn the provider's inner addresses;
// only the paths stay. URLs with {variables} stay as they are, as with X-Road.
// Everything else stays as it was; a JSON description even byte for byte.
func hideServers(description []byte) ([]byte, error) {
	if json.Valid(description) {
		return hideJSON(description)
	}
	return hideYAML(description)
}

// hidden returns what is left of a server's URL.
func hidden(server string) string {
	if strings.ContainsAny(server, "{}") {
		return server
	}
	u, err := url.Parse(server)
	if err != nil {
		return "/"
	}
	if u.Host == "" && u.Scheme == "" {
		return server // relative already
	}
	path := "/" + strings.TrimLeft(u.EscapedPath(), "/") // "//x" would be a host again
	if u.RawQuery != "" {
		path += "?" + u.RawQuery
	}
	return path
}

// hideJSON replaces the strings at servers[*].url where they stand.
func hideJSON(in []byte) ([]byte, error) {
	var out bytes.Buffer
	copied := int64(0)
	d := json.NewDecoder(bytes.NewReader(in))
	var path []string // keys of the objects that are open; "[" for arrays
	key := ""
	expectKey := false
	for {
		before := d.InputOffset()
		t, err := d.Token()
		if err != nil {
			break // the end: the description is valid JSON
		}
		inObject := len(path) > 0 && path[len(path)-1] != "["
		switch t := t.(type) {
		case json.Delim:
			switch t {
			case '{':
				path = append(path, key)
				if key == "[" {
					path[len(path)-1] = ""
				}
				expectKey = true
			case '[':
				path = append(path, key, "[")
			case '}':
				path = path[:len(path)-1]
				expectKey = true
			case ']':
				path = path[:len(path)-2]
				expectKey = true
			}
			key = ""
			continue
		case string:
			if inObject && expectKey {
				key, expectKey = t, false
				continue
			}
			// {"servers":[{"url":t}]}: the root, the array's key, the array, its object.
			if key == "url" && len(path) == 4 && path[1] == "servers" && path[2] == "[" {
				start := before + int64(bytes.IndexByte(in[before:], '"'))
				text, err := json.Marshal(hidden(t))
				if err != nil {
					return nil, err
				}
				out.Write(in[copied:start])
				out.Write(text)
				copied = d.InputOffset()
			}
		}
		key, expectKey = "", inObject
	}
	if copied == 0 {
		return in, nil
	}
	out.Write(in[copied:])
	return out.Bytes(), nil
}

// hideYAML does the same with YAML. If anything changes the document is
// written anew, with its order and comments.
func hideYAML(in []byte) (out []byte, err error) {
	defer func() {
		if p := recover(); p != nil { // a parser of somebody else's input
			out, err = nil, fmt.Errorf("YAML: %v", p)
		}
	}()
	var doc yaml.Node
	if err := yaml.Unmarshal(in, &doc); err != nil {
		return nil, err
	}
	if len(doc.Content) != 1 || doc.Content[0].Kind != yaml.MappingNode {
		return nil, errors.New("YAML: the description is no mapping")
	}
	changed := false
	for _, server := range sequence(member(doc.Content[0], "servers")) {
		if u := member(server, "url"); u != nil && u.Kind == yaml.ScalarNode {
			if h := hidden(u.Value); h != u.Value {
				u.Value, changed = h, true
			}
		}
	}
	if !changed {
		return in, nil
	}
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if err := e.Encode(&doc); err != nil {
		return nil, err
	}
	return b.Bytes(), e.Close()
}

// member returns the value of a mapping's key, nil if there is none.
func member(n *yaml.Node, key string) *yaml.Node {
	if n = resolve(n); n == nil || n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return resolve(n.Content[i+1])
		}
	}
	return nil
}

func sequence(n *yaml.Node) []*yaml.Node {
	if n == nil || n.Kind != yaml.SequenceNode {
		return nil
	}
	return n.Content
}

func resolve(n *yaml.Node) *yaml.Node {
	if n != nil && n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}
