package dsqlproxy

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// message frames a message of the session.
func message(kind byte, body string) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{kind}, uint32(4+len(body))), body...)
}

// kinds feeds stream to a framer in pieces of the given sizes.
func kinds(t testing.TB, stream []byte, size func() int) (found string, last []byte) {
	var f framer
	for len(stream) > 0 {
		piece := stream[:min(size(), len(stream))]
		stream = stream[len(piece):]
		for len(piece) > 0 {
			kind, rest, err := f.next(piece)
			require.NoError(t, err)
			if piece = rest; kind != 0 {
				found += string(kind)
				last = append(last, f.last)
			}
		}
	}
	require.True(t, f.between())
	return found, last
}

func TestFramer(t *testing.T) {
	var stream []byte
	for _, m := range [][]byte{message('T', "columns"), message('D', ""), message('C', "SELECT 0\x00"), message('Z', "T"), message('Z', "I")} {
		stream = append(stream, m...)
	}
	for size := 1; size <= len(stream); size++ {
		found, last := kinds(t, stream, func() int { return size })
		require.Equal(t, "TDCZZ", found, "in pieces of %d", size)
		require.Equal(t, "TI", string(last[3:]))
	}
}

func TestFramerLength(t *testing.T) {
	var f framer
	_, _, err := f.next([]byte{'Q', 0, 0, 0, 3})
	require.ErrorIs(t, err, errMessageLength)
}

func TestFramerBetween(t *testing.T) {
	var f framer
	for _, b := range message('Z', "I")[:5] {
		_, _, err := f.next([]byte{b})
		require.NoError(t, err)
		require.False(t, f.between())
	}
	kind, rest, err := f.next([]byte("IZ"))
	require.NoError(t, err)
	require.Equal(t, byte('Z'), kind)
	require.Equal(t, "Z", string(rest))
	require.True(t, f.between())
}

// FuzzFramer: the same messages are found, however the stream is cut.
func FuzzFramer(f *testing.F) {
	f.Add(append(message('Q', "select 1\x00"), message('S', "")...), uint64(1))
	f.Add([]byte{'Q', 0, 0, 0, 3}, uint64(2))
	f.Fuzz(func(t *testing.T, stream []byte, seed uint64) {
		run := func(size func() int) (found string, err error) {
			var f framer
			for rest := stream; len(rest) > 0; {
				piece := rest[:min(size(), len(rest))]
				rest = rest[len(piece):]
				for len(piece) > 0 {
					var kind byte
					if kind, piece, err = f.next(piece); err != nil {
						return found, err
					}
					found += string(kind)
				}
			}
			return found, nil
		}
		random := rand.New(rand.NewPCG(seed, 0))
		whole, wholeErr := run(func() int { return len(stream) })
		cut, cutErr := run(func() int { return 1 + random.IntN(7) })
		require.Equal(t, wholeErr, cutErr)
		strip := func(s string) (kinds string) {
			for _, r := range []byte(s) {
				if r != 0 {
					kinds += string(r)
				}
			}
			return kinds
		}
		require.Equal(t, strip(whole), strip(cut))
	})
}
