package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// build compiles one of the programs beside this one.
func build(ctx context.Context, dir, program string) (string, error) {
	binary := filepath.Join(dir, strings.ReplaceAll(program, "/", "-"))
	out, err := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", binary, "github.com/dsqlgo/dsql/bench/"+program).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("building %s: %w: %s", program, err, out)
	}
	return binary, nil
}

// coldStarts measures from the start of a program to its first row.
func coldStarts(ctx context.Context, e *endpoint, t *table) error {
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	for _, rtt := range []time.Duration{0, 5 * time.Millisecond} {
		e.SetRoundTripTime(rtt)
		var variants []variant
		for _, c := range []struct{ name, program string }{{"pgx and one token, by hand", "cold/pgx"}, {"dsql.Connect", "cold/dsql"}} {
			binary, err := build(ctx, dir, c.program)
			if err != nil {
				return err
			}
			variants = append(variants, variant{c.name, func() (float64, error) { return firstLine(ctx, binary, e.environment()) }})
		}
		if err := t.compare(ctx, fmt.Sprintf("cold start to first row, %d ms round trip", rtt.Milliseconds()), "ms", 101, variants...); err != nil {
			return err
		}
	}
	return nil
}

// firstLine returns how long a program took until it printed a line.
func firstLine(ctx context.Context, binary string, environment []string) (float64, error) {
	program := exec.CommandContext(ctx, binary)
	program.Env = environment
	program.Stderr = os.Stderr
	out, err := program.StdoutPipe()
	if err != nil {
		return 0, err
	}
	began := time.Now()
	if err := program.Start(); err != nil {
		return 0, err
	}
	_, err = bufio.NewReader(out).ReadString('\n')
	took := milliseconds(time.Since(began))
	if exited := program.Wait(); exited != nil {
		return 0, exited
	}
	return took, err
}

// sizes measures what importing the package costs a program that did with pgx before.
func sizes(ctx context.Context, _ *endpoint, t *table) error {
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var size, started []variant
	for _, c := range []struct{ name, program string }{{"pgx", "size/pgx"}, {"pgx, SDK's auth", "cold/pgx"}, {"dsql", "size/dsql"}} {
		binary, err := build(ctx, dir, c.program)
		if err != nil {
			return err
		}
		info, err := os.Stat(binary)
		if err != nil {
			return err
		}
		size = append(size, variant{c.name, func() (float64, error) { return float64(info.Size()) / (1 << 20), nil }})
		if c.program != "cold/pgx" { // which does not end at once
			started = append(started, variant{c.name, func() (float64, error) { return firstLine(ctx, binary, os.Environ()) }})
		}
	}
	if err := t.compare(ctx, "size of a binary", "MiB", 1, size...); err != nil {
		return err
	}
	return t.compare(ctx, "start of a program that imports", "ms", 31, started...)
}
