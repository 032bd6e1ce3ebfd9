// Package boot makes what a machine boots with: scripts for iPXE, an initial
// file system for a stock kernel, and the configuration of DHCP servers. Nothing
// in it listens, and nothing asks an overlord.
//
// A boot goes so:
//
//	DHCP    the server of the site, configured by DHCP.Config, names iPXE's script
//	iPXE    GET /boot/ipxe?mac=…: an IPXE script: provision, local disk, hold
//	kernel  with the initramfs of Initramfs.Write, whose /init loads the drivers of
//	        the network, gets an address, and calls provisiond
//	script  the overlord's, for state init, puts the new system together in /newroot
//	system  /init gives the machine to /newroot/sbin/init
//
// The archive format is cpio "newc" (kernel documentation, driver-api/early-userspace/
// buffer-format), written here: it is a header of 110 digits before each name and
// content. The one library for it that is kept comes with all of u-root.
package boot
