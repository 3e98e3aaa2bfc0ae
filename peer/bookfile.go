package peer

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/internal/durable"
	"github.com/alkdev/alknet/internal/printable"
	"github.com/alkdev/alknet/internal/strictjson"
)

// The bounds of a list of peers.
const (
	maxBookBytes = 64 << 20
	maxBookPeers = 100_000
	bookVersion  = 1
)

// A bookFile is the file: docs/protocol.md, section "Peers".
type bookFile struct {
	Version int               `json:"version"`
	Peers   []json.RawMessage `json:"peers"`
}

// A filePeer is an entry as the file has it.
type filePeer struct {
	ID            string              `json:"id"`
	Name          string              `json:"name,omitzero"`
	Keys          []fileKey           `json:"keys,omitzero"`
	Tokens        []fileToken         `json:"tokens,omitzero"`
	Scopes        []string            `json:"scopes,omitzero"`
	Resources     map[string][]string `json:"resources,omitzero"`
	Labels        map[string]string   `json:"labels,omitzero"`
	Addrs         []string            `json:"addrs,omitzero"`
	Import        []string            `json:"import,omitzero"`
	Export        bool                `json:"export,omitzero"`
	Disabled      bool                `json:"disabled,omitzero"`
	RevokedBefore time.Time           `json:"revoked_before,omitzero"`
	Note          string              `json:"note,omitzero"`
}

type fileKey struct {
	ID        alknet.PeerID `json:"id"`
	NotAfter  time.Time     `json:"not_after,omitzero"`
	Successor alknet.PeerID `json:"successor,omitzero"`
}

type fileToken struct {
	Hash     string    `json:"hash"`
	Label    string    `json:"label,omitzero"`
	NotAfter time.Time `json:"not_after,omitzero"`
}

// A stamp says whether a file is still the one that was read.
type stamp struct {
	exists bool
	size   int64
	mtime  time.Time
	info   os.FileInfo // for os.SameFile
}

func (b *Book) stampNow() stamp {
	fi, err := b.dir.Stat(b.file)
	if err != nil {
		return stamp{}
	}
	return stamp{exists: true, size: fi.Size(), mtime: fi.ModTime(), info: fi}
}

// changedLocked reports whether the file is another than the one last read,
// rightly or not.
func (b *Book) changedLocked() bool {
	now, was := b.stampNow(), b.seen
	if now.exists != was.exists || now.size != was.size || !now.mtime.Equal(was.mtime) {
		return true
	}
	return now.exists && was.info != nil && !os.SameFile(now.info, was.info)
}

// readLocked reads the file and takes it over, if it is right.
func (b *Book) readLocked() error {
	at := b.stampNow() // before reading, so that a change meanwhile is seen next time
	b.seen = at
	if !at.exists {
		if len(b.index.Load().peers) > 0 {
			return fmt.Errorf("peer: book %q is gone; the list of before is kept", b.path)
		}
		return nil
	}
	data, err := b.load()
	if err == nil {
		var next *index
		if next, err = parseBook(data); err == nil {
			if !next.equal(b.index.Load()) {
				b.index.Store(next)
			}
			return nil
		}
	}
	return fmt.Errorf("peer: book %q: %w", b.path, err)
}

// load returns the content of the file, if nobody else can read it.
func (b *Book) load() ([]byte, error) {
	f, err := b.dir.Open(b.file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if perm := fi.Mode().Perm(); perm&0o077 != 0 && runtime.GOOS != "windows" {
		return nil, fmt.Errorf("line 1: its mode is %#o: others than its owner may read it; chmod 600 it", perm)
	}
	if !fi.Mode().IsRegular() {
		return nil, errors.New("it is not a regular file")
	}
	data, err := io.ReadAll(io.LimitReader(f, maxBookBytes+1))
	if err == nil && len(data) > maxBookBytes {
		return nil, fmt.Errorf("it has more than %d bytes", maxBookBytes)
	}
	return data, err
}

// withBackup names the copy of the list before, if there is one.
func (b *Book) withBackup(err error) error {
	if _, serr := b.dir.Stat(b.file + ".bak"); serr != nil {
		return err
	}
	return fmt.Errorf("%w; the list before the last change is in %q", err, b.path+".bak")
}

// writeLocked replaces the file. The one before becomes the backup.
func (b *Book) writeLocked(list []Peer) error {
	data, err := formatBook(list)
	if err != nil {
		return err
	}
	if len(data) > maxBookBytes {
		return fmt.Errorf("the book would have more than %d bytes", maxBookBytes)
	}
	old, err := b.dir.ReadFile(b.file)
	switch {
	case errors.Is(err, iofs.ErrNotExist):
	case err != nil:
		return err
	default:
		if err := durable.WriteFile(b.dir, b.file+".bak", old, 0o600); err != nil {
			return err
		}
	}
	if err := durable.WriteFile(b.dir, b.file, data, 0o600); err != nil {
		return err
	}
	b.seen = b.stampNow()
	return nil
}

// formatBook is the file of a sorted list.
func formatBook(list []Peer) ([]byte, error) {
	var out bytes.Buffer
	out.WriteString("{\"version\":1,\"peers\":[")
	for i := range list {
		entry, err := json.Marshal(toFile(&list[i]))
		if err != nil {
			return nil, err
		}
		if i > 0 {
			out.WriteByte(',')
		}
		out.WriteByte('\n')
		out.Write(entry)
	}
	out.WriteString("\n]}\n")
	return out.Bytes(), nil
}

func toFile(p *Peer) *filePeer {
	f := &filePeer{
		ID: p.ID, Name: p.Name, Scopes: p.Scopes, Resources: p.Resources, Labels: p.Labels, Import: p.Import,
		Export: p.Export, Disabled: p.Disabled, RevokedBefore: p.RevokedBefore.UTC().Truncate(time.Second), Note: p.Note,
	}
	for _, k := range p.Keys {
		f.Keys = append(f.Keys, fileKey{k.ID, k.NotAfter.UTC().Truncate(time.Second), k.successor})
	}
	for _, t := range p.Tokens {
		f.Tokens = append(f.Tokens, fileToken{t.Hash, t.Label, t.NotAfter.UTC().Truncate(time.Second)})
	}
	for _, a := range p.Addrs {
		f.Addrs = append(f.Addrs, formatAddr(a))
	}
	return f
}

func (f *filePeer) peer() (Peer, error) {
	p := Peer{
		ID: f.ID, Name: f.Name, Scopes: f.Scopes, Resources: f.Resources, Labels: f.Labels, Import: f.Import,
		Export: f.Export, Disabled: f.Disabled, RevokedBefore: f.RevokedBefore, Note: f.Note,
	}
	for _, k := range f.Keys {
		p.Keys = append(p.Keys, Key{k.ID, k.NotAfter, k.Successor})
	}
	for _, t := range f.Tokens {
		p.Tokens = append(p.Tokens, Token(t))
	}
	for _, s := range f.Addrs {
		a, err := parseAddr(s)
		if err != nil {
			return p, err
		}
		p.Addrs = append(p.Addrs, a)
	}
	return p, nil
}

// transports are the words for Addr.Over in the file.
var transports = map[string]alknet.Transport{"quic": alknet.QUIC, "mux": alknet.Mux, "raw": alknet.Raw}

// formatAddr is "KEY@HOST:PORT" or "HOST:PORT", then " over quic,raw" and " via
// KEY@HOST:PORT" where they are set.
func formatAddr(a alknet.Addr) string {
	s := a.String()
	if a.Over != 0 {
		var words []string
		for _, w := range []string{"quic", "mux", "raw"} {
			if a.Over&transports[w] != 0 {
				words = append(words, w)
			}
		}
		s += " over " + strings.Join(words, ",")
	}
	if a.Via != "" {
		s += " via " + a.Via
	}
	return s
}

// parseAddr reads what formatAddr writes.
func parseAddr(s string) (alknet.Addr, error) {
	words := strings.Split(s, " ")
	a, err := alknet.ParseAddr(words[0])
	if err != nil {
		return a, err
	}
	rest := words[1:]
	if len(rest) >= 2 && rest[0] == "over" {
		for w := range strings.SplitSeq(rest[1], ",") {
			t, ok := transports[w]
			if !ok {
				return a, fmt.Errorf("address %s: %s is none of quic, mux, raw", printable.Quote(s), printable.Quote(w))
			}
			a.Over |= t
		}
		rest = rest[2:]
	}
	if len(rest) >= 2 && rest[0] == "via" {
		via, err := alknet.ParseAddr(rest[1])
		if err != nil {
			return a, err
		}
		a.Via, rest = via.String(), rest[2:]
	}
	if len(rest) > 0 {
		return a, fmt.Errorf("address %s: not understood from %s on", printable.Quote(s), printable.Quote(rest[0]))
	}
	return a, nil
}

// parseBook reads a file. An error names the line.
func parseBook(data []byte) (*index, error) {
	var f bookFile
	if err := strictjson.DecodeExact(data, &f); err != nil {
		return nil, atLine(data, offsetOf(err), err)
	}
	if f.Version != bookVersion {
		return nil, atLine(data, 0, fmt.Errorf("version %d is not known, only %d", f.Version, bookVersion))
	}
	list := make([]Peer, 0, len(f.Peers))
	lines := make([]int, 0, len(f.Peers))
	at := 0
	for _, raw := range f.Peers {
		if i := bytes.Index(data[at:], raw); i >= 0 {
			at += i
		}
		lines = append(lines, lineOf(data, at))
		var e filePeer
		if err := strictjson.DecodeExact(raw, &e); err != nil {
			return nil, atLine(data, at+offsetOf(err), err)
		}
		p, err := e.peer()
		if err != nil {
			return nil, atLine(data, at, fmt.Errorf("peer %s: %w", printable.Quote(e.ID), err))
		}
		list = append(list, p)
		at += len(raw)
	}
	return indexOf(list, lines)
}

// offsetOf is where a decoder's error is.
func offsetOf(err error) int {
	if e, ok := errors.AsType[*jsontext.SyntacticError](err); ok {
		return int(e.ByteOffset)
	}
	return semanticOffset(err)
}

func lineOf(data []byte, at int) int {
	return 1 + bytes.Count(data[:min(max(at, 0), len(data))], []byte{'\n'})
}

func atLine(data []byte, at int, err error) error {
	return fmt.Errorf("line %d: %w", lineOf(data, at), err)
}

// lockFile waits for a lock of ours that other processes take only for moments.
func lockFile(dir *os.Root, name string) (unlock func(), err error) {
	for try := 0; ; try++ {
		unlock, err := durable.Lock(dir, name)
		if err == nil || !errors.Is(err, durable.ErrLocked) || try == lockTries {
			return unlock, err
		}
		time.Sleep(lockPause)
	}
}

// How long to wait for another process: 5 s.
const (
	lockTries = 500
	lockPause = 10 * time.Millisecond
)
