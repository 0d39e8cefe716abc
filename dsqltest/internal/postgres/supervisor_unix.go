//go:build unix

package postgres

import (
	"bufio"
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// supervisor is a shell script between us and what must not outlive us. Its
// stdin is a pipe that only this process writes to: it reads EOF when we close
// the pipe, and also when we die, of SIGKILL too. It makes its directory itself,
// so there is no moment at which our death would leave one behind. It prints the
// directory, on a line, when that is ready for us.
type supervisor struct {
	cmd      *exec.Cmd
	dir      string
	lifeline io.Closer
	stderr   *os.File // a pipe: a buffer would take a goroutine for as long as it lives
}

// wait waits for the end, and returns what the script wrote to its stderr.
func (s *supervisor) wait() (complaints string, err error) {
	err = s.cmd.Wait()
	text, _ := io.ReadAll(s.stderr) // what there is
	s.stderr.Close()
	return strings.TrimSpace(string(text)), err
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
	reader, stderr, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer stderr.Close()
	s.stderr, s.cmd.Stderr = reader, stderr
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
		complaints, _ := s.wait() // an exit status says less
		return nil, fmt.Errorf("make its directory: %s", complaints)
	}
	s.dir = strings.TrimSuffix(line, "\n")
	return s, nil
}
