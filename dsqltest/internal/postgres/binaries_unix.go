//go:build unix

package postgres

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
)

// usualPlaces are where packages put initdb and postgres without adding them to
// PATH: Debian, the PostgreSQL project's RPMs, Homebrew on ARM and on Intel, a
// build from source, Postgres.app.
var usualPlaces = []string{
	"/usr/lib/postgresql/*/bin",
	"/usr/pgsql-*/bin",
	"/opt/homebrew/opt/postgresql@*/bin",
	"/usr/local/opt/postgresql@*/bin",
	"/opt/homebrew/bin",
	"/usr/local/bin",
	"/usr/local/pgsql/bin",
	"/Applications/Postgres.app/Contents/Versions/*/bin",
}

// findBinaries returns the first initdb and postgres that lie side by side, in
// the directories of path, then in places; of a pattern's matches the newest
// version comes first.
func findBinaries(path string, places []string) (initdb, postgres string, err error) {
	dirs := filepath.SplitList(path)
	for _, place := range places {
		matches, err := filepath.Glob(place)
		if err != nil {
			return "", "", err
		}
		slices.SortFunc(matches, func(a, b string) int { return compareVersions(b, a) })
		dirs = append(dirs, matches...)
	}
	for _, dir := range dirs {
		initdb, postgres := filepath.Join(dir, "initdb"), filepath.Join(dir, "postgres")
		if filepath.IsAbs(dir) && isExecutable(initdb) && isExecutable(postgres) {
			return initdb, postgres, nil
		}
	}
	return "", "", fmt.Errorf("it is not installed: no initdb and postgres in PATH, %s: %s", strings.Join(places, ", "), howToInstall(runtime.GOOS))
}

var digits = regexp.MustCompile(`\d+`)

// compareVersions compares the numbers in two names, so that 16 comes after 9.6.
func compareVersions(a, b string) int {
	return slices.CompareFunc(digits.FindAllString(a, -1), digits.FindAllString(b, -1), func(a, b string) int {
		x, _ := strconv.Atoi(a)
		y, _ := strconv.Atoi(b)
		return x - y
	})
}

func isExecutable(file string) bool {
	info, err := os.Stat(file)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

func howToInstall(goos string) string {
	if goos == "darwin" {
		return "install it with: brew install postgresql@16"
	}
	return "install it with: apt-get install postgresql (on Fedora: dnf install postgresql-server)"
}
