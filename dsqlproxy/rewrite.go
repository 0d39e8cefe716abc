package dsqlproxy

import (
	"bytes"
	"encoding/binary"
	"strings"
)

// maxRewritten is the longest message that is looked at. No statement of compatRules is longer.
const maxRewritten = 8 << 10

// editor rewrites the SQL in a client's messages by compatRules. It holds a message back until it
// is whole, if it is a short Query or Parse, and lets everything else pass.
type editor struct {
	processID uint32

	held []byte // of a message, from its first byte
	pass int64  // bytes still to come of one that is not held
}

// edit returns what goes to the cluster for b, and messages that tell the client what was changed.
func (e *editor) edit(b []byte) (out []byte, notices [][]byte) {
	for len(b) > 0 {
		if e.pass > 0 {
			n := int(min(e.pass, int64(len(b))))
			out, b, e.pass = append(out, b[:n]...), b[n:], e.pass-int64(n)
			continue
		}
		want := headerSize
		if len(e.held) >= headerSize {
			want = 1 + int(binary.BigEndian.Uint32(e.held[1:]))
		}
		n := min(want-len(e.held), len(b))
		e.held, b = append(e.held, b[:n]...), b[n:]
		switch {
		case len(e.held) < want:
			return out, notices
		case want == headerSize && !e.holds():
			out = append(out, e.held...)
			e.pass, e.held = int64(binary.BigEndian.Uint32(e.held[1:]))-4, e.held[:0]
		case len(e.held) > headerSize:
			message, changed := e.rewrite(e.held)
			out, e.held = append(out, message...), e.held[:0]
			for _, name := range changed {
				notice := droppedNotice(name)
				encoded, err := notice.Encode(nil)
				if err == nil {
					notices = append(notices, encoded)
				}
			}
		}
	}
	return out, notices
}

// holds tells whether the message whose header is held may have to be rewritten.
func (e *editor) holds() bool {
	length := binary.BigEndian.Uint32(e.held[1:])
	return (e.held[0] == 'Q' || e.held[0] == 'P') && length > 4 && length <= maxRewritten
}

// rewrite returns a message with its SQL rewritten, and what was changed.
func (e *editor) rewrite(message []byte) (rewritten []byte, changed []string) {
	body := message[headerSize:]
	var before []byte // the name of a statement that is prepared
	if message[0] == 'P' {
		end := bytes.IndexByte(body, 0)
		if end < 0 {
			return message, nil // the cluster refuses it
		}
		before, body = body[:end+1], body[end+1:]
	}
	end := bytes.IndexByte(body, 0)
	if end < 0 {
		return message, nil
	}
	query, changed := rewriteQuery(string(body[:end]), e.processID)
	if len(changed) == 0 {
		return message, nil
	}
	after := body[end:]
	rewritten = binary.BigEndian.AppendUint32([]byte{message[0]}, uint32(4+len(before)+len(query)+len(after)))
	return append(append(append(rewritten, before...), query...), after...), changed
}

// splitStatements splits at the semicolons that stand outside of quotes and comments (PostgreSQL
// docs, "Lexical Structure"). strings.Join with ";" is the opposite.
func splitStatements(query string) (parts []string) {
	start := 0
	for i := 0; i < len(query); {
		switch c := query[i]; {
		case c == ';':
			parts = append(parts, query[start:i])
			i++
			start = i
		default:
			i += tokenLength(query[i:])
		}
	}
	return append(parts, query[start:])
}

// tokenLength is the length of the quoted text or comment that s begins with, of a word, or 1.
func tokenLength(s string) int {
	switch c := s[0]; {
	case c == '\'' || c == '"':
		return quotedLength(s, c, false)
	case (c == 'e' || c == 'E') && strings.HasPrefix(s[1:], "'"):
		return 1 + quotedLength(s[1:], '\'', true)
	case strings.HasPrefix(s, "--"):
		if end := strings.IndexByte(s, '\n'); end >= 0 {
			return end
		}
		return len(s)
	case strings.HasPrefix(s, "/*"):
		return commentLength(s)
	case c == '$':
		return dollarLength(s)
	case isWord(c):
		n := 1
		for n < len(s) && (isWord(s[n]) || s[n] == '$') {
			n++
		}
		return n
	}
	return 1
}

func isWord(c byte) bool {
	return c == '_' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c >= 0x80
}

// quotedLength is that of a text in quotes; two of them stand for one, and so does one behind a
// backslash, if those escape.
func quotedLength(s string, quote byte, escapes bool) int {
	for i := 1; i < len(s); i++ {
		switch {
		case escapes && s[i] == '\\':
			i++
		case s[i] != quote:
		case i+1 < len(s) && s[i+1] == quote:
			i++
		default:
			return i + 1
		}
	}
	return len(s)
}

// commentLength is that of a comment in C's style, which may hold others.
func commentLength(s string) int {
	depth := 0
	for i := 0; i < len(s); {
		switch {
		case strings.HasPrefix(s[i:], "/*"):
			depth++
			i += 2
		case strings.HasPrefix(s[i:], "*/"):
			i += 2
			if depth--; depth == 0 {
				return i
			}
		default:
			i++
		}
	}
	return len(s)
}

// dollarLength is that of a text in dollar quotes, or 1.
func dollarLength(s string) int {
	n := 1
	for n < len(s) && isWord(s[n]) {
		n++
	}
	if n == len(s) || s[n] != '$' || n > 1 && '0' <= s[1] && s[1] <= '9' {
		return 1 // a parameter, for one
	}
	tag := s[:n+1]
	if end := strings.Index(s[len(tag):], tag); end >= 0 {
		return len(tag) + end + len(tag)
	}
	return len(s)
}
