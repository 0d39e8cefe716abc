package dsqltest

import "errors"

// supervise needs a POSIX shell, and sessions that outlive their parent.
func supervise(string) (*postgres, error) {
	return nil, errors.New("dsqltest runs on Linux and macOS only: on Windows, use WSL")
}

func prepareSpare() {}

func takeSpare() *postgres { return nil }
