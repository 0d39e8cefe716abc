package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
)

const (
	defaultProxyPort = "5432"
	socketMode       = 0o700
)

// listeners is several of them as one: --listen and --socket.
type listeners struct {
	all      []net.Listener
	accepted chan accepted
	closed   chan struct{}
	close    func() error
	start    sync.Once
}

type accepted struct {
	conn net.Conn
	err  error
}

// openListeners opens what the flags name: unless they name any, loopback and PostgreSQL's port, or
// any free port for a command that is told which.
func openListeners(ctx context.Context, f *proxyFlags) (*listeners, error) {
	l := &listeners{accepted: make(chan accepted), closed: make(chan struct{})}
	l.close = sync.OnceValue(func() error {
		close(l.closed)
		var err error
		for _, one := range l.all {
			err = errors.Join(err, one.Close())
		}
		return err
	})
	address := f.listen
	if address == "" && f.socket == "" {
		address = "127.0.0.1:" + defaultProxyPort
		if len(f.command) > 0 {
			address = "127.0.0.1:0"
		}
	}
	if address != "" {
		tcp, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
		if errors.Is(err, syscall.EADDRINUSE) {
			return nil, fmt.Errorf("--listen: %s is in use, perhaps by a PostgreSQL; choose another port, or 0 for a free one", address)
		}
		if err != nil {
			return nil, fmt.Errorf("--listen: %w; use an address such as 127.0.0.1:%s", err, defaultProxyPort)
		}
		l.all = append(l.all, tcp)
	}
	if f.socket != "" {
		unix, err := listenUnix(ctx, f.socket, f.listen)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("--socket: %w", err), l.Close())
		}
		l.all = append(l.all, unix)
	}
	return l, nil
}

// listenUnix opens the socket that clients look for in dir, which is for its owner alone.
func listenUnix(ctx context.Context, dir, listen string) (net.Listener, error) {
	if err := os.MkdirAll(dir, socketMode); err != nil {
		return nil, err
	}
	info, err := os.Stat(dir)
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&^socketMode != 0 {
		return nil, fmt.Errorf("%s can be entered by other users (mode %#o): chmod 700 it, or name a directory that does not exist", dir, info.Mode().Perm())
	}
	_, port, _ := net.SplitHostPort(listen)
	if port == "0" {
		port = ""
	}
	path := filepath.Join(dir, ".s.PGSQL."+cmp.Or(port, defaultProxyPort))
	if err := removeStale(ctx, path); err != nil {
		return nil, err
	}
	return new(net.ListenConfig).Listen(ctx, "unix", path)
}

// removeStale removes a socket that nobody listens on, as a process that was killed leaves it.
func removeStale(ctx context.Context, path string) error {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
	switch {
	case err == nil:
		conn.Close()
		return fmt.Errorf("%s is in use; end the other proxy, or name another directory", path)
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case errors.Is(err, syscall.ECONNREFUSED):
		return os.Remove(path)
	}
	return err
}

func (l *listeners) Accept() (net.Conn, error) {
	l.start.Do(func() {
		for _, one := range l.all {
			go l.acceptFrom(one)
		}
	})
	select {
	case a := <-l.accepted:
		return a.conn, a.err
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *listeners) acceptFrom(one net.Listener) {
	for {
		conn, err := one.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		select {
		case l.accepted <- accepted{conn, err}:
		case <-l.closed:
			if err == nil {
				conn.Close()
			}
			return
		}
	}
}

func (l *listeners) Close() error { return l.close() }

// Addr is the address that other machines reach, if there is one, since it decides what is allowed.
func (l *listeners) Addr() net.Addr { return l.all[0].Addr() }

// String names them all.
func (l *listeners) String() string {
	var names []string
	for _, one := range l.all {
		names = append(names, one.Addr().String())
	}
	return strings.Join(names, " and ")
}
