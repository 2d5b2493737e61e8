package node

import (
	_ "embed" // the source of Config is its own manual
	"encoding"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"reflect"
	"strings"
)

//go:embed config.go
var configSource string

// field is one key of the configuration as the manual shows it.
type field struct {
	path    string // e.g. consumer.listen, services[].url
	name    string // last part
	doc     string
	value   reflect.Value // zero Value for tables
	kind    string        // string, integer, boolean, duration, size, list, table, list of tables
	def     string        // default as TOML; empty: none
	section bool
	fields  []field // of a section
	same    string  // the section that describes these fields, if another one does
}

// manual reads Config's doc comments and types.
func manual(values Config) []field {
	docs := fieldDocs()
	return structFields(docs, reflect.ValueOf(values), reflect.ValueOf(Config{}.WithDefaults()), "")
}

// described are the types whose keys are described where they stand first.
var described = map[reflect.Type]string{
	reflect.TypeFor[KeysConfig](): "[keys]", reflect.TypeFor[EvidenceConfig](): "[evidence]",
	reflect.TypeFor[ClientConfig](): "[[consumer.clients]]", reflect.TypeFor[ServiceConfig](): "[[services]]",
}

func structFields(docs map[string]string, v, def reflect.Value, prefix string) []field {
	var out []field
	t := v.Type()
	for i := range t.NumField() {
		name := t.Field(i).Tag.Get("toml")
		f := field{path: prefix + name, name: name, doc: docs[t.Name()+"."+t.Field(i).Name], value: v.Field(i)}
		switch ft := t.Field(i).Type; {
		case ft.Kind() == reflect.Struct:
			f.section, f.kind = true, "table"
			f.fields = structFields(docs, v.Field(i), def.Field(i), f.path+".")
		case ft.Kind() == reflect.Slice && ft.Elem().Kind() == reflect.Struct:
			f.section, f.kind = true, "list of tables"
			elem := reflect.New(ft.Elem()).Elem()
			f.fields = structFields(docs, elem, defaultElement(ft.Elem()), f.path+"[].")
		default:
			f.kind = kindOf(ft)
			if d := def.Field(i); !d.IsZero() {
				f.def = tomlValue(d)
			}
		}
		if f.section && t == reflect.TypeFor[HostedConfig]() {
			ft := t.Field(i).Type
			if ft.Kind() == reflect.Slice {
				ft = ft.Elem()
			}
			f.same = described[ft]
		}
		out = append(out, f)
	}
	return out
}

// defaultElement is a table of a list with its defaults.
func defaultElement(t reflect.Type) reflect.Value {
	if t == reflect.TypeFor[HostedConfig]() {
		return reflect.ValueOf(Config{Hosted: make([]HostedConfig, 1)}.WithDefaults().Hosted[0])
	}
	if t == reflect.TypeFor[ServiceConfig]() {
		return reflect.ValueOf(Config{Services: make([]ServiceConfig, 1)}.WithDefaults().Services[0])
	}
	return reflect.New(t).Elem()
}

func kindOf(t reflect.Type) string {
	switch {
	case t == reflect.TypeFor[Duration](), t == reflect.TypeFor[Limit]():
		return "duration"
	case t == reflect.TypeFor[Size]():
		return "size"
	case t.Kind() == reflect.Bool:
		return "boolean"
	case t.Kind() == reflect.Int:
		return "integer"
	case t.Kind() == reflect.Slice:
		return "list of strings"
	}
	return "string"
}

func tomlValue(v reflect.Value) string {
	if m, ok := v.Interface().(encoding.TextMarshaler); ok {
		text, err := m.MarshalText()
		if err != nil {
			return fmt.Sprintf("%q", err) // Duration and Size never fail
		}
		return tomlString(string(text))
	}
	switch v.Kind() {
	case reflect.Bool, reflect.Int:
		return fmt.Sprint(v.Interface())
	case reflect.Slice:
		parts := make([]string, v.Len())
		for i := range parts {
			parts[i] = tomlValue(v.Index(i))
		}
		return "[" + strings.Join(parts, ", ") + "]"
	}
	return tomlString(v.String())
}

// tomlString writes a TOML basic string.
func tomlString(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < 0x20 || r == 0x7f:
			fmt.Fprintf(&b, "\\u%04X", r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// fieldDocs maps Type.Field to its doc comment, and Type to its own.
func fieldDocs() map[string]string {
	docs := map[string]string{}
	file, err := parser.ParseFile(token.NewFileSet(), "config.go", configSource, parser.ParseComments)
	if err != nil {
		return docs // the file compiled, so this cannot be; a test checks that no doc is empty
	}
	for _, d := range file.Decls {
		g, ok := d.(*ast.GenDecl)
		if !ok || g.Tok != token.TYPE {
			continue
		}
		for _, s := range g.Specs {
			ts := s.(*ast.TypeSpec)
			st, ok := ts.Type.(*ast.StructType)
			if !ok {
				continue
			}
			docs[ts.Name.Name] = strings.TrimSpace(g.Doc.Text())
			for _, f := range st.Fields.List {
				for _, n := range f.Names {
					docs[ts.Name.Name+"."+n.Name] = strings.TrimSpace(f.Doc.Text())
				}
			}
		}
	}
	return docs
}

// knownKeys lists every key path of the file.
func knownKeys() []string {
	var out []string
	var walk func([]field)
	walk = func(fs []field) {
		for _, f := range fs {
			out = append(out, strings.ReplaceAll(f.path, "[]", ""))
			walk(f.fields)
		}
	}
	walk(manual(Config{}))
	return out
}

// Reference returns the reference page of the configuration, in Markdown.
func Reference() string {
	var b strings.Builder
	b.WriteString("# Configuration reference\n\n")
	b.WriteString("Generated from the comments of `node.Config`; do not edit. `civibus config reference` prints this page,\n`civibus config check` checks a file, and `civibus init` writes a commented one.\n\n")
	doc := fieldDocs()["Config"]
	if _, rest, ok := strings.Cut(doc, "\n\n"); ok {
		b.WriteString(rest + "\n\n")
	}
	b.WriteString("Durations are a number and a unit (`500ms`, `30s`, `5m`, `12h`, `30d`), sizes likewise (`512KiB`, `1MiB`, `2GiB`), both as strings.\n")
	fields := manual(Config{})
	b.WriteString("\n## Top level\n")
	writeReference(&b, fields)
	return b.String()
}

func writeReference(b *strings.Builder, fields []field) {
	for _, f := range fields {
		if f.section {
			continue
		}
		def := "no default"
		if f.def != "" {
			def = "default `" + f.def + "`"
		}
		fmt.Fprintf(b, "\n### `%s`\n\n%s, %s.\n\n%s\n", f.path, f.kind, def, f.doc)
	}
	for _, f := range fields {
		if !f.section {
			continue
		}
		title := "[" + strings.ReplaceAll(f.path, "[]", "") + "]"
		if f.kind == "list of tables" {
			title = "[[" + strings.ReplaceAll(f.path, "[]", "") + "]]"
		}
		fmt.Fprintf(b, "\n## `%s`\n\n%s\n", title, f.doc)
		if f.same != "" {
			fmt.Fprintf(b, "\nIts keys are those of `%s`.\n", f.same)
			continue
		}
		writeReference(b, f.fields)
	}
}

// Commented returns a configuration file that says what every field means. The
// values that differ from the defaults are set, all others are comments.
func Commented(c Config) string {
	var b strings.Builder
	b.WriteString("# Configuration of a Civibus node. What is commented out shows its default.\n# \"civibus config check\" checks this file; \"civibus config reference\" is the manual.\n")
	writeCommented(&b, manual(c), "")
	return b.String()
}

func writeCommented(b *strings.Builder, fields []field, table string) {
	for _, f := range fields {
		if f.section {
			continue
		}
		b.WriteByte('\n')
		comment(b, f.doc)
		switch {
		case !f.value.IsZero() && tomlValue(f.value) != f.def:
			fmt.Fprintf(b, "%s = %s\n", f.name, tomlValue(f.value))
		case f.def != "":
			fmt.Fprintf(b, "# %s = %s\n", f.name, f.def)
		default:
			fmt.Fprintf(b, "# %s = %s\n", f.name, tomlValue(f.value))
		}
	}
	for _, f := range fields {
		if !f.section {
			continue
		}
		b.WriteByte('\n')
		comment(b, f.doc)
		name := table + f.name
		if f.same != "" { // of a table that is not there
			fmt.Fprintf(b, "# The keys are those of %s.\n", f.same)
			continue
		}
		if f.kind != "list of tables" {
			fmt.Fprintf(b, "[%s]\n", name)
			writeCommented(b, f.fields, name+".")
			continue
		}
		if f.value.Len() == 0 {
			fmt.Fprintf(b, "# [[%s]]\n", name)
			writeCommented(b, f.fields, name+".")
			continue
		}
		docs := fieldDocs()
		for i := range f.value.Len() {
			elem := f.value.Index(i)
			fmt.Fprintf(b, "[[%s]]\n", name)
			writeElement(b, structFields(docs, elem, defaultElement(elem.Type()), ""), name+".")
		}
	}
}

// writeElement writes the keys and tables of one table of a list that are set.
func writeElement(b *strings.Builder, fields []field, table string) {
	for _, f := range fields {
		if !f.section && !f.value.IsZero() {
			fmt.Fprintf(b, "%s = %s\n", f.name, tomlValue(f.value))
		}
	}
	docs := fieldDocs()
	for _, f := range fields {
		switch name := table + f.name; {
		case !f.section || f.value.IsZero():
		case f.kind == "table":
			fmt.Fprintf(b, "[%s]\n", name)
			writeElement(b, structFields(docs, f.value, reflect.New(f.value.Type()).Elem(), ""), name+".")
		default:
			for i := range f.value.Len() {
				elem := f.value.Index(i)
				fmt.Fprintf(b, "[[%s]]\n", name)
				writeElement(b, structFields(docs, elem, defaultElement(elem.Type()), ""), name+".")
			}
		}
	}
}

// hostedTable is the table of a hosted member in a configuration file.
func hostedTable(h HostedConfig) string {
	var b strings.Builder
	b.WriteString("[[hosted]]\n")
	v := reflect.ValueOf(h)
	writeElement(&b, structFields(fieldDocs(), v, defaultElement(v.Type()), ""), "hosted.")
	return b.String()
}

func comment(b *strings.Builder, doc string) {
	for line := range strings.Lines(doc) {
		b.WriteString(strings.TrimRight("# "+line, " \n") + "\n")
	}
}
