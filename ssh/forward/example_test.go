package forward_test

import (
	"context"
	"fmt"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/ssh/forward"
)

// Which rule decides, and what the same policy says of an address behind a name.
func ExampleGate_Explain() {
	policy, err := forward.ParsePolicy(`
		deny  *           dial tcp *:25
		allow ssh:forward dial tcp 10.1.2.3:5432
		allow ssh:forward dial tcp *:80,443`)
	if err != nil {
		fmt.Println(err)
		return
	}
	gate := &forward.Gate{}
	gate.SetPolicy(policy)
	bob := &alknet.Identity{ID: "bob", Scopes: []string{forward.ScopeDial}}
	for _, target := range []string{"10.1.2.3:5432", "8.8.8.8:443", "127.0.0.1:443", "8.8.8.8:25"} {
		list, err := gate.Explain(context.Background(), bob, forward.OpDial, "tcp", target)
		fmt.Println(target, list[0].Allow, list[0].Rule, err)
	}
	// Output:
	// 10.1.2.3:5432 true 2 <nil>
	// 8.8.8.8:443 true 3 <nil>
	// 127.0.0.1:443 false 0 <nil>
	// 8.8.8.8:25 false 1 <nil>
}

// The forms of -L and -R.
func ExampleParseForward() {
	f, err := forward.ParseForward('R', "*:8080:localhost:80")
	fmt.Println(f.Remote, f.Network, f.Listen, f.TargetNetwork, f.Target, err)
	fmt.Println(f)
	// Output:
	// true tcp :8080 tcp localhost:80 <nil>
	// *:8080:localhost:80
}
