package rules

import (
	"strings"
	"unicode/utf8"
)

// A lexeme is a piece of SQL that the rules can tell apart.
type lexeme struct {
	class      lexemeClass
	start, end int // bytes
}

type lexemeClass uint8

const (
	word   lexemeClass = iota // keyword, unquoted identifier, number
	quoted                    // identifier in double quotes
	text                      // literal, or a comment without its end, which is an error
	symbol                    // one byte of anything else
)

// nextLexeme returns the first lexeme at pos or behind it. Lexical rules are
// those of "SQL Syntax" in the PostgreSQL manual, with
// standard_conforming_strings on.
func nextLexeme(sql string, pos int) (t lexeme, ok bool) {
	for pos < len(sql) {
		c := sql[pos]
		switch {
		case isSpace(c):
			pos++
			continue
		case strings.HasPrefix(sql[pos:], "--"):
			pos = lineEnd(sql, pos)
			continue
		case strings.HasPrefix(sql[pos:], "/*"):
			end, closed := commentEnd(sql, pos)
			if !closed {
				return lexeme{text, pos, end}, true
			}
			pos = end
			continue
		case c == '\'':
			return lexeme{text, pos, quoteEnd(sql, pos)}, true
		case c == '"':
			return lexeme{quoted, pos, quoteEnd(sql, pos)}, true
		case (c == 'e' || c == 'E') && strings.HasPrefix(sql[pos+1:], "'"):
			return lexeme{text, pos, escapeEnd(sql, pos+1)}, true
		case c == '$':
			if end, ok := dollarEnd(sql, pos); ok {
				return lexeme{text, pos, end}, true
			}
		case isWord(c):
			end := pos + 1
			for end < len(sql) && (isWord(sql[end]) || sql[end] == '$') {
				end++
			}
			return lexeme{word, pos, end}, true
		}
		return lexeme{symbol, pos, pos + 1}, true
	}
	return lexeme{}, false
}

func isSpace(c byte) bool { return strings.IndexByte(" \t\n\r\f\v", c) >= 0 }

func isWord(c byte) bool {
	return 'a' <= c|0x20 && c|0x20 <= 'z' || '0' <= c && c <= '9' || c == '_' || c >= utf8.RuneSelf
}

func lineEnd(sql string, pos int) int {
	if n := strings.IndexAny(sql[pos:], "\r\n"); n >= 0 {
		return pos + n
	}
	return len(sql)
}

// commentEnd knows that comments nest.
func commentEnd(sql string, pos int) (end int, closed bool) {
	depth := 0
	for pos < len(sql) {
		switch {
		case strings.HasPrefix(sql[pos:], "/*"):
			depth++
			pos += 2
		case strings.HasPrefix(sql[pos:], "*/"):
			depth--
			pos += 2
			if depth == 0 {
				return pos, true
			}
		default:
			pos++
		}
	}
	return pos, false
}

// quoteEnd ends what is quoted by sql[pos]. A quote that is doubled ends one
// token and begins the next, which comes to the same.
func quoteEnd(sql string, pos int) int {
	if n := strings.IndexByte(sql[pos+1:], sql[pos]); n >= 0 {
		return pos + 1 + n + 1
	}
	return len(sql)
}

// escapeEnd ends an E'…' literal, whose first quote is at pos. Such a literal
// goes on, escapes and all, in a quote on a following line.
func escapeEnd(sql string, pos int) int {
	for pos++; pos < len(sql); pos++ {
		switch sql[pos] {
		case '\\':
			pos++
		case '\'':
			next := pos + 1
			for next < len(sql) && isSpace(sql[next]) {
				next++
			}
			if next == len(sql) || sql[next] != '\'' || next > pos+1 && !strings.ContainsAny(sql[pos+1:next], "\r\n") {
				return pos + 1
			}
			pos = next
		}
	}
	return len(sql)
}

// dollarEnd ends a $tag$…$tag$ literal, if one begins at pos.
func dollarEnd(sql string, pos int) (end int, ok bool) {
	n := pos + 1
	for n < len(sql) && isWord(sql[n]) {
		n++
	}
	if n == len(sql) || sql[n] != '$' || n > pos+1 && '0' <= sql[pos+1] && sql[pos+1] <= '9' {
		return 0, false
	}
	tag := sql[pos : n+1]
	if close := strings.Index(sql[n+1:], tag); close >= 0 {
		return n + 1 + close + len(tag), true
	}
	return len(sql), true
}
