package client

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"

	"connectrpc.com/connect"

	"dominion/api/apipb"
	"dominion/call"
)

// maxClusterFile is the size of the largest configuration that is sent or taken,
// in bytes.
const maxClusterFile = 64 << 20

// ImportOptions are for ImportCluster; every zero value is usable.
type ImportOptions struct {
	Replace bool   // what is there
	Key     []byte // HMAC key of confd, at most 4 KiB, every byte of its file; empty: the one that is there, or a new one
}

// ClusterVersion says which version of the cluster data is in force after a
// change.
type ClusterVersion struct {
	Serial  uint64
	Changed bool   // it is a new one
	Note    string // for people; empty: nothing to add
}

// ImportCluster makes a Ganeti config.data the cluster data. A cluster that is
// there is only replaced when opt says so; otherwise the error has the code
// Conflict.
func (c *Conn) ImportCluster(ctx context.Context, config []byte, opt ImportOptions) (ClusterVersion, error) {
	if len(config) > maxClusterFile {
		return ClusterVersion{}, call.Errorf(call.Invalid, "a configuration of %d bytes; at most %d are taken", len(config), maxClusterFile)
	}
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := z.Write(config); err != nil {
		return ClusterVersion{}, fmt.Errorf("compress the configuration: %w", err)
	}
	if err := z.Close(); err != nil {
		return ClusterVersion{}, fmt.Errorf("compress the configuration: %w", err)
	}
	resp, err := c.Cluster.Import(ctx, connect.NewRequest(&apipb.ClusterImportRequest{Data: b.Bytes(), Replace: opt.Replace, Key: opt.Key}))
	if err != nil {
		return ClusterVersion{}, fmt.Errorf("import the cluster: %w", err)
	}
	m := resp.Msg
	return ClusterVersion{Serial: m.GetSerial(), Changed: m.GetChanged(), Note: m.GetNote()}, nil
}

// ExportCluster gives the cluster data as a Ganeti config.data, and their serial.
// DRBD secrets are in it.
func (c *Conn) ExportCluster(ctx context.Context) (config []byte, serial uint64, err error) {
	resp, err := c.Cluster.Export(ctx, connect.NewRequest(&apipb.ClusterExportRequest{}))
	if err != nil {
		return nil, 0, fmt.Errorf("export the cluster: %w", err)
	}
	z, err := gzip.NewReader(bytes.NewReader(resp.Msg.GetData()))
	if err != nil {
		return nil, 0, fmt.Errorf("unpack the configuration: %w", err)
	}
	config, err = io.ReadAll(io.LimitReader(z, maxClusterFile+1))
	if err != nil {
		return nil, 0, fmt.Errorf("unpack the configuration: %w", err)
	}
	if len(config) > maxClusterFile {
		return nil, 0, call.Errorf(call.Internal, "the overlord sent a configuration of more than %d bytes", maxClusterFile)
	}
	return config, resp.Msg.GetSerial(), nil
}

// ClusterKey gives the HMAC key of confd: every byte counts. Who has it can ask,
// and can forge answers.
func (c *Conn) ClusterKey(ctx context.Context) ([]byte, error) {
	resp, err := c.Cluster.ShowKey(ctx, connect.NewRequest(&apipb.ClusterShowKeyRequest{}))
	if err != nil {
		return nil, fmt.Errorf("ask for the key: %w", err)
	}
	return resp.Msg.GetKey(), nil
}
