package node

import (
	"reflect"
	"slices"

	"github.com/alkdev/alknet/cmd/alknet/internal/config"
)

// Reload reads the configuration again and applies it whole, or nothing of it if
// there is any problem.
func (n *Node) Reload() ReloadOut {
	n.reloading.Lock()
	defer n.reloading.Unlock()
	notifyReloading()
	defer n.NotifyReady()
	old := n.File()
	out := ReloadOut{Problems: []config.Problem{}, Changed: []string{}, Restart: []string{}, Before: digest(old), After: digest(old)}
	if n.opts.Load == nil {
		out.Problems = append(out.Problems, config.Problem{File: old.Name(), Line: 1, Column: 1, Message: "this node has no file to read again"})
		return out
	}
	f, problems := n.opts.Load()
	out.Problems = append(out.Problems, problems...)
	if !config.Fatal(problems) {
		out.Problems = append(out.Problems, n.conflicts(f)...)
	}
	if config.Fatal(out.Problems) {
		n.log.Warn("reload refused: nothing changed", "event", "config.refused", "problems", len(out.Problems))
		return out
	}
	fresh, err := n.buildChanged(f)
	if err != nil {
		out.Problems = append(out.Problems, config.Problem{File: f.Name(), Line: 1, Column: 1, Message: err.Error()})
		return out
	}
	out.After = digest(f)
	out.Changed = append(out.Changed, config.Changed(old, f)...)
	for _, key := range config.Changed(n.opts.File, f) { // what runs is what was started
		if config.NeedsRestart(key) {
			out.Restart = append(out.Restart, key)
		}
	}
	out.Problems = append(out.Problems, n.apply(f, fresh)...)
	n.epochs.Add(1)
	n.event("reloaded", "", out.After)
	n.log.Info("reloaded", "event", "config.reloaded", "before", out.Before, "after", out.After, "changed", len(out.Changed))
	return out
}

// buildChanged builds the parts whose settings differ from those in force.
func (n *Node) buildChanged(f *config.File) (fresh []*part, err error) {
	for _, s := range sections {
		v := s.value(f)
		n.mu.Lock()
		old := n.parts[s.name]
		n.mu.Unlock()
		if v == nil || old != nil && reflect.DeepEqual(old.value, v) {
			continue
		}
		p, err := s.build(n, f)
		if err != nil {
			return nil, err
		}
		p.section, p.value = s.name, v
		fresh = append(fresh, p)
	}
	return fresh, nil
}

// apply puts a configuration in force, in an order in which nobody has more than
// either of the two grants: peers, policy, limits, then services.
func (n *Node) apply(f *config.File, fresh []*part) (problems []config.Problem) {
	problem := func(err error) {
		if err != nil {
			problems = append(problems, config.Problem{File: f.Name(), Line: 1, Column: 1, Message: err.Error(), Warning: true})
		}
	}
	n.mu.Lock()
	n.file, n.problems = f, nil
	n.mu.Unlock()
	if n.opts.Level != nil {
		level := ""
		if f.Log != nil {
			level = f.Log.Level
		}
		n.opts.Level.Set(Level(level))
	}
	problem(n.known.load(f))
	n.reauthenticate()
	n.setPolicy(f)
	for _, s := range sections {
		n.mu.Lock()
		old := n.parts[s.name]
		n.mu.Unlock()
		i := slices.IndexFunc(fresh, func(p *part) bool { return p.section == s.name })
		if old != nil && (i >= 0 || s.value(f) == nil) {
			n.removePart(old, i >= 0)
		}
		if i >= 0 {
			problem(n.register(fresh[i]))
		}
	}
	n.reconnect()
	problem(n.openLocal(f))
	return problems
}

// conflicts are what the configuration alone does not show.
func (n *Node) conflicts(f *config.File) []config.Problem { return n.known.conflicts(f) }
