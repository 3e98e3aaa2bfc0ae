package cli

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/cmd/alknet/internal/agent"
	"github.com/alkdev/alknet/cmd/alknet/internal/fault"
	"github.com/alkdev/alknet/vault"
)

// idOut is the document of id: one key in each notation.
type idOut struct {
	ID  string `json:"id"`
	Hex string `json:"hex"`
	SSH string `json:"ssh"`
	DNS string `json:"dns"`
}

func (a *app) idCommand() *cobra.Command {
	var ssh, dns, asHex bool
	c := &cobra.Command{Use: "id", Short: "Print the node's identity", Args: a.noCommand}
	c.Flags().BoolVar(&ssh, "ssh", false, "as a public key of OpenSSH")
	c.Flags().BoolVar(&dns, "dns", false, "as the name of the pkarr zone")
	c.Flags().BoolVar(&asHex, "hex", false, "as ed25519: and hexadecimal digits")
	c.RunE = func(c *cobra.Command, _ []string) error {
		id, err := a.identity(c.Context())
		if err != nil {
			return err
		}
		out := notations(id)
		return a.result(out, func(w io.Writer) {
			switch {
			case ssh:
				fmt.Fprintln(w, out.SSH)
			case dns:
				fmt.Fprintln(w, out.DNS)
			case asHex:
				fmt.Fprintln(w, out.Hex)
			default:
				fmt.Fprintln(w, out.ID)
			}
		})
	}
	c.AddCommand(a.rotateCommand())
	return c
}

// identity is the node's: of the running one, else what the vault's folder says.
func (a *app) identity(ctx context.Context) (alknet.PeerID, error) {
	_, p, _, err := a.load()
	if err != nil {
		return alknet.PeerID{}, err
	}
	if n, err := agent.Connect(ctx, p.Control); err == nil {
		defer n.Close()
		return n.ID(), nil
	}
	s, err := vault.Inspect(p.Vault)
	if err != nil {
		return alknet.PeerID{}, fault.New(fault.Unknown, "there is no vault in "+p.Vault, a.again("init"))
	}
	if s.Index == 0 && s.Check != "" {
		return alknet.ParsePeerID(s.Check)
	}
	v, err := a.openVault(ctx) // a later identity is not written down
	if err != nil {
		return alknet.PeerID{}, err
	}
	defer v.Close()
	key, err := signerOf(v)
	if err != nil {
		return alknet.PeerID{}, err
	}
	ep, err := alknet.NewEndpoint(nil, nil, &alknet.Config{Key: key})
	if err != nil {
		return alknet.PeerID{}, err
	}
	return ep.ID(), ep.Close()
}

func notations(id alknet.PeerID) idOut {
	const kind = "ssh-ed25519"
	blob := append([]byte{0, 0, 0, byte(len(kind))}, kind...) // RFC 8709, section 4
	blob = append(append(blob, 0, 0, 0, byte(len(id))), id[:]...)
	return idOut{
		ID:  id.String(),
		Hex: "ed25519:" + hex.EncodeToString(id[:]),
		SSH: kind + " " + base64.StdEncoding.EncodeToString(blob) + " alknet",
		DNS: strings.ToLower(id.String()) + ".",
	}
}
