package ssh

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/alkdev/alknet/internal/printable"
)

// keyOptions are the options of a line of authorized keys. All of them are
// enforced; a line with another one is refused whole.
type keyOptions struct {
	authority    bool
	principals   []string
	from         *string
	expires      time.Time
	noPTY        bool
	noForward    bool
	noAgent      bool
	noTouch      bool
	forced       bool
	command      string
	permitOpen   []string
	permitListen []string
}

// parseKeyOptions applies options in their order, as sshd(8) does: one that
// permits what "restrict" took must follow it.
func parseKeyOptions(options []string) (keyOptions, error) {
	var o keyOptions
	for _, opt := range options {
		name, value, hasValue := strings.Cut(opt, "=")
		name = strings.ToLower(name)
		var err error
		if hasValue {
			if value, err = unquoteOption(value); err == nil {
				err = o.set(name, value)
			}
		} else {
			err = o.flag(name)
		}
		if err != nil {
			return o, fmt.Errorf("option %s: %w", printable.Quote(name), err)
		}
	}
	if o.principals != nil && !o.authority {
		return o, errors.New("principals are of certificates: the line lacks cert-authority")
	}
	return o, nil
}

// unquoteOption takes the quotes off; \" is a quote.
func unquoteOption(s string) (string, error) {
	if len(s) < 2 || s[0] != '"' || s[len(s)-1] != '"' {
		return "", errors.New("the value has no quotes")
	}
	s = strings.ReplaceAll(s[1:len(s)-1], `\"`, `"`)
	if strings.ContainsRune(s, 0) {
		return "", errors.New("the value has a NUL")
	}
	return s, nil
}

// errUnknownOption is an option that would have to be enforced, and is not.
var errUnknownOption = errors.New("unknown")

func (o *keyOptions) flag(name string) error {
	switch name {
	case "cert-authority":
		o.authority = true
	case "restrict":
		o.noPTY, o.noForward, o.noAgent = true, true, true
	case "pty":
		o.noPTY = false
	case "no-pty":
		o.noPTY = true
	case "port-forwarding":
		o.noForward = false
	case "no-port-forwarding":
		o.noForward = true
	case "agent-forwarding":
		o.noAgent = false
	case "no-agent-forwarding":
		o.noAgent = true
	case "no-touch-required":
		o.noTouch = true
	case "no-x11-forwarding", "x11-forwarding", "no-user-rc", "user-rc":
		// There is no X11 and no rc file to permit.
	default:
		return errUnknownOption
	}
	return nil
}

func (o *keyOptions) set(name, value string) error {
	switch name {
	case "command":
		if o.forced {
			return errors.New("given twice")
		}
		o.forced, o.command = true, value
	case "from":
		if o.from != nil {
			return errors.New("given twice")
		}
		o.from = &value
	case "principals":
		if value == "" {
			return errors.New("names nobody")
		}
		o.principals = append(o.principals, strings.Split(value, ",")...)
	case "expiry-time":
		t, err := parseExpiry(value)
		if err != nil {
			return err
		}
		if o.expires.IsZero() || t.Before(o.expires) {
			o.expires = t
		}
	case "permitopen":
		return addPermit(&o.permitOpen, value, false)
	case "permitlisten":
		return addPermit(&o.permitListen, value, true)
	default:
		return errUnknownOption
	}
	return nil
}

// parseExpiry reads YYYYMMDD, YYYYMMDDHHMM or YYYYMMDDHHMMSS, in the local time
// of the node or, with a Z, in UTC.
func parseExpiry(s string) (time.Time, error) {
	loc := time.Local
	if z, ok := strings.CutSuffix(s, "Z"); ok {
		s, loc = z, time.UTC
	}
	for _, layout := range []string{"20060102", "200601021504", "20060102150405"} {
		if len(s) == len(layout) {
			return time.ParseInLocation(layout, s, loc)
		}
	}
	return time.Time{}, errors.New("want YYYYMMDD[HHMM[SS]][Z]")
}

// addPermit reads "host:port"; for permitlisten a port alone is any host.
func addPermit(list *[]string, value string, portAlone bool) error {
	host, port := "*", value
	if i := strings.LastIndexByte(value, ':'); i >= 0 {
		host, port = value[:i], value[i+1:]
		host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	} else if !portAlone {
		return errors.New("want HOST:PORT")
	}
	if n, err := strconv.ParseUint(port, 10, 16); port != "*" && (err != nil || n == 0) || host == "" {
		return errors.New("want HOST:PORT")
	}
	*list = append(*list, strings.ToLower(host)+" "+port)
	return nil
}

// permits reports whether a list of addPermit has a host and a port. Hosts are
// compared as they are written; nil is no restriction.
func permits(list []string, host string, port uint32) bool {
	if list == nil {
		return true
	}
	return slices.ContainsFunc(list, func(entry string) bool {
		h, p, _ := strings.Cut(entry, " ")
		return (h == "*" || h == strings.ToLower(host)) && (p == "*" || p == strconv.FormatUint(uint64(port), 10))
	})
}

// grant is what the options leave, or why they refuse.
func (o *keyOptions) grant(p proof) (*grant, error) {
	if o.from != nil && !fromMatches(*o.from, p.remote) {
		return nil, errors.New("ssh: the key is not for this address")
	}
	if !o.expires.IsZero() && !time.Now().Before(o.expires) {
		return nil, errors.New("ssh: the key has expired")
	}
	return &grant{
		how: "publickey", proof: p, noPTY: o.noPTY, noForward: o.noForward, noAgent: o.noAgent, noTouch: o.noTouch, forced: o.forced,
		command: o.command, permitOpen: o.permitOpen, permitListen: o.permitListen,
	}, nil
}

// fromMatches is the list of from=: addresses, prefixes and patterns of
// addresses, of which one with a ! excludes. Host names match nothing: nothing
// is looked up. A list that can not be read matches nothing.
func fromMatches(list string, remote net.Addr) bool {
	addr := addrPortOf(remote).Addr()
	if !addr.IsValid() {
		return false
	}
	found := false
	for entry := range strings.SplitSeq(list, ",") {
		entry, not := strings.CutPrefix(strings.TrimSpace(entry), "!")
		ok, err := addressMatches(strings.ToLower(entry), addr)
		switch {
		case err != nil, ok && not:
			return false
		case ok:
			found = true
		}
	}
	return found
}

func addressMatches(entry string, addr netip.Addr) (bool, error) {
	if strings.Contains(entry, "/") {
		p, err := netip.ParsePrefix(entry)
		return err == nil && p.Contains(addr), err
	}
	if a, err := netip.ParseAddr(entry); err == nil {
		return a.Unmap() == addr, nil
	}
	if entry == "" || strings.ContainsAny(entry, "[]\\") {
		return false, errors.New("no pattern")
	}
	return path.Match(entry, addr.String())
}

// inSourceList is the source-address of a certificate: addresses and prefixes. A
// list that can not be read matches nothing.
func inSourceList(list string, remote net.Addr) bool {
	addr := addrPortOf(remote).Addr()
	found := false
	for entry := range strings.SplitSeq(list, ",") {
		if a, err := netip.ParseAddr(entry); err == nil {
			found = found || a.Unmap() == addr
			continue
		}
		p, err := netip.ParsePrefix(entry)
		if err != nil {
			return false
		}
		found = found || p.Contains(addr)
	}
	return found && addr.IsValid()
}
