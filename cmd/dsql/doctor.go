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

// doctorTimeout leaves every step of a run on a dead network some time.
const doctorTimeout = 20 * time.Second

// statuses are doctor's, by the class of the verdict.
var statuses = map[dsqldoctor.Verdict]int{
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
	dsqldoctor.VerdictSNI:                   exitTLS,
	dsqldoctor.VerdictCertificate:           exitTLS,
	dsqldoctor.VerdictQuota:                 exitService,
	dsqldoctor.VerdictWaking:                exitService,
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

	paint := func(_, text string) string { return text }
	if c.terminal(c.stdout) && c.getenv("NO_COLOR") == "" && c.getenv("TERM") != "dumb" {
		paint = func(colour, text string) string { return "\x1b[" + colour + "m" + text + "\x1b[0m" }
	}
	report := c.examine(ctx, connString, func(s dsqldoctor.Step) {
		if !*asJSON {
			c.print(c.stdout, stepLine(s, paint)+"\n")
		}
	})
	status, known := statuses[report.Verdict]
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
	rest := *report
	rest.Steps = nil // they are on the screen
	c.print(c.stdout, rest.String())
	if other != nil {
		c.print(c.stdout, "\n"+comparison(*file, other, report, paint))
	}
	return status, nil
}

// examine is Diagnose from the connection string on.
func (c *command) examine(ctx context.Context, connString string, onStep func(dsqldoctor.Step)) *dsqldoctor.Report {
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
		Remedies: []string{"Correct the connection string; dsql help and the documentation of dsql.ParseConfig say what it may hold."},
	}
}

// colours are SGR parameters (ECMA-48, 8.3.117).
var colours = map[dsqldoctor.StepResult]string{
	dsqldoctor.StepOK:      "32",
	dsqldoctor.StepFailed:  "31",
	dsqldoctor.StepNote:    "33",
	dsqldoctor.StepSkipped: "2",
}

// stepLine is the step's own line, with the result at its beginning in colour.
func stepLine(s dsqldoctor.Step, paint func(colour, text string) string) string {
	line := s.String()
	rest, ok := strings.CutPrefix(line, string(s.Result))
	if !ok {
		return line
	}
	return paint(colours[s.Result], string(s.Result)) + rest
}

func (c *command) printJSON(v any) error {
	encoder := json.NewEncoder(c.stdout)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(v)
}

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

// comparison sets two reports beside one another, a step a row, in the order of here; what only other
// has follows the step that it followed there. Where the results differ, what was seen stands below. A
// step that one side lacks counts as different when it failed: the addresses of a name differ by network.
func comparison(file string, other, here *dsqldoctor.Report, paint func(colour, text string) string) string {
	there := byName(other)
	now := byName(here)
	names := mergedNames(here, other)

	var rows [][4]string // mark, name, other, here
	width := [4]int{1, len("step"), len("other"), len("here")}
	for _, name := range names {
		row := [4]string{" ", name, cell(there[name]), cell(now[name])}
		if differ(there[name], now[name]) {
			row[0] = "*"
		}
		for i, text := range row {
			width[i] = max(width[i], len(text))
		}
		rows = append(rows, row)
	}

	var b strings.Builder
	fmt.Fprintf(&b, "other: %s, %s, verdict %s\n", file, other.Time.Format(time.RFC3339), other.Verdict)
	fmt.Fprintf(&b, "here:  %s, verdict %s\n\n", here.Time.Format(time.RFC3339), here.Verdict)
	if o, h := other.Target, here.Target; o.ServerName != h.ServerName || o.User != h.User || o.Database != h.Database {
		b.WriteString("The two are not about the same endpoint, role and database.\n\n")
	}
	fmt.Fprintf(&b, "  %-*s  %-*s  here\n", width[1], "step", width[2], "other")
	same := true
	for i, row := range rows {
		line := strings.TrimRight(fmt.Sprintf("%s %-*s  %-*s  %s", row[0], width[1], row[1], width[2], row[2], row[3]), " ")
		if row[0] == " " {
			b.WriteString(line + "\n")
			continue
		}
		same = false
		b.WriteString(paint("1", line) + "\n")
		for _, side := range []struct {
			name string
			step *dsqldoctor.Step
		}{{"other", there[names[i]]}, {"here", now[names[i]]}} {
			if side.step != nil && side.step.Seen != "" {
				fmt.Fprintf(&b, "      %-6s %s\n", side.name+":", side.step.Seen)
			}
		}
	}
	if same {
		b.WriteString("\nEvery step ended alike.\n")
	} else {
		b.WriteString("\nSteps with a * ended differently.\n")
	}
	return b.String()
}

func byName(r *dsqldoctor.Report) map[string]*dsqldoctor.Step {
	steps := make(map[string]*dsqldoctor.Step, len(r.Steps))
	for i := range r.Steps {
		steps[r.Steps[i].Name] = &r.Steps[i]
	}
	return steps
}

// mergedNames are here's steps, and each of other's own behind the one it came after.
func mergedNames(here, other *dsqldoctor.Report) []string {
	known := byName(here)
	own := map[string][]string{} // of other, by the step before them that here has as well
	before := ""
	for _, s := range other.Steps {
		if known[s.Name] == nil {
			own[before] = append(own[before], s.Name)
		} else {
			before = s.Name
		}
	}
	names := own[""]
	for _, s := range here.Steps {
		names = append(append(names, s.Name), own[s.Name]...)
	}
	return names
}

func differ(other, here *dsqldoctor.Step) bool {
	switch {
	case other == nil:
		return here.Result == dsqldoctor.StepFailed
	case here == nil:
		return other.Result == dsqldoctor.StepFailed
	}
	return other.Result != here.Result
}

// cell is a step's result and how long it took.
func cell(s *dsqldoctor.Step) string {
	switch {
	case s == nil:
		return "-"
	case s.Result == dsqldoctor.StepSkipped:
		return string(s.Result)
	}
	return fmt.Sprintf("%s %s", s.Result, s.Took.Round(time.Millisecond))
}
