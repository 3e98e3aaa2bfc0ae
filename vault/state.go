package vault

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// formatVersion is that of vault.json and secrets.json. This version and the one
// before it are read.
const formatVersion = 1

// checkPrefix begins a check value: the kind of the public key in hex after it.
const checkPrefix = "ed25519:"

// The purposes of the keys that authenticate our files. PurposeKey gives out no
// key whose purpose begins with ownPurposes.
const (
	ownPurposes  = "vault/"
	statePurpose = ownPurposes + "state"
	storePurpose = ownPurposes + "secrets"
)

// A state is vault.json.
type state struct {
	Version    int       `json:"version"`
	Check      string    `json:"check"`       // which vault this is
	Index      uint32    `json:"index"`       // of the current identity
	KeyVersion uint32    `json:"key_version"` // of new secrets
	Change     uint64    `json:"change"`      // secrets.json is not older than this
	Created    time.Time `json:"created"`
	MAC        []byte    `json:"mac"`
}

// parseState reads vault.json.
func parseState(data []byte) (state, error) {
	var st state
	if err := decodeFile(stateName, data, &st); err != nil {
		return state{}, err
	}
	if err := checkVersion(stateName, st.Version); err != nil {
		return state{}, err
	}
	if st.KeyVersion < firstKeyVersion || st.KeyVersion > lastKeyVersion || st.Index >= hardened || !validCheck(st.Check) {
		return state{}, fmt.Errorf("%w: %s: a value out of range", ErrMalformed, stateName)
	}
	return st, nil
}

// checkVersion refuses a file of a later release.
func checkVersion(name string, version int) error {
	if version != formatVersion {
		return fmt.Errorf("%w: %s is of format %d, this program knows %d", ErrMalformed, name, version, formatVersion)
	}
	return nil
}

// validCheck reports whether s is a check value, in its one form.
func validCheck(s string) bool {
	digits, ok := strings.CutPrefix(s, checkPrefix)
	b, err := hex.DecodeString(digits)
	return ok && err == nil && len(b) == 32 && hex.EncodeToString(b) == digits
}

// part is everything in st.
func (st *state) part() part {
	return part{stateName, statePurpose, func(w io.Writer) {
		b := []byte("alknet/vault/state/1\x00")
		b = binary.BigEndian.AppendUint16(b, uint16(len(st.Check))) // of one length
		b = append(b, st.Check...)
		b = binary.BigEndian.AppendUint32(b, st.Index)
		b = binary.BigEndian.AppendUint32(b, st.KeyVersion)
		b = binary.BigEndian.AppendUint64(b, st.Change)
		b = binary.BigEndian.AppendUint64(b, uint64(st.Created.Unix()))
		w.Write(b)
	}, &st.MAC}
}

// prepare is the first half of saving st, under a new mac.
func (st *state) prepare(root *os.Root, s *session) (*pending, error) {
	st.Version = formatVersion
	if err := st.part().sign(s); err != nil {
		return nil, err
	}
	data, err := encodeFile(st)
	if err != nil {
		return nil, err
	}
	return prepare(root, stateName, data)
}

// write saves st.
func (st *state) write(root *os.Root, s *session) error {
	file, err := st.prepare(root, s)
	if err != nil {
		return err
	}
	return file.commit()
}

// readState reads vault.json; a missing one is the zero state.
func readState(root *os.Root) (state, error) {
	data, err := readFile(root, stateName, maxStateBytes)
	if errors.Is(err, iofs.ErrNotExist) {
		return state{}, nil
	}
	if err != nil {
		return state{}, err
	}
	return parseState(data)
}

// fileOptions are the JSON of our files: exact names, each once, valid UTF-8.
// It is the default of the library that nothing is let pass but unknown members.
func fileOptions() json.Options {
	return json.JoinOptions(json.RejectUnknownMembers(true), jsontext.WithIndent("\t"))
}

// encodeFile gives the one form of a file.
func encodeFile(v any) ([]byte, error) {
	data, err := json.Marshal(v, fileOptions())
	if err != nil {
		return nil, fmt.Errorf("vault: %w", err)
	}
	return append(data, '\n'), nil
}

// decodeFile reads a file of ours, which has one form: what does not encode to
// the same bytes was changed.
func decodeFile(name string, data []byte, v any) error {
	if err := json.Unmarshal(data, v, fileOptions()); err != nil {
		return fmt.Errorf("%w: %s is not in its form", ErrMalformed, name) // the cause may show a value
	}
	again, err := encodeFile(v)
	if err != nil || !bytes.Equal(again, data) {
		return fmt.Errorf("%w: %s is not in its form", ErrMalformed, name)
	}
	return nil
}
