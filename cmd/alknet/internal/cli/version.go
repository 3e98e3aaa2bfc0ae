package cli

import (
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/spf13/cobra"
)

// versionOut is the document of version.
type versionOut struct {
	Version string   `json:"version"`
	Go      string   `json:"go"`
	System  string   `json:"system"`
	Deps    []module `json:"deps,omitzero"`
}

type module struct {
	Path    string `json:"path"`
	Version string `json:"version"`
	Sum     string `json:"sum,omitzero"`
}

// buildVersion is the version that the build recorded.
func buildVersion() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "(devel)"
	}
	return info.Main.Version
}

func (a *app) versionCommand() *cobra.Command {
	var deps bool
	c := &cobra.Command{Use: "version", Short: "Print the version, with --deps of every linked module", Args: count(0, 0)}
	c.Flags().BoolVar(&deps, "deps", false, "list the linked modules")
	c.RunE = func(*cobra.Command, []string) error {
		v := versionOut{Version: buildVersion(), Go: runtime.Version(), System: runtime.GOOS + "/" + runtime.GOARCH}
		if info, ok := debug.ReadBuildInfo(); ok && deps {
			for _, m := range info.Deps {
				v.Deps = append(v.Deps, module{m.Path, m.Version, m.Sum})
			}
		}
		return a.result(v, func(w io.Writer) {
			fmt.Fprintf(w, "alknet %s %s %s\n", v.Version, v.Go, v.System)
			for _, m := range v.Deps {
				fmt.Fprintf(w, "%s %s\n", m.Path, m.Version)
			}
		})
	}
	return c
}

// DocsDate is the date in the man pages: fixed, so that they change with the
// commands only.
func DocsDate() time.Time { return time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC) }
