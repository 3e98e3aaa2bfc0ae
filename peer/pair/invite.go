package pair

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/internal/durable"
	"github.com/alkdev/alknet/internal/printable"
	"github.com/alkdev/alknet/internal/strictjson"
	"github.com/alkdev/alknet/peer"
)

// An Invite says what a joiner becomes.
type Invite struct {
	// Peer is the entry of the joiner in the Book: its id, rights, labels and what
	// we take from it. Keys are added when it joins. An entry of that id that
	// exists gets one key more and is not changed otherwise. ID "": made of the
	// name that the joiner gives itself. With Uses above 1 a number is added to the
	// id of the second and of all after it.
	Peer peer.Peer
	// Uses is how many may join. 0: 1; at most 1,000.
	Uses int
	// TTL is how long the ticket is good for. 0: 1 hour; at most 30 days.
	TTL time.Duration
	// Confirm: the join waits until somebody approves the code that both ends show.
	Confirm bool
}

// The bounds of invites.
const (
	maxInvites     = 1000
	maxUses        = 1000
	defaultTTL     = time.Hour
	maxTTL         = 30 * 24 * time.Hour
	maxInviteBytes = 16 << 20
	invitesName    = "invites.json"
	keepUsed       = 24 * time.Hour // a used invite answers its joiners again for so long
)

// A fileInvite is an open invite on the disk.
type fileInvite struct {
	Hash    string          `json:"hash"` // of the secret, SHA-256
	Entry   json.RawMessage `json:"entry"`
	Uses    int             `json:"uses"`
	Expires time.Time       `json:"expires"`
	Confirm bool            `json:"confirm,omitzero"`
	Joined  []fileJoined    `json:"joined,omitzero"`
}

// A fileJoined is who used an invite.
type fileJoined struct {
	Key  alknet.PeerID `json:"key"`
	ID   string        `json:"id"`
	Done bool          `json:"done,omitzero"` // the entry was written
}

type inviteFile struct {
	Version int          `json:"version"`
	Invites []fileInvite `json:"invites"`
}

// find finds an invite.
func (f *inviteFile) find(hash string) *fileInvite {
	for i := range f.Invites {
		if f.Invites[i].Hash == hash {
			return &f.Invites[i]
		}
	}
	return nil
}

// user is the use of the invite by a key; nil: it has not used it.
func (i *fileInvite) user(key alknet.PeerID) *fileJoined {
	for n := range i.Joined {
		if i.Joined[n].Key == key {
			return &i.Joined[n]
		}
	}
	return nil
}

// open reports whether somebody else may join.
func (i *fileInvite) open(now time.Time) bool { return now.Before(i.Expires) && len(i.Joined) < i.Uses }

// stale reports whether nobody needs the invite any more.
func (i *fileInvite) stale(now time.Time) bool { return now.After(i.Expires.Add(keepUsed)) }

// Invite makes a ticket. It is on the disk when Invite returns.
func (h *Handler) Invite(i Invite) (Ticket, error) {
	bad := func(format string, args ...any) (Ticket, error) {
		return Ticket{}, fmt.Errorf("pair: invite: "+format, args...)
	}
	var addrs []string
	if h.Addrs != nil {
		addrs = h.Addrs()
	}
	switch {
	case h.Book == nil:
		return bad("Handler.Book is nil")
	case h.Head.IsZero():
		return bad("Handler.Head is not set: the ticket has to name a key")
	case len(addrs) == 0 || len(addrs) > maxTicketAddrs || slices.ContainsFunc(addrs, func(a string) bool { return !validAddr(a) }):
		return bad("Handler.Addrs gives no 1 to %d of \"host:port\": %q", maxTicketAddrs, addrs)
	case i.Uses < 0 || i.Uses > maxUses:
		return bad("Uses is from 1 to %d", maxUses)
	case i.TTL < 0 || i.TTL > maxTTL:
		return bad("TTL is at most %v", maxTTL)
	case len(i.Peer.Keys) > 0:
		return bad("Peer.Keys come with the joiner")
	}
	if err := checkEntry(i.Peer); err != nil {
		return bad("%w", err)
	}
	if i.Uses == 0 {
		i.Uses = 1
	}
	if i.TTL == 0 {
		i.TTL = defaultTTL
	}
	t := Ticket{Head: h.Head, Addrs: addrs, Secret: newSecret()}
	entry, err := json.Marshal(entryOf(i.Peer))
	if err != nil {
		return bad("%w", err)
	}
	in := fileInvite{
		Hash: hashOf(t.Secret), Entry: entry, Uses: i.Uses, Confirm: i.Confirm, Expires: h.now().Add(i.TTL).UTC().Truncate(time.Second),
	}
	err = h.change(func(f *inviteFile) error {
		if len(f.Invites) >= maxInvites {
			return fmt.Errorf("there are %d open invites already", maxInvites)
		}
		f.Invites = append(f.Invites, in)
		return nil
	})
	if err != nil {
		return bad("%w", err)
	}
	return t, nil
}

// checkEntry has a Book judge an entry before somebody joins with it.
func checkEntry(p peer.Peer) error {
	if p.ID == "" {
		p.ID = "nobody"
	}
	book, err := peer.OpenBook("")
	if err != nil {
		return err
	}
	return errors.Join(book.Update(func(peers map[string]peer.Peer) error {
		peers[p.ID] = p
		return nil
	}), book.Close())
}

// An entry is a peer.Peer in an invite.
type entry struct {
	ID        string              `json:"id,omitzero"`
	Name      string              `json:"name,omitzero"`
	Scopes    []string            `json:"scopes,omitzero"`
	Resources map[string][]string `json:"resources,omitzero"`
	Labels    map[string]string   `json:"labels,omitzero"`
	Import    []string            `json:"import,omitzero"`
	Export    bool                `json:"export,omitzero"`
	Note      string              `json:"note,omitzero"`
}

func entryOf(p peer.Peer) entry {
	return entry{p.ID, p.Name, p.Scopes, p.Resources, p.Labels, p.Import, p.Export, p.Note}
}

func (e *entry) peer() peer.Peer {
	return peer.Peer{
		ID: e.ID, Name: e.Name, Scopes: e.Scopes, Resources: e.Resources, Labels: e.Labels, Import: e.Import, Export: e.Export, Note: e.Note,
	}
}

// change reads the invites, changes them and writes them: one process at a time.
func (h *Handler) change(f func(*inviteFile) error) error {
	h.fileMu.Lock()
	defer h.fileMu.Unlock()
	if h.Dir == "" {
		return h.edit(&h.memory, f)
	}
	dir, err := os.OpenRoot(h.Dir)
	if err != nil {
		return err
	}
	defer dir.Close()
	unlock, err := waitLock(dir)
	if err != nil {
		return err
	}
	defer unlock()
	file, err := readInvites(dir)
	if err != nil {
		return fmt.Errorf("%s in %q: %w", invitesName, h.Dir, err)
	}
	if err := h.edit(file, f); err != nil {
		return err
	}
	file.Version = 1
	data, err := json.Marshal(file)
	if err != nil {
		return err
	}
	return durable.WriteFile(dir, invitesName, append(data, '\n'), 0o600)
}

// edit is a change in memory: all of it or nothing.
func (h *Handler) edit(file *inviteFile, f func(*inviteFile) error) error {
	next := inviteFile{Version: 1, Invites: slices.Clone(file.Invites)}
	now := h.now()
	next.Invites = slices.DeleteFunc(next.Invites, func(i fileInvite) bool { return i.stale(now) })
	if err := f(&next); err != nil {
		return err
	}
	*file = next
	return nil
}

// readInvites reads the file; a missing one is empty.
func readInvites(dir *os.Root) (*inviteFile, error) {
	file := &inviteFile{Version: 1}
	f, err := dir.Open(invitesName)
	if errors.Is(err, iofs.ErrNotExist) {
		return file, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxInviteBytes+1))
	switch {
	case err != nil:
		return nil, err
	case len(data) > maxInviteBytes:
		return nil, fmt.Errorf("it has more than %d bytes", maxInviteBytes)
	}
	if err := strictjson.DecodeExact(data, file); err != nil {
		return nil, err
	}
	if file.Version != 1 {
		return nil, fmt.Errorf("line 1: version %d is not known", file.Version)
	}
	return file, nil
}

// waitLock waits for the lock on the invites, which others hold for moments.
func waitLock(dir *os.Root) (unlock func(), err error) {
	for try := 0; ; try++ {
		unlock, err := durable.Lock(dir, invitesName+".lock")
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

// idFor makes an id of a name that a joiner gives itself.
func idFor(name string, key alknet.PeerID) string {
	var b bytes.Buffer
	for _, r := range strings.ToLower(name) {
		switch {
		case 'a' <= r && r <= 'z' || '0' <= r && r <= '9':
			b.WriteRune(r)
		case b.Len() > 0 && (r == '-' || r == '.' || r == '_' || r == ' '):
			b.WriteByte('-')
		}
		if b.Len() == 40 {
			break
		}
	}
	id := strings.TrimRight(b.String(), "-")
	if id == "" {
		id = "peer"
	}
	return id + "-" + key.String()[:8]
}

// quoted is a text of a peer's for a log.
func quoted(s string) printable.Text { return printable.Text(s) }
