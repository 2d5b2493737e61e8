package registry_test

import (
	"encoding/hex"
	"testing"
	"time"

	"github.com/civibus/civibus/registry/registrypb"
)

// TestVectorsProcess is the life of a process: its definition, who plays its roles, an
// instance that ends, one that is cancelled, and what is refused.
func TestVectorsProcess(t *testing.T) {
	g := testGenesis()
	g.Protocol = 2
	c := newChain(t, "Registry, protocol 2: a process of two bodies and its instances. The rest is as in chain.json.", g)
	b, cc := edKey("B/admin"), edKey("C/admin")
	office1, register1, stranger := edKey("B/log"), edKey("C/log"), edKey("A/log")
	env := c.env
	c.add([]envCase{
		env("subsystem of the office", b, &registrypb.SetSubsystem{Id: office, Name: "Population"}),
		env("subsystem of the register", cc, &registrypb.SetSubsystem{Id: register, Name: "Application"}),
		env("process", b, &registrypb.SetProcess{Owner: idB, Definition: processDocument(1)}),
		env("process that is not canonical", b, &registrypb.SetProcess{Owner: idB, Definition: append(processDocument(2), '\n')}),
		env("second version", b, &registrypb.SetProcess{Owner: idB, Definition: processDocument(2)}),
		env("second version suspended", b, &registrypb.SetProcessStatus{Process: idB + "/case/2", Status: suspended, Notice: "Not yet in force"}),
		env("role of the owner", b, takeRole("office", office)),
		env("role of another", cc, takeRole("register", register)),
	})
	c.add([]envCase{
		env("role not approved yet", office1, startCase()),
		env("approved", b, &registrypb.ApproveRole{Process: processID, Role: "register", Subsystem: register}),
	})
	begin := func(name string) string {
		cases := []envCase{env(name, office1, startCase())}
		c.add(cases)
		return hex.EncodeToString(cases[0].TxHash[:16])
	}
	one, two := begin("instance"), begin("another")
	c.add([]envCase{
		env("a stranger's event", stranger, notified(one, "a")),
		env("done", office1, notified(one, "a")),
		env("done twice", office1, notified(one, "a")),
		env("done otherwise", office1, notified(one, "b")),
		env("failed", register1, step(one, "enter", stepFailed, 1)),
		env("the attempt before", register1, step(one, "enter", stepDone, 1)),
		env("the next attempt", register1, step(one, "enter", stepDone, 2)),
		env("ends", office1, step(one, "pay", stepDone, 1)),
		env("after the end", office1, step(one, "pay", stepFailed, 1)),
		env("done in the other", office1, notified(two, "a")),
		env("done in the other", register1, step(two, "enter", stepDone, 1)),
		env("not due", stranger, step(two, "pay", stepTimeout, 1)),
	})
	c.w.now = c.w.now.Add(time.Hour)
	c.add([]envCase{
		env("due", stranger, step(two, "pay", stepTimeout, 1)),
		env("taken back too early", office1, step(two, "notify", stepReverted, 1)),
		env("taken back", register1, step(two, "enter", stepReverted, 1)),
		env("taken back, the last", office1, step(two, "notify", stepReverted, 1)),
		env("no longer in the table", office1, notified(one, "a")),
	})
	if i := c.w.instance(two); i.State.End != "cancelled" || c.w.instance(one).State.End != "closed" {
		t.Fatalf("ends %q, %q", c.w.instance(one).State.End, i.State.End)
	}
	replayChain(t, vectors(t, "process.json", c.v))
}
