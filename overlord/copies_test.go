package overlord_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"dominion/api/fleetpb"
	"dominion/blob"
	"dominion/call"
	"dominion/client"
	"dominion/fleettest"
	"dominion/module/copy"
	"dominion/session"
)

// A machine may read what an open order of its own names, and nothing else, at no
// other time.
func TestBlobsOfOpenOrdersOnly(t *testing.T) {
	f := fleettest.Start(t, fleettest.Config())
	calls := make(chan uint64, 1)
	machines := map[string]*stolen{"m01": {call: func(_ *session.Session, id uint64, _ *fleetpb.Call) { calls <- id }}, "m02": {}}
	for name, m := range machines {
		m.connect(t, f, name)
	}
	src := filepath.Join(t.TempDir(), "src")
	data := bytes.Repeat([]byte("0123456789"), 300_000) // larger than what one request sends
	if err := os.WriteFile(src, data, 0o644); err != nil {
		t.Fatal(err)
	}
	var told int64
	sent, err := f.Conn.Send(t.Context(), src, client.SendOptions{Progress: func(n, all int64) { told = n }})
	if err != nil {
		t.Fatal(err)
	}
	if sent.Files != 1 || sent.Bytes != int64(len(data)) || told < sent.Bytes {
		t.Errorf("sent %+v, told %d", sent, told)
	}
	digest := blob.Digest(sha256.Sum256(data))
	read := func(m *stolen, d blob.Digest, job string) (int, error) {
		args, err := json.Marshal(session.BlobArgs{Digest: d.String(), Job: job})
		if err != nil {
			t.Fatal(err)
		}
		p, err := m.session.Pull(t.Context(), session.MethodBlob, args, session.BlobStream)
		if err != nil {
			return 0, err
		}
		defer p.Close()
		b, err := io.ReadAll(p)
		return len(b), err
	}
	refused := func(what string, m *stolen, d blob.Digest, job string, want call.Code) {
		t.Helper()
		if n, err := read(m, d, job); call.CodeOf(err) != want || n > 0 {
			t.Errorf("%s: %d bytes, %v; want code %v", what, n, err, want)
		}
	}
	none := call.NewJobID(time.Now()).String()
	refused("without an order", machines["m01"], digest, none, call.Denied)
	refused("with no job's id", machines["m01"], digest, "x", call.Invalid)
	c, err := f.Conn.Target("m01", client.Options{Timeout: -1})
	if err != nil {
		t.Fatal(err)
	}
	j, err := c.Call(t.Context(), copy.MethodPut, copy.PutIn{Path: "/nowhere/f", Manifest: sent.Manifest.String(), ManifestSize: sent.ManifestSize})
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	id := <-calls
	job := j.ID.String()
	if n, err := read(machines["m01"], sent.Manifest, job); err != nil || int64(n) != sent.ManifestSize {
		t.Errorf("the manifest: %d bytes, %v", n, err)
	}
	if n, err := read(machines["m01"], digest, job); err != nil || n != len(data) {
		t.Errorf("the file: %d bytes, %v", n, err)
	}
	refused("another file", machines["m01"], blob.Digest{1}, job, call.Denied)
	refused("another machine", machines["m02"], digest, job, call.Denied)
	refused("another machine, of the manifest", machines["m02"], sent.Manifest, job, call.Denied)
	refused("another order", machines["m01"], digest, none, call.Denied)
	if err := machines["m01"].session.Reply(id, &fleetpb.Result{Output: []byte(`{"changed":true,"written":1,"bytes":1}`)}); err != nil {
		t.Fatal(err)
	}
	for _, err := range j.Events() {
		if err != nil {
			t.Fatal(err)
		}
	}
	refused("when it has answered", machines["m01"], digest, job, call.Denied)
	// The same again is not sent: it is here.
	again, err := f.Conn.Send(t.Context(), src, client.SendOptions{})
	if err != nil || again.Manifest != sent.Manifest {
		t.Errorf("again: %+v, %v", again, err)
	}
	left, err := filepath.Glob(filepath.Join(f.State, "blobs", "*"))
	if err != nil || len(left) != 2 {
		t.Errorf("there are %v, %v; want the file and its manifest", left, err)
	}
}

// Only who may copy to some machine may send files.
func TestFilesAreForThoseWhoCopy(t *testing.T) {
	cfg := fleettest.Config()
	cfg.Policy = filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(cfg.Policy, []byte("- {operators: alice, methods: 'copy.*', targets: m01}\n- {operators: bob, methods: 'test.*', targets: '*'}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	f := fleettest.Start(t, cfg)
	put := func(c *http.Client, path, body string) (int, string) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "https://"+f.Address+"/files/v1/"+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := c.Do(req)
		if err != nil {
			return 0, err.Error()
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(b)
	}
	const at = "uploads/0123456789abcdef0123456789abcdef"
	alice, bob := api(f, operator(t, f, "alice")), api(f, operator(t, f, "bob"))
	issuing, root := authority(t, f, "issuing"), authority(t, f, "root")
	machine := mint(t, issuing, root, "dominion://minion/m01")
	for name, x := range map[string]struct {
		c          *http.Client
		path, want string
		status     int
	}{
		"alice":            {alice, at + "?offset=0", `{"have":4}`, 200},
		"bob":              {bob, at + "?offset=0", `"code":4`, 409},
		"nobody":           {api(f, nil), at + "?offset=0", "", 403},
		"a machine":        {api(f, &machine), at + "?offset=0", "", 403},
		"no offset":        {alice, at, "the offset is not a number", 409},
		"another number":   {alice, "uploads/xyz?offset=0", "hexadecimal", 409},
		"a path elsewhere": {alice, "uploads/../../x", "", 404},
	} {
		if status, b := put(x.c, x.path, "data"); status != x.status || !strings.Contains(b, x.want) {
			t.Errorf("%s: %d %s; want %d %s", name, status, b, x.status, x.want)
		}
	}
	for path, want := range map[string]string{
		at: `{"have":4}`, "uploads/0023456789abcdef0123456789abcdef": `{"have":0}`, "sizes/4": `{"have":0}`, "sizes/x": "not a number", "blobs/x": "not a digest",
	} {
		resp, err := alice.Get("https://" + f.Address + "/files/v1/" + path)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || !strings.Contains(string(b), want) {
			t.Errorf("GET %s: %s, %v; want %s", path, b, err, want)
		}
	}
	resp, err := alice.Post(fmt.Sprintf("https://%s/files/v1/%s?digest=%s&size=4", f.Address, at, blob.Digest(sha256.Sum256([]byte("data")))), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, err := io.ReadAll(resp.Body); err != nil || string(b) != `{"have":4,"all":true}` {
		t.Errorf("commit: %s, %v", b, err)
	}
}
