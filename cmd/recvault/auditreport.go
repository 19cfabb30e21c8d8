package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/recvault/recvault/internal/auditlog"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/vault"
	"github.com/recvault/recvault/vault/events/fhir"
)

const (
	outputCSV  = "csv"
	outputHTML = "html"
	outputFHIR = "fhir"
)

func (c *cli) auditReport() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "report [FILE...]",
		Short: "Report who saw which recordings, from Vault's audit log or the events",
		Long: `Read Vault's audit log and report who opened which recordings, when and under what
purpose, and who only described them; attempts that were refused, grouped into
incidents; grants by who issued them, unused and over-used ones; who reached
unusually many patients; uses of keys outside a grant, of which there must be none;
uses of a grant after its revocation; emergency access, with its reasons; changes of
policies, keys and audit devices; and gaps in the log itself.

The files are those of one or several audit devices, in any order: whole, rotated,
compressed by gzip, with the same entries in several of them. - is standard input,
which is kept in a temporary file. Each file is read twice. Memory grows with the
grants and recordings in the log, not with its size.

Give all files of the period, and those from a day before it: without the entry that
issued a grant, the report says "not in the log" for who issued it.

Filters select uses, grants and incidents; several of one kind select any of them.
Changes follow the filters by time and KeyID, gaps none.

Patients are named by KeyID. A file with patients' identifiers is resolved through
Vault, and no identifier is printed. For a breach notification (GDPR Art. 33 and 34),
select what was unlawful, with --subject and --since, and read the first table.

--output html is one page without scripts, for a screen or paper. --output csv prints
one --table: patients, outside, after_revocation, incidents, unusual, break_glass,
granters, accesses, grants, changes, gaps or, with --events, deliveries. JSON has all.

--output fhir is a FHIR R4 Bundle of AuditEvents: one for each row of accesses, which
has refused attempts too and marks uses outside a grant; one for each grant that was
issued or revoked in the period, with who did that; and one for each row of changes.
--fhir-site is a JSON object with the site's systems and parties. These have no FHIR
form: gaps, unusual counts, the grouping into incidents, refused issues of grants, and
deliveries.

--events reads the event stream of the processes that serve recordings beside the log:
the lines that events.JSON writes, or lines of slog with them, each file once. The
report then shows what was delivered, and names what stands in one and not in the
other: a use of a key that no process reports, or an opening that the log lacks.

Without a FILE, the report is made from --events alone: keys in a directory have no log.
It has what these processes say of themselves, and neither uses of keys past them, nor
who issued a grant, nor addresses, nor changes of policies and keys.

--patient-view is what one patient may ask for (EHDS, Art. 9): who saw the own
recordings, when, which and why, in plain words, as text, JSON or HTML. It has nothing
of other patients, no pseudonym and no request. --names is a JSON object with the
names of subjects; with a grant for the patient, recordings have their titles and
dates, and the log of Vault one description each.

The exit code is 6 if the log shows what must not be: a use of a key outside a grant,
an answer that was left in Vault under another token, a use after a revocation that
Vault allowed, a gap that the log does not explain, such as a line that is cut, or a
use that the log and the events do not both have.

Role: none. With --patient-file: writer, enroller, granter or eraser. With
--patient-view, the exit code does not depend on what the log shows.`,
		Example: `  recvault audit report /var/log/vault/audit.log*
  recvault audit report --since 72h --output html audit.log* > incident.html
  recvault audit report --subject dr-lee --output csv --table patients audit.log
  recvault audit report --patient-view --patient-file patient --output html audit.log*
  recvault audit report --output fhir --fhir-site site.json audit.log* > bundle.json
  zcat audit.log.*.gz | recvault audit report --key-id "$key_id" -`,
		Args:        cobra.ArbitraryArgs,
		Annotations: map[string]string{moreOutputs: outputCSV + " " + outputHTML + " " + outputFHIR},
	}
	var (
		options                auditlog.Options
		since, until, table    string
		siteFile               string
		recordings             []string
		named                  scopeFlags
		subjects, purposes     []string
		keyIDFile, patientFile string
		events                 []string
		patient                patientViewFlags
		job                    metrics
	)
	flags := cmd.Flags()
	flags.StringVar(&since, "since", "", "`time` from which on to report: RFC 3339, a date, or a time before now such as 72h")
	flags.StringVar(&until, "until", "", "`time` before which to report, likewise")
	flags.StringArrayVar(&named.keyIDs, "key-id", nil, "the patient with this `KeyID`; can be repeated")
	flags.StringVar(&keyIDFile, "key-id-file", "", "the patients with the KeyIDs in this `file`, one per line")
	flags.StringVar(&patientFile, "patient-file", "", "the patients with the identifiers in this `file`, one per line, - for standard input")
	flags.StringArrayVar(&recordings, "recording", nil, "the recording with this `ID`; can be repeated")
	flags.StringArrayVar(&subjects, "subject", nil, "`who` used a grant; can be repeated")
	flags.StringArrayVar(&purposes, "purpose", nil, "`code` of a grant's purpose; can be repeated")
	flags.DurationVar(&options.Silence, "silence", time.Hour, "the time without any entry of the log that is listed as a gap; 0 lists none")
	flags.StringArrayVar(&events, "events", nil, "`file` with the event stream of a process; can be repeated")
	patient.add(cmd)
	job.addFlag(flags)
	flags.StringVar(&table, "table", "accesses", "`name` of the table that --output csv prints")
	flags.StringVar(&siteFile, "fhir-site", "", "`file` with a JSON object: the site of --output fhir")
	cmd.RunE = c.measured(&job, everything, func(cmd *cobra.Command, args []string) error {
		ctx := cmd.Context()
		if len(args)+len(events) == 0 {
			return usagef("no file: name the files of the audit log, or - for standard input, or the event stream with --events")
		}
		if directory, err := c.directory(); err != nil {
			return err
		} else if directory != "" && len(args) > 0 {
			return usagef("keys in a directory have no audit log: name the event stream with --events, or Vault's mount and not a directory")
		}
		if flags.Changed("table") && c.output != outputCSV {
			return usagef("--table is for --output csv")
		}
		encoder, err := c.fhirEncoder(ctx, siteFile)
		if err != nil {
			return err
		}
		now := time.Now()
		if options.Since, err = parseMoment(since, now); err == nil {
			options.Until, err = parseMoment(until, now)
		}
		if err != nil {
			return err
		}
		named.keyIDFile, named.patientFile = keyIDFile, patientFile
		if options.KeyIDs, err = named.patients(ctx, c, c.keyringLater(ctx)); err != nil {
			return err
		}
		if keyIDFile+patientFile != "" && len(options.KeyIDs) == 0 {
			return usagef("the file has no patient")
		}
		for _, text := range recordings {
			id, err := keys.ParseRecordingID(text)
			if err != nil {
				return err
			}
			options.Recordings = append(options.Recordings, id)
		}
		where := c.transitOptions()
		options.Mount, options.Prefix = where.Mount, where.Prefix
		options.Namespace = strings.Trim(c.setting(c.settings.vaultNamespace, "VAULT_NAMESPACE"), "/")
		options.Subjects, options.Purposes = subjects, purposes
		names, err := patient.read(ctx, c, options.KeyIDs)
		if err != nil {
			return err
		}
		// What the report keeps lives until its end, so a collection frees little: frequent ones keep the peak low.
		defer debug.SetGCPercent(debug.SetGCPercent(25))
		report, err := c.readAudit(ctx, args, events, options)
		if err != nil {
			return err
		}
		if patient.view {
			return c.printPatientView(report.PatientView(options.KeyIDs[0], names))
		}
		return c.printReport(report, table, encoder)
	})
	return cmd
}

// parseMoment reads a time in RFC 3339, a date, or a duration before now.
func parseMoment(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if ago, err := time.ParseDuration(text); err == nil && ago >= 0 {
		return now.Add(-ago), nil
	}
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if t, err := time.Parse(layout, text); err == nil {
			return t, nil
		}
	}
	return time.Time{}, usagef("--since and --until take a time in RFC 3339, a date such as 2026-03-01, or a time before now such as 72h")
}

// patientViewFlags are the flags of a report for one patient.
type patientViewFlags struct {
	view  bool
	names string
	grant grantFlag
}

func (p *patientViewFlags) add(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&p.view, "patient-view", false, "print what one patient is shown of the own recordings")
	cmd.Flags().StringVar(&p.names, "names", "", "`file` with a JSON object: for each subject, the name that the patient is shown")
	p.grant.add(cmd)
}

// read checks the flags, and returns what the view calls people and recordings.
func (p *patientViewFlags) read(ctx context.Context, c *cli, keyIDs []keys.KeyID) (names auditlog.Names, err error) {
	switch {
	case !p.view && (p.names != "" || p.grant.file != ""):
		return names, usagef("--names and --grant-file are for --patient-view")
	case !p.view:
		return names, nil
	case len(keyIDs) != 1:
		return names, usagef("--patient-view is for one patient: name one with --key-id or --patient-file")
	case c.output == outputCSV || c.output == outputFHIR:
		return names, usagef("--patient-view is printed as text, JSON or HTML")
	}
	if p.names != "" {
		text, err := c.readSmallFile(ctx, p.names, "names", "--names")
		if err == nil {
			err = json.Unmarshal(text, &names.People)
		}
		if err != nil {
			return names, usagef("--names does not name a JSON object of texts: %v", err)
		}
	}
	if !p.grant.given(c) {
		return names, nil
	}
	grant, err := p.grant.read(ctx, c)
	if err != nil {
		return names, err
	}
	if grant.KeyID() != keyIDs[0] {
		return names, usagef("the grant is for another patient")
	}
	v, err := c.openGrantVault()
	if err != nil {
		return names, err
	}
	recordings, err := v.ListInfo(ctx, grant)
	names.Recordings = map[keys.RecordingID]string{}
	for _, recording := range recordings {
		if recording.Err == nil {
			names.Recordings[recording.ID] = recordingName(recording.Info.Metadata)
		}
	}
	return names, err
}

// recordingName returns the title and the time of a recording, or "" if it has neither.
func recordingName(m vault.Metadata) string {
	var parts []string
	if m.Title != "" {
		parts = append(parts, "“"+m.Title+"”")
	}
	if !m.RecordedAt.IsZero() {
		parts = append(parts, "recorded "+humanTime(m.RecordedAt))
	}
	return strings.Join(parts, ", ")
}

func (c *cli) printPatientView(view *auditlog.PatientView) (err error) {
	switch c.output {
	case outputJSON:
		err = view.WriteJSON(c.stdout)
	case outputHTML:
		err = view.WriteHTML(c.stdout)
	default:
		err = view.WriteText(c.stdout)
	}
	if err != nil {
		err = fmt.Errorf("write the result: %w", err)
	}
	return err
}

// fhirEncoder returns the encoder of --output fhir, and none for others.
func (c *cli) fhirEncoder(ctx context.Context, siteFile string) (*fhir.Encoder, error) {
	switch {
	case c.output != outputFHIR && siteFile != "":
		return nil, usagef("--fhir-site is for --output fhir")
	case c.output != outputFHIR:
		return nil, nil
	case siteFile == "":
		return nil, usagef("--output fhir needs the site's systems and parties: name a file with --fhir-site")
	}
	text, err := c.readSmallFile(ctx, siteFile, "site", "--fhir-site")
	if err != nil {
		return nil, fmt.Errorf("read the site: %w", err)
	}
	type party struct {
		Name    string `json:"name"`
		Address string `json:"address"`
	}
	var site struct {
		Patients    string `json:"patients"`
		Recordings  string `json:"recordings"`
		Users       string `json:"users"`
		Grants      string `json:"grants"`
		Purposes    string `json:"purposes"`
		Application party  `json:"application"`
		Server      party  `json:"server"`
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&site); err != nil {
		return nil, usagef("--fhir-site does not name a JSON object of patients, recordings, users, grants, purposes, application and server: %v", err)
	}
	if decoder.More() {
		return nil, usagef("--fhir-site names a file with more than one JSON object")
	}
	encoder, err := fhir.New(fhir.Site{
		Patients: site.Patients, Recordings: site.Recordings, Users: site.Users, Grants: site.Grants, Purposes: site.Purposes,
		Application: fhir.Party(site.Application), Server: fhir.Party(site.Server),
	})
	if err != nil {
		return nil, usagef("--fhir-site names a file with a bad site: %v", err)
	}
	return encoder, nil
}

func (c *cli) readAudit(ctx context.Context, names, events []string, options auditlog.Options) (*auditlog.Report, error) {
	sources, size, err := c.auditSources(ctx, names)
	if err != nil {
		return nil, err
	}
	total := 2 * size
	if options.Events, size, err = c.auditSources(ctx, events); err != nil {
		return nil, err
	}
	total += size
	p := c.startProgress("audit report")
	defer p.end()
	done := transfer{p: p, total: total}
	options.Progress = done.add
	return auditlog.Read(ctx, sources, options)
}

// printReport prints the report. Its error says what must not be.
func (c *cli) printReport(report *auditlog.Report, table string, encoder *fhir.Encoder) (err error) {
	switch c.output {
	case outputJSON:
		err = report.WriteJSON(c.stdout)
	case outputHTML:
		err = report.WriteHTML(c.stdout)
	case outputCSV:
		i := slices.IndexFunc(report.Sections(), func(s auditlog.Section) bool { return s.Name == table })
		if i < 0 {
			return usagef("--table is none of the report: see \"recvault audit report --help\"")
		}
		err = report.Sections()[i].WriteCSV(c.stdout)
	case outputFHIR:
		err = report.WriteFHIR(c.stdout, encoder)
	default:
		err = report.WriteText(c.stdout)
	}
	if err != nil {
		return fmt.Errorf("write the result: %w", err)
	}
	if report.Problems() {
		t := report.Totals
		return fmt.Errorf("%w: %d uses of keys outside a grant, %d answers under another token, %d uses allowed after a revocation, "+
			"%d gaps, %d uses only in the log, %d only in the events",
			errIncomplete, t.Outside, t.Wrapped, t.AllowedAfter, t.Unexplained, t.OnlyInLog, t.OnlyInEvents)
	}
	return nil
}

// auditSources returns files, and how many bytes they have.
func (c *cli) auditSources(ctx context.Context, names []string) (sources []auditlog.Source, total int64, err error) {
	for _, name := range names {
		if name == dash {
			source, size, err := c.keepInput(ctx)
			if err != nil {
				return nil, 0, err
			}
			sources, total = append(sources, source), total+size
			continue
		}
		info, err := os.Stat(name)
		switch {
		case err != nil:
			return nil, 0, err
		case !info.Mode().IsRegular():
			return nil, 0, usagef("%s is not a regular file: pass it on standard input", name)
		}
		sources = append(sources, auditlog.Source{Name: name, Open: func() (io.ReadCloser, error) { return os.Open(name) }})
		total += info.Size()
	}
	return sources, total, nil
}

// keepInput copies standard input to a temporary file, because it is read twice. The file is compressed, has no name where the
// system allows that, and is gone when the command ends.
func (c *cli) keepInput(ctx context.Context) (source auditlog.Source, size int64, err error) {
	in, err := c.openInput(ctx, dash, "audit log", "the audit log")
	if err != nil {
		return source, 0, err
	}
	defer in.Close()
	file, err := os.CreateTemp("", "recvault-audit-*")
	if err != nil {
		return source, 0, err
	}
	removed := os.Remove(file.Name()) == nil
	c.closers = append(c.closers, func() error {
		err := file.Close()
		if !removed {
			err = errors.Join(err, os.Remove(file.Name()))
		}
		return err
	})
	p := c.startProgress("read the audit log")
	log := bufio.NewReader(p.reader(in, in.size))
	if magic, _ := log.Peek(len(auditlog.GzipMagic)); string(magic) == auditlog.GzipMagic {
		_, err = io.Copy(file, log)
	} else {
		zipped, _ := gzip.NewWriterLevel(file, gzip.BestSpeed) // which is a valid level
		_, err = io.Copy(zipped, log)
		err = errors.Join(err, zipped.Close())
	}
	p.end()
	if err != nil {
		return source, 0, fmt.Errorf("read the audit log: %w", err)
	}
	size, err = file.Seek(0, io.SeekCurrent)
	return auditlog.Source{Name: "standard input", Open: func() (io.ReadCloser, error) {
		return io.NopCloser(io.NewSectionReader(file, 0, size)), nil
	}}, size, err
}
