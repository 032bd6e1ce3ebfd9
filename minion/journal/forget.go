package journal

import (
	"math"
	"time"

	"dominion/call"
)

// forget drops the jobs whose time is over, at most once in a minute; mu is held.
func (j *Journal) forget(now int64) {
	if now < j.first {
		return
	}
	j.first = math.MaxInt64
	for job, e := range j.entries {
		if at := e.until(); at > now {
			j.first = min(j.first, at)
			continue
		}
		j.remove(job, e)
	}
	j.first = max(j.first, now+time.Minute.Milliseconds())
}

// remove forgets one job for good; mu is held.
func (j *Journal) remove(job call.JobID, e entry) {
	if r := j.held[job]; r != nil && !e.is(heard) {
		j.unheard -= weight(r)
	}
	j.drop(job)
	if e.is(written) {
		j.live -= j.startSize(e)
		if !e.is(heard) {
			j.live -= int64(e.size)
			j.unheard -= int64(e.size)
		}
	}
	delete(j.entries, job)
	j.floor = max(j.floor, e.expiry)
}

func (j *Journal) startSize(e entry) int64 {
	return record{kind: kindStarted, overlord: j.names[e.overlord], method: j.names[e.method]}.size()
}
