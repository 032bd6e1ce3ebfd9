//go:build fleet || bench

package confd

// ganetiDaemon is where Debian's package ganeti puts its confd.
const ganetiDaemon = "/usr/sbin/ganeti-confd"
