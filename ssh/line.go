package ssh

import "strings"

// shellSpecial are the bytes that mean something to a shell when they are not
// quoted: operators, expansions, globs, comments, newlines.
const shellSpecial = "|&;<>()$`*?[]#~=%{}!^\n\r"

// maxArgs bounds the words of a command line.
const maxArgs = 1024

// splitLine splits a command line by the quoting of POSIX (XCU 2.2), for
// programs that are functions of ours. A line in which anything unquoted, or
// quoted with double quotes and not inert, would mean something to a shell does
// not split: it is no line of theirs. Blanks separate words.
func splitLine(line string) (args []string, ok bool) {
	if strings.ContainsRune(line, 0) {
		return nil, false
	}
	var word strings.Builder
	inWord := false
	for i := 0; i < len(line); i++ {
		c := line[i]
		switch {
		case c == ' ' || c == '\t':
			if inWord {
				args = append(args, word.String())
				word.Reset()
				inWord = false
			}
			continue
		case c == '\'':
			n := strings.IndexByte(line[i+1:], '\'')
			if n < 0 {
				return nil, false
			}
			word.WriteString(line[i+1 : i+1+n])
			i += n + 1
		case c == '"':
			n, text, closed := doubleQuoted(line[i+1:])
			if !closed {
				return nil, false
			}
			word.WriteString(text)
			i += n
		case c == '\\':
			if i+1 == len(line) || line[i+1] == '\n' {
				return nil, false
			}
			i++
			word.WriteByte(line[i])
		case strings.IndexByte(shellSpecial, c) >= 0 && !inert(c, inWord):
			return nil, false
		default:
			word.WriteByte(c)
		}
		inWord = true
		if len(args) == maxArgs {
			return nil, false
		}
	}
	if inWord {
		args = append(args, word.String())
	}
	return args, len(args) > 0
}

// inert reports whether a special byte means nothing where it stands: an option
// may have a = or a %, and a word a # or ~ within.
func inert(c byte, inWord bool) bool {
	switch c {
	case '=', '%':
		return inWord
	case '#', '~', '^':
		return inWord
	}
	return false
}

// doubleQuoted reads up to the closing quote, whose position after the opening
// one is n. An expansion inside does not close.
func doubleQuoted(s string) (n int, text string, closed bool) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch c := s[i]; c {
		case '"':
			return i + 1, b.String(), true
		case '$', '`', '\n':
			return 0, "", false
		case '\\':
			if i+1 < len(s) && strings.IndexByte("\"\\$`", s[i+1]) >= 0 {
				i++
				b.WriteByte(s[i])
				continue
			}
			b.WriteByte(c)
		default:
			b.WriteByte(c)
		}
	}
	return 0, "", false
}
