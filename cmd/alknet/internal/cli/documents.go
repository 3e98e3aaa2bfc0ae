package cli

// dryRunOut is the document of --dry-run: nothing was changed.
type dryRunOut struct {
	DryRun bool `json:"dry_run"`
}

// lockedOut is the document of vault lock and unlock.
type lockedOut struct {
	Locked bool `json:"locked"`
}
