package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
)

// runChild returns a program's exit status. Ctrl-C in a terminal reaches both processes. It is
// meant for the program, and main's signal handler keeps it from ending this one.
func (c *command) runChild(path string, args, env []string) (int, error) {
	child := exec.Command(path, args...)
	child.Env = env
	child.Stdin, child.Stdout, child.Stderr = c.stdin, c.stdout, c.stderr
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(signals)
	if err := child.Start(); err != nil {
		return 0, fmt.Errorf("%s cannot be started: %w", path, err)
	}
	ended := make(chan error, 1)
	go func() { ended <- child.Wait() }()
	for {
		select {
		case s := <-signals:
			_ = child.Process.Signal(s) // it may have ended just now
		case err := <-ended:
			var failed *exec.ExitError
			if errors.As(err, &failed) {
				if signalled, ok := failed.Sys().(syscall.WaitStatus); ok && signalled.Signaled() {
					return 128 + int(signalled.Signal()), nil // as a shell says it
				}
				return failed.ExitCode(), nil
			}
			return exitOK, err
		}
	}
}
