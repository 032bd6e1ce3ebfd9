package main

import (
	"encoding/json"
	"fmt"
	"strings"

	"dominion/call"
	"dominion/client"
	"dominion/target"
)

// resultDoc is one machine's result in json and jsonl. All four keys are
// always there: reason is empty and result is what the method gave when the
// machine answered; result is null when there is none.
type resultDoc struct {
	Machine string          `json:"machine"`
	Status  string          `json:"status"` // answered, failed, unreachable, skipped; awaited while the job is open
	Reason  string          `json:"reason"`
	Result  json.RawMessage `json:"result"`
}

func resultDocOf(r call.Result, status call.Status) resultDoc {
	return resultDoc{Machine: r.Machine, Status: status.String(), Reason: reason(r.Code, r.Detail), Result: rawJSON(r.Output)}
}

// rawJSON gives what a machine answered, or null; what is not JSON becomes a
// JSON string.
func rawJSON(output []byte) json.RawMessage {
	switch {
	case len(output) == 0:
		return json.RawMessage("null")
	case json.Valid(output):
		return output
	}
	b, err := json.Marshal(string(output))
	if err != nil {
		return json.RawMessage("null") // a string always has a JSON form
	}
	return b
}

// countsDoc is the accounting identity in json.
type countsDoc struct {
	Targeted    int `json:"targeted"`
	Answered    int `json:"answered"`
	Failed      int `json:"failed"`
	Unreachable int `json:"unreachable"`
	Skipped     int `json:"skipped"`
}

func countsDocOf(c call.Counts) countsDoc {
	return countsDoc{c.Targeted, c.Answered, c.Failed, c.Unreachable, c.Skipped}
}

// jobDoc is a whole job in json. job is empty when nothing was ordered,
// because no machine of the target is known.
type jobDoc struct {
	Job     string      `json:"job,omitempty"`
	Method  string      `json:"method,omitempty"`
	Counts  countsDoc   `json:"counts"`
	Reason  string      `json:"reason,omitempty"` // why the job ended early, or who answered for others
	Open    bool        `json:"open,omitempty"`   // the job goes on
	Results []resultDoc `json:"results"`
}

// countsLine is the account for people, on standard error.
func countsLine(c call.Counts) string {
	return fmt.Sprintf("%d targeted: %d answered, %d failed, %d unreachable, %d skipped",
		c.Targeted, c.Answered, c.Failed, c.Unreachable, c.Skipped)
}

const maxReasons = 20 // shown in one message

// incomplete gives the error of a job that not every machine answered, naming
// each with its reason, or nil.
//
//	2 of 40 minions failed: n07: denied: no; n31: no answer within 30s
func incomplete(c call.Counts, groups []*client.Group) error {
	missing := c.Failed + c.Unreachable + c.Skipped
	if missing == 0 {
		return nil
	}
	var reasons []string
	for _, g := range groups {
		if g.Status != call.Answered {
			reasons = append(reasons, target.Fold(g.Names)+": "+reason(g.Code, g.Detail))
		}
	}
	if more := len(reasons) - maxReasons; more > 0 {
		reasons = append(reasons[:maxReasons], fmt.Sprintf("and %d more reasons; see them all with -o json", more))
	}
	joint, sep := " ", "; "
	if len(reasons) > 3 {
		joint, sep = "\n  ", "\n  "
	}
	return &exitError{exitIncomplete, missingWords(c) + ":" + joint + strings.Join(reasons, sep)}
}

// missingWords gives "2 of 40 minions failed", or, when it was not one kind,
// "1 failed and 1 unreachable of 5 minions".
func missingWords(c call.Counts) string {
	var kinds []string
	one := ""
	for _, k := range []struct {
		n    int
		word string
	}{{c.Failed, "failed"}, {c.Unreachable, "unreachable"}, {c.Skipped, "skipped"}} {
		if k.n > 0 {
			kinds = append(kinds, fmt.Sprintf("%d %s", k.n, k.word))
			one = fmt.Sprintf("%d of %s %s", k.n, plural(c.Targeted, "minion"), k.word)
		}
	}
	switch len(kinds) {
	case 1:
		return one
	case 2:
		return fmt.Sprintf("%s and %s of %s", kinds[0], kinds[1], plural(c.Targeted, "minion"))
	}
	return fmt.Sprintf("%s, %s and %s of %s", kinds[0], kinds[1], kinds[2], plural(c.Targeted, "minion"))
}
