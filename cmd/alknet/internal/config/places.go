package config

import (
	"fmt"
	"path/filepath"
)

// Places are where the program keeps its things.
type Places struct {
	Config  string // the file
	State   string // folder of files that last, 0700
	Runtime string // folder of the control socket, 0700
	Vault   string // folder
	Control string // path of the socket
}

// An Environment is what Find is told of the world.
type Environment struct {
	Getenv func(string) string // of the environment
	Dir    string              // --dir; empty: the usual places
	File   string              // --config
	Root   bool                // the user is root
}

// Find says where the files are. The working directory is never one of the
// places: a folder that somebody else made must not configure us.
func Find(e Environment) (Places, error) {
	var p Places
	home := e.Getenv("HOME")
	xdg := func(name, fallback string) string {
		if v := e.Getenv(name); filepath.IsAbs(v) {
			return v
		}
		return filepath.Join(home, fallback)
	}
	switch {
	case e.Dir != "":
		dir, err := filepath.Abs(e.Dir)
		if err != nil {
			return p, err
		}
		p = Places{Config: filepath.Join(dir, "alknet.toml"), State: dir, Runtime: dir}
	case e.Root:
		p = Places{Config: "/etc/alknet/alknet.toml", State: "/var/lib/alknet", Runtime: "/run/alknet"}
	case home == "":
		return p, fmt.Errorf("HOME is not set: say where the files are with --dir")
	default:
		state := filepath.Join(xdg("XDG_STATE_HOME", ".local/state"), "alknet")
		p = Places{Config: filepath.Join(xdg("XDG_CONFIG_HOME", ".config"), "alknet", "alknet.toml"), State: state, Runtime: state}
		if run := e.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(run) {
			p.Runtime = filepath.Join(run, "alknet")
		}
	}
	if v := e.Getenv("ALKNET_CONFIG"); v != "" && e.Dir == "" {
		p.Config = v
	}
	if e.File != "" {
		p.Config = e.File
	}
	p.Vault = filepath.Join(p.State, "vault")
	p.Control = filepath.Join(p.Runtime, "control.sock")
	if v := e.Getenv("ALKNET_CONTROL"); v != "" && e.Dir == "" {
		p.Control, p.Runtime = v, filepath.Dir(v)
	}
	return p, nil
}

// With applies what the file says of places.
func (p Places) With(f *File) (Places, error) {
	if f.Node != nil && f.Node.State != "" {
		p.State = f.Node.State
		p.Vault = filepath.Join(p.State, "vault")
	}
	if f.Node != nil && f.Node.Control != "" {
		p.Control = f.Node.Control
		p.Runtime = filepath.Dir(p.Control)
	}
	if f.Vault != nil && f.Vault.Dir != "" {
		p.Vault = f.Vault.Dir
	}
	if len(p.Control) > maxSocketPath {
		return p, fmt.Errorf("the path of the control socket has %d bytes, a system takes %d: set node.control to a shorter one (it is %s)", len(p.Control), maxSocketPath, p.Control)
	}
	return p, nil
}
