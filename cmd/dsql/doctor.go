package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/dsqlgo/dsql"
	"github.com/dsqlgo/dsql/dsqldoctor"
)

// doctorTimeout is enough for every step on a network that answers nothing.
const doctorTimeout = 20 * time.Second

// verdictStatuses are the exit statuses of doctor.
var verdictStatuses = map[dsqldoctor.Verdict]int{
	dsqldoctor.VerdictOK:                    exitOK,
	dsqldoctor.VerdictConfig:                exitConfig,
	dsqldoctor.VerdictCredentials:           exitCredentials,
	dsqldoctor.VerdictTokenKind:             exitAccess,
	dsqldoctor.VerdictAccess:                exitAccess,
	dsqldoctor.VerdictDNS:                   exitNetwork,
	dsqldoctor.VerdictPort:                  exitNetwork,
	dsqldoctor.VerdictIPv6:                  exitNetwork,
	dsqldoctor.VerdictTunnel:                exitNetwork,
	dsqldoctor.VerdictInspection:            exitNetwork,
	dsqldoctor.VerdictInspectionSSLRequest:  exitNetwork,
	dsqldoctor.VerdictInspectionDirect:      exitNetwork,
	dsqldoctor.VerdictInspectionKeyExchange: exitNetwork,
	dsqldoctor.VerdictOtherServer:           exitNetwork,
	dsqldoctor.VerdictSilence:               exitNetwork,
	dsqldoctor.VerdictWebSocket:             exitNetwork,
	dsqldoctor.VerdictSNI:                   exitTLS,
	dsqldoctor.VerdictCertificate:           exitTLS,
	dsqldoctor.VerdictQuota:                 exitService,
	dsqldoctor.VerdictWaking:                exitService,
	dsqldoctor.VerdictUnavailable:           exitService,
	dsqldoctor.VerdictRefused:               exitService,
	dsqldoctor.VerdictClock:                 exitClock,
	dsqldoctor.VerdictIncomplete:            exitFailure,
}

func (c *command) doctor(ctx context.Context, args []string) (status int, err error) {
	flags := newFlags("doctor")
	asJSON := flags.Bool("json", false, "")
	timeout := doctorTimeout
	flags.Func("timeout", "", durationInto(&timeout))
	file := flags.String("compare", "", "")
	if args, err = parse(flags, args); err != nil {
		return 0, err
	}
	if timeout <= 0 {
		return 0, usageError(fmt.Sprintf("--timeout is %s; set it to a time above 0, such as 20s", timeout))
	}
	connString, err := c.connString(args)
	if err != nil {
		return 0, err
	}
	var other *dsqldoctor.Report
	if *file != "" {
		if other, err = readReport(*file); err != nil {
			return 0, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()

	colour := plain
	if c.terminal(c.stdout) && c.getenv("NO_COLOR") == "" && c.getenv("TERM") != "dumb" {
		colour = coloured
	}
	report := diagnose(ctx, connString, func(s dsqldoctor.Step) {
		if !*asJSON {
			c.print(c.stdout, stepLine(s, colour)+"\n")
		}
	})
	status, known := verdictStatuses[report.Verdict]
	if !known {
		status = exitFailure
	}
	switch {
	case *asJSON && other != nil:
		return status, c.printJSON(struct {
			Other *dsqldoctor.Report `json:"other"`
			Here  *dsqldoctor.Report `json:"here"`
		}{other, report})
	case *asJSON:
		return status, c.printJSON(report)
	}
	withoutSteps := *report
	withoutSteps.Steps = nil // they were printed as they ended
	c.print(c.stdout, withoutSteps.String())
	if other != nil {
		c.print(c.stdout, "\n"+compareReports(*file, other, report, colour))
	}
	return status, nil
}

// diagnose is dsqldoctor.Diagnose, with a report on a connection string that cannot be parsed.
func diagnose(ctx context.Context, connString string, onStep func(dsqldoctor.Step)) *dsqldoctor.Report {
	config, err := dsql.ParseConfig(connString)
	if err == nil {
		return dsqldoctor.Diagnose(ctx, config, onStep)
	}
	step := dsqldoctor.Step{Name: "configuration", Result: dsqldoctor.StepFailed, Seen: err.Error()}
	onStep(step)
	return &dsqldoctor.Report{
		Time:     time.Now().UTC(),
		Steps:    []dsqldoctor.Step{step},
		Verdict:  dsqldoctor.VerdictConfig,
		Summary:  "The connection string cannot work.",
		Evidence: []string{err.Error()},
		Remedies: []string{"Correct the connection string. dsql help and the documentation of dsql.ParseConfig describe it."},
	}
}

// colourFunc returns text in a colour, given as an SGR parameter (ECMA-48, section 8.3.117).
type colourFunc func(sgr, text string) string

func plain(_, text string) string { return text }

func coloured(sgr, text string) string { return "\x1b[" + sgr + "m" + text + "\x1b[0m" }

const bold = "1"

var resultColours = map[dsqldoctor.StepResult]string{
	dsqldoctor.StepOK:      "32", // green
	dsqldoctor.StepFailed:  "31", // red
	dsqldoctor.StepNote:    "33", // yellow
	dsqldoctor.StepSkipped: "2",  // faint
}

// stepLine returns the step's line with its first word, the result, in colour.
func stepLine(s dsqldoctor.Step, colour colourFunc) string {
	line := s.String()
	rest, ok := strings.CutPrefix(line, string(s.Result))
	if !ok {
		return line
	}
	return colour(resultColours[s.Result], string(s.Result)) + rest
}

func (c *command) printJSON(v any) error {
	encoder := json.NewEncoder(c.stdout)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(v)
}

// readReport reads a report that doctor --json saved.
func readReport(file string) (*dsqldoctor.Report, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, usageError(fmt.Sprintf("--compare: %v; save a report on the other network with dsql doctor --json > FILE", err))
	}
	var r dsqldoctor.Report
	if err := json.Unmarshal(data, &r); err != nil || len(r.Steps) == 0 || r.Verdict == "" {
		return nil, usageError(fmt.Sprintf("--compare: %s holds no report; save one on the other network with dsql doctor --json > FILE", file))
	}
	return &r, nil
}
