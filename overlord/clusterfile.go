package overlord

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"time"

	"connectrpc.com/connect"

	"dominion/api/apipb"
	"dominion/api/auditpb"
	"dominion/call"
	"dominion/cluster"
)

// Instances implements ClusterServiceHandler.
func (a clusterAPI) Instances(_ context.Context, r *connect.Request[apipb.ClusterInstancesRequest]) (*connect.Response[apipb.ClusterInstancesResponse], error) {
	v := a.o.clusterNow()
	if v == nil {
		return nil, errNoCluster()
	}
	list := v.doc.Instances
	if r.Msg.Name != "" {
		one, err := v.doc.Instance(r.Msg.Name)
		if err != nil {
			return nil, err
		}
		list = func() []cluster.Instance { return []cluster.Instance{one} }
	}
	out := &apipb.ClusterInstancesResponse{Serial: v.serial}
	for _, i := range list() {
		pb := &apipb.ClusterInstance{Name: i.Name, Uuid: i.UUID, Primary: i.Primary, Secondary: i.Secondary, State: i.State, Disks: i.Disks, Serial: i.Serial}
		for _, n := range i.NICs {
			pb.Nics = append(pb.Nics, &apipb.ClusterNIC{Ip: n.IP, Link: n.Link})
		}
		out.Instances = append(out.Instances, pb)
	}
	return connect.NewResponse(out), nil
}

// instanceChange reads what a request says of an instance.
func instanceChange(r *apipb.ClusterInstanceRequest) cluster.InstanceChange {
	c := cluster.InstanceChange{Primary: r.Primary, Secondary: r.Secondary, State: r.State}
	if r.SetNics {
		nics := make([]cluster.NIC, len(r.Nics))
		for i, n := range r.Nics {
			nics[i] = cluster.NIC{IP: n.GetIp(), Link: n.GetLink()}
		}
		c.NICs = &nics
	}
	if r.SetDisks {
		c.Disks = &r.Disks
	}
	return c
}

// AddInstance implements ClusterServiceHandler.
func (a clusterAPI) AddInstance(ctx context.Context, r *connect.Request[apipb.ClusterInstanceRequest]) (*connect.Response[apipb.ClusterChanged], error) {
	return a.edit(ctx, false, r.Msg.Name, "instance added: "+r.Msg.Name, cluster.AddInstance(r.Msg.Name, instanceChange(r.Msg)))
}

// SetInstance implements ClusterServiceHandler.
func (a clusterAPI) SetInstance(ctx context.Context, r *connect.Request[apipb.ClusterInstanceRequest]) (*connect.Response[apipb.ClusterChanged], error) {
	return a.edit(ctx, false, r.Msg.Name, "instance changed: "+r.Msg.Name, cluster.SetInstance(r.Msg.Name, instanceChange(r.Msg)))
}

// RemoveInstance implements ClusterServiceHandler.
func (a clusterAPI) RemoveInstance(ctx context.Context, r *connect.Request[apipb.ClusterRemoveInstanceRequest]) (*connect.Response[apipb.ClusterChanged], error) {
	return a.edit(ctx, false, r.Msg.Name, "instance removed: "+r.Msg.Name, cluster.RemoveInstance(r.Msg.Name))
}

// unzip reads a file that a client compressed.
func unzip(packed []byte) ([]byte, error) {
	if len(packed) > cluster.MaxPacked {
		return nil, call.Errorf(call.Invalid, "the file has %d bytes compressed, more than %d", len(packed), cluster.MaxPacked)
	}
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, call.Errorf(call.Invalid, "the file is not compressed: %v", err)
	}
	b, err := io.ReadAll(io.LimitReader(z, cluster.MaxDocument+1))
	if err != nil {
		return nil, call.Errorf(call.Invalid, "unpack the file: %v", err)
	}
	if len(b) > cluster.MaxDocument {
		return nil, call.Errorf(call.Invalid, "the file has more than %d bytes", cluster.MaxDocument)
	}
	return b, nil
}

// Import implements ClusterServiceHandler. The serial goes on above that of the
// file and that of what was there, so that no client sees it fall.
func (a clusterAPI) Import(ctx context.Context, r *connect.Request[apipb.ClusterImportRequest]) (*connect.Response[apipb.ClusterChanged], error) {
	c, err := a.o.admit(ctx, actClusterImport, "cluster")
	if err != nil {
		return nil, err
	}
	key, err := clusterKey(r.Msg.Key)
	if err != nil {
		return nil, err
	}
	if key != nil { // who may not change it alone may not do it in this way
		if _, err := a.o.admit(ctx, actKeyRotate, "cluster"); err != nil {
			return nil, err
		}
	}
	data, err := unzip(r.Msg.Data)
	if err != nil {
		return nil, err
	}
	doc, err := cluster.Parse(data)
	if err != nil {
		return nil, call.Errorf(call.Invalid, "%v", err)
	}
	k, note := &a.o.cluster, ""
	out, err := a.changed(ctx, clusterChange{
		actor: c.actor(), action: actClusterImport, subject: doc.Name(), key: key, mend: r.Msg.Replace,
		detail: fmt.Sprintf("cluster %s, %d nodes, serial %d in the file", doc.UUID(), len(doc.Nodes()), doc.Serial()),
		make: func(v *clusterVersion) (*cluster.Document, error) {
			if v != nil && !r.Msg.Replace {
				return nil, call.Errorf(call.Conflict, "there is a cluster, %q, with serial %d; dominion cluster import --replace FILE puts the file in its place", v.doc.Name(), v.serial)
			}
			if v != nil && v.doc.UUID() != doc.UUID() {
				note = "the file is of another cluster: candidates that hold data of the one that was here refuse it, and say which file to remove"
			}
			return doc.Apply(time.Now(), k.inventory(), cluster.Raise(k.newest))
		},
	})
	if err != nil {
		return nil, err
	}
	if note != "" {
		out.Msg.Note = note
	}
	return out, nil
}

// Export implements ClusterServiceHandler.
func (a clusterAPI) Export(ctx context.Context, _ *connect.Request[apipb.ClusterExportRequest]) (*connect.Response[apipb.ClusterExportResponse], error) {
	c, err := a.o.admit(ctx, actClusterExport, "cluster")
	if err != nil {
		return nil, err
	}
	v := a.o.clusterNow()
	if v == nil {
		return nil, errNoCluster()
	}
	r := &auditpb.Record{Actor: c.actor(), Action: actClusterExport, Subject: v.doc.Name(), Detail: fmt.Sprintf("serial %d", v.serial)}
	if err := a.o.keep.record(ctx, r); err != nil {
		return nil, err
	}
	return connect.NewResponse(&apipb.ClusterExportResponse{Data: v.data, Serial: v.serial}), nil
}

// clusterKey takes a key of the operator's own; nil: none is given.
func clusterKey(key []byte) ([]byte, error) {
	if len(key) > cluster.MaxKey {
		return nil, call.Errorf(call.Invalid, "the key has %d bytes, more than %d", len(key), cluster.MaxKey)
	}
	if len(key) == 0 {
		return nil, nil
	}
	return bytes.Clone(key), nil
}

// ShowKey implements ClusterServiceHandler. Nobody gets the key before it is on
// the audit log that he has it.
func (a clusterAPI) ShowKey(ctx context.Context, _ *connect.Request[apipb.ClusterShowKeyRequest]) (*connect.Response[apipb.ClusterKeyResponse], error) {
	c, err := a.o.admit(ctx, actKeyShow, "cluster")
	if err != nil {
		return nil, err
	}
	v := a.o.clusterNow()
	switch {
	case v == nil:
		return nil, errNoCluster()
	case len(v.key) == 0:
		return nil, call.Errorf(call.NotFound, "there is no key yet: it is made with the first candidate")
	}
	if err := a.o.keep.record(ctx, &auditpb.Record{Actor: c.actor(), Action: actKeyShow, Subject: v.doc.Name()}); err != nil {
		return nil, err
	}
	return connect.NewResponse(&apipb.ClusterKeyResponse{Key: v.key}), nil
}

// RotateKey implements ClusterServiceHandler. The document is the same but for its
// serial: candidates take the new key with the new version.
func (a clusterAPI) RotateKey(ctx context.Context, r *connect.Request[apipb.ClusterRotateKeyRequest]) (*connect.Response[apipb.ClusterChanged], error) {
	c, err := a.o.admit(ctx, actKeyRotate, "cluster")
	if err != nil {
		return nil, err
	}
	key, err := clusterKey(r.Msg.Key)
	if err != nil {
		return nil, err
	}
	detail := "a key that was given"
	if key == nil {
		key, detail = newClusterKey(), "a new key"
	}
	return a.changed(ctx, clusterChange{
		actor: c.actor(), action: actKeyRotate, subject: "cluster", detail: detail, key: key,
		make: func(v *clusterVersion) (*cluster.Document, error) {
			if v == nil {
				return nil, errNoCluster()
			}
			return v.doc.Apply(time.Now(), cluster.Raise(0))
		},
	})
}
