package relay

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/require"
)

// message frames body as the protocol does.
func message(kind byte, body string) string {
	return string(kind) + string(binary.BigEndian.AppendUint32(nil, uint32(4+len(body)))) + body
}

func TestStream(t *testing.T) {
	big := message('d', strings.Repeat("big ", 5000))
	valid := message('Q', "select 1\x00") + message('S', "") + big + message('H', "")
	for name, tt := range map[string]struct {
		in, out string
		limit   uint32
		err     string
	}{
		"whole":            {in: valid, out: valid, err: "EOF"},
		"cut in a header":  {in: valid + "Q\x00", out: valid, err: "EOF"},
		"cut in a body":    {in: valid + "Q\x00\x00\x00\x0aab", out: valid + "Q\x00\x00\x00\x0aab", err: "EOF"},
		"at the limit":     {in: big, out: big, limit: uint32(len(big) - 1), err: "EOF"},
		"above the limit":  {in: message('S', "") + big, out: message('S', ""), limit: uint32(len(big) - 2), err: "invalid message length"},
		"length too small": {in: message('S', "") + "Q\x00\x00\x00\x03", out: message('S', ""), err: "invalid message length"},
		"length negative":  {in: message('S', "") + "Q\xff\xff\xff\xff", out: message('S', ""), err: "invalid message length"},
	} {
		for pieces, wrap := range map[string]func(io.Reader) io.Reader{
			"at once": func(r io.Reader) io.Reader { return r }, "byte by byte": iotest.OneByteReader, "data with EOF": iotest.DataErrReader,
		} {
			t.Run(name+", "+pieces, func(t *testing.T) {
				if tt.limit == 0 {
					tt.limit = maxRequest
				}
				var out bytes.Buffer
				r := stream{from: bufio.NewReaderSize(wrap(strings.NewReader(tt.in)), 64), to: bufio.NewWriterSize(&out, 256), limit: tt.limit}
				require.EqualError(t, r.run(func(_ byte, size int) error { return r.forward(size) }), tt.err)
				// What came before a length that cannot be is flushed or not, as it happens.
				require.True(t, strings.HasPrefix(tt.out, out.String()))
				if tt.err == "EOF" {
					require.Equal(t, tt.out, out.String())
				}
			})
		}
	}
}

// What has come in goes out before the stream waits for more, also within a message.
func TestStreamFlushes(t *testing.T) {
	fromEnd, from := net.Pipe()
	to, toEnd := net.Pipe()
	done := make(chan error, 1)
	go func() {
		r := stream{from: bufio.NewReader(from), to: bufio.NewWriter(to), limit: maxRequest}
		done <- r.run(func(_ byte, size int) error { return r.forward(size) })
	}()
	pieces := make(chan string)
	go func() {
		for piece := range pieces {
			io.WriteString(fromEnd, piece)
		}
		fromEnd.Close()
	}()
	query, data := message('Q', "select 1\x00"), message('d', "the rest is late")
	for _, step := range []struct{ in, out string }{
		{query, query},
		{data[:2], ""}, // half a header stays
		{data[2:11], data[:11]},
		{data[11:], data[11:]},
	} {
		pieces <- step.in
		got := make([]byte, len(step.out))
		require.NoError(t, toEnd.SetDeadline(time.Now().Add(10*time.Second)))
		_, err := io.ReadFull(toEnd, got)
		require.NoError(t, err)
		require.Equal(t, step.out, string(got))
	}
	close(pieces)
	require.ErrorIs(t, <-done, io.EOF)
}
