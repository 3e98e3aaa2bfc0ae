package call

import (
	"context"
	"crypto/sha256"
	"sync"
	"time"

	"github.com/alkdev/alknet"
)

// A verdictCache remembers whom a delegation means, by the hash of its text and
// the key that presents it, so that a signature is checked once.
type verdictCache struct {
	mu   sync.Mutex
	seen map[verdictKey]verdict // guarded by mu
}

type verdictKey struct {
	sum  [sha256.Size]byte
	peer alknet.PeerID
}

type verdict struct {
	id    alknet.Identity
	until time.Time
}

// A verdict is kept for at most so long, so that a revocation is seen.
const (
	verdictTime = time.Second
	maxVerdicts = 4096
)

func newVerdictCache() *verdictCache { return &verdictCache{seen: make(map[verdictKey]verdict)} }

// authenticateFunc is Handler.Authenticate.
type authenticateFunc func(ctx context.Context, conn alknet.Identity, token string) (alknet.Identity, error)

// delegated says whom a delegation means. The presenter needs scope
// call:delegate.
func (v *verdictCache) delegated(ctx context.Context, f authenticateFunc, conn *alknet.Identity, token string) (alknet.Identity, error) {
	if err := (alknet.AccessControl{RequiredScopes: []string{scopeDelegate}}).Check(conn); err != nil {
		return alknet.Identity{}, err
	}
	key := verdictKey{sha256.Sum256([]byte(token)), conn.Peer}
	v.mu.Lock()
	had, ok := v.seen[key]
	v.mu.Unlock()
	if ok && time.Now().Before(had.until) {
		return had.id, nil
	}
	id, err := f(ctx, cloneIdentity(*conn), token)
	if err == nil && id.ID == "" {
		err = errNobody
	}
	if err != nil {
		return id, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.seen) >= maxVerdicts {
		clear(v.seen)
	}
	v.seen[key] = verdict{id, time.Now().Add(verdictTime)}
	return id, nil
}
