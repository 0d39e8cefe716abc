package postgres

import "errors"

// launch needs a POSIX shell, and sessions that outlive their parent.
func launch(dataDir, catalog string) (*Server, error) {
	return nil, errors.New("dsqltest runs on Linux and macOS only: on Windows, use WSL")
}

// PrepareSpare does nothing: see launch.
func PrepareSpare(string) {}

func takeSpare(string) *Server { return nil }
