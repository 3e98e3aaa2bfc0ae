package policy

import (
	"slices"
	"strings"
)

// mayImport is the import table: the first folders of ours that a package may
// use, by its own first folder. Every package may use its own family (peer/pair
// may use peer), and tests may use anything: a program never links them.
var mayImport = map[string][]string{
	".":        {"internal"},
	"vault":    {},
	"call":     {".", "internal"},
	"peer":     {".", "call", "internal"},
	"fs":       {".", "call", "internal"},
	"ssh":      {".", "call", "internal"},
	"sftp":     {".", "call", "internal"},
	"git":      {".", "call", "internal"},
	"dns":      {".", "call", "internal"},
	"msg":      {".", "call", "fs", "internal"},
	"httpx":    {".", "call", "internal"},
	"internal": {},
	"cmd":      {".", "vault", "call", "peer", "fs", "ssh", "sftp", "git", "dns", "msg", "httpx", "internal"},
	"examples": {".", "vault", "call", "peer", "fs", "ssh", "sftp", "git", "dns", "msg", "httpx"},
}

// kits are the suites that test what is public, and import it.
var kits = []string{"internal/handlertest", "internal/irohtest"}

func checkImports(p *pkg, report report) {
	own := family(p.dir)
	row, known := mayImport[own]
	if !known {
		report(p.files[0].Name, "folder %q is not in the layout: the import table has no row for it", own)
		return
	}
	if p.below(kits...) {
		row = mayImport["cmd"]
	}
	for _, f := range p.files {
		for _, spec := range f.Imports {
			dir, ours := strings.CutPrefix(imported(spec), module)
			if f.test || !ours {
				continue
			}
			if dir = strings.TrimPrefix(dir, "/"); dir == "" {
				dir = "."
			}
			switch to := family(dir); {
			case own == "examples" && strings.Contains("/"+dir+"/", "/internal/"):
				report(spec, "an example uses only what a user can: not %s", dir)
			case to != own && !slices.Contains(row, to):
				report(spec, "%s may not import %s: its row is %v", own, dir, row)
			}
		}
	}
}

// family is the first folder of a path.
func family(dir string) string {
	first, _, _ := strings.Cut(dir, "/")
	return first
}

// A confinement names the only folders where non-test code may import a module
// or a folder of one.
type confinement struct {
	path string
	in   []string
}

// confined is checked in order; the first match decides.
var confined = []confinement{
	{"github.com/quic-go/webtransport-go", []string{"httpx"}},
	{"github.com/quic-go/quic-go", []string{"internal", "httpx"}},
	{"github.com/libp2p/go-yamux", []string{"internal/mux"}},
	{"golang.org/x/crypto/ssh", []string{"ssh"}},
	{"filippo.io/age/agessh", []string{"cmd"}},
	{"filippo.io/age/plugin", []string{"cmd"}},
	{"github.com/miekg/dns", []string{"dns"}},
	{"github.com/go-git", []string{"git"}},
	{"github.com/klauspost/compress", []string{"internal/gitpack"}},
	{"github.com/pjbgf/sha1cd", []string{"internal/gitpack"}},
	{"github.com/pkg/sftp", []string{"sftp"}},
	{"maunium.net/go/mautrix", []string{"msg/internal/ratchet"}},
	{"github.com/lightningnetwork/lightning-onion", []string{"msg/mix"}},
	{"github.com/nats-io/nats.go", []string{"peer/natsdir", "msg/natsbox"}},
	{"github.com/caddyserver/certmagic", []string{"httpx/acme"}},
	{"github.com/stretchr/testify", nil},
	{"go.uber.org/goleak", nil},
	{"pgregory.net/rapid", nil},
}

// alone are the folders of confined that do not include what is below them.
var alone = []string{"ssh"}

func checkDependencies(p *pkg, report report) {
	for _, f := range p.files {
		for _, spec := range f.Imports {
			imp := imported(spec)
			if within(imp, "github.com/stretchr/testify") && imp != "github.com/stretchr/testify/require" {
				report(spec, "of testify only require is used, not %s", imp)
			}
			if f.test || p.below(suites...) {
				continue
			}
			i := slices.IndexFunc(confined, func(c confinement) bool { return within(imp, c.path) })
			if i < 0 || slices.ContainsFunc(confined[i].in, p.inside) {
				continue
			}
			if confined[i].in == nil {
				report(spec, "%s is for tests only", imp)
			} else {
				report(spec, "%s is confined to %s", imp, strings.Join(confined[i].in, ", "))
			}
		}
	}
}

// inside reports whether p is in dir, which stands in confined.
func (p *pkg) inside(dir string) bool {
	if slices.Contains(alone, dir) {
		return p.dir == dir
	}
	return within(p.dir, dir)
}

// aliases are the names of packages whose own name means one of ours here.
var aliases = map[string]string{
	"golang.org/x/crypto/ssh":     "xssh",
	"io/fs":                       "iofs",
	"github.com/miekg/dns":        "mdns",
	"github.com/go-git/go-git/v5": "gogit",
}

func checkAliases(p *pkg, report report) {
	for _, f := range p.files {
		for _, spec := range f.Imports {
			if want := aliases[imported(spec)]; want != "" && (spec.Name == nil || spec.Name.Name != want) {
				report(spec, "import %s as %s: its own name is a package of ours", imported(spec), want)
			}
		}
	}
}
