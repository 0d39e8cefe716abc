//go:build unix

package main

import (
	"bufio"
	"bytes"
	"os/exec"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// Ctrl-C in a terminal reaches the command and psql; psql handles it. Signals that other processes
// send to the command alone are passed on to psql.
func TestPsqlSignals(t *testing.T) {
	// The signal may end sleep too, before its shell has it ignore SIGINT.
	fakePsql(t, "psql (PostgreSQL) 17.2", `
sleep 60 >/dev/null 2>&1 &
trap 'kill $! 2>/dev/null; echo INT; exit 7' INT
trap 'kill $! 2>/dev/null; echo TERM; exit 8' TERM
trap 'kill $! 2>/dev/null; echo HUP; exit 9' HUP
echo started
wait`)
	for _, tt := range []struct {
		name   string
		group  bool
		signal syscall.Signal
		said   string
		status int
	}{
		{"Ctrl-C", true, syscall.SIGINT, "INT\n", 7},
		{"terminate", false, syscall.SIGTERM, "TERM\n", 8},
		{"hang up", false, syscall.SIGHUP, "HUP\n", 9},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), binary, "psql", serverURL("app"))
			cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			stdout, err := cmd.StdoutPipe()
			require.NoError(t, err)
			require.NoError(t, cmd.Start())
			lines := bufio.NewReader(stdout)
			line, err := lines.ReadString('\n')
			require.NoError(t, err)
			require.Equal(t, "started\n", line)
			pid := cmd.Process.Pid
			if tt.group {
				pid = -pid
			}
			require.NoError(t, syscall.Kill(pid, tt.signal))
			line, err = lines.ReadString('\n')
			require.NoError(t, err)
			require.Equal(t, tt.said, line)
			require.Error(t, cmd.Wait())
			require.Equal(t, tt.status, cmd.ProcessState.ExitCode())
			require.Empty(t, stderr.String())
		})
	}
}

// If a signal ends psql, the exit status is the one that a shell reports.
func TestPsqlKilled(t *testing.T) {
	fakePsql(t, "psql (PostgreSQL) 17.2", "kill -KILL $$")
	require.Equal(t, result{status: 137}, runBinary(t, nil, "psql", serverURL("app")))
}
