package peer

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/call/codes"
)

// announcing is a peer that says of itself what it likes, whatever it serves.
func announcing(list string) call.Operation {
	return call.Operation{
		Name: "services/list", AllowAnonymous: true, MaxOutputBytes: 64 << 20,
		Func: call.QueryFunc(func(context.Context, json.RawMessage) (json.RawMessage, error) { return json.RawMessage(list), nil }),
	}
}

func spec1(name, extra string) string {
	return `{"name":"` + name + `","namespace":"x","op_type":"query","visibility":"external","input_schema":null,"output_schema":null,` +
		`"error_schemas":[],"access_control":null` + extra + `}`
}

func listOf(specs ...string) string {
	return `{"operations":[` + strings.Join(specs, ",") + `],"etag":"e"}`
}

// TestHostileAnnouncements: whatever a worker announces, no route of another name
// changes, and the log says what was not taken.
func TestHostileAnnouncements(t *testing.T) {
	many := make([]string, 0, 5000)
	for i := range 5000 {
		many = append(many, spec1(fmt.Sprintf("many/op%d", i), ""))
	}
	cyclic := `,"input_schema":{"$ref":"#/$defs/a","$defs":{"a":{"$ref":"#/$defs/b"},"b":{"$ref":"#/$defs/a"}}}`
	cyclicSpec := strings.Replace(spec1("evil/cyclic", ""), `"input_schema":null`, cyclic[1:], 1)
	for name, tt := range map[string]struct {
		list string
		log  string // what the log says, if anything was skipped
		good bool   // good/op is taken
	}{
		"local name":       {listOf(spec1("sys/whoami", ""), spec1("good/op", "")), "", true},
		"reserved names":   {listOf(spec1("services/list", ""), spec1("services/explain", ""), spec1("test/echo", ""), spec1("channel/x", ""), spec1("good/op", "")), "", true},
		"100,000 of them":  {listOf(many...), "more than 1000 operations", false},
		"bad names":        {listOf(spec1("../../etc", ""), spec1("a@b", ""), spec1("x/\\u001b[2J", ""), spec1("good/op", "")), "not imported", true},
		"case twins":       {listOf(spec1("good/op", ""), spec1("Good/Op", "")), "the name is taken", true},
		"cyclic reference": {listOf(cyclicSpec, spec1("good/op", "")), "not imported", true},
		"unknown op_type":  {listOf(strings.Replace(spec1("evil/type", ""), `"query"`, `"destroy"`, 1), spec1("good/op", "")), "op_type", true},
		"10 MiB of schema": {listOf(spec1("evil/big", `,"description":"`+strings.Repeat("x", 10<<20)+`"`)), "", false},
		"not a list":       {`{"operations":5}`, "", false},
		"endless pages":    {`{"operations":[],"etag":"e","next":"zzz"}`, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				var log bytes.Buffer
				w.graph.Logger = slog.New(slog.NewTextHandler(&log, nil))
				require.NoError(t, w.reg.Register(whoami("local")))
				w.worker("worker-a", call.Operation{Name: "box/start", Func: whoami("a").Func})
				before := w.graph.route("box/start").cands.Load()

				evil := w.idle("worker-evil", announcing(tt.list), call.Operation{Name: "good/op", Func: whoami("evil").Func})
				evil.connect()
				time.Sleep(20 * time.Second)

				require.Equal(t, "local", whoIs(t, w.as("alice"), "sys/whoami"))
				require.Equal(t, "a", whoIs(t, w.as("alice"), "box/start"))
				require.Same(t, before, w.graph.route("box/start").cands.Load(), "no route of another name changed")
				if tt.good {
					require.Equal(t, "evil", whoIs(t, w.as("alice"), "good/op"))
				}
				for _, v := range w.graph.routes.Range {
					rt := v.(*route)
					require.NotContains(t, []string{"services/", "test/", "channel/"}, rt.name[:strings.IndexByte(rt.name, '/')+1])
				}
				if n := w.graph.node("worker-evil"); n != nil {
					require.LessOrEqual(t, len(n.overlay), 1000)
				}
				if tt.log != "" {
					require.Contains(t, log.String(), tt.log)
				}
				require.NotContains(t, log.String(), "\x1b")
			})
		})
	}
}

// TestOverlaysLeaveNothing: attaching and detaching again and again keeps no
// operation, no route and no schema.
func TestOverlaysLeaveNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		for i := range 200 {
			k := w.worker(fmt.Sprintf("worker-%d", i), whoami("x"), call.Operation{Name: fmt.Sprintf("own/op%d", i), Func: whoami("x").Func})
			k.kill()
		}
		time.Sleep(overlayTime + 3*time.Second)
		w.graph.mu.Lock()
		defer w.graph.mu.Unlock()
		require.Zero(t, w.graph.count)
		require.Empty(t, w.graph.specs)
		require.Empty(t, w.graph.links)
		require.Nil(t, w.graph.route("sys/whoami"))
		require.False(t, w.graph.beating, "the monitor has ended")
	})
}

// TestSchemasAreShared: a thousand workers with the same operations hold one copy.
func TestSchemasAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		for i := range 50 {
			w.worker(fmt.Sprintf("worker-%d", i), whoami("x"))
		}
		require.Len(t, w.graph.specs, 1)
		require.Equal(t, 50, w.graph.specs[w.graph.offerOf("worker-7", "sys/whoami").spec.sum].refs)
	})
}

// TestLoopsEnd: heads in a ring and chains that are too long end before anything
// runs.
func TestLoopsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		require.NoError(t, w.reg.Register(call.Operation{Name: "own/op", Func: whoami("w").Func}))
		other := newWorld(t)
		// Each head is a peer of the other and takes everything that it exports.
		k := &worker{w: w, id: "head-b", reg: &other.reg, h: other.head}
		t.Cleanup(k.cut)
		require.NoError(t, other.reg.Register(call.Operation{Name: "b/op", Func: whoami("b").Func}))
		k.connect()
		synctest.Wait()
		k2 := &worker{w: other, id: "head-a", reg: &w.reg, h: w.head}
		t.Cleanup(k2.cut)
		k2.connect()
		synctest.Wait()
		time.Sleep(5 * time.Second)
		require.Equal(t, "b", whoIs(t, w.as("alice"), "b/op"))
		_, err := call.Call[string](t.Context(), w.as("alice"), "b/op@head-b@head-a", struct{}{})
		requireCode(t, err, codes.NotFound, false)
	})
}

// TestLimitOfPeers: one more than MaxPeers is refused, and the others go on.
func TestLimitOfPeers(t *testing.T) {
	for max, attached := range map[int]int{2: 2, -1: 3} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			w.graph.Limits.MaxPeers = max
			for i := range 3 {
				w.idle(fmt.Sprintf("worker-%d", i), whoami("x")).connect()
				synctest.Wait()
			}
			require.Len(t, w.graph.Peers(), attached)
			require.Equal(t, "x", whoIs(t, w.graph.To(Ref{}), "sys/whoami"))
		})
	}
}

// TestLimitOfWatchers: and one who is too slow begins again.
func TestLimitOfWatchers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.graph.Limits.MaxWatchers = 1
		a := w.worker("worker-a", whoami("a"))
		var kinds []string
		for e := range w.graph.Watch(t.Context()) {
			kinds = append(kinds, e.Kind)
			if len(kinds) == 2 {
				for range w.graph.Watch(t.Context()) {
					t.Fatal("a second watcher")
				}
				for range 600 { // more than it may be behind
					a.cut()
					synctest.Wait()
					a.connect()
					synctest.Wait()
				}
			}
			if len(kinds) > 4 {
				break
			}
		}
		require.Equal(t, []string{"joined", "up", "resync", "joined", "up"}, kinds)
	})
}
