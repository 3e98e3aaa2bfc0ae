package vault

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	iofs "io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"filippo.io/age"
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
