//go:build linux

package vault

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"filippo.io/age"
	"github.com/stretchr/testify/require"
)

// The disk that becomes full.
const (
	diskBytes = 8 << 20
	diskBlock = 4 << 10
)

// TestFullDisk: on a file system of 8 MiB without room, Put, Rotate and the rest
// fail with the system's error and leave what was there; with room they work.
func TestFullDisk(t *testing.T) {
	alone(t)
	if os.Geteuid() != 0 {
		t.Skip("it mounts a file system of 8 MiB, which only root may")
	}
	cmd := exec.CommandContext(t.Context(), must(os.Executable()), t.TempDir())
	cmd.Env = append(os.Environ(), helperJob+"=full")
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS} // nobody else sees the mount
	out, err := cmd.Output()
	if errors.Is(err, syscall.EPERM) && os.Getenv("ALKNET_REQUIRE_TOOLS") != "1" {
		t.Skip("root may not mount here: ", err)
	}
	require.NoError(t, err, "%s", out)
	t.Logf("%s", out)
	for _, job := range fullJobs {
		require.Regexp(t, `(?m)^`+job.name+`: failed [1-9][0-9]* times, then done$`, string(out))
	}
}

// fullJobs are the changes that need room.
var fullJobs = []struct {
	name string
	do   func(v *Vault, dir string, to age.Recipient) error
	half string // what a failed one may leave, beside what was there
}{
	{"put", func(v *Vault, _ string, _ age.Recipient) error {
		return v.Put("github", "http-token", NewSecret(make([]byte, 20<<10)))
	}, ""},
	{"delete", func(v *Vault, _ string, _ age.Recipient) error { return v.Delete("gitlab") }, ""},
	{"rotate", func(v *Vault, _ string, _ age.Recipient) error { _, err := v.Rotate(); return err },
		"index 0 version 3 github 2 old gitlab 2 new"},
	{"identity", func(v *Vault, _ string, _ age.Recipient) error { _, _, err := v.RotateIdentity(); return err }, ""},
	{"seal", func(v *Vault, _ string, to age.Recipient) error { return v.Seal("more", to) }, ""},
	{"save", func(_ *Vault, dir string, to age.Recipient) error {
		child, err := savable()
		if err != nil {
			return err
		}
		return errors.Join(child.Save(dir+".saved", to), child.Close())
	}, ""},
}

// helpFull is the process of TestFullDisk: it mounts and fills the disk.
func helpFull(mount string, _ []string) error {
	if err := syscall.Mount("tmpfs", mount, "tmpfs", 0, fmt.Sprintf("size=%d,mode=700", diskBytes)); err != nil {
		return err
	}
	id, err := age25519()
	if err != nil {
		return err
	}
	for _, job := range fullJobs {
		dir := filepath.Join(mount, job.name)
		failed := 0
		for room := 0; ; room++ {
			done, err := fullOnce(dir, room, id, job.do, job.half)
			if err = errors.Join(err, os.RemoveAll(dir), os.RemoveAll(dir+".saved")); err != nil {
				return fmt.Errorf("%s with %d blocks: %w", job.name, room, err)
			}
			if done {
				break
			}
			failed++
		}
		fmt.Printf("%s: failed %d times, then done\n", job.name, failed)
	}
	return nil
}

// fullOnce does a job with so many blocks of room, and checks how it ends.
func fullOnce(dir string, room int, id *age.X25519Identity, job func(*Vault, string, age.Recipient) error, half string) (done bool, err error) {
	v, err := Create(dir, aboutPhrase(), Secret{}, nil)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, v.Close()) }()
	err = errors.Join(v.Put("github", "http-token", secret(canary)), v.Put("gitlab", "http-token", secret("new")), v.Seal("device", id.Recipient()))
	if err != nil {
		return false, err
	}
	if err := os.Remove(filepath.Join(dir, oldName)); err != nil { // which would make room by giving way
		return false, err
	}
	before := look(v)
	filler := filepath.Join(filepath.Dir(dir), "filler")
	if err := fill(filler, room); err != nil {
		return false, err
	}
	failure := job(v, dir, id.Recipient())
	after := look(v)
	if err := os.Remove(filler); err != nil {
		return false, err
	}
	if failure == nil {
		return true, nil
	}
	if !errors.Is(failure, syscall.ENOSPC) {
		return false, fmt.Errorf("not the system's error: %w", failure)
	}
	if names := fmt.Sprint(os.ReadDir(dir)) + fmt.Sprint(os.ReadDir(filepath.Join(dir, slotsName))); strings.Contains(names, tempStart) {
		return false, fmt.Errorf("a temporary file is left: %s", names)
	}
	if after != before && after != half {
		return false, fmt.Errorf("it sees %q after %w", after, failure)
	}
	if err := v.Close(); err != nil {
		return false, err
	}
	if v, err = Open(dir, nil); err != nil {
		return false, err
	}
	if err := v.UnlockPhrase(aboutPhrase(), Secret{}); err != nil {
		return false, err
	}
	if disk := look(v); disk != after {
		return false, fmt.Errorf("it saw %q, the disk has %q after %w", after, disk, failure)
	}
	if len(v.Status().Slots) != 1 {
		return false, errors.New("another slot")
	}
	if err := os.RemoveAll(dir + ".saved"); err != nil {
		return false, err
	}
	return false, job(v, dir, id.Recipient()) // there is room now
}

// fill fills the disk but for so many blocks.
func fill(name string, room int) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	n, err := io.Copy(f, io.LimitReader(zeros{}, 2*diskBytes))
	if !errors.Is(err, syscall.ENOSPC) {
		return errors.Join(fmt.Errorf("the disk is not full after %d bytes: %w", n, err), f.Close())
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err == nil {
		err = f.Truncate(max(0, (size/diskBlock-int64(room))*diskBlock))
	}
	return errors.Join(err, f.Close())
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}
