//go:build fleet

package main_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Whole fleets of real processes: what a user types, what comes back, and what
// is left when something is killed. Each test has a fleet of its own.
func TestFleet(t *testing.T) {
	binary := program(t)
	for _, x := range []struct {
		name string
		test func(t *testing.T, binary string)
	}{
		{"UnreachableMachinesAreNamed", testUnreachable},
		{"MachineKilledInTheMiddle", testKilledInTheMiddle},
		{"Revocation", testRevocation},
		{"RevokedAtTheMachine", testRevokedAtTheMachine},
		{"Enrolment", testEnrolment},
		{"OperatorFromAnotherHome", testOperator},
		{"MachineThatLostItsState", testLostState},
		{"OverlordDials", testListen},
		{"TwoOverlords", testTwoOverlords},
		{"Interrupt", testInterrupt},
		{"OverlordTerminated", testTermination},
		{"OverlordKilled", testKilledOverlord},
		{"KilledAfterCancel", testKilledAfterCancel},
		{"Awaited", testAwaited},
		{"MachineKilledAndBack", testKilledMachine},
		{"MachineWiped", testWipedMachine},
		{"OverlordStopped", testStoppedOverlord},
		{"FullDisk", testFullDisk},
		{"SubOverlords", testSubOverlords},
		{"ParentGone", testParentGone},
		{"RevocationGoesDown", testRevocationGoesDown},
		{"SubOverlordRefused", testSubOverlordRefused},
		{"Map", testMap},
		{"OldMap", testOldMap},
		{"MapConflict", testMapConflict},
		{"SubOverlordRestored", testSubOverlordRestored},
		{"SiteModules", testSiteModules},
		{"ModulePush", testModulePush},
		{"ModulesBelow", testModulesBelow},
		{"BigOutput", testBigOutput},
		{"Candidates", testCandidates},
		{"CandidateFiles", testCandidateFiles},
		{"CandidateKilled", testCandidateKilled},
		{"FilesFromAbove", testFilesFromAbove},
		{"Perceus", testPerceus},
		{"OldProtocol", testOldProtocol},
		{"FilesFromAbove", testFilesFromAbove},
		{"Demo", testDemo},
		{"FuncFace", testFuncFace},
		{"Curl", testCurl},
		{"BadConfiguration", testBadConfiguration},
		{"BadWords", testBadWords},
		{"BadState", testBadState},
		{"MachineModules", testMachineModules},
	} {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			x.test(t, binary)
		})
	}
}

// program gives the binary to test: that of DOMINION_BINARY, or one made now.
func program(t *testing.T) string {
	t.Helper()
	if b := os.Getenv("DOMINION_BINARY"); b != "" {
		if _, err := os.Stat(b); err != nil || !filepath.IsAbs(b) {
			t.Fatalf("DOMINION_BINARY=%s: give the absolute path of a program (%v)", b, err)
		}
		return b
	}
	b := filepath.Join(t.TempDir(), "dominion")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", b, ".")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return b
}
