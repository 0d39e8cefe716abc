package dsqldoctor

import (
	"fmt"
	"strings"
	"time"

	"github.com/dsqlgo/dsql/internal/redact"
)

// Report is the result of Diagnose. It holds no secret. encoding/json writes and reads it without
// loss. String formats it for people.
type Report struct {
	Time     time.Time     `json:"time"`       // when the diagnosis began, in UTC
	Elapsed  time.Duration `json:"elapsed_ns"` // how long it took
	Target   ReportTarget  `json:"target"`
	Steps    []Step        `json:"steps"` // in the order in which they ended
	Verdict  Verdict       `json:"verdict"`
	Summary  string        `json:"summary"`  // the problem, in a sentence
	Evidence []string      `json:"evidence"` // observations that led to the verdict
	Remedies []string      `json:"remedies"` // what to do, the most likely remedy first
}

// ReportTarget says what the Config connects to. Fields that the Config leaves open are filled in
// as for a connection. Fields that could not be determined are empty.
type ReportTarget struct {
	Host        string `json:"host"`
	DialAddress string `json:"dial_address"` // "host:port"
	ServerName  string `json:"server_name"`  // SNI and token host
	Region      string `json:"region"`
	ClusterID   string `json:"cluster_id"`
	User        string `json:"user"`
	Database    string `json:"database"`
	Action      string `json:"action"` // of the token: DbConnect or DbConnectAdmin
}

// String returns a line for each step, followed by the verdict, the evidence and the remedies. It
// is safe to print, whatever file the report was read from.
func (r *Report) String() string {
	var b strings.Builder
	for _, s := range r.Steps {
		b.WriteString(s.String() + "\n")
	}
	fmt.Fprintf(&b, "\nverdict: %s\n%s\n", redact.Line(string(r.Verdict)), redact.Line(r.Summary))
	writeList(&b, "Evidence", r.Evidence)
	writeList(&b, "What to do", r.Remedies)
	return b.String()
}

func writeList(b *strings.Builder, title string, lines []string) {
	if len(lines) == 0 {
		return
	}
	fmt.Fprintf(b, "\n%s:\n", title)
	for _, line := range lines {
		b.WriteString("  - " + redact.Line(line) + "\n")
	}
}
