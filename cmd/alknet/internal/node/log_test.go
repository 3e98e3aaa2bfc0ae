package node

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestLogOfOneKindIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		log := NewLog(&out, "text", slog.LevelInfo, 10).With("node", "a")
		for range 1000 {
			log.Info("refused", "event", "conn.refused")
			log.Info("another kind")
		}
		require.Equal(t, 10, strings.Count(out.String(), "msg=refused"))
		require.Equal(t, 10, strings.Count(out.String(), "another kind"))
		time.Sleep(time.Second)
		log.Info("refused")
		require.Contains(t, out.String(), "suppressed=990")

		out.Reset()
		unbounded := NewLog(&out, "json", slog.LevelInfo, -1)
		for range 100 {
			unbounded.Info("refused")
		}
		require.Equal(t, 100, strings.Count(out.String(), `"msg":"refused"`))
	})
}

// TestEveryLineHasAnEvent: also those that a library writes.
func TestEveryLineHasAnEvent(t *testing.T) {
	var out bytes.Buffer
	log := NewLog(&out, "text", slog.LevelInfo, -1).With("node", "a")
	for message, event := range map[string]string{
		"peer: left": "peer.left", "forward link": "forward.link", "ssh login": "ssh.login",
		"panic": "handler.panic", "tunnel": "tunnel",
	} {
		out.Reset()
		log.Info(message, "err", "x")
		require.Contains(t, out.String(), " event="+event+"\n")
	}
	out.Reset()
	log.Info("connection refused", "event", "conn.refused")
	require.Equal(t, 1, strings.Count(out.String(), "event="))
}

func TestSlowWatcherIsToldThatItMissedEvents(t *testing.T) {
	var h hub
	events, stop := h.watch()
	for range watcherBacklog + 50 {
		h.publish(Event{Event: "x"})
	}
	for range watcherBacklog {
		require.Equal(t, "x", (<-events).Event)
	}
	h.publish(Event{Event: "y"})
	require.Equal(t, "missed", (<-events).Event)
	require.Equal(t, "y", (<-events).Event)
	stop()
	for range maxWatchers {
		c, _ := h.watch()
		require.NotNil(t, c)
	}
	c, _ := h.watch()
	require.Nil(t, c, "a watcher too many")
}

func TestMetricsEscapeLabels(t *testing.T) {
	f := family{name: "m"}
	f.add(1.5, "a", "x\"\\\n\xff", "b", "y")
	require.Equal(t, []string{`m{a="x\"\\\n` + "\uFFFD" + `",b="y"} 1.5`}, f.samples)
}
