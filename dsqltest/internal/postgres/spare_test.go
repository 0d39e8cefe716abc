//go:build unix

package postgres

import (
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestSpare(t *testing.T) {
	dropSpare()
	ignore := goleak.IgnoreCurrent()
	PrepareSpare("")
	awaitSpare(t)
	goleak.VerifyNone(t, ignore)
	first := spare.dir
	PrepareSpare("")
	require.Equal(t, first, spare.dir, "there is one at most")

	t.Run("is for temporary data", func(t *testing.T) {
		require.NotEqual(t, first, mustStart(t, openTempDir(t)).dir)
	})
	t.Run("is for the same place", func(t *testing.T) {
		t.Setenv("TMPDIR", "/tmp/.")
		s, err := Start(t.Context(), Config{})
		require.NoError(t, err)
		defer s.Close()
		require.NotEqual(t, first, s.dir)
	})

	s, err := Start(t.Context(), Config{})
	require.NoError(t, err)
	require.Equal(t, first, s.dir)
	require.Nil(t, spare.supervisor)
	require.NoError(t, s.Close())
	require.NoDirExists(t, first)

	t.Run("that died", func(t *testing.T) {
		PrepareSpare("")
		awaitSpare(t)
		dead := spare.dir
		require.NoError(t, syscall.Kill(postmasterPID(t, filepath.Join(dead, "data")), syscall.SIGKILL))
		s, err := Start(t.Context(), Config{})
		require.NoError(t, err)
		require.NotEqual(t, dead, s.dir)
		require.NoError(t, s.Close())
		require.NoDirExists(t, dead)
	})
}

// BenchmarkStart is most of what a test waits for. "cold" makes a new initdb each time, as the
// first server of a process does; "second" is a start after another, when the test between has
// taken its time.
func BenchmarkStart(b *testing.B) {
	b.Run("cold", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			dropSpare()
			dropTemplate()
			b.StartTimer()
			s, err := Start(b.Context(), Config{})
			require.NoError(b, err)
			b.StopTimer()
			require.NoError(b, s.Close())
			b.StartTimer()
		}
	})
	b.Run("second", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			PrepareSpare("")
			awaitSpare(b)
			b.StartTimer()
			s, err := Start(b.Context(), Config{})
			require.NoError(b, err)
			PrepareSpare("") // as dsqltest.New does
			b.StopTimer()
			require.NoError(b, s.Close())
			b.StartTimer()
		}
	})
}

func dropSpare() {
	spare.Lock()
	defer spare.Unlock()
	if spare.supervisor != nil {
		spare.lifeline.Close()
		spare.wait()
		spare.supervisor = nil
	}
}

func dropTemplate() {
	template.Lock()
	defer template.Unlock()
	if template.supervisor != nil {
		template.lifeline.Close()
		template.wait()
		template.supervisor = nil
	}
}

// awaitSpare waits until the spare takes connections.
func awaitSpare(tb testing.TB) {
	tb.Helper()
	spare.Lock()
	defer spare.Unlock()
	require.NotNil(tb, spare.supervisor)
	p := &Server{dir: spare.dir, gone: make(chan struct{})}
	require.NoError(tb, p.awaitReady(tb.Context(), ""))
	p.control.Close()
}
