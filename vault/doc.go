// Package vault turns one BIP39 phrase into every key a node needs, and keeps
// other secrets encrypted under keys of the same phrase.
//
// A phrase of 12 to 24 words and an optional passphrase give a seed. From the
// seed come, by SLIP-0010 with hardened steps only, the node's TLS identity, its
// SSH keys, an age identity, purpose keys, site passwords, the keys of stored
// secrets and whole vaults for other devices. The same words on an empty machine
// give the same keys. A program gets signers and purpose keys, never the root,
// unless it asks for it with [Vault.ExportSeed].
//
//	v, err := vault.Open(dir, nil)
//	if err != nil {
//		return err
//	}
//	defer v.Close()
//	ids, err := vault.ParseIdentities(credential) // an age key or a passphrase
//	if err != nil {
//		return err
//	}
//	if err := v.Unlock(ctx, ids...); err != nil {
//		return err
//	}
//	key, err := v.Identity(v.IdentityIndex())
//	…
//	token, err := v.Get("github", "http-token")
//	…
//	err = token.Use(func(b []byte) error { return login(b) })
//
// A [Vault] is a folder ([Create], [Open]) or in memory only ([New],
// [FromSeed], [Vault.Child]). It is locked or unlocked. [Vault.Lock] waits for
// uses under way, wipes the seed and all keys, and makes every signer and
// [Secret] that was handed out fail with [ErrLocked].
//
// # The folder
//
// The folder belongs to its owner alone (0700, files 0600) and to one process
// at a time. vault.json says which vault it is: the check value, "ed25519:" and
// the public key of identity 0 in hex, by which a wrong phrase is noticed.
// slots/NAME.age holds the seed as an ordinary age file; each is a way in
// without the phrase. secrets.json holds the stored secrets. Their names and
// purposes are in the clear, and like everything there authenticated.
//
// What the folder's owner could not have written is [ErrDecrypt] at unlock: a
// record that was changed, swapped, removed or put back, and also an older
// secrets.json, unless [Options].Recover asks for it. An older copy of the whole
// folder is not noticed: nothing inside it can tell. Each change is on the disk when the method returns; a
// crash leaves the old content or the new.
//
// # What wiping can and cannot do
//
// Seed and cached keys live in one page outside the Go heap that is kept from
// swap and core dumps where the system allows; [Status] says what holds. Keys
// are copied to the heap for one operation and wiped after it. Not covered:
// strings (what is typed, passphrases on their way into age), copies that the
// standard library's ciphers keep until the garbage collector runs, copies that
// a function given to [Secret.Use] makes, swap where mlock is refused, a
// debugger, and [age.HybridIdentity]. Built with GOEXPERIMENT=runtimesecret on
// linux/amd64 and linux/arm64, stack, registers and heap used with keys are
// erased by the runtime too.
//
// # Formats
//
// BIP39; SLIP-0010 for ed25519; age v1 (age-encryption.org/v1); AES-256-GCM
// with HKDF-SHA256 (RFC 5869), see [EncryptedData].
package vault
