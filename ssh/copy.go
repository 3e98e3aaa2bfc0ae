package ssh

import "sync"

// copyBytes is what is read at once of a process or a channel.
const copyBytes = 64 << 10

var copyBuffers = sync.Pool{New: func() any { return new([copyBytes]byte) }}
