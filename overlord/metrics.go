package overlord

import (
	"context"
	"log"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"dominion/session"
)

// metrics are what /metrics shows. Names follow Prometheus' conventions.
type metrics struct {
	registry *prometheus.Registry
	denied   prometheus.Counter
	results  prometheus.Counter
	blobSent prometheus.Counter
	orders   prometheus.Counter
	sessions session.Stats
}

func newMetrics(o *Overlord) *metrics {
	m := &metrics{registry: prometheus.NewRegistry()}
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
		m.registry.MustRegister(c)
		return c
	}
	m.denied = counter("dominion_denied_total", "Requests and orders refused by role or policy.")
	m.results = counter("dominion_results_total", "Answers of minions received.")
	m.orders = counter("dominion_orders_total", "Orders accepted.")
	m.blobSent = counter("dominion_blob_sent_bytes_total", "Bytes of files sent to machines and sub-overlords.")
	gauge := func(name, help string, f func() float64) {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, f))
	}
	gauge("dominion_minions", "Minions known.", func() float64 { n, _ := o.fleet.count(); return float64(n) })
	gauge("dominion_minions_connected", "Minions with a session.", func() float64 { _, n := o.fleet.count(); return float64(n) })
	gauge("dominion_jobs_running", "Jobs with calls in the air.", func() float64 { return float64(o.jobs.count()) })
	gauge("dominion_audit_records", "Records on the audit log.", func() float64 { return float64(o.keep.logSize()) })
	gauge("dominion_audit_problem", "1 when the audit log is damaged.", func() float64 { return truth(o.keep.auditProblem() != "") })
	gauge("dominion_store_problem", "1 when the store refuses writes.", func() float64 { return truth(o.keep.problem() != "") })
	gauge("dominion_handshakes_pending", "TLS handshakes under way.", func() float64 { return float64(m.sessions.Pending.Load()) })
	total := func(name, help string, f func() uint64) {
		m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, func() float64 { return float64(f()) }))
	}
	s := &m.sessions
	total("dominion_handshakes_total", "TLS handshakes completed.", s.Handshakes.Load)
	total("dominion_handshakes_refused_total", "TLS handshakes that failed.", s.Refused.Load)
	total("dominion_handshakes_dropped_total", "TLS handshakes dropped to make room.", s.Dropped.Load)
	total("dominion_sessions_dead_total", "Sessions ended because nothing came for 45 s.", s.Dead.Load)
	total("dominion_sessions_stalled_total", "Sessions ended because the peer took nothing.", s.Stalled.Load)
	total("dominion_sessions_protocol_errors_total", "Sessions ended because the peer broke the protocol.", s.Protocol.Load)
	total("dominion_late_answers_total", "Answers that nobody waited for any more.", s.Late.Load)
	total("dominion_stream_bytes_total", "Bytes of live output received.", s.StreamBytes.Load)
	m.registry.MustRegister(nodeCollector{o})
	m.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// nodeCollector counts the nodes of provisioning when it is asked, all at the same
// moment. An overlord that does not provision has none of these.
type nodeCollector struct{ o *Overlord }

// countTime is for the store to count nodes.
const countTime = 5 * time.Second

// nodeDescs are what it gives.
func nodeDescs() []*prometheus.Desc {
	return []*prometheus.Desc{
		prometheus.NewDesc("dominion_nodes", "Nodes known to provisioning.", nil, nil),
		prometheus.NewDesc("dominion_nodes_held", "Nodes that wait for approval.", nil, nil),
		prometheus.NewDesc("dominion_nodes_claimed", "Nodes that somebody else wanted to boot as.", nil, nil),
	}
}

// Describe implements prometheus.Collector.
func (c nodeCollector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range nodeDescs() {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (c nodeCollector) Collect(out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(c.o.life, countTime)
	defer cancel()
	n, err := c.o.nodeCounts(ctx)
	if err != nil {
		c.o.log.Warn("nodes not counted", "error", err) // an invalid metric would take the others with it
		return
	}
	if n == nil {
		return
	}
	for i, v := range []uint64{n.All, n.Held, n.Claimed} {
		out <- prometheus.MustNewConstMetric(nodeDescs()[i], prometheus.GaugeValue, float64(v))
	}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

// quietLog gives net/http's complaints about its clients to the log, at debug.
func quietLog(l *slog.Logger) *log.Logger {
	return log.New(lineWriter{l}, "", 0)
}

type lineWriter struct{ log *slog.Logger }

// Write implements io.Writer.
func (w lineWriter) Write(p []byte) (int, error) {
	w.log.Debug("http", "error", strings.TrimSpace(string(p)))
	return len(p), nil
}
