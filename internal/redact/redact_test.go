package redact

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRedact(t *testing.T) {
	r := Redactor{}
	r.add("a/secret+key", "[hidden]")
	for text, want := range map[string]string{
		"nothing":                             "nothing",
		"a/secret+key and a%2Fsecret%2Bkey":   "[hidden] and [hidden]",
		"x?X-Amz-Signature=0123abcd&b=c":      "x?X-Amz-Signature=[hidden]&b=c",
		"X-Amz-Security-Token=IQo%2B, and so": "X-Amz-Security-Token=[hidden] and so",
		"key AKIAIOSFODNN7EXAMPLE, so":        "key …MPLE, so",
		"a\nb\x1b[31m\xff\u202e":              "a b [31m\ufffd ",
		strings.Repeat("x", 2000):             strings.Repeat("x", 1000) + "…",
	} {
		require.Equal(t, want, r.Redact(text))
	}
}
