package dsqltest

import (
	"bufio"
	"bytes"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// FuzzRelay: what a client sends is handed on message by message, byte for byte, up to the first that
// is none; names are looked at on the way and are part of what passes.
func FuzzRelay(f *testing.F) {
	f.Add([]byte("Q\x00\x00\x00\x0dselect 1\x00S\x00\x00\x00\x04"), uint32(1<<20))
	f.Add([]byte("P\x00\x00\x00\x13name\x00select 1\x00\x00\x00B\x00\x00\x00\x0fportal\x00name\x00"), uint32(1<<20))
	f.Add([]byte("C\x00\x00\x00\x07Ss\x00d\x00\x00\x00\x06xyX\x00\x00\x00\x04"), uint32(6))
	f.Add([]byte("E\xff\xff\xff\xff\x00"), uint32(1<<31))
	f.Add(append([]byte("B\x00\x00\x10\x04"), bytes.Repeat([]byte{'n'}, 4096)...), uint32(1<<20))
	f.Fuzz(func(t *testing.T, stream []byte, limit uint32) {
		var passed, expected bytes.Buffer
		rest := bytes.NewReader(stream)
		r := &requests{relay: &relay{from: bufio.NewReader(rest), to: bufio.NewWriter(&passed), limit: limit}}
		seen := 0
		err := r.relay.run(func(kind byte, size int) error {
			require.LessOrEqual(t, uint32(size-1), limit)
			require.GreaterOrEqual(t, size, headerSize)
			start := seen
			seen += size
			message := stream[start:min(seen, len(stream))]
			var names []string
			var err error
			switch kind {
			case 'P', 'B':
				names, err = r.names(size, 0, 2)
			case 'C':
				names, err = r.names(size, 1, 1)
			case 'Q':
				read, err := r.read(size)
				if err == nil {
					require.Equal(t, message, read)
				}
				return err
			case 'd':
				return r.discard(size)
			}
			if err != nil {
				return err
			}
			for _, name := range names {
				require.NotContains(t, name, "\x00")
				require.Contains(t, string(message), name)
			}
			expected.Write(message)
			return r.forward(size)
		})
		require.Error(t, err) // the stream ends, at the latest
		require.NoError(t, r.to.Flush())
		require.Equal(t, expected.String(), passed.String())
	})
}

// FuzzReadMessage: a message has as many bytes as it says, and no more is taken from the stream.
func FuzzReadMessage(f *testing.F) {
	f.Add([]byte("Z\x00\x00\x00\x05I"))
	f.Add([]byte("E\x00\x00\x00\x10SFATAL\x00Cx\x00"))
	f.Add([]byte("K\x7f\xff\xff\xff"))
	f.Add([]byte("N\x00\x00\x00\x03"))
	f.Fuzz(func(t *testing.T, stream []byte) {
		r := bytes.NewReader(stream)
		kind, body, err := readMessage(r)
		if err != nil {
			return
		}
		require.Equal(t, stream[0], kind)
		require.Equal(t, stream[headerSize:headerSize+len(body)], body)
		require.Equal(t, len(stream)-headerSize-len(body), r.Len())
		require.LessOrEqual(t, len(body), maxStartup)
	})
}

var wrapped = regexp.MustCompile(`(?s)^SELECT sys\.create_index_async\('((?:[^']|'')*)', '((?:[^']|'')*)'\) AS job_id$`)

// FuzzAsyncIndex: what PostgreSQL gets for CREATE INDEX ASYNC is the statement less that word, and no other
// statement is changed.
func FuzzAsyncIndex(f *testing.F) {
	for _, seed := range []string{
		"create index async on t (a)", "CREATE UNIQUE INDEX ASYNC IF NOT EXISTS \"it's\" ON t ((a || 'x''y'))", "create index async",
		"create /* async */ index concurrently on t (a)", "create table async (index int)", "create index i on async (a)", "select 1; create index async on t(a);",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, sql string) {
		for _, st := range parse(sql) {
			if st.sent == "" {
				continue
			}
			parts := wrapped.FindStringSubmatch(st.sent)
			require.NotNil(t, parts, st.sent)
			head, tail := strings.ReplaceAll(parts[1], "''", "'"), strings.ReplaceAll(parts[2], "''", "'")
			require.True(t, strings.HasPrefix(st.sql, head) && strings.HasSuffix(st.sql, tail), st.sent)
			require.True(t, strings.EqualFold("async", st.sql[len(head):len(st.sql)-len(tail)]))
			require.Contains(t, strings.ToLower(head), "index")
		}
	})
}
