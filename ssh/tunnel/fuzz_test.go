package tunnel

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/stretchr/testify/require"
)

func FuzzHeader(f *testing.F) {
	f.Add(header{kind: kindDial, network: 1, address: "example.com:80"}.append(nil))
	f.Add(header{kind: kindListen, network: 2, id: 7, address: "/run/x"}.append(nil))
	f.Add(header{kind: kindAccepted, network: 4, id: 1 << 31}.append(nil))
	f.Add(answer{code: 2, id: 7, text: "denied: rule 3"}.append(nil))
	f.Add([]byte{1, 1, 0, 0, 0, 0, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		if h, err := readHeader(r); err == nil {
			require.NoError(t, h.check())
			require.Equal(t, b[:len(b)-r.Len()], h.append(nil), "it reads what it says, and not a byte more")
		} else {
			require.True(t, errors.Is(err, errFrame) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF), "%v", err)
		}
		r = bytes.NewReader(b)
		if a, err := readAnswer(r); err == nil {
			require.Equal(t, b[:len(b)-r.Len()], a.append(nil))
		}
	})
}

func FuzzUDPFrame(f *testing.F) {
	f.Add(appendDatagram(appendDatagram(nil, []byte("one")), nil), uint16(10))
	f.Add([]byte{0xff, 0xff, 1}, uint16(1))
	f.Fuzz(func(t *testing.T, b []byte, size uint16) {
		r := bytes.NewReader(b)
		buf := make([]byte, size)
		var whole []byte
		for {
			before := r.Len()
			n, err := readDatagram(r, buf)
			if err != nil {
				return
			}
			used := b[len(b)-before : len(b)-r.Len()]
			require.LessOrEqual(t, n, len(used)-2)
			require.Equal(t, min(len(used)-2, int(size)), n)
			require.Equal(t, used, appendDatagram(nil, used[2:]))
			whole = append(whole, used...)
			require.Equal(t, whole, b[:len(whole)])
		}
	})
}
