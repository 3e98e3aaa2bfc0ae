package vault

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"maps"
	"os"
	"slices"
)

// maxSecrets is the most secrets of a vault.
const maxSecrets = 100_000

// A store is secrets.json.
type store struct {
	Version int             `json:"version"`
	Change  uint64          `json:"change"`  // greater with each change
	Records []EncryptedData `json:"records"` // by name
	MAC     []byte          `json:"mac"`
}

// parseStore reads secrets.json.
func parseStore(name string, data []byte) (*store, error) {
	st := new(store)
	if err := decodeFile(name, data, st); err != nil {
		return nil, err
	}
	if err := checkVersion(name, st.Version); err != nil {
		return nil, err
	}
	if len(st.Records) > maxSecrets {
		return nil, fmt.Errorf("%w: %s has %d records, at most %d", ErrMalformed, name, len(st.Records), maxSecrets)
	}
	for i, e := range st.Records {
		if e.Envelope != envelopeBound || i > 0 && st.Records[i-1].Name >= e.Name {
			return nil, fmt.Errorf("%w: %s: record %d", ErrMalformed, name, i+1)
		}
	}
	return st, nil
}

// part is everything in st, read from a file of that name: no record can be
// changed, exchanged, removed or put back.
func (st *store) part(name string) part {
	return part{name, storePurpose, func(w io.Writer) {
		b := []byte("alknet/vault/secrets/1\x00")
		b = binary.BigEndian.AppendUint64(b, st.Change)
		b = binary.BigEndian.AppendUint32(b, uint32(len(st.Records))) // at most maxSecrets
		w.Write(b)
		for i := range st.Records {
			e := &st.Records[i]
			b = binary.BigEndian.AppendUint16(b[:0], uint16(len(e.Name))) // at most maxNameBytes
			b = append(b, e.Name...)
			b = binary.BigEndian.AppendUint64(b, e.Generation)
			sum := e.digest()
			w.Write(append(b, sum[:]...))
		}
	}, &st.MAC}
}

// digest is SHA-256 of all of a record.
func (e *EncryptedData) digest() [sha256.Size]byte {
	b := make([]byte, 0, 512+len(e.Data))
	b = e.head(append(b, byte(e.Envelope)))
	for _, field := range [][]byte{e.Salt, e.IV, e.Data} {
		b = binary.BigEndian.AppendUint32(b, uint32(len(field))) // at most maxDataBytes
		b = append(b, field...)
	}
	return sha256.Sum256(b)
}

// prepare is the first half of saving st, under a new mac. What was there is
// kept as secrets.json.old when the second half begins.
func (st *store) prepare(root *os.Root, s *session) (*pending, error) {
	st.Version = formatVersion
	if err := st.part(storeName).sign(s); err != nil {
		return nil, err
	}
	data, err := encodeFile(st)
	if err != nil {
		return nil, err
	}
	file, err := prepare(root, storeName, data)
	if err == nil {
		file.before = keepOld
	}
	return file, err
}

// readStore reads a file like secrets.json; a missing one is nil.
func readStore(root *os.Root, name string) (*store, error) {
	data, err := readFile(root, name, maxStoreBytes)
	if errors.Is(err, iofs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return parseStore(name, data)
}

// Contents are what a vault keeps, of its files or in memory. They are replaced
// as a whole and never changed.
type contents struct {
	state   state
	change  uint64 // of secrets.json
	records map[string]EncryptedData
}

// clone makes contents for a change.
func (c contents) clone() contents {
	c.records = maps.Clone(c.records)
	if c.records == nil {
		c.records = make(map[string]EncryptedData)
	}
	return c
}

// store gives the records as they are written.
func (c *contents) store() *store {
	st := &store{Change: c.change, Records: make([]EncryptedData, 0, len(c.records))}
	for _, name := range slices.Sorted(maps.Keys(c.records)) {
		st.Records = append(st.Records, c.records[name])
	}
	return st
}

// take makes st, which may be nil, the records of c.
func (c *contents) take(st *store) {
	c.change, c.records = 0, make(map[string]EncryptedData)
	if st == nil {
		return
	}
	c.change = st.Change
	for _, e := range st.Records {
		c.records[e.Name] = e
	}
}

// readContents reads a folder without any key: nothing in it is authenticated.
// bad is what is wrong with secrets.json, err with vault.json.
func readContents(root *os.Root) (c contents, bad, err error) {
	c.state, err = readState(root)
	st, bad := readStore(root, storeName)
	c.take(st)
	return c, bad, err
}

// errOlder is a secrets.json that was right once.
func errOlder(has, want uint64) error {
	return fmt.Errorf("%w: %s is of change %d, older than change %d that %s knows of", ErrDecrypt, storeName, has, want, stateName)
}

// load reads a folder for a session and verifies everything in it. Of a missing
// vault.json it makes a new one. problem is why with recovery an older or no
// secrets.json was taken.
func (s *session) load(root *os.Root, lost state, recovery bool) (c contents, problem, err error) {
	if c.state, err = readState(root); err != nil {
		return c, nil, err
	}
	if c.state.Version == 0 {
		c.state = lost
	} else if err = c.state.part().verify(s); err != nil {
		return c, nil, err
	}
	st, bad := s.loadStore(root, storeName, c.state.Change)
	if bad != nil && !recovery {
		if old, err := s.loadStore(root, oldName, 0); err == nil && old != nil {
			bad = fmt.Errorf("%w (%s, of change %d, is whole: Options.Recover takes it)", bad, oldName, old.Change)
		}
		return c, nil, bad
	}
	if bad != nil {
		if st = s.recover(root); st == nil && c.state.Version == 0 {
			return c, nil, bad // nothing here is this seed's: it is not believed
		}
	}
	c.take(st)
	return c, bad, c.catchUp()
}

// loadStore reads a file like secrets.json that is not older than a change.
func (s *session) loadStore(root *os.Root, name string, since uint64) (*store, error) {
	st, err := readStore(root, name)
	if err != nil {
		return nil, err
	}
	if st == nil {
		if since > 0 {
			return nil, fmt.Errorf("%w: %s is missing", ErrDecrypt, name)
		}
		return nil, nil
	}
	if err := st.part(name).verify(s); err != nil {
		return nil, err
	}
	if st.Change < since {
		return nil, errOlder(st.Change, since)
	}
	return st, nil
}

// recover gives the newest whole store that there is, nil if none is.
func (s *session) recover(root *os.Root) *store {
	var newest *store
	for _, name := range []string{storeName, oldName} {
		if st, err := s.loadStore(root, name, 0); err == nil && st != nil && (newest == nil || st.Change > newest.Change) {
			newest = st
		}
	}
	return newest
}

// catchUp checks key versions. A rotation writes vault.json first, so that no
// record is ahead of it, except where vault.json was lost.
func (c *contents) catchUp() error {
	for _, e := range c.records {
		if e.KeyVersion <= c.state.KeyVersion {
			continue
		}
		if c.state.Version != 0 {
			return fmt.Errorf("%w: %s is older than the secrets", ErrDecrypt, stateName)
		}
		c.state.KeyVersion = e.KeyVersion
	}
	return nil
}
