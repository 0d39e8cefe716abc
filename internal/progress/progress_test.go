package progress

import (
	"bytes"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestMeter(t *testing.T) {
	for _, terminal := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			var out bytes.Buffer
			n := Numbers{Part: 0.2}
			m := Start(&out, terminal, func() Numbers {
				defer func() { n = Numbers{Rows: 1_200_000, Part: 0.6, Retries: 3, Bad: 1} }()
				return n
			})
			time.Sleep(6 * time.Second)
			synctest.Wait()
			m.Println("a.csv:7: bad")
			m.Stop()
			if !terminal {
				require.Equal(t, " 60%  1,200,000 rows  240,000/s  3 retries  1 bad  0:05 left\na.csv:7: bad\n", out.String())
				return
			}
			require.Contains(t, out.String(), "\r\x1b[K[############--------]  60%  1,200,000 rows  240,000/s  3 retries  1 bad  0:05 left")
			require.True(t, strings.HasSuffix(out.String(), "\r\x1b[Ka.csv:7: bad\n"))
		})
	}
}

func TestMeterWithoutTotal(t *testing.T) {
	m := &Meter{terminal: true}
	require.Equal(t, "10 rows  5/s", m.line(Numbers{Rows: 10, Part: -1}, 2*time.Second))
	require.LessOrEqual(t, len(m.line(Numbers{Rows: 9_999_999_999, Part: 0.5, Retries: 99_999, Bad: 9999}, 20*time.Hour)), 100)
}

func TestWords(t *testing.T) {
	require.Equal(t, []string{"0", "999", "1,000", "1,234,567"}, []string{Thousands(0), Thousands(999), Thousands(1000), Thousands(1234567)})
	require.Equal(t, []string{"0:09", "12:34", "1:02:03"}, []string{Clock(9 * time.Second), Clock(754 * time.Second), Clock(3723 * time.Second)})
}
