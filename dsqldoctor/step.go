package dsqldoctor

import (
	"fmt"
	"time"

	"github.com/dsqlgo/dsql/internal/redact"
)

// Step is one test that Diagnose made.
type Step struct {
	// Name says what was tested, such as "tls direct". The same test has the same name in every
	// report, so that reports can be compared.
	Name   string        `json:"name"`
	Result StepResult    `json:"result"`
	Took   time.Duration `json:"took_ns"` // 0 if skipped
	Seen   string        `json:"seen"`    // what was observed, or why the step was skipped

	// Means explains Seen. It is empty where Seen explains itself.
	Means string `json:"means,omitempty"`
}

// StepResult is how a Step ended.
type StepResult string

// The results of a Step.
const (
	StepOK      StepResult = "ok"
	StepFailed  StepResult = "failed"
	StepSkipped StepResult = "skipped" // not tested; Seen says why
	StepNote    StepResult = "note"    // unusual, but does not keep a connection from working
)

// String returns the step as one line: the result, the duration, the name, what was seen, and what
// that means. It is safe to print, whatever file the step was read from.
func (s Step) String() string {
	took := ""
	if s.Result != StepSkipped {
		took = s.Took.Round(time.Millisecond).String()
	}
	line := fmt.Sprintf("%-7s  %7s  %s: %s", redact.Line(string(s.Result)), took, redact.Line(s.Name), redact.Line(s.Seen))
	if s.Means != "" {
		line += "; " + redact.Line(s.Means)
	}
	return line
}

// Names of the steps that every report has, in their order. Diagnose adds others where they can
// tell more: a TCP step for each address, and variants of TLS, startup and login where these fail.
const (
	stepConfig        = "configuration"
	stepCredentials   = "credentials"
	stepToken         = "token"
	stepDNS           = "dns"
	stepTCP           = "tcp"
	stepTLSDirect     = "tls direct"
	stepTLSSSLRequest = "tls after SSLRequest"
	stepPlaintext     = "plaintext"
	stepWebSocket     = "websocket"
	stepStartup       = "startup"
	stepLogin         = "login"
	stepQuery         = "query"
	stepClock         = "clock"
	stepEarlyAuth     = "early auth"
)
