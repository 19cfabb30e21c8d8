// Package process is what the three processes of the service have in common: the connections to Vault and to the S3
// server, a server that ends gracefully, metrics, and a log of requests without their paths.
package process

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"io"
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

	"github.com/recvault/recvault/vault/events"
)

const (
	headerTime = 10 * time.Second // for the header of a request
	bodyIdle   = time.Minute      // for how long a body may stand still
	idleTime   = 2 * time.Minute  // between two requests on one connection
)

// Process is one of the three.
type Process struct {
	Log     *slog.Logger
	Metrics *prometheus.Registry
	Events  *events.Stream // to the log, and counted

	addr, metricsAddr string
	drain, grace      time.Duration
	place             place

	stopping atomic.Bool
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
}

// Run runs a process until SIGTERM or Ctrl-C. The flags of the program stand before the call; main gets the process when they
// are parsed. A second signal ends the process at once.
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
	happened := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "events_total", Help: "What happened to recordings and grants, by kind. Any wrong-patient is worth waking somebody.",
	}, []string{"kind"})
	p.Events = events.New(events.Log(p.Log), func(e events.Event) error {
		happened.WithLabelValues(string(e.Kind)).Add(float64(e.Count))
		return nil
	})
	flag.StringVar(&p.addr, "addr", addr, "where to serve users")
	flag.StringVar(&p.metricsAddr, "metrics-addr", metricsAddr, "where to serve /metrics and /ready, for the operator only")
	flag.DurationVar(&p.drain, "drain", 10*time.Second, "how long to serve on after SIGTERM, until the load balancer has seen that /ready fails")
	flag.DurationVar(&p.grace, "grace", grace, "how long requests under way may go on after that")
	p.place.flags()
	flag.Parse()
	p.Metrics.MustRegister(p.requests, p.seconds, happened, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	err := main(ctx, p)
	ending, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err = errors.Join(err, p.Events.Flush(ending)); err != nil {
		p.Log.Error("ended", "error", err)
		os.Exit(1)
	}
}

// Serve serves users until the context ends. Then /ready fails, so that the load balancer sends its requests elsewhere. After
// the drain time no request is taken any more, and those under way end. Those that outlast the grace period are broken off: an
// upload then stores nothing, and a player asks again for the rest. A request's body must arrive within bodyTime, unless that
// is 0, and must not stand still.
func (p *Process) Serve(ctx context.Context, routes http.Handler, bodyTime time.Duration) error {
	users, err := net.Listen("tcp", p.addr)
	if err != nil {
		return err
	}
	operator, err := net.Listen("tcp", p.metricsAddr)
	if err != nil {
		return errors.Join(err, users.Close())
	}
	serve := func(handler http.Handler) *http.Server {
		return &http.Server{
			Handler: handler, ReadHeaderTimeout: headerTime, IdleTimeout: idleTime,
			ErrorLog: slog.NewLogLogger(p.Log.Handler(), slog.LevelWarn),
		}
	}
	server, metrics := serve(p.observed(bounded(bodyTime, secured(routes)))), serve(p.forOperator())
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
	server.SetKeepAlivesEnabled(false)
	p.Log.Info("stopping", "drain", p.drain.String(), "grace", p.grace.String())
	time.Sleep(p.drain)
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

// bounded limits how long bodies may take. The deadline also holds for what a handler leaves unread, which the server skips
// before it sends a short answer.
func bounded(total time.Duration, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength != 0 {
			body := &boundedBody{ReadCloser: r.Body, set: http.NewResponseController(w).SetReadDeadline}
			if total > 0 {
				body.end = time.Now().Add(total)
			}
			if err := body.extend(); err != nil {
				panic(http.ErrAbortHandler) // the connection has failed
			}
			r.Body = body
		}
		next.ServeHTTP(w, r)
	})
}

type boundedBody struct {
	io.ReadCloser
	set func(deadline time.Time) error
	end time.Time // zero if there is none
}

func (b *boundedBody) extend() error {
	deadline := time.Now().Add(bodyIdle)
	if !b.end.IsZero() && b.end.Before(deadline) {
		deadline = b.end
	}
	return b.set(deadline)
}

func (b *boundedBody) Read(p []byte) (int, error) {
	if err := b.extend(); err != nil {
		return 0, err
	}
	n, err := b.ReadCloser.Read(p)
	if errors.Is(err, io.EOF) {
		_ = b.set(time.Time{}) // or it would end an answer that takes long
	}
	return n, err
}

// secured refuses forms that another site makes a browser send, and lets pages load only what the service serves.
func secured(next http.Handler) http.Handler {
	return http.NewCrossOriginProtection().Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := w.Header()
		header.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; media-src 'self'; "+
			"form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
		header.Set("X-Content-Type-Options", "nosniff")
		header.Set("Referrer-Policy", "same-origin")
		header.Set("Cache-Control", "private, no-store")
		next.ServeHTTP(w, r)
	}))
}
