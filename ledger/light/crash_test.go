package light_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/civibus/civibus/ledger"
	"github.com/civibus/civibus/ledger/light"
	"github.com/civibus/civibus/registry"
)

func TestMain(m *testing.M) {
	if file := os.Getenv("CIVIBUS_LIGHT_CHILD"); file != "" {
		if err := childMain(file); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	light.Hurry()
	os.Exit(m.Run())
}

// childConfig is what a child process is told.
type childConfig struct {
	Dir         string
	Genesis     string
	FullNodes   []string
	SnapshotGap uint64
	Certificate [][]byte
	Key         []byte
}

// childMain follows the ledger and says each height, until it is killed.
func childMain(file string) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var c childConfig
	if err := json.Unmarshal(b, &c); err != nil {
		return err
	}
	genesis, err := registry.ParseGenesis([]byte(c.Genesis))
	if err != nil {
		return err
	}
	cert, err := tls.X509KeyPair(c.Certificate[0], c.Key)
	if err != nil {
		return err
	}
	client, err := light.Open(context.Background(), light.Config{
		Dir: c.Dir, Genesis: genesis, FullNodes: c.FullNodes, SnapshotGap: c.SnapshotGap, Poll: time.Second, Heartbeat: time.Second,
		Certificate: func() (*tls.Certificate, error) { return &cert, nil },
	})
	if err != nil {
		return err
	}
	for height := uint64(0); ; {
		if err := client.WaitView(context.Background(), func(v *registry.View) bool { return v.Height() > height }); err != nil {
			return err
		}
		height = client.View().Height()
		fmt.Println(height)
	}
}

// TestKilled: a client that is killed at any moment, also while it takes a snapshot,
// starts again from what is on its disk, loses no height that it showed, and holds
// what full nodes agreed on.
func TestKilled(t *testing.T) {
	w := newNetwork(t, 1, func(_ int, cfg *ledger.Config) { cfg.SnapshotInterval, cfg.SnapshotKeep = 20, 40 })
	other := newFace(t, func() *ledger.Node { return w.nodes[0] })
	for i := range 30 {
		w.commit(0, w.bodies[0].subsystem(t, fmt.Sprint("S", i)))
	}
	eventually(t, "a snapshot", func() bool { s, err := w.nodes[0].Snapshots(); return err == nil && len(s) > 0 })
	cfg := w.config(w.faces[0], other)
	genesis, err := w.genesis.TOML()
	check(t, err)
	pair, key := pemPair(t)
	text, err := json.Marshal(childConfig{Dir: cfg.Dir, Genesis: string(genesis), FullNodes: cfg.FullNodes, SnapshotGap: 10, Certificate: [][]byte{pair}, Key: key})
	check(t, err)
	file := filepath.Join(w.dir, "child.json")
	check(t, os.WriteFile(file, text, 0o600))

	// Kills after 0, 1, 2, ... heights that were shown, and one in the very beginning.
	shown := uint64(0)
	for kill := range 7 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "CIVIBUS_LIGHT_CHILD="+file)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		check(t, err)
		check(t, cmd.Start())
		lines := bufio.NewScanner(out)
		for range kill {
			w.commit(0, w.bodies[0].note(t, fmt.Sprint("kill", kill, w.nodes[0].View().Height())))
			if !lines.Scan() {
				t.Fatalf("the child ended: %v", cmd.Wait())
			}
			var height uint64
			_, err := fmt.Sscan(lines.Text(), &height)
			check(t, err)
			if height < shown {
				t.Fatalf("it shows height %d, it showed %d before it was killed", height, shown)
			}
			shown = height
		}
		check(t, cmd.Process.Kill())
		_ = cmd.Wait() // it was killed
	}
	c := open(t, cfg)
	if heightOf(c) < shown {
		t.Fatalf("height %d, it showed %d", heightOf(c), shown)
	}
	w.reaches(c, w.commit(0, w.bodies[0].subsystem(t, "LAST")))
}
