package store

import (
	"context"
	"errors"
	"time"

	"dominion/call"
)

// KeptVersions is how many versions of the cluster data are kept, the newest.
const KeptVersions = 10

// ClusterVersion is one version of the cluster data.
type ClusterVersion struct {
	Serial uint64 // at most 2^62
	Record int64  // index of the audit record of the change
	Made   time.Time
	Header []byte // as it was signed
	Data   []byte // the document, compressed
}

func scanClusterVersion(s scanner) (ClusterVersion, error) {
	var v ClusterVersion
	err := s.Scan(&v.Serial, &v.Record, at{&v.Made}, &v.Header, &v.Data)
	return v, err
}

// AddClusterVersion stores a version and removes the oldest ones. When one of the
// same or a higher serial is there, the error has code Conflict.
func (tx *Tx) AddClusterVersion(ctx context.Context, v ClusterVersion) error {
	newest, err := one(ctx, tx.q, scanInt, "newest version", "SELECT serial FROM cluster_versions ORDER BY serial DESC LIMIT 1")
	if err == nil && uint64(newest) >= v.Serial {
		return call.Errorf(call.Conflict, "version %d of the cluster data is there already", newest)
	}
	if err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	if err := tx.exec(ctx, "DELETE FROM cluster_versions WHERE serial NOT IN (SELECT serial FROM cluster_versions ORDER BY serial DESC LIMIT $1)", KeptVersions-1); err != nil {
		return err
	}
	return tx.exec(ctx, "INSERT INTO cluster_versions (serial, record, made_ms, header, data) VALUES ("+params(5)+")", int64(v.Serial), v.Record, ms(v.Made), bytesOrEmpty(v.Header), bytesOrEmpty(v.Data))
}

// ClusterVersion gives the newest version of the cluster data. The error wraps
// ErrNotFound when there is none.
func (r *reader) ClusterVersion(ctx context.Context) (ClusterVersion, error) {
	return one(ctx, r.q, scanClusterVersion, "cluster data", "SELECT serial, record, made_ms, header, data FROM cluster_versions ORDER BY serial DESC LIMIT 1")
}

// SetClusterKey stores the key of confd in the place of another.
func (tx *Tx) SetClusterKey(ctx context.Context, key []byte, made time.Time) error {
	return tx.exec(ctx, "INSERT INTO cluster_key (id, made_ms, key) VALUES (1, $1, $2) ON CONFLICT (id) DO UPDATE SET made_ms = excluded.made_ms, key = excluded.key", ms(made), bytesOrEmpty(key))
}

// ClusterKey gives the key of confd. The error wraps ErrNotFound when there is
// none.
func (r *reader) ClusterKey(ctx context.Context) ([]byte, error) {
	return one(ctx, r.q, scanBytes, "key of confd", "SELECT key FROM cluster_key WHERE id = 1")
}

// SetClusterHeader puts another signature in the place of that of a version.
func (tx *Tx) SetClusterHeader(ctx context.Context, serial uint64, header []byte) error {
	return tx.changed(ctx, "version of the cluster data", "UPDATE cluster_versions SET header = $1 WHERE serial = $2", bytesOrEmpty(header), int64(serial))
}
