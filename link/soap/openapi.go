package soap

import (
	"encoding/json"
	"strconv"
	"strings"
)

// describe makes the OpenAPI 3 description of the REST face, which the adapter
// serves at /openapi.json.
func describe(config Config, routes []route) []byte {
	paths := make(map[string]map[string]any)
	for _, r := range routes {
		operation := map[string]any{
			"operationId": r.Request,
			"summary":     r.Summary,
			"responses": map[string]any{
				strconv.Itoa(r.Status): map[string]any{
					"description": "the answer",
					"content":     content("application/json", object(r.Output)),
				},
				"default": map[string]any{
					"description": "the service refused, or could not be reached",
					"content": content("application/problem+json", object([]Field{
						{Name: "type", Type: "string"}, {Name: "title", Type: "string"}, {Name: "status", Type: "integer"}, {Name: "detail", Type: "string"}, {Name: "soapFault", Type: "string"},
					})),
				},
			},
		}
		var parameters []any
		var body []Field
		for _, f := range r.Input {
			if f.From == "body" {
				body = append(body, f)
				continue
			}
			parameters = append(parameters, map[string]any{"name": f.Name, "in": f.From, "required": f.Required, "schema": schema(f)})
		}
		if parameters != nil {
			operation["parameters"] = parameters
		}
		if body != nil {
			operation["requestBody"] = map[string]any{"required": true, "content": content("application/json", object(body))}
		}
		if paths[r.Path] == nil {
			paths[r.Path] = make(map[string]any)
		}
		paths[r.Path][strings.ToLower(r.Method)] = operation
	}
	title := config.Title
	if title == "" {
		title = config.Namespace
	}
	// Maps are encoded with sorted keys, so that the description, and with it
	// the digest in the registry, is the same at every start.
	out, err := json.MarshalIndent(map[string]any{
		"openapi": "3.0.3",
		"info":    map[string]any{"title": title, "version": "1"},
		"paths":   paths,
	}, "", "  ")
	if err != nil {
		return nil // strings, numbers and maps always encode
	}
	return append(out, '\n')
}

func content(media string, schema any) map[string]any {
	return map[string]any{media: map[string]any{"schema": schema}}
}

func object(fields []Field) map[string]any {
	properties := make(map[string]any, len(fields))
	var required []string
	for _, f := range fields {
		properties[f.Name] = schema(f)
		if f.Required {
			required = append(required, f.Name)
		}
	}
	out := map[string]any{"type": "object", "properties": properties}
	if required != nil {
		out["required"] = required
	}
	return out
}

func schema(f Field) map[string]any {
	one := map[string]any{"type": f.Type}
	if f.Type == "object" {
		one = object(f.Fields)
	}
	if f.Repeated {
		return map[string]any{"type": "array", "items": one}
	}
	return one
}
