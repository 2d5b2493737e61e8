package node

import (
	"net"
	"os"
)

// notify tells systemd what the node does (sd_notify), when it was started with
// Type=notify. Anything else is no error: nobody asked.
func notify(state string) {
	socket := os.Getenv("NOTIFY_SOCKET")
	if socket == "" {
		return
	}
	c, err := net.Dial("unixgram", socket)
	if err != nil {
		return
	}
	defer c.Close()
	_, _ = c.Write([]byte(state)) // systemd times out and says so if it does not arrive
}
