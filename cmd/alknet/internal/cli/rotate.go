package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/cmd/alknet/internal/fault"
	"github.com/alkdev/alknet/cmd/alknet/internal/node"
	"github.com/alkdev/alknet/peer"
	"github.com/alkdev/alknet/peer/pair"
	"github.com/alkdev/alknet/vault"
)

// rotateOut is the document of id rotate.
type rotateOut struct {
	Old       string   `json:"old"`
	New       string   `json:"new"`
	Statement string   `json:"statement"` // signed by both keys; anybody may carry it
	Told      []string `json:"told"`      // peers that have taken it
	Failed    []string `json:"failed"`    // peers that have not
}

func (a *app) rotateCommand() *cobra.Command {
	var overlap time.Duration
	c := &cobra.Command{
		Use:   "rotate",
		Short: "Make the next identity the current one, and tell the peers",
		Long: "Make the next identity the current one, and tell every peer with an address. The node must be stopped.\n" +
			"The old key is valid for the overlap. The statement can be handed to other peers by anybody.",
		Args: count(0, 0),
	}
	c.Flags().DurationVar(&overlap, "overlap", 7*24*time.Hour, "how long the old key stays valid; at most 30 days")
	c.RunE = func(c *cobra.Command, _ []string) error { return a.rotate(c.Context(), overlap) }
	return c
}

func (a *app) rotate(ctx context.Context, overlap time.Duration) error {
	f, p, err := a.configured()
	if err != nil {
		return err
	}
	d, err := node.OpenDirectory(p, f)
	if err != nil {
		return err
	}
	defer d.Close()
	return a.changing(ctx, func(v *vault.Vault) error {
		if err := a.confirm("make a new identity for this node?"); err != nil {
			return err
		}
		old, next, err := v.RotateIdentity()
		if err != nil {
			return err
		}
		out := rotateOut{Told: []string{}, Failed: []string{}}
		if out.Statement, err = peer.SignSuccessor(old, next, overlap); err != nil {
			return err
		}
		was, err := alknet.NewEndpoint(nil, nil, &alknet.Config{Key: old})
		if err != nil {
			return err
		}
		now, err := alknet.NewEndpoint(nil, nil, &alknet.Config{Key: next})
		if err != nil {
			return errors.Join(err, was.Close())
		}
		defer was.Close()
		defer now.Close()
		out.Old, out.New = was.ID().String(), now.ID().String()
		for _, e := range d.Entries() {
			if len(e.Addrs) == 0 || e.Disabled {
				continue
			}
			if err := tell(ctx, now, d, e.ID, out.Statement); err != nil {
				a.say("%s was not told: %v", plain(e.ID), err)
				out.Failed = append(out.Failed, e.ID)
				continue
			}
			out.Told = append(out.Told, e.ID)
		}
		if err := a.result(out, func(w io.Writer) {
			fmt.Fprintf(w, "%s\n%s\n%d peers know\n", out.New, out.Statement, len(out.Told))
		}); err != nil {
			return err
		}
		if len(out.Failed) > 0 {
			return fault.New(fault.Partly, fmt.Sprintf("%d peers do not know the new key yet", len(out.Failed)), "")
		}
		return nil
	})
}

// tell hands the statement to one peer.
func tell(ctx context.Context, ep *alknet.Endpoint, d *node.Directory, id, statement string) error {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	r, err := d.Resolve(id)
	if err != nil {
		return err
	}
	conn, err := node.DialAny(ctx, ep, r, transports(pair.ALPN), pair.ALPN)
	if err != nil {
		return err
	}
	return pair.SubmitSuccessor(ctx, conn, statement)
}
