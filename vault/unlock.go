package vault

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"slices"
	"strconv"
	"time"

	"filippo.io/age"
	"github.com/go-json-experiment/json"
)

// Unlock tries the identities on all slots. [ErrNoSlot]: none opens one of this
// vault, be it a wrong passphrase, a foreign key, a slot of another vault, or an
// error of an identity, which is wrapped then. Unlock returns when ctx ends; an
// identity that is still at work then, a passphrase or a plugin that waits for a
// touch, is left to finish, and what it finds is wiped.
func (v *Vault) Unlock(ctx context.Context, ids ...age.Identity) error {
	if err := v.lockedOnly(); err != nil {
		return err
	}
	found, err := v.openSlots(ctx, ids)
	if err == nil {
		err = v.adopt(found, ErrNoSlot)
	}
	if err != nil {
		v.tell(eventUnlock, slotsName, err)
	}
	return err
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
		r := result{err: ErrNoSlot} // of an identity that ends its goroutine
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

// trySlot opens a slot of the vault with a check value. Nil and nil: the identity is not for it, or the slot not for this vault.
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
