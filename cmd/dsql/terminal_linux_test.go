package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
)

// onTerminal is a run of the command on a terminal of its own.
type onTerminal struct {
	t      *testing.T
	cmd    *exec.Cmd
	master *os.File
	ended  chan struct{} // closed when the terminal shows nothing more

	mu     sync.Mutex // guards screen
	screen bytes.Buffer
}

func startOnTerminal(t *testing.T, env []string, args ...string) *onTerminal {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("this machine has no pseudo-terminals: %v", err) // as in many containers
	}
	t.Cleanup(func() { master.Close() })
	ioctl := func(request uintptr, value *int32) {
		_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, master.Fd(), request, uintptr(unsafe.Pointer(value)))
		require.Zero(t, errno)
	}
	var number, unlock int32
	ioctl(syscall.TIOCGPTN, &number)
	ioctl(syscall.TIOCSPTLCK, &unlock)
	terminal, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("this machine has no pseudo-terminals: %v", err)
	}
	defer terminal.Close()

	o := &onTerminal{t: t, cmd: exec.CommandContext(t.Context(), binary, args...), master: master, ended: make(chan struct{})}
	o.cmd.Env = append(os.Environ(), env...)
	o.cmd.Stdin, o.cmd.Stdout, o.cmd.Stderr = terminal, terminal, terminal
	o.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	require.NoError(t, o.cmd.Start())
	go func() {
		defer close(o.ended)
		buffer := make([]byte, 4096)
		for {
			n, err := master.Read(buffer) // EIO, when nobody has the other end open
			o.mu.Lock()
			o.screen.Write(buffer[:n])
			o.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	return o
}

func (o *onTerminal) text() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return strings.ReplaceAll(o.screen.String(), "\r\n", "\n")
}

func (o *onTerminal) await(text string) {
	o.t.Helper()
	require.Eventually(o.t, func() bool { return strings.Contains(o.text(), text) }, 20*time.Second, 5*time.Millisecond, text)
}

func (o *onTerminal) write(text string) {
	o.t.Helper()
	_, err := o.master.WriteString(text)
	require.NoError(o.t, err)
}

// end waits for the command's end, and returns what the terminal showed.
func (o *onTerminal) end() (screen string, status int) {
	_ = o.cmd.Wait()
	<-o.ended
	return o.text(), o.cmd.ProcessState.ExitCode()
}

func TestTokenOnARealTerminal(t *testing.T) {
	screen, status := startOnTerminal(t, nil, "token", serverURL("admin")).end()
	require.Equal(t, exitUsage, status)
	require.Contains(t, screen, "standard output is a terminal")
	require.NotContains(t, screen, "X-Amz")

	screen, status = startOnTerminal(t, nil, "token", "--reveal", serverURL("admin")).end()
	require.Equal(t, exitOK, status)
	require.Equal(t, "DbConnectAdmin", parameters(t, screen).Get("Action"))
}

func TestDoctorColours(t *testing.T) {
	screen, status := startOnTerminal(t, nil, "doctor", serverURL("admin")).end()
	require.Equal(t, exitOK, status)
	require.Contains(t, screen, "\x1b[32mok\x1b[0m ")
	for _, env := range []string{"NO_COLOR=1", "TERM=dumb"} {
		screen, status = startOnTerminal(t, []string{env}, "doctor", serverURL("admin")).end()
		require.Equal(t, exitOK, status)
		require.Contains(t, screen, "verdict: ok")
		require.NotContains(t, screen, "\x1b", env)
	}
}

// Ctrl-C at psql's prompt drops the line, and neither psql nor the command.
func TestPsqlOnATerminal(t *testing.T) {
	o := startOnTerminal(t, []string{"PAGER=cat"}, "psql", serverURL("app"), "--", "-Xn")
	o.await("postgres=> ")
	o.write("select 'one' ||\n")
	o.await("postgres-> ")
	o.write("\x03")
	o.await("^C\npostgres=> ")
	o.write("\\echo user is :USER\n")
	o.await("user is app\n")
	o.write("\\q\n")
	screen, status := o.end()
	require.Equal(t, exitOK, status, screen)
	require.NotContains(t, screen, "X-Amz")
}
