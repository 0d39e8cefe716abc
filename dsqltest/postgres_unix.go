//go:build unix

package dsqltest

import (
	"bufio"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/dsqlgo/dsql/dsqltest/internal/rules"
)

// A supervisor is a shell script between us and what must not outlive us. Its
// stdin is a pipe that only this process writes to: it reads EOF when we close
// the pipe, and also when we die, of SIGKILL too. It makes its directory itself,
// so there is no moment at which our death would leave one behind. It prints the
// directory, on a line, when that is ready for us.
type supervisor struct {
	cmd        *exec.Cmd
	dir        string
	lifeline   io.Closer
	complaints *os.File // its stderr, a pipe: a buffer would take a goroutine for as long as it lives
}

// wait waits for the end, and returns what the script complained of.
func (s *supervisor) wait() (said string, err error) {
	err = s.cmd.Wait()
	complaints, _ := io.ReadAll(s.complaints) // what there is
	s.complaints.Close()
	return strings.TrimSpace(string(complaints)), err
}

// makeDirectory begins every supervisor. Its first arguments are the name of
// the directory and the preferred place for it.
const makeDirectory = `
# Only the pipe ends this script: a signal to every process of a service must
# not leave the directory behind.
trap '' HUP INT TERM PIPE
umask 077
dir=
for place in "$2" /tmp; do
	if mkdir "$place/$1"; then
		dir=$place/$1
		break
	fi
done
[ "$dir" ] || exit 1
# A backend can outlive a killed postmaster for long enough to write once more.
trap 'rm -rf "$dir" || { sleep 1; rm -rf "$dir"; } || exit 1' EXIT
shift 2
`

// keepTemplate has a data directory made by $1, which is initdb, and the SQL in $3 run there by
// $2, which is postgres. It lacks what a copy would spend half its time on and nobody needs:
// two of three databases, and most of the first WAL segment, which has 16 MiB by default.
const keepTemplate = makeDirectory + `
"$1" -D "$dir/data" -U postgres --auth=trust --encoding=UTF8 --no-locale --no-sync --wal-segsize=1 </dev/null >/dev/null || exit 1
# It ends with status 0 whatever happens. With -j, an empty line ends a command.
printf 'UPDATE pg_database SET datistemplate = false;\n\nDROP DATABASE template0;\n\nDROP DATABASE template1;\n\n%s\n' "$3" |
	"$2" --single -j -D "$dir/data" -c fsync=off postgres >/dev/null 2>"$dir/log"
if grep -E 'ERROR|FATAL|PANIC' "$dir/log" >&2; then exit 1; fi
echo "$dir"
exec >/dev/null 2>&1
read -r _
exit 0
`

// keepPostgres runs $1, which is postgres, on the data directory $3 or, when
// that is empty, on one of its own. It copies the template $2 there first, when
// that is not empty. Further arguments are postgres's.
const keepPostgres = makeDirectory + `
echo "$dir"
# Background commands get /dev/null as stdin, so the pipe moves to 3.
exec 3<&0 </dev/null >/dev/null
postgres=$1 template=$2 data=$3
shift 3

if ! [ "$data" ]; then
	data=$dir/data
	mkdir "$data"
elif ! { [ -w "$data" ] && [ -x "$data" ]; }; then
	echo "user $(id -un) may not use the data directory $data: choose one that it owns, where it can reach it" >&2
	exit 1
fi
if [ "$template" ]; then
	chmod 700 "$data" && cp -R "$template/." "$data" || exit 1
fi

"$postgres" -D "$data" -k "\"$dir\"" "$@" >"$dir/log" 2>&1 3<&- &
postmaster=$!
# A shell starts its background commands with SIGQUIT ignored: the first one is
# lost when it comes before PostgreSQL has set its handler.
{
	read -r _ <&3
	while kill -QUIT $postmaster; do sleep 0.1; done
} 2>/dev/null &
watcher=$!
wait $postmaster
status=$?
{
	kill -KILL $watcher
	wait $watcher
} 2>/dev/null
echo "postgres ended with status $status; the end of its log:" >&2
tail -n 20 "$dir/log" >&2
exit 0
`

// startSupervisor runs a script under account, and returns when it has printed
// its directory.
func startSupervisor(account *syscall.Credential, script string, args ...string) (*supervisor, error) {
	name := "dsqltest-" + strings.ToLower(rand.Text()[:10])
	tmp, err := filepath.Abs(os.TempDir())
	if err != nil {
		return nil, err
	}
	if len(filepath.Join(tmp, name, socketName)) > maxSocketPath {
		tmp = "/tmp"
	}
	s := &supervisor{cmd: exec.Command("/bin/sh", append([]string{"-c", script, "sh", name, tmp}, args...)...)}
	s.cmd.Dir = "/"
	// All of it, so that no PG* variable gets in.
	s.cmd.Env = []string{"PATH=/usr/bin:/bin:/usr/sbin:/sbin", "HOME=/", "LC_ALL=C", "TZ=UTC"}
	// In a session of its own, a terminal's Ctrl-C does not reach it.
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: account}
	complaints, stderr, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer stderr.Close()
	s.complaints, s.cmd.Stderr = complaints, stderr
	if s.lifeline, err = s.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	stdout, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	stderr.Close() // the script's is the only one now
	defer stdout.Close()
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		s.lifeline.Close()
		said, _ := s.wait() // an exit status says less
		return nil, fmt.Errorf("make its directory: %s", said)
	}
	s.dir = strings.TrimSuffix(line, "\n")
	return s, nil
}

// template is a data directory to copy, made for the first PostgreSQL of this
// process and kept while the process lives: a copy costs a tenth of initdb's
// second of processor time.
var template struct {
	sync.Mutex
	initdb string // what made it
	*supervisor
}

// spare is a PostgreSQL for the next New of this process: even a copy takes longer to start
// than most tests to run. It has no goroutine, since it may be there when the last test has
// ended and somebody counts those.
var spare struct {
	sync.Mutex
	server, tmp string // what it runs, and where
	*supervisor
}

// templateDir returns template's directory, and makes it where there is none or
// something has cleaned it away.
func templateDir(account *syscall.Credential, initdb, server string) (string, error) {
	template.Lock()
	defer template.Unlock()
	if template.supervisor != nil {
		dir := filepath.Join(template.dir, "data")
		if _, err := os.Stat(dir); err == nil && template.initdb == initdb {
			return dir, nil
		}
		template.lifeline.Close()
		template.wait() // nobody needs it any more
		template.supervisor = nil
	}
	s, err := startSupervisor(account, keepTemplate, initdb, server, rules.CatalogSQL)
	if err != nil {
		return "", err
	}
	template.initdb, template.supervisor = initdb, s
	return filepath.Join(s.dir, "data"), nil
}

// settings trade what a test database can lose, its data after a power cut, for
// speed, and give it DSQL's isolation level and time zone.
var settings = []string{
	"port=5432",
	"listen_addresses=",
	"unix_socket_permissions=0700",
	"max_connections=1000",
	"max_logical_replication_workers=0", // nor their launcher
	"shared_buffers=32MB",
	"max_wal_size=128MB",
	"fsync=off",
	"full_page_writes=off",
	"jit=off",
	"default_transaction_isolation=repeatable read",
	"timezone=UTC",
	"lc_messages=C",
}

// supervise starts a PostgreSQL. It waits for an initdb, where one is needed, but not for PostgreSQL.
func supervise(dataDir string) (*postgres, error) {
	initdb, server, err := findBinaries(os.Getenv("PATH"), usualPlaces)
	if err != nil {
		return nil, err
	}
	s, err := launch(initdb, server, dataDir)
	if err != nil {
		return nil, err
	}
	return s.watch(), nil
}

// prepareSpare starts a spare where there is none. What goes wrong with it is for the next
// start to say.
func prepareSpare() {
	initdb, server, err := findBinaries(os.Getenv("PATH"), usualPlaces)
	if err != nil {
		return
	}
	spare.Lock()
	defer spare.Unlock()
	if spare.supervisor == nil {
		spare.supervisor, _ = launch(initdb, server, "")
		spare.server, spare.tmp = server, os.TempDir()
	}
}

// takeSpare returns the spare, or nil where there is none that is like what supervise would start.
func takeSpare() *postgres {
	_, server, err := findBinaries(os.Getenv("PATH"), usualPlaces)
	if err != nil {
		return nil
	}
	spare.Lock()
	defer spare.Unlock()
	if spare.supervisor == nil || spare.server != server || spare.tmp != os.TempDir() {
		return nil
	}
	p := spare.watch()
	spare.supervisor = nil
	return p
}

// launch starts a supervisor that starts PostgreSQL.
func launch(initdb, server, dataDir string) (*supervisor, error) {
	account, err := postgresAccount()
	if err != nil {
		return nil, err
	}
	settings := settings
	empty := true
	if dataDir == "" {
		// Only here: with it, an immediate stop loses the last transactions.
		settings = append(slices.Clip(settings), "synchronous_commit=off")
	} else if dataDir, empty, err = makeDataDir(dataDir, account); err != nil {
		return nil, err
	}
	var template string
	if empty {
		if template, err = templateDir(account, initdb, server); err != nil {
			return nil, err
		}
	}
	args := []string{server, template, dataDir}
	for _, setting := range settings {
		args = append(args, "-c", setting)
	}
	return startSupervisor(account, keepPostgres, args...)
}

// watch waits for the end of a PostgreSQL in the background.
func (s *supervisor) watch() *postgres {
	p := &postgres{dir: s.dir, lifeline: s.lifeline, gone: make(chan struct{})}
	go func() {
		defer close(p.gone)
		switch said, err := s.wait(); {
		case !p.closing.Load():
			p.err = fmt.Errorf("it ended by itself: %s", said)
		case err != nil:
			p.err = fmt.Errorf("its directory %s is still there, remove it by hand: %s", p.dir, said)
		}
	}()
	return p
}

// makeDataDir makes dir where it does not exist, and gives an empty one to the
// account. It returns the absolute path, and whether dir is empty.
func makeDataDir(dir string, account *syscall.Credential) (path string, empty bool, err error) {
	if path, err = filepath.Abs(dir); err != nil {
		return "", false, err
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return "", false, err
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return "", false, err
	}
	empty = len(entries) == 0
	if empty && account != nil {
		err = os.Chown(path, int(account.Uid), int(account.Gid))
	}
	return path, empty, err
}

// postgresAccount returns the account to run PostgreSQL under, nil for our own:
// it refuses to run as root.
func postgresAccount() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		account, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err := strconv.ParseUint(account.Uid, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("user %s: %w", name, err)
		}
		gid, err := strconv.ParseUint(account.Gid, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("user %s: %w", name, err)
		}
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
	}
	return nil, errors.New("PostgreSQL refuses to run as root, and there is no user postgres or nobody to run it as: create one, or run as another user")
}

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
