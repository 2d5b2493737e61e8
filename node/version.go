package node

import "runtime/debug"

// version is the release; the build may carry a more exact one.
const version = "0.1.0-dev"

// Version returns the version that runs: the module's when it was installed as
// one, else the release that the source is on the way to.
func Version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return version
}
