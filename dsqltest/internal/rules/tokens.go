package rules

import (
	"slices"
	"strings"
)

// A token is a lexeme with what the rules about clauses ask of it.
type token struct {
	lexeme
	text  string // words in lower case, everything else as it is written
	depth int    // of parentheses and brackets around it
}

// tokens is a statement, or a part of one.
type tokens []token

// tokenize splits sql[start:end].
func tokenize(sql string, start, end int) tokens {
	var ts tokens
	depth := 0
	for pos := start; pos < end; {
		l, ok := nextLexeme(sql[:end], pos)
		if !ok {
			break
		}
		pos = l.end
		t := token{lexeme: l, text: sql[l.start:l.end], depth: depth}
		switch {
		case l.class == word:
			t.text = strings.ToLower(t.text)
		case t.text == "(" || t.text == "[":
			depth++
		case t.text == ")" || t.text == "]":
			depth = max(0, depth-1)
			t.depth = depth
		}
		ts = append(ts, t)
	}
	return ts
}

// is reports whether the i-th token is one of some words, unquoted.
func (ts tokens) is(i int, words ...string) bool {
	return i >= 0 && i < len(ts) && ts[i].class == word && slices.Contains(words, ts[i].text)
}

// symbol reports whether the i-th token is s.
func (ts tokens) symbol(i int, s string) bool {
	return i < len(ts) && ts[i].class == symbol && ts[i].text == s
}

// follow reports whether words stand at i, one after the other.
func (ts tokens) follow(i int, words ...string) bool {
	for n, w := range words {
		if !ts.is(i+n, w) {
			return false
		}
	}
	return true
}

// skip returns the index behind words, or i when they do not all stand there.
func (ts tokens) skip(i int, words ...string) int {
	if ts.follow(i, words...) {
		return i + len(words)
	}
	return i
}

// find returns the index of the first of words outside of all parentheses that ts itself is not
// in, or -1.
func (ts tokens) find(words ...string) int {
	if len(ts) == 0 {
		return -1
	}
	return slices.IndexFunc(ts, func(t token) bool {
		return t.depth <= ts[0].depth && t.class == word && slices.Contains(words, t.text)
	})
}

// name returns the identifier at i as PostgreSQL knows it, "" where there is none.
func (ts tokens) name(i int) string {
	if i < 0 || i >= len(ts) {
		return ""
	}
	switch ts[i].class {
	case word:
		return ts[i].text
	case quoted:
		return strings.ReplaceAll(strings.Trim(ts[i].text, `"`), `""`, `"`)
	}
	return ""
}

// skipName returns the index behind the identifier at i, with its schema.
func (ts tokens) skipName(i int) int {
	for i++; ts.symbol(i, "."); i += 2 {
	}
	return min(i, len(ts))
}

// split returns the parts between commas.
func (ts tokens) split() []tokens {
	var parts []tokens
	start := 0
	for i := range ts {
		if ts.symbol(i, ",") && ts[i].depth <= ts[0].depth {
			parts = append(parts, ts[start:i])
			start = i + 1
		}
	}
	return append(parts, ts[start:])
}

// group returns what stands inside the parentheses that open at i, and the index behind them.
func (ts tokens) group(i int) (inside tokens, next int) {
	if !ts.symbol(i, "(") {
		return nil, i
	}
	for next = i + 1; next < len(ts); next++ {
		if ts.symbol(next, ")") && ts[next].depth == ts[i].depth {
			return ts[i+1 : next], next + 1
		}
	}
	return ts[i+1:], len(ts)
}
