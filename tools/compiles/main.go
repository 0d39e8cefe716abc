// Command compiles reports whether the packages in the current directory and
// below, their tests included, compile for each platform named, such as
// windows/arm64.
//
// It type-checks everything from source. That finds what a go build finds in
// packages without assembly, and costs seconds where go build, in an empty
// build cache, first compiles the standard library and every dependency:
// 90 s of CPU time a platform.
package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/tools/go/packages"
)

func main() {
	failed := false
	for _, platform := range os.Args[1:] {
		if err := compiles(platform); err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", platform, err)
			failed = true
		}
	}
	if failed {
		os.Exit(1)
	}
}

func compiles(platform string) error {
	goos, goarch, ok := strings.Cut(platform, "/")
	if !ok {
		return errors.New("not a platform; name it as GOOS/GOARCH")
	}
	pkgs, err := packages.Load(&packages.Config{
		Mode: packages.LoadAllSyntax | packages.NeedModule,
		// cgo would need a C compiler for each platform.
		Env:   append(os.Environ(), "GOOS="+goos, "GOARCH="+goarch, "CGO_ENABLED=0"),
		Tests: true,
	}, "./...")
	switch {
	case err != nil:
		return err
	case len(pkgs) == 0:
		return errors.New("no packages here; run this in a module")
	case packages.PrintErrors(pkgs) > 0:
		return errors.New("does not compile")
	}
	return nil
}
