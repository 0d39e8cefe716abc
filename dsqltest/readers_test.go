package dsqltest

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"strconv"
	"strings"
	"testing"

	"github.com/dsqlgo/dsql/dsqltest/internal/rules"
	"github.com/jackc/pgx/v5/pgproto3"
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

// FuzzAnswers: what PostgreSQL answers reaches the client byte for byte where no rule comes in between. A
// muted answer shows nothing, and too many rows are reported once.
func FuzzAnswers(f *testing.F) {
	const mute, keepReady, keepTag, implicit, instead, shift, committing = 1, 2, 4, 8, 16, 32, 64
	update := "C\x00\x00\x00\x10UPDATE 2000\x00"
	ready, failed := "Z\x00\x00\x00\x05T", string(mustEncode(rules.ErrConflict))
	located := string(mustEncode(&pgproto3.ErrorResponse{Severity: "ERROR", Code: "42601", Message: "syntax error", Position: 7}))
	for _, stream := range []string{
		"T\x00\x00\x00\x06\x00\x00D\x00\x00\x00\x06\x00\x00C\x00\x00\x00\x0dSELECT 1\x00" + ready, update + ready + update + ready + failed + ready,
		failed + ready, located + ready, "1\x00\x00\x00\x042\x00\x00\x00\x04n\x00\x00\x00\x04C\x00\x00\x00\x0bCOMMIT\x00" + ready,
		"G\x00\x00\x00\x07\x00\x00\x00C\x00\x00\x00\x0cCOPY 10\x00N\x00\x00\x00\x05\x00C\x00\x00\x00\x0dROLLBACK\x00Z\x00\x00\x00\x05I", "S\x00\x00\x00\x08a\x00b\x00A\x00\x00\x00\x05",
		"Z\x00\x00\x00\x04", "C\x00\x00\x00\x04E\x00\x00\x00\x04", "E\x00\x00\x00\x06SF", "D\x7f\xff\xff\xff",
	} {
		for _, mode := range []byte{0, mute, keepReady | keepTag | implicit, instead, shift, committing} {
			f.Add([]byte(stream), mode)
		}
	}
	f.Fuzz(func(t *testing.T, stream []byte, mode byte) {
		c := newConversation(&session{client: &client{server: new(Server)}})
		c.edit = edit{mute: mode&mute != 0, keepReady: mode&keepReady != 0, keepTag: mode&keepTag != 0, implicit: mode&implicit != 0}
		if mode&instead != 0 {
			c.edit.instead = rules.ErrSchemaConflict
		}
		if mode&shift != 0 {
			c.edit.shift = 3
		}
		c.committing = mode&committing != 0
		var passed bytes.Buffer
		a := answers{conversation: c, relay: &relay{from: bufio.NewReader(bytes.NewReader(stream)), to: bufio.NewWriter(&passed), limit: maxAnswer}}
		require.Error(t, a.run()) // the stream ends, at the latest
		require.NoError(t, a.to.Flush())
		require.LessOrEqual(t, bytes.Count(passed.Bytes(), mustEncode(rules.ErrRowLimit)), 1+bytes.Count(stream, mustEncode(rules.ErrRowLimit)))

		unchanged, asynchronous := true, 0
		for rest := stream; len(rest) >= headerSize; {
			kind, size := rest[0], uint64(binary.BigEndian.Uint32(rest[1:]))+1
			if size < headerSize || size > maxAnswer+1 || kind == 'Z' && size != headerSize+1 {
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
		case c.edit.mute:
			require.Equal(t, asynchronous, passed.Len())
		case mode&127 == 0 && unchanged && !c.overrun:
			require.True(t, bytes.HasPrefix(stream, passed.Bytes()))
			if last := len(stream) - passed.Len(); last > 0 {
				kind, body, err := readMessage(bytes.NewReader(stream[passed.Len():]))
				require.True(t, err != nil || kind == 'Z' && len(body) != 1, "a whole message was held back")
			}
		}
	})
}

// FuzzScript: PostgreSQL is asked for a script's statements in their order, up to the first that fails, and
// the error names the line where that one begins.
func FuzzScript(f *testing.F) {
	for _, text := range []string{
		"create table t (id int);\n\n-- é\ninsert into t values (1);", "é;\r\nü\xff;\n'\n';x", "create index async on t (a);\nselect 1;\ncreate index async on u (b)",
		"/* \n */ select $$\n;\n$$;\nselect 2", "", ";;\n;", "create function f() begin atomic select 1;\n end;\n\nx",
	} {
		for fails := range uint8(4) {
			f.Add(text, fails)
		}
	}
	f.Fuzz(func(t *testing.T, text string, fails uint8) {
		var answers, want []byte
		var asked bytes.Buffer
		add := func(to *[]byte, message pgproto3.Message) {
			var err error
			*to, err = message.Encode(*to)
			require.NoError(t, err)
		}
		answer := func(value string) {
			add(&answers, &pgproto3.DataRow{Values: [][]byte{[]byte(value)}})
			add(&answers, &pgproto3.CommandComplete{CommandTag: []byte("SELECT 1")})
			add(&answers, &pgproto3.ReadyForQuery{TxStatus: 'I'})
		}
		line := 0
		for i, st := range rules.Parse(text) {
			add(&want, &pgproto3.Query{String: st.SQL})
			if i == int(fails) {
				line = 1 + strings.Count(text[:bytesOf(text, st.Start)], "\n")
				add(&answers, rules.NewError("22012", "division by zero"))
				add(&answers, &pgproto3.ReadyForQuery{TxStatus: 'I'})
				break
			}
			answer("a job")
			if st.Rewritten != "" {
				add(&want, &pgproto3.Query{String: "CALL sys.wait_for_job('a job')"})
				answer("t")
			}
		}
		w := &worker{frontend: pgproto3.NewFrontend(bytes.NewReader(answers), &asked)}
		err := w.runScript(text)
		require.Equal(t, string(want), asked.String())
		if line == 0 {
			require.NoError(t, err)
			return
		}
		require.ErrorContains(t, err, "division by zero")
		require.True(t, strings.HasPrefix(err.Error(), strconv.Itoa(line)+": "), "%d, not %v", line, err)
	})
}

// bytesOf is the length in bytes of the first characters of s.
func bytesOf(s string, characters int) int {
	for i := range s {
		if characters == 0 {
			return i
		}
		characters--
	}
	return len(s)
}
