package cli

import (
	"context"
	"encoding/json"

	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/cmd/alknet/internal/config"
	"github.com/alkdev/alknet/cmd/alknet/internal/demo"
	"github.com/alkdev/alknet/cmd/alknet/internal/doctor"
	"github.com/alkdev/alknet/cmd/alknet/internal/fault"
	"github.com/alkdev/alknet/cmd/alknet/internal/node"
	"github.com/alkdev/alknet/vault"
)

// The small documents of --json; others are types of the packages that make them.
// Field names are never changed within a major version.
type (
	dryRunOut struct {
		DryRun bool   `json:"dry_run"` // always true: nothing was changed
		Would  string `json:"would"`   // what would have been done
	}
	addedOut struct {
		ID  string `json:"id"`
		Key string `json:"key"`
	}
	rightsOut struct {
		ID        string              `json:"id"`
		Scopes    []string            `json:"scopes"`
		Resources map[string][]string `json:"resources"`
		Disabled  bool                `json:"disabled"`
	}
	removedOut struct {
		Removed string `json:"removed"`
	}
	drainedOut struct {
		Drained string `json:"drained"`
	}
	stoppedOut struct {
		Stopped string `json:"stopped"`
	}
	storedOut struct {
		Stored string `json:"stored"`
	}
	slotOut struct {
		Slot   string `json:"slot"`
		Sealed bool   `json:"sealed"` // false: the way in is gone
	}
	approvedOut struct {
		Approved string `json:"approved"`
	}
	rotatedOut struct {
		Secrets int `json:"secrets"`
	}
	childOut struct {
		Dir   string `json:"dir"`
		Check string `json:"check"`
	}
	checkedOut struct {
		OK bool `json:"ok"`
	}
	lockedOut struct {
		Locked bool `json:"locked"`
	}
	secretOut struct {
		Name  string `json:"name,omitzero"`
		Value []byte `json:"value"` // raw bytes
	}
	passwordOut struct {
		Site     string `json:"site"`
		Password string `json:"password"`
	}
	vaultOut struct {
		Dir        string  `json:"dir"`
		Check      string  `json:"check"`
		Index      uint32  `json:"index"`
		KeyVersion uint32  `json:"key_version"`
		Secrets    int     `json:"secrets"`
		Slots      []wayIn `json:"slots"`
		Created    string  `json:"created"` // RFC 3339
	}
	wayIn struct {
		Name  string   `json:"name"`
		Kinds []string `json:"kinds"`
	}
	configCheckOut struct {
		File     string           `json:"file"`
		Problems []config.Problem `json:"problems"`
	}
	exampleOut struct {
		TOML string `json:"toml"`
	}
	sshConfigOut struct {
		File  string `json:"file,omitzero"`
		Peers int    `json:"peers"`
		Text  string `json:"text,omitzero"` // without --install
	}
	policyCheckOut struct {
		Checked int        `json:"checked"`
		Wrong   []wrongOut `json:"wrong"`
	}
	wrongOut struct {
		Line     int          `json:"line"`
		Expected string       `json:"expected"`
		Verdict  node.Verdict `json:"verdict"`
	}
	errorOut struct {
		Error    *fault.Error     `json:"error"`
		Problems []config.Problem `json:"problems,omitzero"`
	}
)

// A Document is one shape of what --json prints.
type Document struct {
	Name   string          // of its schema
	Verbs  []string        // that print it, once or a value a line
	Schema json.RawMessage // JSON Schema 2020-12
}

// document infers the schema of T as those of operations are.
func document[T any](name string, verbs ...string) Document {
	f := call.QueryFunc(func(context.Context, struct{}) (out T, err error) { return out, nil })
	return Document{name, verbs, withoutNull(f.Output)}
}

// withoutNull makes a schema stricter: what is empty is [] or {}, never null.
func withoutNull(schema json.RawMessage) json.RawMessage {
	var v any
	if json.Unmarshal(schema, &v) != nil {
		return schema // a test wants it to be one
	}
	dropNull(v)
	out, err := json.Marshal(v)
	if err != nil {
		return schema
	}
	return out
}

func dropNull(v any) {
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			dropNull(e)
		}
	case map[string]any:
		if types, ok := v["type"].([]any); ok && len(types) == 2 && types[0] == "null" {
			v["type"] = types[1]
		}
		for _, e := range v {
			dropNull(e)
		}
	}
}

// Documents are the shapes of --json, for the files in docs/cli/schema.
func Documents() []Document {
	return []Document{
		document[addedOut]("added", "peer add"),
		document[approvedOut]("approved", "requests approve"),
		document[checkedOut]("vault-check", "vault check"),
		document[childOut]("vault-child", "vault child"),
		document[configCheckOut]("config-check", "config check"),
		document[[]config.Setting]("config-explain", "config explain"),
		document[demo.Result]("demo-step", "demo"),
		document[demo.Summary]("demo-summary", "demo"),
		document[[]doctor.Finding]("doctor", "doctor"),
		document[doctor.Reach]("doctor-peer", "doctor"),
		document[drainedOut]("drained", "peer drain"),
		document[dryRunOut]("dry-run"),
		document[errorOut]("error"),
		document[node.Event]("event", "status"),
		document[exampleOut]("config-example", "config example"),
		document[[]node.PeerStatus]("graph", "graph"),
		document[idOut]("id", "id"),
		document[initOut]("init", "init"),
		document[node.InviteOut]("invite", "invite"),
		document[node.JoinOut]("join", "join"),
		document[lockedOut]("locked", "vault lock", "vault unlock"),
		document[[]opOut]("ops", "ops"),
		document[node.AllOut]("call-all", "call"),
		document[passwordOut]("vault-password", "vault password"),
		document[node.PingOut]("ping", "peer ping"),
		document[node.PeerEntry]("peer", "peer show"),
		document[[]node.PeerEntry]("peers", "peer list"),
		document[node.Verdict]("policy", "policy explain"),
		document[policyCheckOut]("policy-check", "policy check"),
		document[readyOut]("ready", "serve"),
		document[node.ReloadOut]("reload", "reload"),
		document[removedOut]("removed", "peer rm", "vault rm"),
		document[[]node.RequestOut]("requests", "requests"),
		document[rightsOut]("rights", "peer enable", "peer disable", "grant", "revoke"),
		document[rotateOut]("id-rotate", "id rotate"),
		document[rotatedOut]("vault-rotate", "vault rotate"),
		document[secretOut]("secret", "vault get", "vault decrypt"),
		document[vault.EncryptedData]("encrypted", "vault encrypt"),
		document[[]node.SecretInfo]("vault-list", "vault list"),
		document[slotOut]("slot", "vault seal", "vault unseal"),
		document[sshConfigOut]("ssh-config", "ssh-config"),
		document[node.Status]("status", "status"),
		document[stoppedOut]("stopped", "stop", "drain"),
		document[storedOut]("stored", "vault put"),
		document[upOut]("up", "connect", "forward", "socks", "expose"),
		document[vaultOut]("vault-status", "vault status"),
		document[versionOut]("version", "version"),
	}
}

// rawVerbs print what is not ours to shape.
var rawVerbs = map[string]string{
	"call":                  "the values of the operation, whose schema is the operation's",
	"config schema":         "a JSON Schema itself",
	"pipe":                  "bytes",
	"ssh":                   "the tool's own output",
	"scp":                   "the tool's own output",
	"rsync":                 "the tool's own output",
	"ssh known-hosts":       "a line for OpenSSH",
	"vault run":             "the command's own output",
	"completion bash":       "a script",
	"completion fish":       "a script",
	"completion zsh":        "a script",
	"completion powershell": "a script",
	"help":                  "text",
}
