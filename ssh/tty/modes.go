//go:build unix

package tty

import (
	"os"

	"golang.org/x/sys/unix"
)

// The kinds of a mode (RFC 4254, section 8).
type mode struct {
	kind modeKind
	bit  uint64 // of a flag; the index of a character
	mask uint64 // of a field of several bits; 0: bit alone
}

type modeKind uint8

const (
	modeChar    modeKind = iota // Cc
	modeInput                   // Iflag
	modeLocal                   // Lflag
	modeOutput                  // Oflag
	modeControl                 // Cflag
)

// noChar is what RFC 4254 calls a character that is not set.
const noChar = 255

// setModes applies modes to a terminal; opcodes that are not known do nothing.
func setModes(f *os.File, modes map[uint8]uint32) error {
	if len(modes) == 0 {
		return nil
	}
	fd := int(f.Fd())
	t, err := unix.IoctlGetTermios(fd, getTermios)
	if err != nil {
		return err
	}
	for op, value := range modes {
		if m, known := knownModes[op]; known {
			m.apply(t, value)
		}
	}
	return unix.IoctlSetTermios(fd, setTermios, t)
}

func (m mode) apply(t *unix.Termios, value uint32) {
	switch m.kind {
	case modeChar:
		c := uint8(value)
		if value == noChar {
			c = vdisable
		}
		t.Cc[m.bit] = c
	case modeInput:
		setFlag(&t.Iflag, m, value)
	case modeLocal:
		setFlag(&t.Lflag, m, value)
	case modeOutput:
		setFlag(&t.Oflag, m, value)
	case modeControl:
		setFlag(&t.Cflag, m, value)
	}
}

// setFlag sets or clears the bits of a mode in a word of either size.
func setFlag[T ~uint32 | ~uint64](word *T, m mode, value uint32) {
	mask := m.mask
	if mask == 0 {
		mask = m.bit
	}
	if value != 0 {
		*word = *word&^T(mask) | T(m.bit)
	} else if m.mask == 0 {
		*word &^= T(mask)
	}
}

// knownModes are the opcodes that every Unix has.
var knownModes = map[uint8]mode{
	1: {kind: modeChar, bit: unix.VINTR}, 2: {kind: modeChar, bit: unix.VQUIT}, 3: {kind: modeChar, bit: unix.VERASE},
	4: {kind: modeChar, bit: unix.VKILL}, 5: {kind: modeChar, bit: unix.VEOF}, 6: {kind: modeChar, bit: unix.VEOL},
	7: {kind: modeChar, bit: unix.VEOL2}, 8: {kind: modeChar, bit: unix.VSTART}, 9: {kind: modeChar, bit: unix.VSTOP},
	10: {kind: modeChar, bit: unix.VSUSP}, 12: {kind: modeChar, bit: unix.VREPRINT}, 13: {kind: modeChar, bit: unix.VWERASE},
	14: {kind: modeChar, bit: unix.VLNEXT}, 18: {kind: modeChar, bit: unix.VDISCARD},

	30: {kind: modeInput, bit: unix.IGNPAR}, 31: {kind: modeInput, bit: unix.PARMRK}, 32: {kind: modeInput, bit: unix.INPCK},
	33: {kind: modeInput, bit: unix.ISTRIP}, 34: {kind: modeInput, bit: unix.INLCR}, 35: {kind: modeInput, bit: unix.IGNCR},
	36: {kind: modeInput, bit: unix.ICRNL}, 38: {kind: modeInput, bit: unix.IXON}, 39: {kind: modeInput, bit: unix.IXANY},
	40: {kind: modeInput, bit: unix.IXOFF}, 41: {kind: modeInput, bit: unix.IMAXBEL},

	50: {kind: modeLocal, bit: unix.ISIG}, 51: {kind: modeLocal, bit: unix.ICANON}, 53: {kind: modeLocal, bit: unix.ECHO},
	54: {kind: modeLocal, bit: unix.ECHOE}, 55: {kind: modeLocal, bit: unix.ECHOK}, 56: {kind: modeLocal, bit: unix.ECHONL},
	57: {kind: modeLocal, bit: unix.NOFLSH}, 58: {kind: modeLocal, bit: unix.TOSTOP}, 59: {kind: modeLocal, bit: unix.IEXTEN},
	60: {kind: modeLocal, bit: unix.ECHOCTL}, 61: {kind: modeLocal, bit: unix.ECHOKE}, 62: {kind: modeLocal, bit: unix.PENDIN},

	70: {kind: modeOutput, bit: unix.OPOST}, 72: {kind: modeOutput, bit: unix.ONLCR}, 73: {kind: modeOutput, bit: unix.OCRNL},
	74: {kind: modeOutput, bit: unix.ONOCR}, 75: {kind: modeOutput, bit: unix.ONLRET},

	90: {kind: modeControl, bit: unix.CS7, mask: unix.CSIZE}, 91: {kind: modeControl, bit: unix.CS8, mask: unix.CSIZE},
	92: {kind: modeControl, bit: unix.PARENB}, 93: {kind: modeControl, bit: unix.PARODD},
	opUTF8: utf8Mode,
}

// opUTF8 is IUTF8 (RFC 8160).
const opUTF8 = 42
