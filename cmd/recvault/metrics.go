package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/recvault/recvault/vault/job"
)

// everything is the scope of an audit.
func everything(*cli) string { return "all" }

// metrics is what a job leaves for the textfile collector of node_exporter.
type metrics struct {
	file   string
	report job.Report // zero if the job did not begin
	left   int        // patients with whom the job is not done, or unknown
}

func (m *metrics) addFlag(flags *pflag.FlagSet) {
	flags.StringVar(&m.file, "metrics-file", "",
		"write metrics of the run to this `file`, which ends in .prom, for node_exporter's textfile collector")
}

// note keeps what the job reports.
func (m *metrics) note(r job.Report, left int) { m.report, m.left = r, left }

// measured returns the RunE of a job, or of an audit, that also writes its metrics, however it ends. scope is for the label.
func (c *cli) measured(m *metrics, scope func(*cli) string, run func(*cobra.Command, []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		if m.file == "" {
			return run(cmd, args)
		}
		if err := m.check(cmd); err != nil {
			return err
		}
		begun := time.Now()
		m.left = unknown
		err := run(cmd, args)
		_, verb, _ := strings.Cut(cmd.CommandPath(), " ")
		labels := fmt.Sprintf("{verb=%q,scope=%q}", verb, scope(c))
		if writeErr := m.write(cmd.Context(), labels, begun, err); writeErr != nil {
			err = errors.Join(err, fmt.Errorf("write the metrics: %w", writeErr))
		}
		return err
	}
}

// check returns a usage error before the job begins if the metrics could not be read.
func (m *metrics) check(cmd *cobra.Command) error {
	for _, name := range []string{"dry-run", "print-policy", "patient-view"} {
		if flag := cmd.Flags().Lookup(name); flag != nil && flag.Changed {
			return usagef("--metrics-file is for runs that do their work: use it without --%s", name)
		}
	}
	if filepath.Ext(m.file) != ".prom" {
		return usagef("node_exporter reads files that end in .prom: --metrics-file has another name")
	}
	if info, err := os.Stat(filepath.Dir(m.file)); err != nil || !info.IsDir() {
		return usagef("the directory of --metrics-file does not exist")
	}
	return nil
}

// The names of the metrics. docs/operations.md has alerts on them.
const (
	lastRunMetric     = "recvault_job_last_run_timestamp_seconds"
	lastSuccessMetric = "recvault_job_last_success_timestamp_seconds"
	durationMetric    = "recvault_job_duration_seconds"
	exitCodeMetric    = "recvault_job_exit_code"
	leftMetric        = "recvault_job_patients_left"
	findingsMetric    = "recvault_job_findings"
	oldestKeyMetric   = "recvault_oldest_key_timestamp_seconds"
)

// write replaces the file, at once. A job that failed keeps the time of the last success.
func (m *metrics) write(ctx context.Context, labels string, begun time.Time, err error) error {
	now := time.Now()
	exit := exitOK
	if err != nil {
		exit = classify(ctx, err).Exit
	}
	var text bytes.Buffer
	add := func(name, help, value string) {
		fmt.Fprintf(&text, "# HELP %s %s\n# TYPE %s gauge\n%s%s %s\n", name, help, name, name, labels, value)
	}
	seconds := func(t time.Time) string { return strconv.FormatFloat(float64(t.UnixMilli())/1000, 'f', 3, 64) }
	add(lastRunMetric, "When the last run ended.", seconds(now))
	if success := m.lastSuccess(labels); exit == exitOK {
		add(lastSuccessMetric, "When the last run ended that left nothing to do.", seconds(now))
	} else if success != "" {
		add(lastSuccessMetric, "When the last run ended that left nothing to do.", success)
	}
	add(durationMetric, "How long the last run took.", strconv.FormatFloat(now.Sub(begun).Seconds(), 'f', 3, 64))
	add(exitCodeMetric, "The exit code of the last run: see recvault help exit-codes.", strconv.Itoa(exit))
	if m.left != unknown {
		add(leftMetric, "Patients with whom the last run was not done.", strconv.Itoa(m.left))
	}
	if !m.report.Started.IsZero() {
		add(findingsMetric, "Findings of the last run.", strconv.FormatInt(m.report.Findings.Total(), 10))
	}
	if oldest := m.report.Keys.Oldest; !oldest.IsZero() {
		add(oldestKeyMetric, "When the newest version was made of the key that was rotated longest ago.", seconds(oldest))
	}
	file, err := createPartial(m.file, true)
	if err != nil {
		return err
	}
	defer file.discard()
	if err := file.Chmod(0o644); err != nil { // node_exporter is another user
		return err
	}
	if _, err := file.Write(text.Bytes()); err != nil {
		return err
	}
	return file.commit()
}

// lastSuccess returns the time of the last success in the file as it is, or "".
func (m *metrics) lastSuccess(labels string) string {
	text, _ := os.ReadFile(m.file) // without the file, there was no success
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, lastSuccessMetric+labels+" "); ok {
			value = strings.TrimSpace(value)
			if _, err := strconv.ParseFloat(value, 64); err == nil {
				return value
			}
		}
	}
	return ""
}
