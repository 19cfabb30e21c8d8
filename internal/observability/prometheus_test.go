package observability

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	client "github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/rules"
	"github.com/prometheus/prometheus/util/teststorage"
	"github.com/stretchr/testify/require"
	exporter "go.opentelemetry.io/otel/exporters/prometheus"

	"github.com/recvault/recvault/internal/testdeployment"
)

// prometheus scrapes what a run exports and evaluates docs/alerts.yaml, each minute of a time of its own.
type prometheus struct {
	storage  *teststorage.TestStorage
	engine   *promql.Engine
	groups   map[string]*rules.Group
	registry *client.Registry
	jobs     string // the directory of the jobs' metrics
	now      time.Time
}

// watched opens a site that Prometheus watches.
func watched(t *testing.T, d *testdeployment.Deployment) (*prometheus, *site) {
	t.Helper()
	p := &prometheus{storage: teststorage.New(t), registry: client.NewRegistry(), jobs: t.TempDir(), now: time.Now()}
	t.Cleanup(func() { require.NoError(t, p.storage.Close()) })
	p.engine = promql.NewEngine(promql.EngineOpts{
		MaxSamples: 10_000_000, Timeout: time.Minute, Parser: parser.NewParser(parser.Options{}),
	})
	t.Cleanup(func() { require.NoError(t, p.engine.Close()) })
	manager := rules.NewManager(&rules.ManagerOptions{
		Appendable: p.storage, Queryable: p.storage, QueryFunc: rules.EngineQueryFunc(p.engine, p.storage),
		Context: t.Context(), Logger: slog.New(slog.DiscardHandler), NotifyFunc: func(context.Context, string, ...*rules.Alert) {},
		NameValidationScheme: model.UTF8Validation, Parser: parser.NewParser(parser.Options{}),
	})
	var errs []error
	p.groups, errs = manager.LoadGroups(time.Minute, labels.EmptyLabels(), "", nil, false, "../../docs/alerts.yaml")
	require.Empty(t, errs)
	require.Len(t, p.groups, 3)
	reader, err := exporter.New(exporter.WithRegisterer(p.registry))
	require.NoError(t, err)
	return p, open(t, d, reader, nil)
}

// scrape stores what the site and the jobs export, at the present time.
func (p *prometheus) scrape(t *testing.T) {
	t.Helper()
	families, err := p.registry.Gather()
	require.NoError(t, err)
	var text bytes.Buffer
	for _, family := range families {
		_, err := expfmt.MetricFamilyToText(&text, family)
		require.NoError(t, err)
	}
	files, err := filepath.Glob(filepath.Join(p.jobs, "*.prom"))
	require.NoError(t, err)
	for _, file := range files {
		job, err := os.ReadFile(file)
		require.NoError(t, err)
		text.Write(job)
	}
	appender := p.storage.Appender(t.Context())
	metrics := textparse.NewPromParser(text.Bytes(), labels.NewSymbolTable(), false)
	for {
		entry, err := metrics.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		if entry == textparse.EntrySeries {
			var series labels.Labels
			metrics.Labels(&series)
			_, _, value := metrics.Series()
			with := labels.NewBuilder(series).Set("job", "recvault").Set("instance", "one").Labels()
			_, err := appender.Append(0, with, p.now.UnixMilli(), value)
			require.NoError(t, err)
		}
	}
	require.NoError(t, appender.Commit())
}

// pass lets this much time pass, with a scrape and an evaluation each minute, and returns the alerts that fired in it.
func (p *prometheus) pass(t *testing.T, d time.Duration) (fired []string) {
	t.Helper()
	for end := p.now.Add(d); p.now.Before(end); p.now = p.now.Add(time.Minute) {
		p.scrape(t)
		for _, group := range p.groups {
			group.Eval(t.Context(), p.now)
			for _, rule := range group.AlertingRules() {
				require.NoError(t, rule.LastError(), rule.Name())
				if rule.State() == rules.StateFiring && !slices.Contains(fired, rule.Name()) {
					fired = append(fired, rule.Name())
				}
			}
		}
	}
	slices.Sort(fired)
	return fired
}

// query evaluates an expression at the last scrape.
func (p *prometheus) query(t *testing.T, expression string) promql.Vector {
	t.Helper()
	query, err := p.engine.NewInstantQuery(t.Context(), p.storage, nil, expression, p.now.Add(-time.Minute))
	require.NoError(t, err, expression)
	defer query.Close()
	vector, err := query.Exec(t.Context()).Vector()
	require.NoError(t, err, expression)
	return slices.Clone(vector)
}
