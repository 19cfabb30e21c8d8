package main

import (
	"fmt"
	"io"
	"runtime/debug"

	"github.com/spf13/cobra"
)

type versionResult struct {
	Version  string `json:"version"`  // of the module; "(devel)" if built from a checkout without a version
	Revision string `json:"revision"` // of the checkout; empty if not built from one
	Modified bool   `json:"modified"` // the checkout had uncommitted changes
	Go       string `json:"go"`
	Format   int    `json:"format"` // version of the recording format
}

func (c *cli) version() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Show the version of recvault and of the recording format",
		Example: "  recvault version --output json",
		Args:    noArgs,
		RunE: func(*cobra.Command, []string) error {
			return c.print(thisVersion())
		},
	}
}

func thisVersion() versionResult {
	v := versionResult{Version: "unknown", Format: formatVersion}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	v.Version, v.Go = info.Main.Version, info.GoVersion
	for _, setting := range info.Settings {
		switch setting.Key {
		case "vcs.revision":
			v.Revision = setting.Value
		case "vcs.modified":
			v.Modified = setting.Value == "true"
		}
	}
	return v
}

func (v versionResult) writeText(w io.Writer) {
	revision := orDash(v.Revision)
	if v.Modified {
		revision += " (modified)"
	}
	table(w, [][]string{
		{"recvault", v.Version},
		{"revision", revision},
		{"go", v.Go},
		{"format", fmt.Sprint(v.Format)},
	})
}
