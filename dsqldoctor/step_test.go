package dsqldoctor_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dsqlgo/dsql/dsqldoctor"
)

func TestStepString(t *testing.T) {
	for want, s := range map[string]dsqldoctor.Step{
		"ok          83ms  tls direct: TLS 1.3":                                          {Name: "tls direct", Result: dsqldoctor.StepOK, Took: 83 * time.Millisecond, Seen: "TLS 1.3"},
		"note        1.5s  plaintext: no answer; the server does not answer without TLS": {Name: "plaintext", Result: dsqldoctor.StepNote, Took: 1500 * time.Millisecond, Seen: "no answer", Means: "the server does not answer without TLS"},
		"skipped           dns: the address is given":                                    {Name: "dns", Result: dsqldoctor.StepSkipped, Seen: "the address is given"},
	} {
		require.Equal(t, want, s.String())
	}
}

// A report may come from a file that somebody crafted.
func TestStringEscapes(t *testing.T) {
	const escapes = "\x1b[2J\u009b\u202e\r\n"
	r := dsqldoctor.Report{
		Steps:   []dsqldoctor.Step{{Name: escapes, Result: escapes, Seen: escapes, Means: escapes}},
		Verdict: escapes, Summary: escapes, Evidence: []string{escapes}, Remedies: []string{escapes},
	}
	require.NotRegexp(t, `[^\n[:print:]]`, r.String())
	require.Equal(t, 10, strings.Count(r.String(), "\n"))
}
