// Package packages installs, upgrades and removes a machine's packages, with
// apt on Debian and its kin, with dnf on Fedora and its kin. What a call
// changed is found by comparing what is installed before and afterwards; what
// a dry run would change is what apt or dnf say they would do.
package packages

import (
	"context"
	"time"

	"dominion/module"
)

// Module is the table of the methods.
var Module = module.Module{
	Name: "package",
	Doc: "Packages of the machine, by apt or dnf. Files of configuration that somebody changed are kept as they are, and nothing is asked. " +
		"A method that changes something waits while another program holds the packages' lock. When such a call ends early, apt or dnf get 30 s to come to an orderly end.",
	Methods: []module.Method{
		module.Func("list", "Lists installed packages, by name.", module.Read, here.list, module.MethodOptions{}),
		module.Func("installed", "Tells whether packages are installed.", module.Read, here.installed, module.MethodOptions{}),
		module.Func("pending", "Lists installed packages for which there is a newer version.", module.Read, here.pending, module.MethodOptions{Timeout: 10 * time.Minute}),
		module.Func("install", "Installs packages that are not there, and what they need.", module.Change, here.install, long),
		module.Func("upgrade", "Upgrades packages to the newest version.", module.Change, here.upgrade, long),
		module.Func("remove", "Removes packages, and those that need them.", module.Destroy, here.remove, long),
	},
}

var long = module.MethodOptions{Timeout: 30 * time.Minute}

const (
	maxPackages = 8000 // in one answer, which leaves some 120 bytes for each
	maxUpdates  = 4000 // likewise 250
	maxChanges  = 6000 // likewise 170
)

// ListIn is the input of list.
type ListIn struct {
	Pattern string `json:"pattern" doc:"glob that the names match" default:"*" max:"255"`
}

// Packages is the answer of list.
type Packages struct {
	Manager  string    `json:"manager" doc:"apt or dnf"`
	Packages []Package `json:"packages" doc:"the packages, by name; 8000 at most"`
	Cut      int       `json:"cut,omitempty" doc:"packages that were left out"`
}

// Package is an installed package.
type Package struct {
	Name    string `json:"name" doc:"its name"`
	Version string `json:"version" doc:"its version, with epoch and release"`
	Arch    string `json:"arch" doc:"architecture that it is for"`
}

// NamesIn is the input of installed.
type NamesIn struct {
	Names []string `json:"names" doc:"the packages" required:"true" min:"1" max:"500" pattern:"[A-Za-z0-9][A-Za-z0-9+._-]*"`
}

// Installed is the answer of installed.
type Installed struct {
	Packages []State `json:"packages" doc:"one for each name, as asked"`
	All      bool    `json:"all" doc:"whether all are installed"`
}

// State says whether a package is installed.
type State struct {
	Name      string `json:"name" doc:"the package"`
	Installed bool   `json:"installed" doc:"whether it is"`
	Version   string `json:"version,omitempty" doc:"its version; of several the last"`
}

// PendingIn is the input of pending.
type PendingIn struct {
	Refresh bool `json:"refresh" doc:"fetch the lists of what there is before"`
}

// Pending is the answer of pending.
type Pending struct {
	Manager string   `json:"manager" doc:"apt or dnf"`
	Updates []Update `json:"updates" doc:"the packages, by name; 4000 at most"`
	Cut     int      `json:"cut,omitempty" doc:"packages that were left out"`
}

// Update is an installed package for which there is a newer version.
type Update struct {
	Name   string `json:"name" doc:"the package"`
	Arch   string `json:"arch" doc:"architecture that it is for"`
	From   string `json:"from" doc:"the version that is installed"`
	To     string `json:"to" doc:"the newest version"`
	Origin string `json:"origin,omitempty" doc:"where that comes from, as apt or dnf name it"`
}

// InstallIn is the input of install.
type InstallIn struct {
	Names     []string      `json:"names" doc:"the packages, each NAME or NAME=VERSION" required:"true" min:"1" max:"500" pattern:"[A-Za-z0-9]([A-Za-z0-9+._-]*[A-Za-z0-9+])?(=[A-Za-z0-9]([A-Za-z0-9+.~^:_-]*[A-Za-z0-9+.~^])?)?"`
	Refresh   bool          `json:"refresh" doc:"fetch the lists of what there is before; done by a dry run too"`
	Downgrade bool          `json:"downgrade" doc:"allow a version older than the one that is installed"`
	LockWait  time.Duration `json:"lock_wait" doc:"how long to wait for another program that works on the packages" default:"1m0s" min:"0s" max:"1h"`
	DryRun    bool          `json:"dry_run" doc:"only say what would change"`
}

// UpgradeIn is the input of upgrade.
type UpgradeIn struct {
	Names    []string      `json:"names" doc:"the packages; when left out all" max:"500" pattern:"[A-Za-z0-9]([A-Za-z0-9+._-]*[A-Za-z0-9+])?"`
	Refresh  bool          `json:"refresh" doc:"fetch the lists of what there is before; done by a dry run too"`
	LockWait time.Duration `json:"lock_wait" doc:"how long to wait for another program that works on the packages" default:"1m0s" min:"0s" max:"1h"`
	DryRun   bool          `json:"dry_run" doc:"only say what would change"`
}

// RemoveIn is the input of remove.
type RemoveIn struct {
	Names    []string      `json:"names" doc:"the packages" required:"true" min:"1" max:"500" pattern:"[A-Za-z0-9]([A-Za-z0-9+._-]*[A-Za-z0-9+])?"`
	Purge    bool          `json:"purge" doc:"with apt: remove their configuration too"`
	LockWait time.Duration `json:"lock_wait" doc:"how long to wait for another program that works on the packages" default:"1m0s" min:"0s" max:"1h"`
	DryRun   bool          `json:"dry_run" doc:"only say what would change"`
}

// Changed is the answer of methods that change something.
type Changed struct {
	Manager string   `json:"manager" doc:"apt or dnf"`
	Changed bool     `json:"changed" doc:"whether anything was done, or would be"`
	Changes []Change `json:"changes,omitempty" doc:"what changed, or would, by name; 6000 at most"`
}

// Change is one package that changed.
type Change struct {
	Name string `json:"name" doc:"the package"`
	Arch string `json:"arch,omitempty" doc:"architecture that it is for, where a dry run knows it"`
	From string `json:"from,omitempty" doc:"version before; missing: it was not installed"`
	To   string `json:"to,omitempty" doc:"version afterwards; missing: it is not installed any more"`
}

// A manager is apt or dnf.
type manager interface {
	// list gives what is installed, in any order.
	list(ctx context.Context) ([]Package, error)
	refresh(ctx context.Context) error
	pending(ctx context.Context) ([]Update, error)
	// plan says what do would do.
	plan(ctx context.Context, t task) ([]Change, error)
	do(ctx context.Context, t task) error
	// locked says that an error is about a lock that another program holds.
	locked(err error) bool
	name() string
}

// task is what is to be done to packages.
type task struct {
	verb      string // install, upgrade or remove
	names     []string
	purge     bool
	downgrade bool
}
