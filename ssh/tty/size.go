package tty

// Size is how large a terminal is.
type Size struct {
	Cols, Rows       uint16 // in characters; 0: 80 and 24
	XPixels, YPixels uint16 // 0: not known
}

// The size of a terminal whose client does not say one.
const (
	defaultCols = 80
	defaultRows = 24
)

// orDefault fills in what is zero.
func (s Size) orDefault() Size {
	if s.Cols == 0 {
		s.Cols = defaultCols
	}
	if s.Rows == 0 {
		s.Rows = defaultRows
	}
	return s
}

// Exit is how a process ended.
type Exit struct {
	Status int    // if it exited by itself
	Signal string // else the signal that ended it, without "SIG": "TERM"
	Core   bool   // it left a core image
}
