//go:build linux

package network

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// prefix begins the name of every namespace of these tests; the process and its
// start follow, so that what a killed test left behind is told from what runs.
const prefix = "civibus-test-"

// Space is a network of machines that nothing outside of it reaches: a namespace
// for each machine and one, the hub, with the bridge that joins them.
type Space struct {
	name     string
	hub      *Machine
	machines []*Machine
}

// Machine is a network namespace with one address. Its file system is that of the
// computer.
type Machine struct {
	Name    string
	Address netip.Addr

	space     *Space
	namespace string
	port      string // its end of the link at the hub, "" for the hub itself
	system    *http.Server
}

// SystemAddress is where the body's own system answers on each machine.
const SystemAddress = "127.0.0.1:8081"

var spaces atomic.Int32

// Missing says what this computer lacks to make spaces, nil if nothing.
func Missing() error {
	if os.Geteuid() != 0 {
		return errors.New("network namespaces need root")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		return errors.New("network namespaces need iproute2: apt-get install iproute2")
	}
	return nil
}

// NewSpace makes an empty network. It first removes what tests that were killed
// left behind.
func NewSpace() (*Space, error) {
	if err := Missing(); err != nil {
		return nil, err
	}
	if err := removeStale(); err != nil {
		return nil, err
	}
	s := &Space{name: fmt.Sprintf("%s%s-%d", prefix, process(os.Getpid()), spaces.Add(1))}
	s.hub = &Machine{Name: "hub", space: s, namespace: s.name + "-hub"}
	if err := ip("netns", "add", s.hub.namespace); err != nil {
		return nil, err
	}
	for _, bridge := range []string{"br0", "br1"} { // the second takes a half that is cut off
		if err := errors.Join(s.hub.ip("link", "add", bridge, "type", "bridge"), s.hub.ip("link", "set", bridge, "up")); err != nil {
			return nil, errors.Join(err, s.Close())
		}
	}
	return s, s.hub.ip("link", "set", "lo", "up")
}

// Machine adds a machine with an address, to which all others with addresses of
// the same /24 have a link.
func (s *Space) Machine(name string, address netip.Addr) (*Machine, error) {
	m := &Machine{Name: name, Address: address, space: s, namespace: s.name + "-" + name, port: fmt.Sprintf("port%d", len(s.machines))}
	if err := ip("netns", "add", m.namespace); err != nil {
		return nil, err
	}
	s.machines = append(s.machines, m)
	for _, command := range [][]string{
		{"link", "add", "net0", "netns", m.namespace, "type", "veth", "peer", "name", m.port, "netns", s.hub.namespace},
		{"-n", s.hub.namespace, "link", "set", m.port, "master", "br0", "up"},
		{"-n", m.namespace, "address", "add", address.String() + "/24", "dev", "net0"},
		{"-n", m.namespace, "link", "set", "net0", "up"},
		{"-n", m.namespace, "link", "set", "lo", "up"},
	} {
		if err := ip(command...); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// Close removes the namespaces. Processes in them should have ended before.
func (s *Space) Close() error {
	var errs []error
	for _, m := range append(s.machines, s.hub) {
		if m.system != nil {
			errs = append(errs, m.system.Close())
		}
		errs = append(errs, ip("netns", "del", m.namespace))
	}
	return errors.Join(errs...)
}

// Split cuts the network in two: the machines that are given on one side, all
// others on the other. Packets between the sides are lost, nothing is refused.
func (s *Space) Split(side ...*Machine) error {
	var errs []error
	for _, m := range side {
		errs = append(errs, s.hub.ip("link", "set", m.port, "master", "br1"))
	}
	return errors.Join(errs...)
}

// Heal joins both sides.
func (s *Space) Heal() error {
	var errs []error
	for _, m := range s.machines {
		errs = append(errs, s.hub.ip("link", "set", m.port, "master", "br0"))
	}
	return errors.Join(errs...)
}

// Unplug takes a machine's link away, Plug gives it back.
func (m *Machine) Unplug() error { return m.space.hub.ip("link", "set", m.port, "down") }

// Plug gives the link back.
func (m *Machine) Plug() error { return m.space.hub.ip("link", "set", m.port, "up") }

// Command is a program that runs on the machine.
func (m *Machine) Command(ctx context.Context, program string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", m.namespace, program}, args...)...)
}

// DialContext connects from the machine to an address with an IP address in it.
func (m *Machine) DialContext(ctx context.Context, network, address string) (c net.Conn, err error) {
	return c, errors.Join(m.within(func() error { c, err = (&net.Dialer{}).DialContext(ctx, network, address); return err }))
}

// Listen listens on the machine.
func (m *Machine) Listen(network, address string) (l net.Listener, err error) {
	return l, m.within(func() error { l, err = net.Listen(network, address); return err })
}

// Serve runs what stands behind a gateway, at SystemAddress of the machine: it
// answers every call with the machine's name, the method and the path. It stays for
// as long as the machine.
func (m *Machine) Serve() error {
	l, err := m.Listen("tcp", SystemAddress)
	if err != nil {
		return err
	}
	m.system = &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]string{"machine": m.Name, "method": r.Method, "path": r.URL.EscapedPath()})
	}), ReadHeaderTimeout: time.Minute}
	go func() { _ = m.system.Serve(l) }() // until it is closed
	return nil
}

// within runs f on a thread that is in the machine's namespace. Sockets stay in
// the namespace that they were made in.
func (m *Machine) within(f func() error) error {
	there, err := os.Open(filepath.Join("/run/netns", m.namespace))
	if err != nil {
		return err
	}
	defer there.Close()
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer home.Close()
	if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter the namespace of %s: %w", m.Name, err)
	}
	err = f()
	if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
		return errors.Join(err, back) // the thread stays locked and ends with its goroutine
	}
	runtime.UnlockOSThread()
	return err
}

func (m *Machine) ip(args ...string) error {
	return ip(append([]string{"-n", m.namespace}, args...)...)
}

func ip(args ...string) error {
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// process names a process for as long as the computer runs: its id and the tick
// at which it started, "" if there is none.
func process(pid int) string {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	// The command's name, in parentheses, may hold anything.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	return fmt.Sprintf("%d-%s", pid, fields[19])
}

// removeStale removes the namespaces of tests that no longer run and kills what
// still runs in them.
func removeStale() error {
	entries, err := os.ReadDir("/run/netns")
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		rest, ours := strings.CutPrefix(e.Name(), prefix)
		parts := strings.SplitN(rest, "-", 3)
		if !ours || len(parts) < 3 {
			continue
		}
		pid, err := strconv.Atoi(parts[0])
		if err != nil || process(pid) == parts[0]+"-"+parts[1] {
			continue
		}
		pids, err := exec.Command("ip", "netns", "pids", e.Name()).Output()
		if err != nil {
			continue // another test removed it meanwhile
		}
		for _, field := range strings.Fields(string(pids)) {
			if left, err := strconv.Atoi(field); err == nil {
				_ = syscall.Kill(left, syscall.SIGKILL) // it may have ended
			}
		}
		_ = ip("netns", "del", e.Name())
	}
	return nil
}
