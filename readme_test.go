package dsql_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Every Go block in the README compiles: programs as they are, functions and
// statements in a package around them.
func TestReadmeCompiles(t *testing.T) {
	text, err := os.ReadFile("README.md")
	require.NoError(t, err)
	blocks := strings.Split(string(text), "```go\n")[1:]
	require.NotEmpty(t, blocks)
	dir, err := os.MkdirTemp(".", "readme-") // inside the module, for its imports
	require.NoError(t, err)
	defer os.RemoveAll(dir)
	for i, block := range blocks {
		code, _, closed := strings.Cut(block, "```")
		require.True(t, closed)
		if !strings.HasPrefix(code, "package ") {
			if !strings.HasPrefix(strings.TrimSpace(code), "func ") {
				code = "func use() any {\n" + code + "\nreturn config\n}"
			}
			var imports string
			for name, path := range map[string]string{
				"dsql": "github.com/dsqlgo/dsql", "dsqltest": "github.com/dsqlgo/dsql/dsqltest", "testing": "testing", "context": "context",
				"pgx": "github.com/jackc/pgx/v5", "pgxpool": "github.com/jackc/pgx/v5/pgxpool",
			} {
				if regexp.MustCompile(`\b` + name + `\.`).MatchString(code) {
					imports += fmt.Sprintf("import %q\n", path)
				}
			}
			code = "package readme\n" + imports + code
		}
		block := filepath.Join(dir, fmt.Sprint("block", i))
		require.NoError(t, os.Mkdir(block, 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(block, "main.go"), []byte(code), 0o600))
	}
	out, err := exec.CommandContext(t.Context(), "go", "build", "-o", os.DevNull, "./"+dir+"/...").CombinedOutput()
	require.NoError(t, err, string(out))
}
