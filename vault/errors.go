package vault

import "errors"

// Errors that callers may test for with [errors.Is]. None of their texts, nor
// those of errors that wrap them, holds a secret or a word of a phrase.
var (
	// ErrLocked is returned by whatever needs keys while the vault is locked or
	// closed, and by signers and Secrets that a lock revoked or that were destroyed.
	ErrLocked = errors.New("vault: locked")

	// ErrUnlocked is returned by the Unlock methods of a vault that is not locked.
	ErrUnlocked = errors.New("vault: not locked")

	// ErrWrongPhrase is returned for a phrase, passphrase or seed of another vault.
	ErrWrongPhrase = errors.New("vault: wrong phrase or passphrase")

	// ErrNoSlot is returned by [Vault.Unlock] when no identity opens a slot of
	// this vault: a wrong passphrase, a foreign key, a foreign slot, no slot.
	ErrNoSlot = errors.New("vault: no slot opens")

	// ErrLastSlot is returned by [Vault.RemoveSlot] for the only slot of a vault
	// whose phrase nobody has shown to this process.
	ErrLastSlot = errors.New("vault: the last slot")

	// ErrExists is returned where a folder already holds a vault.
	ErrExists = errors.New("vault: exists")

	// ErrInUse is returned when the folder is open elsewhere, in this process or another.
	ErrInUse = errors.New("vault: in use")

	// ErrNotFound is returned for a vault, slot or secret that is not there.
	ErrNotFound = errors.New("vault: not found")

	// ErrDecrypt is returned when authentication fails: a record, a file of the
	// folder or its version is not what this vault wrote, or the purpose differs.
	ErrDecrypt = errors.New("vault: cannot decrypt")

	// ErrMalformed is returned for input and files that break their format, and
	// for files that others may read.
	ErrMalformed = errors.New("vault: malformed")

	// ErrRedacted is returned by encoders and decoders of a [Secret] or [Phrase].
	ErrRedacted = errors.New("vault: a secret is not encoded")
)
