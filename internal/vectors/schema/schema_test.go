// Package schema checks the test vectors against their JSON schema. It is a module of its own, so that the library does
// not depend on a validator.
package schema

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

const folder = "../../../docs/vectors"

func TestVectorsAreOfTheirSchema(t *testing.T) {
	schema, err := jsonschema.NewCompiler().Compile(filepath.Join(folder, "recording_v1_schema.json"))
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(folder, "recording_v1_test.json"))
	if err != nil {
		t.Fatal(err)
	}
	var vectors map[string]any
	if err := json.Unmarshal(text, &vectors); err != nil {
		t.Fatal(err)
	}
	if err := schema.Validate(vectors); err != nil {
		t.Fatal(err)
	}
	alterEach(vectors, func(what string) {
		if schema.Validate(vectors) == nil {
			t.Errorf("the schema allows %s", what)
		}
	})
}

// alterEach makes the first test of the vectors wrong in one way after the other.
func alterEach(vectors map[string]any, check func(what string)) {
	group := vectors["testGroups"].([]any)[0].(map[string]any)
	test := group["tests"].([]any)[0].(map[string]any)
	group["tests"] = []any{test}
	vectors["testGroups"] = []any{group}
	operation := test["operations"].([]any)[0].(map[string]any)
	for _, c := range []struct {
		in    map[string]any
		name  string
		value any
	}{
		{vectors, "x", 1},
		{vectors, "numberOfTests", "1"},
		{group, "type", "AeadTest"},
		{test, "x", 1},
		{test, "tcId", 0},
		{test, "result", "acceptable"},
		{test, "media", "00"},
		{test, "grant", map[string]any{"keyId": "alice"}},
		{operation, "class", "broken"},
		{operation, "op", "read"},
		{operation, "offset", 1},
		{operation, "plaintext", map[string]any{"length": 0, "sha256": ""}},
		{operation, "released", map[string]any{}},
		{operation, "metadata", nil},
	} {
		before, had := c.in[c.name]
		c.in[c.name] = c.value
		check("another " + c.name)
		delete(c.in, c.name)
		if had {
			check("no " + c.name)
			c.in[c.name] = before
		}
	}
}
