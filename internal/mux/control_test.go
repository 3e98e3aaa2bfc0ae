package mux

import (
	"bufio"
	"bytes"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var messages = []message{
	{kind: msgStreams, n: 0}, {kind: msgStreams, n: maxCode},
	{kind: msgStop, stream: 1, n: 7}, {kind: msgReset, stream: 1<<32 - 1, n: maxCode},
	{kind: msgClose, n: 0x616c6b00}, {kind: msgClose, n: 1, reason: strings.Repeat("r", maxReason)},
}

func TestMessagesSurviveTheWire(t *testing.T) {
	var b []byte
	for _, m := range messages {
		b = m.appendTo(b)
	}
	r := bufio.NewReader(bytes.NewReader(b))
	for _, want := range messages {
		got, err := readMessage(r)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	_, err := readMessage(r)
	require.ErrorIs(t, err, io.EOF)
}

func TestLongReasonsAreCut(t *testing.T) {
	b := message{kind: msgClose, reason: strings.Repeat("r", 10*maxReason)}.appendTo(nil)
	m, err := readMessage(bufio.NewReader(bytes.NewReader(b)))
	require.NoError(t, err)
	require.Len(t, m.reason, maxReason)
}

func TestMalformedMessages(t *testing.T) {
	for name, tt := range map[string]struct {
		b    []byte
		want error
	}{
		"unknown type":      {[]byte{9}, errControl},
		"zero type":         {[]byte{0, 0}, errControl},
		"end in a number":   {[]byte{msgStreams, 0x80}, io.ErrUnexpectedEOF},
		"end in a reason":   {[]byte{msgClose, 0, 5, 'a'}, io.ErrUnexpectedEOF},
		"longer form":       {[]byte{msgStreams, 0x80, 0}, errControl},
		"number too large":  {[]byte{msgStreams, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f}, errControl},
		"number too long":   {append([]byte{msgStreams}, bytes.Repeat([]byte{0x80}, 20)...), errControl},
		"stream too large":  {[]byte{msgStop, 0x80, 0x80, 0x80, 0x80, 0x10, 0}, errControl},
		"reason too long":   {[]byte{msgClose, 0, 0x81, 0x02}, errControl},
		"reason of 2^40":    {[]byte{msgClose, 0, 0x80, 0x80, 0x80, 0x80, 0x80, 0x20}, errControl},
		"end before a code": {[]byte{msgReset, 1}, io.ErrUnexpectedEOF},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := readMessage(bufio.NewReader(bytes.NewReader(tt.b)))
			require.ErrorIs(t, err, tt.want)
		})
	}
}

// What parses re-encodes to the same bytes.
func FuzzControl(f *testing.F) {
	for _, m := range messages {
		f.Add(m.appendTo(nil))
	}
	f.Add([]byte{msgStreams, 0x80, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		rd := bytes.NewReader(b)
		r := bufio.NewReader(rd)
		var out []byte
		for {
			m, err := readMessage(r)
			if err != nil {
				break
			}
			out = m.appendTo(out)
		}
		require.True(t, bytes.HasPrefix(b, out))
	})
}
