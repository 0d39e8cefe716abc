package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/dsqlgo/dsql/dsqldoctor"
	"github.com/dsqlgo/dsql/internal/redact"
)

// compareReports puts two reports side by side, a row for each step, in the order of here. Steps
// that only other has follow the step that they followed there. Where the results differ, what was
// seen stands below the row. A step that only one report has counts as different if it failed,
// since the addresses of a name differ between networks.
//
// Every text of a report goes through redact.Line: a file may hold escape sequences.
func compareReports(file string, other, here *dsqldoctor.Report, colour colourFunc) string {
	otherSteps, hereSteps := stepsByName(other), stepsByName(here)
	var rows []comparisonRow
	for _, name := range mergedNames(here, other) {
		rows = append(rows, comparisonRow{name: redact.Line(name), other: otherSteps[name], here: hereSteps[name]})
	}

	var b strings.Builder
	fmt.Fprintf(&b, "other: %s, %s, verdict %s\n", redact.Line(file), other.Time.Format(time.RFC3339), redact.Line(string(other.Verdict)))
	fmt.Fprintf(&b, "here:  %s, verdict %s\n\n", here.Time.Format(time.RFC3339), here.Verdict)
	if o, h := other.Target, here.Target; o.ServerName != h.ServerName || o.User != h.User || o.Database != h.Database {
		b.WriteString("The reports are about different endpoints, roles or databases.\n\n")
	}
	if writeRows(&b, rows, colour) {
		b.WriteString("\nSteps with a * ended differently.\n")
	} else {
		b.WriteString("\nEvery step ended alike.\n")
	}
	return b.String()
}

// comparisonRow is one step in two reports. A report that lacks the step has nil.
type comparisonRow struct {
	name        string
	other, here *dsqldoctor.Step
}

func (r comparisonRow) differs() bool {
	switch {
	case r.other == nil:
		return r.here.Result == dsqldoctor.StepFailed
	case r.here == nil:
		return r.other.Result == dsqldoctor.StepFailed
	}
	return r.other.Result != r.here.Result
}

// writeRows tells whether there is a difference.
func writeRows(b *strings.Builder, rows []comparisonRow, colour colourFunc) (different bool) {
	nameWidth, otherWidth := len("step"), len("other")
	for _, r := range rows {
		nameWidth, otherWidth = max(nameWidth, len(r.name)), max(otherWidth, len(resultAndTime(r.other)))
	}
	line := func(mark, name, other, here string) string {
		return strings.TrimRight(fmt.Sprintf("%s %-*s  %-*s  %s", mark, nameWidth, name, otherWidth, other, here), " ") + "\n"
	}
	b.WriteString(line(" ", "step", "other", "here"))
	for _, r := range rows {
		if !r.differs() {
			b.WriteString(line(" ", r.name, resultAndTime(r.other), resultAndTime(r.here)))
			continue
		}
		different = true
		b.WriteString(colour(bold, strings.TrimSuffix(line("*", r.name, resultAndTime(r.other), resultAndTime(r.here)), "\n")) + "\n")
		writeSeen(b, "other:", r.other)
		writeSeen(b, "here:", r.here)
	}
	return different
}

func writeSeen(b *strings.Builder, report string, s *dsqldoctor.Step) {
	if s != nil && s.Seen != "" {
		fmt.Fprintf(b, "      %-6s %s\n", report, redact.Line(s.Seen))
	}
}

// resultAndTime is what a row says of a step.
func resultAndTime(s *dsqldoctor.Step) string {
	switch {
	case s == nil:
		return "-"
	case s.Result == dsqldoctor.StepSkipped:
		return string(s.Result)
	}
	return fmt.Sprintf("%s %s", redact.Line(string(s.Result)), s.Took.Round(time.Millisecond))
}

func stepsByName(r *dsqldoctor.Report) map[string]*dsqldoctor.Step {
	steps := make(map[string]*dsqldoctor.Step, len(r.Steps))
	for i := range r.Steps {
		steps[r.Steps[i].Name] = &r.Steps[i]
	}
	return steps
}

// mergedNames returns the steps of here, and each step that only other has behind the one that it
// followed there.
func mergedNames(here, other *dsqldoctor.Report) []string {
	known := stepsByName(here)
	onlyOther := map[string][]string{} // by the step before them that here has as well
	before := ""
	for _, s := range other.Steps {
		if known[s.Name] == nil {
			onlyOther[before] = append(onlyOther[before], s.Name)
		} else {
			before = s.Name
		}
	}
	names := onlyOther[""]
	for _, s := range here.Steps {
		names = append(append(names, s.Name), onlyOther[s.Name]...)
	}
	return names
}
