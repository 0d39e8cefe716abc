package wsconn

import (
	"io"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func chunkOf(s string) (*[]byte, int) {
	chunk := chunkPool.Get().(*[]byte)
	return chunk, copy(*chunk, s)
}

func TestBuffer(t *testing.T) {
	b := newBuffer()
	p := make([]byte, 3)
	for _, s := range []string{"ab", "cde", "f"} {
		require.True(t, b.write(chunkOf(s)))
	}
	b.fail(io.EOF)
	b.fail(io.ErrUnexpectedEOF)
	require.False(t, b.write(chunkOf("g")))
	for _, want := range []string{"abc", "def"} {
		n, err := b.read(p)
		require.NoError(t, err)
		require.Equal(t, want, string(p[:n]))
	}
	_, err := b.read(p)
	require.Equal(t, io.EOF, err)
	require.Nil(t, b.chunk, "an empty buffer holds a chunk")
}

// A writer waits for room, and ends when the buffer does.
func TestBufferIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBuffer()
		written := make(chan bool)
		go func() {
			for range 3 {
				written <- b.write(chunkPool.Get().(*[]byte), chunkSize)
			}
		}()
		require.True(t, <-written)
		synctest.Wait()
		require.True(t, b.isFull())
		p := make([]byte, chunkSize)
		for range chunkSize - 1 {
			n, err := b.read(p[:1])
			require.NoError(t, err)
			require.Equal(t, 1, n)
		}
		synctest.Wait()
		require.True(t, b.isFull())
		_, err := b.read(p)
		require.NoError(t, err)
		require.True(t, <-written)
		synctest.Wait()
		require.True(t, b.isFull())
		b.close(os.ErrClosed)
		require.False(t, <-written)
		_, err = b.read(p)
		require.Equal(t, os.ErrClosed, err)
	})
}

func TestBufferDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBuffer()
		p := make([]byte, 1)
		read := make(chan error, 1)
		start := func() {
			go func() {
				_, err := b.read(p)
				read <- err
			}()
			synctest.Wait()
		}
		start()
		b.setDeadline(time.Now().Add(time.Minute)) // for a read that waits already
		time.Sleep(59 * time.Second)
		b.setDeadline(time.Now().Add(time.Minute)) // moved
		time.Sleep(59 * time.Second)
		require.Empty(t, read)
		time.Sleep(time.Second)
		require.Equal(t, os.ErrDeadlineExceeded, <-read)

		require.True(t, b.write(chunkOf("x")))
		_, err := b.read(p)
		require.Equal(t, os.ErrDeadlineExceeded, err, "of a deadline in the past")
		b.setDeadline(time.Time{})
		_, err = b.read(p)
		require.NoError(t, err)

		start()
		b.setDeadline(time.Now().Add(time.Second))
		b.setDeadline(time.Time{}) // removed before it passes
		time.Sleep(time.Hour)
		require.Empty(t, read)
		b.setDeadline(time.Now()) // at once
		require.Equal(t, os.ErrDeadlineExceeded, <-read)
	})
}
