package overlord

import (
	"slices"

	"dominion/vnfs"
)

// capsules gives the names of the VNFS capsules that are there.
func (p *provisioning) capsules() ([]string, error) {
	s, err := vnfs.Open(p.cfg.Statedir)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	return s.Names()
}

// missing gives back the name of a capsule that is not there. A node may be given
// one that is imported later, so this is no error; where it cannot be said, nothing is,
// as below another overlord, from where files come that are not here.
func (o *Overlord) missing(name string) string {
	if name == "" || o.parent != nil {
		return ""
	}
	have, err := o.prov.capsules()
	if err != nil {
		o.log.Warn("capsules cannot be listed", "error", err)
		return ""
	}
	if slices.Contains(have, name) {
		return ""
	}
	return name
}
