package relay

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"testing"
	"time"

	"github.com/dsqlgo/dsql/dsqltest/internal/rules"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"
)

// fakeHost lets everything pass.
type fakeHost struct{}

func (fakeHost) Now() time.Time                { return time.Time{} }
func (fakeHost) TransactionAge() time.Duration { return 0 }
func (fakeHost) StatementFault() bool          { return false }
func (fakeHost) NextCommitFault() CommitFault  { return NoFault }
func (fakeHost) Committed(bool)                {}
func (fakeHost) Conflicted()                   {}
func (fakeHost) SchemaConflicted()             {}
func (fakeHost) Cut()                          {}
func (fakeHost) Canceled() bool                { return false }
func (fakeHost) CatchUpSchema()                {}
func (fakeHost) Unblock() func()               { return func() {} }

func (fakeHost) SchemaOutdated(*rules.Statement) bool   { return false }
func (fakeHost) SchemaChanging(*rules.Statement) func() { return nil }

// FuzzStream: what a client sends is handed on message by message, byte for byte, up to the first
// that is none; names are looked at on the way and are part of what passes.
func FuzzStream(f *testing.F) {
	f.Add([]byte("Q\x00\x00\x00\x0dselect 1\x00S\x00\x00\x00\x04"), uint32(1<<20))
	f.Add([]byte("P\x00\x00\x00\x13name\x00select 1\x00\x00\x00B\x00\x00\x00\x0fportal\x00name\x00"), uint32(1<<20))
	f.Add([]byte("C\x00\x00\x00\x07Ss\x00d\x00\x00\x00\x06xyX\x00\x00\x00\x04"), uint32(6))
	f.Add([]byte("E\xff\xff\xff\xff\x00"), uint32(1<<31))
	f.Add(append([]byte("B\x00\x00\x10\x04"), bytes.Repeat([]byte{'n'}, 4096)...), uint32(1<<20))
	f.Fuzz(func(t *testing.T, input []byte, limit uint32) {
		var passed, expected bytes.Buffer
		rest := bytes.NewReader(input)
		r := &requests{stream: &stream{from: bufio.NewReader(rest), to: bufio.NewWriter(&passed), limit: limit}}
		seen := 0
		err := r.stream.run(func(kind byte, size int) error {
			require.LessOrEqual(t, uint32(size-1), limit)
			require.GreaterOrEqual(t, size, HeaderSize)
			start := seen
			seen += size
			message := input[start:min(seen, len(input))]
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
		kind, body, err := ReadMessage(r)
		if err != nil {
			return
		}
		require.Equal(t, stream[0], kind)
		require.Equal(t, stream[HeaderSize:HeaderSize+len(body)], body)
		require.Equal(t, len(stream)-HeaderSize-len(body), r.Len())
		require.LessOrEqual(t, len(body), maxShort)
	})
}

// FuzzResponses: what PostgreSQL answers reaches the client byte for byte where no rule comes in
// between. A response that is dropped shows nothing, and too many rows are reported once.
func FuzzResponses(f *testing.F) {
	const drop, withholdReady, withholdTag, hideBlock, replacement, offset, committing = 1, 2, 4, 8, 16, 32, 64
	update := "C\x00\x00\x00\x10UPDATE 2000\x00"
	ready, failed := "Z\x00\x00\x00\x05T", string(mustEncode(rules.ErrConflict))
	located := string(mustEncode(&pgproto3.ErrorResponse{Severity: "ERROR", Code: "42601", Message: "syntax error", Position: 7}))
	for _, input := range []string{
		"T\x00\x00\x00\x06\x00\x00D\x00\x00\x00\x06\x00\x00C\x00\x00\x00\x0dSELECT 1\x00" + ready, update + ready + update + ready + failed + ready,
		failed + ready, located + ready, "1\x00\x00\x00\x042\x00\x00\x00\x04n\x00\x00\x00\x04C\x00\x00\x00\x0bCOMMIT\x00" + ready,
		"G\x00\x00\x00\x07\x00\x00\x00C\x00\x00\x00\x0cCOPY 10\x00N\x00\x00\x00\x05\x00C\x00\x00\x00\x0dROLLBACK\x00Z\x00\x00\x00\x05I", "S\x00\x00\x00\x08a\x00b\x00A\x00\x00\x00\x05",
		"Z\x00\x00\x00\x04", "C\x00\x00\x00\x04E\x00\x00\x00\x04", "E\x00\x00\x00\x06SF", "D\x7f\xff\xff\xff",
	} {
		for _, mode := range []byte{0, drop, withholdReady | withholdTag | hideBlock, replacement, offset, committing} {
			f.Add([]byte(input), mode)
		}
	}
	f.Fuzz(func(t *testing.T, input []byte, mode byte) {
		x := newExchange(fakeHost{})
		x.rewrite = rewrite{
			drop: mode&drop != 0, withholdReady: mode&withholdReady != 0, withholdTag: mode&withholdTag != 0, hideBlock: mode&hideBlock != 0,
		}
		if mode&replacement != 0 {
			x.rewrite.replacement = rules.ErrSchemaConflict
		}
		if mode&offset != 0 {
			x.rewrite.offset = 3
		}
		x.committing = mode&committing != 0
		var passed bytes.Buffer
		a := responses{exchange: x, stream: &stream{from: bufio.NewReader(bytes.NewReader(input)), to: bufio.NewWriter(&passed), limit: maxResponse}}
		require.Error(t, a.run()) // the stream ends, at the latest
		require.NoError(t, a.to.Flush())
		require.LessOrEqual(t, bytes.Count(passed.Bytes(), mustEncode(rules.ErrRowLimit)), 1+bytes.Count(input, mustEncode(rules.ErrRowLimit)))

		unchanged, asynchronous := true, 0
		for rest := input; len(rest) >= HeaderSize; {
			kind, size := rest[0], uint64(binary.BigEndian.Uint32(rest[1:]))+1
			if size < HeaderSize || size > maxResponse+1 || kind == 'Z' && size != HeaderSize+1 {
				break
			}
			unchanged = unchanged && kind != 'E'
			whole := uint64(len(rest)) >= size
			if kind == 'S' || kind == 'A' {
				asynchronous += int(min(size, uint64(len(rest))))
			}
			if !whole {
				break
			}
			rest = rest[size:]
		}
		switch {
		case x.rewrite.drop:
			require.Equal(t, asynchronous, passed.Len())
		case mode&127 == 0 && unchanged && !x.tooManyRows:
			require.True(t, bytes.HasPrefix(input, passed.Bytes()))
			if last := len(input) - passed.Len(); last > 0 {
				kind, body, err := ReadMessage(bytes.NewReader(input[passed.Len():]))
				require.True(t, err != nil || kind == 'Z' && len(body) != 1, "a whole message was held back")
			}
		}
	})
}
