package alknet

import (
	"errors"
	"slices"
	"strings"
)

// Identity is who the other end is, decided once before a handler runs.
type Identity struct {
	// ID is a stable name, "worker-a". It survives key rotation. Empty: anonymous.
	ID string
	// Peer is the key the peer proved it holds; zero if it proved none.
	Peer PeerID
	// Scopes are what it may do: "fs:read", "ssh:forward".
	Scopes []string
	// Resources maps a resource type to the actions or ids that are granted.
	Resources map[string][]string
}

// clone returns an Identity that shares nothing with id.
func (id Identity) clone() Identity {
	id.Scopes = slices.Clone(id.Scopes)
	if id.Resources != nil {
		m := make(map[string][]string, len(id.Resources))
		for k, v := range id.Resources {
			m[k] = slices.Clone(v)
		}
		id.Resources = m
	}
	return id
}

// AccessControl is the one policy language of alknet: services, call
// operations, SSH, git and SFTP use it. All that is set must hold; the zero
// value admits everyone.
type AccessControl struct {
	// RequiredScopes must all be granted.
	RequiredScopes []string
	// RequiredScopesAny holds scopes of which at least one must be granted.
	RequiredScopesAny []string
	// ResourceType must have an entry among the identity's Resources; with
	// ResourceAction, one that holds that action.
	ResourceType string
	// ResourceAction without ResourceType must be granted for some type.
	ResourceAction string
}

// An AccessError says what an identity lacks. Its text is that of the call
// protocol's FORBIDDEN (docs/protocol.md).
type AccessError struct {
	text string
	// Unauthenticated: nothing is known of the peer, so that a login may help.
	Unauthenticated bool
}

// Error is the text, such as "missing required scope: fs:read".
func (e *AccessError) Error() string { return e.text }

// Check returns nil if id may pass, else an *AccessError. A nil or anonymous id
// passes only the zero AccessControl.
func (ac AccessControl) Check(id *Identity) error {
	if len(ac.RequiredScopes) == 0 && len(ac.RequiredScopesAny) == 0 && ac.ResourceType == "" && ac.ResourceAction == "" {
		return nil
	}
	if id == nil || id.ID == "" {
		return &AccessError{text: "authentication required", Unauthenticated: true}
	}
	for _, s := range ac.RequiredScopes {
		if !slices.Contains(id.Scopes, s) {
			return &AccessError{text: "missing required scope: " + s}
		}
	}
	has := func(s string) bool { return slices.Contains(id.Scopes, s) }
	if len(ac.RequiredScopesAny) > 0 && !slices.ContainsFunc(ac.RequiredScopesAny, has) {
		return &AccessError{text: "missing required scope (any of: " + strings.Join(ac.RequiredScopesAny, ", ") + ")"}
	}
	return ac.checkResource(id)
}

func (ac AccessControl) checkResource(id *Identity) error {
	granted, action := id.Resources[ac.ResourceType], ac.ResourceAction
	switch {
	case ac.ResourceType == "" && action == "":
		return nil
	case ac.ResourceType == "":
		for _, actions := range id.Resources {
			if slices.Contains(actions, action) {
				return nil
			}
		}
		return &AccessError{text: "missing resource action: " + action}
	case action == "" && len(granted) == 0:
		return &AccessError{text: "missing resource: " + ac.ResourceType}
	case action != "" && !slices.Contains(granted, action):
		return &AccessError{text: "missing resource: " + ac.ResourceType + "/" + action}
	}
	return nil
}

// refusal is the error with which a connection ends that may not be served.
func refusal(err error) *Error {
	if ae, ok := errors.AsType[*AccessError](err); ok && ae.Unauthenticated {
		return &Error{Code: CodeUnauthenticated, Reason: ae.text, Err: err}
	}
	return &Error{Code: CodeRefused, Reason: "not allowed", Err: err}
}
