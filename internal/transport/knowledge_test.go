package transport

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestChoose(t *testing.T) {
	now := time.Now()
	cases := map[string]struct {
		known   knowledge
		stopped Transport
		want    Transport // "": wait
		look    bool
	}{
		"unknown":                              {want: TCP, look: true},
		"unknown, another looks":               {known: knowledge{looking: true}},
		"unknown, TCP stopped":                 {stopped: TCP, want: WebSocket},
		"unknown, WebSocket stopped":           {stopped: WebSocket, want: TCP, look: true},
		"unknown, another looks, TCP stopped":  {known: knowledge{looking: true}, stopped: TCP, want: WebSocket},
		"tcp":                                  {known: knowledge{state: tcp}, want: TCP},
		"tcp, TCP stopped":                     {known: knowledge{state: tcp}, stopped: TCP, want: WebSocket},
		"tcp, WebSocket stopped":               {known: knowledge{state: tcp}, stopped: WebSocket, want: TCP},
		"websocket":                            {known: knowledge{state: websocket, lookAt: now.Add(1)}, want: WebSocket},
		"websocket, TCP stopped":               {known: knowledge{state: websocket, lookAt: now}, stopped: TCP, want: WebSocket},
		"websocket, WebSocket stopped":         {known: knowledge{state: websocket, lookAt: now}, stopped: WebSocket, want: TCP},
		"websocket, time to look":              {known: knowledge{state: websocket, lookAt: now}, want: TCP, look: true},
		"websocket, time to look, another one": {known: knowledge{state: websocket, lookAt: now, looking: true}, want: WebSocket},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			got, look, wait := c.known.choose(now, c.stopped)
			require.Equal(t, c.want, got)
			require.Equal(t, c.look, look)
			require.Equal(t, c.want == "", wait)
			if look {
				require.True(t, c.known.looking)
			}
		})
	}
}

func TestLearn(t *testing.T) {
	now := time.Now()
	inUse := knowledge{state: websocket, interval: firstLook, lookAt: now}
	looks := knowledge{state: websocket, interval: firstLook, lookAt: now, looking: true}
	rarely := knowledge{state: websocket, interval: lastLook, lookAt: now, looking: true}
	stopped := knowledge{state: websocket, interval: firstLook, lookAt: now.Add(firstLook)}
	cases := map[string]struct {
		known knowledge
		by    Transport
		look  bool
		shown Result
		want  knowledge
	}{
		"first look finds TCP open":            {knowledge{looking: true}, TCP, true, Open, knowledge{state: tcp}},
		"first look finds TCP stopped":         {knowledge{looking: true}, TCP, true, Stopped, stopped},
		"first look is given up":               {knowledge{looking: true}, TCP, true, Unknown, knowledge{}},
		"WebSocket open during the first look": {knowledge{looking: true}, WebSocket, false, Open, knowledge{looking: true}},
		"WebSocket stopped during it":          {knowledge{looking: true}, WebSocket, false, Stopped, knowledge{looking: true}},

		"tcp stays":                  {knowledge{state: tcp}, TCP, false, Open, knowledge{state: tcp}},
		"tcp is stopped":             {knowledge{state: tcp}, TCP, false, Stopped, stopped},
		"tcp, attempt given up":      {knowledge{state: tcp}, TCP, false, Unknown, knowledge{state: tcp}},
		"tcp, WebSocket is stopped":  {knowledge{state: tcp}, WebSocket, false, Stopped, knowledge{state: tcp}},
		"tcp, WebSocket is open too": {knowledge{state: tcp}, WebSocket, false, Open, knowledge{state: tcp}},

		"websocket stays":                    {inUse, WebSocket, false, Open, inUse},
		"websocket is stopped":               {inUse, WebSocket, false, Stopped, knowledge{interval: firstLook, lookAt: now}},
		"websocket, attempt given up":        {inUse, WebSocket, false, Unknown, inUse},
		"TCP stopped for another as well":    {inUse, TCP, false, Stopped, inUse},
		"TCP open after all":                 {inUse, TCP, false, Open, knowledge{state: tcp, interval: firstLook, lookAt: now}},
		"later look finds TCP open":          {looks, TCP, true, Open, knowledge{state: tcp, interval: firstLook, lookAt: now}},
		"later look finds TCP stopped":       {looks, TCP, true, Stopped, knowledge{state: websocket, interval: 2 * firstLook, lookAt: now.Add(2 * firstLook)}},
		"even later look finds it stopped":   {rarely, TCP, true, Stopped, knowledge{state: websocket, interval: lastLook, lookAt: now.Add(lastLook)}},
		"later look is given up":             {looks, TCP, true, Unknown, inUse},
		"websocket is stopped during a look": {looks, WebSocket, false, Stopped, knowledge{interval: firstLook, lookAt: now, looking: true}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			c.known.learn(now, c.by, c.look, c.shown)
			require.Equal(t, c.want, c.known)
		})
	}
}
