package client_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"strings"
	"testing"

	"connectrpc.com/connect"

	"dominion/api/apipb"
	"dominion/api/apipb/apipbconnect"
	"dominion/call"
	"dominion/client"
)

// fakeCluster gives out what it was given.
type fakeCluster struct {
	apipbconnect.UnimplementedClusterServiceHandler
	given *apipb.ClusterImportRequest
}

func (f *fakeCluster) Import(_ context.Context, r *connect.Request[apipb.ClusterImportRequest]) (*connect.Response[apipb.ClusterChanged], error) {
	if f.given != nil && !r.Msg.Replace {
		return nil, call.Errorf(call.Conflict, "there is a cluster")
	}
	f.given = r.Msg
	return connect.NewResponse(&apipb.ClusterChanged{Serial: 43, Changed: true, Note: "note"}), nil
}

func (f *fakeCluster) Export(context.Context, *connect.Request[apipb.ClusterExportRequest]) (*connect.Response[apipb.ClusterExportResponse], error) {
	return connect.NewResponse(&apipb.ClusterExportResponse{Data: f.given.GetData(), Serial: 43}), nil
}

func (f *fakeCluster) ShowKey(context.Context, *connect.Request[apipb.ClusterShowKeyRequest]) (*connect.Response[apipb.ClusterKeyResponse], error) {
	return connect.NewResponse(&apipb.ClusterKeyResponse{Key: f.given.GetKey()}), nil
}

func TestCluster(t *testing.T) {
	f, c := newFake(t), new(fakeCluster)
	f.cluster = c
	conn := dialled(t, f)
	config := []byte(strings.Repeat(`{"version": 3000000}`, 1000))
	v, err := conn.ImportCluster(t.Context(), config, client.ImportOptions{Key: []byte("key\n")})
	if err != nil || v != (client.ClusterVersion{Serial: 43, Changed: true, Note: "note"}) || len(c.given.Data) >= len(config) {
		t.Errorf("ImportCluster = %+v, %v, %d bytes sent", v, err, len(c.given.Data))
	}
	if _, err := conn.ImportCluster(t.Context(), config, client.ImportOptions{}); call.CodeOf(err) != call.Conflict {
		t.Errorf("ImportCluster over one that is there: %v", err)
	}
	got, serial, err := conn.ExportCluster(t.Context())
	if err != nil || serial != 43 || !bytes.Equal(got, config) {
		t.Errorf("ExportCluster = %d bytes, %d, %v", len(got), serial, err)
	}
	if key, err := conn.ClusterKey(t.Context()); err != nil || string(key) != "key\n" {
		t.Errorf("ClusterKey = %q, %v", key, err)
	}
	if _, err := conn.ImportCluster(t.Context(), make([]byte, 64<<20+1), client.ImportOptions{Replace: true}); call.CodeOf(err) != call.Invalid {
		t.Errorf("a file that is too large: %v", err)
	}
}

// An overlord that sends something else than a file is an error, in bounded memory.
func TestExportClusterOfAHostileOverlord(t *testing.T) {
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	for range 65 {
		if _, err := z.Write(make([]byte, 1<<20)); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{"nothing": nil, "no gzip": []byte("{}"), "a bomb": bomb.Bytes(), "cut": bomb.Bytes()[:100]} {
		f, c := newFake(t), &fakeCluster{given: &apipb.ClusterImportRequest{Data: data}}
		f.cluster = c
		if got, _, err := dialled(t, f).ExportCluster(t.Context()); err == nil || got != nil {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
}
