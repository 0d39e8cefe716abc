// Bench measures what the library claims, side by side with what people use otherwise, on one local
// endpoint in one run: "make bench" prints one table, and -json writes it for machines too.
//
// What is compared takes turns, round by round, so that whatever else the machine does meets all
// of it. A row has the median of its rounds, their quartiles, and the ratio of its median to that
// of the first of its group.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// groups are what is measured, in order.
var groups = []struct {
	name string
	run  func(ctx context.Context, e *endpoint, t *table) error
}{
	{"token", tokens}, {"connect", connects}, {"cold", coldStarts}, {"queries", queries}, {"transports", transports},
	{"burst", bursts}, {"transactions", transactions}, {"idle", idleConnections}, {"size", sizes},
}

func main() {
	log.SetFlags(0)
	var names []string
	for _, g := range groups {
		names = append(names, g.name)
	}
	file := flag.String("json", "", "write the table to a `file`, as JSON")
	only := flag.String("only", strings.Join(names, ","), "which `groups` to measure")
	holder := flag.String("hold", "", "for the program itself: hold connections of this `kind`")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if *holder != "" {
		if err := hold(ctx, *holder); err != nil {
			log.Fatal(err)
		}
		return
	}
	chosen := strings.Split(*only, ",")
	for _, name := range chosen {
		if !slices.Contains(names, name) {
			log.Fatalf("bench: -only: there is no group %q; there are %s", name, strings.Join(names, ", "))
		}
	}

	if err := measure(ctx, chosen, *file); err != nil {
		log.Fatal("bench: ", err)
	}
}

// measure runs the chosen groups and writes the table.
func measure(ctx context.Context, chosen []string, file string) error {
	e, err := start(ctx)
	if err != nil {
		return err
	}
	defer e.close()
	t := &table{Time: time.Now(), Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH, Cores: runtime.NumCPU()}
	for _, g := range groups {
		if !slices.Contains(chosen, g.name) {
			continue
		}
		fmt.Fprintf(os.Stderr, "measuring %s\n", g.name)
		e.SetRoundTripTime(0) // a group may leave another
		if err := g.run(ctx, e, t); err != nil {
			return fmt.Errorf("%s: %w", g.name, err)
		}
	}
	t.print()
	if file == "" {
		return nil
	}
	text, err := json.MarshalIndent(t, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(text, '\n'), 0o644)
}

type table struct {
	Time     time.Time `json:"time"`
	Go       string    `json:"go"`
	Platform string    `json:"platform"`
	Cores    int       `json:"cores"`
	Rows     []row     `json:"rows"`
}

type row struct {
	Group  string  `json:"group"`
	Name   string  `json:"name"`
	Unit   string  `json:"unit"`
	Median float64 `json:"median"`
	Low    float64 `json:"low"` // quartiles
	High   float64 `json:"high"`
	Ratio  float64 `json:"ratio"` // to the first of the group
	Rounds int     `json:"rounds"`
}

// variant is one way to do what a group measures.
type variant struct {
	name    string
	measure func() (float64, error)
}

// compare measures variants in turns, and adds a row for each. A first round warms up and does not count.
// Every other round goes backwards, since what comes behind another meets what that one left.
func (t *table) compare(ctx context.Context, group, unit string, rounds int, variants ...variant) error {
	samples := make([][]float64, len(variants))
	for round := range rounds + 1 {
		for turn := range variants {
			i := turn
			if round%2 == 1 {
				i = len(variants) - 1 - turn
			}
			v := variants[i]
			if err := ctx.Err(); err != nil {
				return err
			}
			sample, err := v.measure()
			if err != nil {
				return fmt.Errorf("%s, %s: %w", group, v.name, err)
			}
			if round > 0 {
				samples[i] = append(samples[i], sample)
			}
		}
	}
	var base float64
	for i, v := range variants {
		base = t.add(group, v.name, unit, samples[i], base)
	}
	return nil
}

// add adds a row for samples, which it sorts. base is the median of the first row of the group, or 0
// for that row. It returns base for the next.
func (t *table) add(group, name, unit string, samples []float64, base float64) float64 {
	slices.Sort(samples)
	r := row{Group: group, Name: name, Unit: unit, Rounds: len(samples),
		Low: quantile(samples, 0.25), Median: quantile(samples, 0.5), High: quantile(samples, 0.75)}
	if base == 0 {
		base = r.Median
	}
	if base != 0 {
		r.Ratio = r.Median / base
	}
	t.Rows = append(t.Rows, r)
	return base
}

func quantile(sorted []float64, q float64) float64 {
	at := q * float64(len(sorted)-1)
	low := sorted[int(at)]
	high := sorted[min(int(at)+1, len(sorted)-1)]
	return low + (high-low)*(at-float64(int(at)))
}

func (t *table) print() {
	fmt.Printf("%s, %s, %d cores, %s\n\n", t.Go, t.Platform, t.Cores, t.Time.Format(time.DateOnly))
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "group\t\tmedian\tquartiles\tunit\tratio")
	group := ""
	for _, r := range t.Rows {
		name := r.Group
		if name == group {
			name = ""
		}
		group = r.Group
		fmt.Fprintf(w, "%s\t%s\t%s\t%s to %s\t%s\t%.2f\n", name, r.Name, figure(r.Median), figure(r.Low), figure(r.High), r.Unit, r.Ratio)
	}
	w.Flush()
}

// figure prints three digits, or all those before the point.
func figure(f float64) string {
	switch {
	case f >= 100 || f == 0:
		return fmt.Sprintf("%.0f", f)
	case f >= 10:
		return fmt.Sprintf("%.1f", f)
	}
	return fmt.Sprintf("%.2f", f)
}
