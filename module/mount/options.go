package mount

import (
	"strings"

	"golang.org/x/sys/unix"

	"dominion/call"
)

// options are those of mount(8), divided into what the kernel takes as flags,
// what its file systems take as text, and what only the program knows.
type options struct {
	flags   uintptr
	data    []string
	program bool
}

// flag sets or clears bits.
type flag struct {
	set, clear uintptr
}

// flags are the options that every file system has (mount(8)).
var flags = map[string]flag{
	"ro": {set: unix.MS_RDONLY}, "rw": {clear: unix.MS_RDONLY},
	"nosuid": {set: unix.MS_NOSUID}, "suid": {clear: unix.MS_NOSUID},
	"nodev": {set: unix.MS_NODEV}, "dev": {clear: unix.MS_NODEV},
	"noexec": {set: unix.MS_NOEXEC}, "exec": {clear: unix.MS_NOEXEC},
	"sync": {set: unix.MS_SYNCHRONOUS}, "async": {clear: unix.MS_SYNCHRONOUS},
	"dirsync": {set: unix.MS_DIRSYNC},
	"noatime": {set: unix.MS_NOATIME}, "atime": {clear: unix.MS_NOATIME},
	"nodiratime": {set: unix.MS_NODIRATIME}, "diratime": {clear: unix.MS_NODIRATIME},
	"relatime": {set: unix.MS_RELATIME}, "norelatime": {clear: unix.MS_RELATIME},
	"strictatime": {set: unix.MS_STRICTATIME}, "nostrictatime": {clear: unix.MS_STRICTATIME},
	"lazytime": {set: unix.MS_LAZYTIME}, "nolazytime": {clear: unix.MS_LAZYTIME},
	"silent": {set: unix.MS_SILENT}, "loud": {clear: unix.MS_SILENT},
	"bind": {set: unix.MS_BIND}, "rbind": {set: unix.MS_BIND | unix.MS_REC},
	"remount": {set: unix.MS_REMOUNT},
	// These are for whoever reads fstab.
	"defaults": {}, "auto": {}, "noauto": {}, "nofail": {}, "_netdev": {}, "user": {set: unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC}, "nouser": {},
}

func parseOptions(text string) (options, error) {
	var o options
	for word := range strings.SplitSeq(text, ",") {
		key, _, _ := strings.Cut(word, "=")
		f, known := flags[word]
		switch {
		case word == "":
		case known:
			o.flags = o.flags&^f.clear | f.set
		case strings.HasPrefix(word, "x-"):
		case strings.HasPrefix(word, "X-"), key == "loop", key == "offset", key == "sizelimit", key == "helper", key == "encryption":
			o.program = true
		case isPropagation(word):
			return o, call.Errorf(call.Invalid, "option %q: how mounts spread is not set here", word)
		default:
			o.data = append(o.data, word)
		}
	}
	if o.flags&unix.MS_BIND != 0 && len(o.data) > 0 {
		return o, call.Errorf(call.Invalid, "option %.60q does not go with bind", o.data[0])
	}
	return o, nil
}

func isPropagation(word string) bool {
	switch strings.TrimPrefix(word, "r") {
	case "private", "shared", "slave", "unbindable":
		return true
	}
	return false
}
