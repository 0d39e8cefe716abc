// Package local runs "dsql local" for tests of clients in other languages.
package local

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// Endpoint is a "dsql local" that ends with its test.
type Endpoint struct {
	Command string // the dsql command
	Exports string // the file of what it prints: lines for a shell
	Env     map[string]string
}

// Start builds the command and starts an endpoint.
func Start(t *testing.T) Endpoint {
	t.Helper()
	dir := t.TempDir()
	e := Endpoint{Command: filepath.Join(dir, "dsql"), Exports: filepath.Join(dir, "exports"), Env: make(map[string]string)}
	// With -race where this test has it, so that packages are compiled once.
	build := []string{"build", "-o", e.Command}
	if info, ok := debug.ReadBuildInfo(); ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"}) {
		build = append(build, "-race")
	}
	compile := exec.CommandContext(t.Context(), "go", append(build, "./cmd/dsql")...)
	compile.Dir = "../../.."
	out, err := compile.CombinedOutput()
	require.NoError(t, err, string(out))

	local := exec.Command(e.Command, "local")
	local.Stderr = os.Stderr
	stdout, err := local.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, local.Start())
	t.Cleanup(func() {
		_ = local.Process.Signal(syscall.SIGTERM)
		_ = local.Wait()
	})
	var printed strings.Builder
	for lines := bufio.NewScanner(stdout); ; {
		require.True(t, lines.Scan(), "dsql local has ended")
		printed.WriteString(lines.Text() + "\n")
		if assignment, ok := strings.CutPrefix(lines.Text(), "export "); ok {
			name, value, _ := strings.Cut(assignment, "=")
			e.Env[name] = strings.Trim(value, `'"`)
		}
		if strings.HasPrefix(lines.Text(), "# ready") {
			break
		}
	}
	require.NoError(t, os.WriteFile(e.Exports, []byte(printed.String()), 0o600))
	return e
}

// Environ is the environment of a client: that of this process, and what the endpoint prints.
func (e Endpoint) Environ() []string {
	env := os.Environ()
	for name, value := range e.Env {
		env = append(env, name+"="+value)
	}
	return env
}
