package vault

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strings"
)

// The names in a vault's folder.
const (
	stateName = "vault.json"
	storeName = "secrets.json"
	oldName   = "secrets.json.old"
	slotsName = "slots"
	lockName  = "lock"
	tempStart = ".tmp-"
)

// The most that is read of a file, in bytes.
const (
	maxStateBytes = 64 << 10
	maxStoreBytes = 256 << 20
	maxSlotBytes  = 64 << 10
)

// openFolder opens the folder of a vault. One that others may use is [ErrMalformed].
func openFolder(dir string) (*os.Root, error) {
	root, err := os.OpenRoot(dir)
	if errors.Is(err, iofs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", ErrNotFound, err)
	}
	if err != nil {
		return nil, fmt.Errorf("vault: %w", err)
	}
	for _, name := range []string{".", slotsName} {
		info, err := root.Lstat(name)
		if errors.Is(err, iofs.ErrNotExist) {
			continue
		}
		if err == nil && !info.IsDir() {
			err = fmt.Errorf("%w: %s is not a folder", ErrMalformed, filepath.Join(dir, name))
		}
		if err == nil {
			err = private(root, name, info)
		}
		if err != nil {
			return nil, errors.Join(err, root.Close())
		}
	}
	return root, nil
}

// private refuses what group or others may use.
func private(root *os.Root, name string, info iofs.FileInfo) error {
	mode := info.Mode().Perm()
	if runtime.GOOS == "windows" || mode&0o077 == 0 {
		return nil
	}
	full := filepath.Join(root.Name(), name)
	want := 0o600
	if info.IsDir() {
		want = 0o700
	}
	return fmt.Errorf("%w: others may use %s (mode %#o): chmod %o %s", ErrMalformed, full, mode, want, full)
}

// makeFolder makes the folder of a new vault, or takes one without a vault.
func makeFolder(dir string) (*os.Root, error) {
	err := os.Mkdir(dir, 0o700)
	if err == nil {
		err = syncPath(filepath.Dir(filepath.Clean(dir)))
	}
	if err != nil && !errors.Is(err, iofs.ErrExist) {
		return nil, fmt.Errorf("vault: %w", err)
	}
	root, err := openFolder(dir)
	if err != nil {
		return nil, err
	}
	if err := root.Mkdir(slotsName, 0o700); err != nil && !errors.Is(err, iofs.ErrExist) {
		return nil, errors.Join(fmt.Errorf("vault: %w", err), root.Close())
	}
	return root, nil
}

// holdsVault reports whether a folder has a file that only a vault has.
func holdsVault(root *os.Root) (bool, error) {
	for _, name := range []string{stateName, storeName, oldName} {
		_, err := root.Lstat(name)
		if err == nil {
			return true, nil
		}
		if !errors.Is(err, iofs.ErrNotExist) {
			return false, fmt.Errorf("vault: %w", err)
		}
	}
	names, err := slotNames(root)
	return len(names) > 0, err
}

// readFile reads a regular file that belongs to its owner alone. Its absence
// is [iofs.ErrNotExist].
func readFile(root *os.Root, name string, limit int64) ([]byte, error) {
	info, err := root.Lstat(name)
	if err != nil {
		return nil, fmt.Errorf("vault: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() > limit {
		return nil, fmt.Errorf("%w: %s is not a file of at most %d bytes", ErrMalformed, name, limit)
	}
	if err := private(root, name, info); err != nil {
		return nil, err
	}
	f, err := root.Open(name)
	if err != nil {
		return nil, fmt.Errorf("vault: %w", err)
	}
	data, err := io.ReadAll(io.LimitReader(f, limit))
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("vault: read %s: %w", name, err)
	}
	return data, nil
}

// A pending is a file whose new content is on the disk under another name.
type pending struct {
	root       *os.Root
	name, temp string
	before     func(*os.Root) error // the first step of commit; may be nil
}

// prepare puts data on the disk, to be the content of a file. After an error
// nothing is left of it.
func prepare(root *os.Root, name string, data []byte) (*pending, error) {
	p := &pending{root: root, name: name, temp: path.Join(path.Dir(name), tempStart+rand.Text())}
	if err := writeTemp(root, p.temp, data); err != nil {
		return nil, errors.Join(fmt.Errorf("vault: write %s: %w", name, err), p.drop())
	}
	return p, nil
}

// commit makes the new content the file's: when it returns nil, that is on the
// disk; after an error or a crash the file has its old content, or its new one if
// only the sync of the folder failed.
func (p *pending) commit() error {
	var err error
	if p.before != nil {
		err = p.before(p.root)
	}
	if err == nil {
		err = p.root.Rename(p.temp, p.name)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("vault: write %s: %w", p.name, err), p.drop())
	}
	if err := syncFolder(p.root, path.Dir(p.name)); err != nil {
		return fmt.Errorf("vault: write %s: sync its folder: %w", p.name, err)
	}
	return nil
}

// drop removes the new content, if it is there.
func (p *pending) drop() error {
	if err := p.root.Remove(p.temp); err != nil && !errors.Is(err, iofs.ErrNotExist) {
		return fmt.Errorf("vault: write %s: %w", p.name, err)
	}
	return nil
}

// writeFile is both halves.
func writeFile(root *os.Root, name string, data []byte) error {
	p, err := prepare(root, name, data)
	if err != nil {
		return err
	}
	return p.commit()
}

// writeTemp makes a new file with data that is on the disk when it returns.
func writeTemp(root *os.Root, temp string, data []byte) error {
	f, err := root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// keepOld makes the content of secrets.json that of secrets.json.old, at once or
// not at all. It needs no sync: the name is a second one of a file on the disk.
func keepOld(root *os.Root) error {
	temp := tempStart + rand.Text()
	err := root.Link(storeName, temp)
	if errors.Is(err, iofs.ErrNotExist) {
		return nil // there is none yet
	}
	if err == nil {
		err = root.Rename(temp, oldName)
		// A rename to another name of the same file does nothing and keeps both.
		if gone := root.Remove(temp); gone != nil && !errors.Is(gone, iofs.ErrNotExist) {
			err = errors.Join(err, gone)
		}
		if err == nil {
			return nil
		}
	}
	data, readErr := readFile(root, storeName, maxStoreBytes) // a file system without links
	if readErr != nil {
		return errors.Join(err, readErr)
	}
	return writeFile(root, oldName, data)
}

// removeTemps removes what a crash left behind. The caller has the lock.
func removeTemps(root *os.Root) error {
	for _, folder := range []string{".", slotsName} {
		entries, err := iofs.ReadDir(root.FS(), folder)
		if errors.Is(err, iofs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("vault: %w", err)
		}
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), tempStart) && e.Type().IsRegular() {
				if err := root.Remove(path.Join(folder, e.Name())); err != nil {
					return fmt.Errorf("vault: %w", err)
				}
			}
		}
	}
	return nil
}

// syncPath puts the names in a folder on the disk.
func syncPath(dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	return errors.Join(syncFolder(root, "."), root.Close())
}
