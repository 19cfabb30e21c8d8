// Package process is what the three processes of the service have in common: the connections to Vault and to the S3
// server, a server that ends gracefully, metrics, and a log without anything that is secret.
package process

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Process is one of the three.
type Process struct {
	Log     *slog.Logger
	Metrics *prometheus.Registry

	addr, metricsAddr string
	grace             time.Duration
	place             place

	stopping atomic.Bool
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
}

// Run runs a process until SIGTERM or Ctrl-C. Main has the program's own flags and gets the process when they are parsed. At
// a second signal the process ends at once.
func Run(name, addr, metricsAddr string, grace time.Duration, main func(context.Context, *Process) error) {
	p := &Process{
		Log:     slog.New(slog.NewJSONHandler(os.Stderr, nil)).With("process", name),
		Metrics: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "http_requests_total", Help: "Requests by route and status; 0 is an answer that was broken off.",
		}, []string{"route", "status"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "http_request_seconds", Help: "How long requests took, by route.", Buckets: prometheus.ExponentialBuckets(0.001, 4, 10),
		}, []string{"route"}),
	}
	flag.StringVar(&p.addr, "addr", addr, "where to serve users")
	flag.StringVar(&p.metricsAddr, "metrics-addr", metricsAddr, "where to serve /metrics and /ready, for the operator only")
	flag.DurationVar(&p.grace, "grace", grace, "how long requests under way may go on after SIGTERM")
	p.place.flags()
	flag.Parse()
	p.Metrics.MustRegister(p.requests, p.seconds, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	if err := main(ctx, p); err != nil {
		p.Log.Error("ended", "error", err)
		os.Exit(1)
	}
}

// Serve serves users until the context ends. Then it takes no more requests, and lets those under way end. Those that
// outlast the grace period are broken off: an upload then stores nothing, and a player asks again for the rest.
func (p *Process) Serve(ctx context.Context, routes http.Handler) error {
	users, err := net.Listen("tcp", p.addr)
	if err != nil {
		return err
	}
	operator, err := net.Listen("tcp", p.metricsAddr)
	if err != nil {
		return errors.Join(err, users.Close())
	}
	server := &http.Server{Handler: p.observed(secured(routes)), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute}
	metrics := &http.Server{Handler: p.forOperator(), ReadHeaderTimeout: 10 * time.Second}
	failed := make(chan error, 2)
	go func() { failed <- server.Serve(users) }()
	go func() { failed <- metrics.Serve(operator) }()
	defer metrics.Close()
	p.Log.Info("serving", "addr", users.Addr().String(), "metrics", operator.Addr().String())
	select {
	case err := <-failed:
		return errors.Join(err, server.Close())
	case <-ctx.Done():
	}
	p.stopping.Store(true)
	p.Log.Info("stopping", "grace", p.grace.String())
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), p.grace)
	defer cancel()
	if err := server.Shutdown(ending); err != nil {
		p.Log.Warn("requests were broken off", "error", err)
		return server.Close()
	}
	return nil
}

// forOperator serves the metrics, and whether the load balancer may send requests.
func (p *Process) forOperator() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(p.Metrics, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /ready", func(w http.ResponseWriter, _ *http.Request) {
		if p.stopping.Load() {
			http.Error(w, "stopping", http.StatusServiceUnavailable)
		}
	})
	return mux
}

// observed logs and counts requests by route, without their paths.
func (p *Process) observed(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start, seen := time.Now(), &statusWriter{ResponseWriter: w, status: http.StatusOK}
		whole := false
		defer func() { // also when ServeRecording breaks an answer off with http.ErrAbortHandler
			if !whole {
				seen.status = 0
			}
			took, route := time.Since(start), cmp.Or(r.Pattern, "none")
			p.requests.WithLabelValues(route, strconv.Itoa(seen.status)).Inc()
			p.seconds.WithLabelValues(route).Observe(took.Seconds())
			p.Log.Info("request", "route", route, "status", seen.status, "seconds", took.Seconds())
		}()
		next.ServeHTTP(seen, r)
		whole = true
	})
}

type statusWriter struct {
	http.ResponseWriter
	status int
	begun  bool
}

func (w *statusWriter) WriteHeader(status int) {
	if !w.begun && status >= http.StatusOK { // there may be 1xx before
		w.status, w.begun = status, true
	}
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap is for http.ResponseController.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// secured refuses forms that another site makes a browser send, and lets pages load only what the service serves.
func secured(next http.Handler) http.Handler {
	return http.NewCrossOriginProtection().Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := w.Header()
		header.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; media-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
		header.Set("X-Content-Type-Options", "nosniff")
		header.Set("Referrer-Policy", "same-origin")
		header.Set("Cache-Control", "private, no-store")
		next.ServeHTTP(w, r)
	}))
}
