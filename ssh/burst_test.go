package ssh

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// A million refusals are a few lines a second, and none is forgotten.
func TestRefusalsAreCountedNotLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		h := &Handler{Logger: slog.New(slog.NewTextHandler(&log, nil))}
		for range 3 {
			for range 100_000 {
				h.logBurst(t.Context(), "refused x", "ssh refused")
			}
			time.Sleep(time.Second)
		}
		h.logBurst(t.Context(), "refused x", "ssh refused")
		require.Equal(t, 3*maxBurst+1, strings.Count(log.String(), "\n"))
		require.Equal(t, 3, strings.Count(log.String(), "dropped=99990"))
		h.logBurst(t.Context(), "another", "ssh refused")
		require.Equal(t, 3*maxBurst+2, strings.Count(log.String(), "\n"))
	})
}
