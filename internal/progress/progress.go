// Package progress shows on a terminal, or in a log, how far a load is.
package progress

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// Numbers say how far a load is.
type Numbers struct {
	Rows    int     // that are in, of this run
	Part    float64 // of the whole that is done: 0 to 1, or less than 0 if that is not known
	Retries int
	Bad     int // rows that were left out
}

// How often a terminal is drawn anew, and a line is written elsewhere.
const (
	redraw    = 200 * time.Millisecond
	lineEvery = 5 * time.Second
)

// A Meter writes Numbers while a load runs. On a terminal it keeps one line at the bottom, which it
// draws anew; elsewhere it writes a line every few seconds. Its methods may be called from many
// goroutines.
type Meter struct {
	out      io.Writer
	terminal bool
	numbers  func() Numbers

	mu    sync.Mutex // guards out and drawn
	drawn bool
	began time.Time
	start float64 // Part at the begin
	stop  chan struct{}
	ended sync.WaitGroup
}

// Start returns a Meter that is running. numbers is called on its own goroutine.
func Start(out io.Writer, terminal bool, numbers func() Numbers) *Meter {
	m := &Meter{out: out, terminal: terminal, numbers: numbers, began: time.Now(), start: max(numbers().Part, 0), stop: make(chan struct{})}
	every := lineEvery
	if terminal {
		every = redraw
	}
	m.ended.Go(func() {
		ticker := time.NewTicker(every)
		defer ticker.Stop()
		for {
			select {
			case <-m.stop:
				return
			case <-ticker.C:
				m.draw()
			}
		}
	})
	return m
}

func (m *Meter) draw() {
	n := m.numbers()
	m.mu.Lock()
	defer m.mu.Unlock()
	line := m.line(n, time.Since(m.began))
	if m.terminal {
		fmt.Fprintf(m.out, "\r\x1b[K%s", line)
		m.drawn = true
		return
	}
	fmt.Fprintln(m.out, line)
}

// line says n in at most 79 columns.
func (m *Meter) line(n Numbers, elapsed time.Duration) string {
	var b strings.Builder
	if n.Part >= 0 {
		part := min(n.Part, 1)
		if m.terminal {
			const width = 20
			full := int(part * width)
			b.WriteString("[" + strings.Repeat("#", full) + strings.Repeat("-", width-full) + "] ")
		}
		fmt.Fprintf(&b, "%3.0f%%  ", part*100)
	}
	fmt.Fprintf(&b, "%s rows  %s/s", Thousands(n.Rows), Thousands(int(float64(n.Rows)/max(elapsed.Seconds(), 0.001))))
	if n.Retries > 0 {
		fmt.Fprintf(&b, "  %s retries", Thousands(n.Retries))
	}
	if n.Bad > 0 {
		fmt.Fprintf(&b, "  %s bad", Thousands(n.Bad))
	}
	if done := n.Part - m.start; done > 0 && n.Part < 1 {
		left := time.Duration(float64(elapsed) * (1 - n.Part) / done)
		fmt.Fprintf(&b, "  %s left", Clock(left))
	}
	return b.String()
}

// Println writes a line above the bar.
func (m *Meter) Println(line string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.clear()
	fmt.Fprintln(m.out, line)
}

// clear removes the bar.
func (m *Meter) clear() {
	if m.drawn {
		fmt.Fprint(m.out, "\r\x1b[K")
		m.drawn = false
	}
}

// Stop ends the meter and removes the bar.
func (m *Meter) Stop() {
	close(m.stop)
	m.ended.Wait()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.clear()
}

// Thousands writes 1234567 as 1,234,567.
func Thousands(n int) string {
	text := fmt.Sprint(n)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

// Clock writes a duration as 0:09, 12:34 or 1:02:03.
func Clock(d time.Duration) string {
	s := int(d.Round(time.Second).Seconds())
	if s < 3600 {
		return fmt.Sprintf("%d:%02d", s/60, s%60)
	}
	return fmt.Sprintf("%d:%02d:%02d", s/3600, s/60%60, s%60)
}
