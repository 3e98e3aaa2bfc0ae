package vault

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"filippo.io/age"
	"github.com/go-json-experiment/json"
)

const (
	slotExt     = ".age"
	maxSlotName = 63
	maxSlots    = 64
)

// A Slot is a way into a vault: an age file that holds the seed.
type Slot struct {
	// Name is that of its file, without ".age".
	Name string

	// Kinds are the age stanza types in its header, of which each can open it:
	// "scrypt" (a passphrase), "X25519", "mlkem768x25519", "ssh-ed25519",
	// "piv-p256". Nil: the file is no age file.
	Kinds []string

	// Created is when the file was written.
	Created time.Time
}

// slotContent is what a slot encrypts.
type slotContent struct {
	Version int       `json:"alknet_vault"`
	Seed    hexBytes  `json:"seed"`
	Check   string    `json:"check"`
	Created time.Time `json:"created"`
}

// hexBytes are bytes that JSON shows in hex, decoded where they can be wiped.
type hexBytes []byte

// UnmarshalText reads hex.
func (h *hexBytes) UnmarshalText(text []byte) error {
	b, err := hex.AppendDecode(make([]byte, 0, len(text)/2), text)
	if err != nil {
		return ErrMalformed // without the text
	}
	*h = b
	return nil
}

// Seal makes a slot that any of the recipients opens, in place of one of that
// name: the change of a passphrase is whole or not at all. A passphrase is alone
// in its slot, and post-quantum recipients are not mixed with others. name has 1
// to 63 bytes of [a-z0-9._-] and begins with a letter or digit. The folder has
// at most 64 slots.
func (v *Vault) Seal(name string, to ...age.Recipient) error {
	err := v.seal(name, to)
	v.tell(eventSlot, name, err)
	return err
}

func (v *Vault) seal(name string, to []age.Recipient) error {
	if err := checkSlotName(name); err != nil {
		return err
	}
	if v.root == nil {
		return fmt.Errorf("%w: seal: the vault is in memory only: Save it", errors.ErrUnsupported)
	}
	return v.use(func(s *session) error {
		data, err := v.sealed(s, to)
		if err != nil {
			return fmt.Errorf("vault: seal %s: %w", name, err)
		}
		v.writing.Lock()
		defer v.writing.Unlock()
		names, err := slotNames(v.root)
		if err != nil {
			return err
		}
		if len(names) >= maxSlots && !slices.Contains(names, name) {
			return fmt.Errorf("%w: a vault has at most %d slots", ErrMalformed, maxSlots)
		}
		return writeFile(v.root, slotFile(name), data)
	})
}

// sealed gives the file of a slot. It holds no lock: a recipient may take its time.
func (v *Vault) sealed(s *session, to []age.Recipient) ([]byte, error) {
	if len(to) == 0 {
		return nil, fmt.Errorf("%w: a slot without recipients", ErrMalformed)
	}
	v.mu.Lock()
	st := v.contents.state
	v.mu.Unlock()
	seed := make([]byte, seedBytes)
	defer clear(seed)
	copy(seed, s.page.seed())
	text := slotText(seed, st.Check, st.Created)
	defer clear(text)
	var file bytes.Buffer
	w, err := age.Encrypt(&file, to...)
	if err == nil {
		_, err = w.Write(text)
		err = errors.Join(err, w.Close())
	}
	if err != nil {
		return nil, err
	}
	if file.Len() > maxSlotBytes {
		return nil, fmt.Errorf("%w: a slot of %d bytes, at most %d", ErrMalformed, file.Len(), maxSlotBytes)
	}
	return file.Bytes(), checkWork(file.Bytes())
}

// slotText is the JSON of a slotContent, in a buffer that can be wiped: the JSON
// library keeps its own.
func slotText(seed []byte, check string, created time.Time) []byte {
	b := make([]byte, 0, 512) // twice what it takes: nothing is moved
	b = append(b, `{"alknet_vault":1,"seed":"`...)
	b = hex.AppendEncode(b, seed)
	b = append(append(b, `","check":"`...), check...)
	b = created.AppendFormat(append(b, `","created":"`...), time.RFC3339)
	return append(b, "\"}\n"...)
}

// checkWork refuses a passphrase slot that is too easy to guess or too hard to open.
func checkWork(file []byte) error {
	probe := &watcher{}
	_, _ = age.Decrypt(bytes.NewReader(file), probe)
	if i := slices.Index(probe.kinds, scryptKind); i >= 0 && (probe.work < minScryptLog || probe.work > maxScryptLog) {
		return fmt.Errorf("%w: scrypt work 2^%d, not 2^%d to 2^%d", ErrMalformed, probe.work, minScryptLog, maxScryptLog)
	}
	return nil
}

// RemoveSlot removes a way in. It does not help against copies of the slot that
// others took: only a new phrase does. The last slot stays, with [ErrLastSlot],
// unless this process has seen that somebody has the phrase: by UnlockPhrase or
// CheckPhrase.
func (v *Vault) RemoveSlot(name string) error {
	err := v.removeSlot(name)
	v.tell(eventSlot, name, err)
	return err
}

func (v *Vault) removeSlot(name string) error {
	if err := checkSlotName(name); err != nil {
		return err
	}
	if v.root == nil {
		return fmt.Errorf("%w: slot %s", ErrNotFound, name)
	}
	v.writing.Lock()
	defer v.writing.Unlock()
	return v.use(func(*session) error {
		names, err := slotNames(v.root)
		if err != nil {
			return err
		}
		if !slices.Contains(names, name) {
			return fmt.Errorf("%w: slot %s", ErrNotFound, name)
		}
		v.mu.Lock()
		shown := v.shown
		v.mu.Unlock()
		if len(names) == 1 && !shown {
			return ErrLastSlot
		}
		if err := v.root.Remove(slotFile(name)); err != nil {
			return fmt.Errorf("vault: %w", err)
		}
		return syncFolder(v.root, slotsName)
	})
}

// checkSlotName keeps names to what is one file everywhere.
func checkSlotName(name string) error {
	for i := range len(name) {
		c := name[i]
		if alnum := c >= 'a' && c <= 'z' || c >= '0' && c <= '9'; !alnum && (i == 0 || !strings.ContainsRune("._-", rune(c))) {
			name = ""
			break
		}
	}
	if name == "" || len(name) > maxSlotName {
		return fmt.Errorf("%w: the name of a slot has 1 to %d bytes of [a-z0-9._-]", ErrMalformed, maxSlotName)
	}
	return nil
}

func slotFile(name string) string { return path.Join(slotsName, name+slotExt) }

// slotNames are the slots of a folder, sorted; files of other names are none.
func slotNames(root *os.Root) ([]string, error) {
	entries, err := iofs.ReadDir(root.FS(), slotsName)
	if errors.Is(err, iofs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("vault: %w", err)
	}
	var names []string
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), slotExt)
		if ok && checkSlotName(name) == nil && len(names) < maxSlots {
			names = append(names, name)
		}
	}
	return names, nil
}

// readSlots describes the slots of a folder.
func readSlots(root *os.Root) ([]Slot, error) {
	names, err := slotNames(root)
	var list []Slot
	for _, name := range names {
		slot := Slot{Name: name}
		if info, err := root.Lstat(slotFile(name)); err == nil {
			slot.Created = info.ModTime()
		}
		if file, err := readFile(root, slotFile(name), maxSlotBytes); err == nil {
			probe := &watcher{}
			_, _ = age.Decrypt(bytes.NewReader(file), probe)
			slot.Kinds = probe.kinds
		}
		list = append(list, slot)
	}
	return list, err
}

const scryptKind = "scrypt"

// A watcher stands before an identity: it sees the header, refuses scrypt work
// that a planted file may ask for, and remembers the identity's own error.
type watcher struct {
	id    age.Identity // nil: only look
	kinds []string
	work  int // of a scrypt stanza
	err   error
}

// Unwrap asks the identity.
func (w *watcher) Unwrap(stanzas []*age.Stanza) ([]byte, error) {
	w.kinds = nil
	for _, s := range stanzas {
		w.kinds = append(w.kinds, s.Type)
		if s.Type == scryptKind && len(s.Args) == 2 {
			w.work, _ = strconv.Atoi(s.Args[1]) // the identity refuses what is no number
		}
	}
	if w.id == nil {
		return nil, age.ErrIncorrectIdentity
	}
	if w.work > maxScryptLog {
		w.err = fmt.Errorf("%w: scrypt work 2^%d, at most 2^%d", ErrMalformed, w.work, maxScryptLog)
		return nil, w.err
	}
	key, err := w.id.Unwrap(stanzas)
	if err != nil && !errors.Is(err, age.ErrIncorrectIdentity) {
		w.err = err
	}
	return key, err
}

// openSlots tries identities on slots, without any lock, until ctx ends.
func (v *Vault) openSlots(ctx context.Context, ids []age.Identity) (*opened, error) {
	if v.root == nil {
		return nil, fmt.Errorf("%w: the vault is in memory only", ErrNoSlot)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	type result struct {
		f   *opened
		err error
	}
	done := make(chan result)
	time.AfterFunc(0, func() { // in a goroutine of its own, as an identity may not come back
		var r result
		defer func() {
			if p := recover(); p != nil {
				r = result{err: fmt.Errorf("%w: an identity panicked", ErrNoSlot)} // without its value
			}
			select {
			case done <- r:
			case <-ctx.Done():
				if r.f != nil {
					clear(r.f.seed[:])
				}
			}
		}()
		r.f, r.err = v.trySlots(ctx, ids)
	})
	select {
	case r := <-done:
		return r.f, r.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// trySlots tries quick identities before those that think or ask.
func (v *Vault) trySlots(ctx context.Context, ids []age.Identity) (*opened, error) {
	names, err := slotNames(v.root)
	if err != nil {
		return nil, err
	}
	var quick, slow []age.Identity
	for _, id := range ids {
		switch id.(type) {
		case *age.X25519Identity, *age.HybridIdentity:
			quick = append(quick, id)
		default:
			slow = append(slow, id)
		}
	}
	v.mu.Lock()
	check := v.contents.state.Check
	v.mu.Unlock()
	if check == "" && v.opts.Recover {
		check = anyCheck
	}
	var problems []error
	for _, id := range append(quick, slow...) {
		for _, name := range names {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			f, err := trySlot(v.root, name, id, check)
			if f != nil {
				return f, nil
			}
			if err != nil && !slices.ContainsFunc(problems, func(p error) bool { return p.Error() == err.Error() }) {
				problems = append(problems, err)
			}
		}
	}
	if problems != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoSlot, errors.Join(problems...))
	}
	return nil, ErrNoSlot
}

// anyCheck is in place of a check value that was lost.
const anyCheck = "any"

// trySlot opens a slot of the vault with a check value. Nil and
// nil: the identity is not for it, or the slot not for this vault.
func trySlot(root *os.Root, name string, id age.Identity, check string) (*opened, error) {
	file, err := readFile(root, slotFile(name), maxSlotBytes)
	if errors.Is(err, iofs.ErrNotExist) {
		return nil, nil // just removed
	}
	if err != nil {
		return nil, fmt.Errorf("slot %s: %w", name, err)
	}
	watch := &watcher{id: id}
	r, err := age.Decrypt(bytes.NewReader(file), watch)
	if watch.err != nil {
		return nil, fmt.Errorf("slot %s: %w", name, watch.err)
	}
	if _, no := errors.AsType[*age.NoIdentityMatchError](err); no {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("slot %s: %w: not a whole age file", name, ErrMalformed)
	}
	text := make([]byte, maxSlotBytes)
	defer clear(text)
	n := 0
	for err == nil && n < len(text) {
		var m int
		m, err = r.Read(text[n:])
		n += m
	}
	if !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("slot %s: %w: not a whole age file", name, ErrMalformed)
	}
	return readSlot(name, text[:n], check)
}

// readSlot reads the content of a slot.
func readSlot(name string, text []byte, check string) (*opened, error) {
	var in slotContent
	err := json.Unmarshal(text, &in, json.RejectUnknownMembers(true))
	defer clear(in.Seed)
	if err != nil || in.Version != 1 || len(in.Seed) != seedBytes || !sameCheck(checkOf(in.Seed), in.Check) {
		return nil, fmt.Errorf("slot %s: %w: not the content of a slot", name, ErrMalformed)
	}
	if check == "" {
		return nil, errLost
	}
	if check != anyCheck && !sameCheck(in.Check, check) {
		return nil, nil
	}
	found := &opened{check: in.Check, way: name}
	copy(found.seed[:], in.Seed)
	return found, nil
}
