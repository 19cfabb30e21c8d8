package rotation

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/recvault/recvault/internal/objects"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/vault/job"
	"github.com/recvault/recvault/vault/scope"
)

// Plan says what there is to rewrap in a scope, and about how long it will take.
type Plan struct {
	job.Report

	Patients  Patients  `json:"patients"` // Changed counts patients whom Rewrap would change
	Envelopes Envelopes `json:"envelopes"`
	Bytes     int64     `json:"envelope_bytes"`

	// Versions counts envelopes by the version that wraps them. Behind counts them by how many newer versions
	// their patient's key has: 0 is up to date.
	Versions map[int]int `json:"versions"`
	Behind   map[int]int `json:"versions_behind"`

	// Usable counts patients by the oldest version of their key that unwraps.
	Usable map[int]int `json:"oldest_usable"`

	// Largest are the patients with the most envelopes to rewrap, at most [MaxLargest], in order.
	Largest []PatientPlan `json:"largest"`

	Rotate Forecast `json:"rotate"` // of the key of every patient
	Rewrap Forecast `json:"rewrap"` // of what is old now; after a rotation, everything is

	Requests Requests `json:"requests"`
}

// MaxLargest is how many patients a Plan names.
const MaxLargest = 100

// PatientPlan is what there is to rewrap of one patient.
type PatientPlan struct {
	KeyID     keys.KeyID `json:"key_id"`
	Envelopes int        `json:"envelopes"`
	Older     int        `json:"older"`
	Latest    int        `json:"latest"`        // the newest version of the patient's key
	Usable    int        `json:"oldest_usable"` // the oldest version that unwraps
	Rotated   time.Time  `json:"rotated"`       // when the newest version was made
}

// Forecast is what a verb would take. It does not know of retries and races.
type Forecast struct {
	Requests Requests      `json:"requests"`
	Duration time.Duration `json:"duration_ns"`
	Basis    string        `json:"basis"` // of the duration
}

// writeCost is the time of a conditional write, in times of a read, that forecasts assume: measured on MinIO,
// with 8 requests at a time.
const writeCost = 5

// Plan counts the envelopes that Rewrap would change, by the labels of their wrapped keys. It reads every envelope in
// the scope and makes one keyring call per patient, so it takes about a quarter of the time of rewrapping all. For a
// very large store, plan one shard and multiply: shards are even.
func (r *Rotation) Plan(ctx context.Context, s scope.Scope) (Plan, error) {
	plan := Plan{Versions: map[int]int{}, Behind: map[int]int{}, Usable: map[int]int{}, Largest: []PatientPlan{}}
	var calls int
	var meanCall, meanList, meanRead time.Duration
	report, err := r.run(ctx, verbPlan, s, func(w *run) error {
		w.patientSettled = plan.addPatient
		err := w.inBatches(func(p *patient, batch []*item) { w.planBatch(&plan, &calls, p, batch) })
		meanCall, meanList, meanRead = w.calls.mean(), w.lists.mean(), w.reads.mean()
		return err
	})
	plan.Report, plan.Patients, plan.Envelopes, plan.Requests = report.Report, report.Patients, report.Envelopes, report.Requests
	f := forecaster{r.options, len(s.Prefixes()), meanCall, meanList, meanRead}
	lists := plan.Requests.Lists
	plan.Rotate = f.forecast(Requests{Keyring: 2 * plan.Patients.Seen, Lists: lists, Reads: plan.Envelopes.Seen})
	plan.Rewrap = f.forecast(Requests{Keyring: calls, Lists: lists, Reads: plan.Envelopes.Seen, Writes: plan.Envelopes.Older})
	return plan, err
}

// Complete reports whether nothing needs attention: every envelope was read, and none is damaged. It is for a
// plan that returned no error.
func (p Plan) Complete() bool { return p.Findings.Total() == 0 }

// planBatch settles the items of a batch by comparing them with the versions of the patient's key.
func (r *run) planBatch(plan *Plan, calls *int, p *patient, batch []*item) {
	p.mu.Lock()
	defer p.mu.Unlock()
	first := p.versions.Latest == 0 && p.keyless == nil
	if first {
		var err error
		if p.versions, err = r.versions(r.ctx, p.id); err != nil {
			p.failed(err)
			for _, it := range batch {
				r.settleError(it, cmp.Or(it.err, err))
			}
			return
		}
		r.record(func(report *Report) {
			report.Keys.Add(p.versions.Rotated)
			plan.Usable[p.versions.MinDecryption]++
		})
	}
	worth := first // sending, for Rewrap
	for _, it := range batch {
		o, err := planned(it, p)
		if o == older {
			worth = true
		}
		if err == nil {
			r.record(func(*Report) {
				plan.Bytes += it.size
				plan.Versions[it.stored.version]++
				plan.Behind[p.versions.Latest-it.stored.version]++
			})
			r.settle(it, o, nil)
			continue
		}
		r.settleError(it, err)
	}
	if worth {
		r.record(func(*Report) { *calls++ })
	}
}

// planned returns what Rewrap would do with an envelope.
func planned(it *item, p *patient) (outcome, error) {
	version, v := it.stored.version, p.versions
	switch {
	case it.err != nil:
		return 0, it.err
	case p.keyless != nil:
		return 0, p.keyless
	case v.Label != "" && !it.stored.by(v.Label):
		return 0, keys.ErrUnsupported
	case version > v.Latest:
		return 0, fmt.Errorf("%w: it is wrapped under version %d, and the newest is %d", errUnknownVersion, version, v.Latest)
	case version < v.MinAvailable:
		return 0, fmt.Errorf("%w: version %d was trimmed", keys.ErrRetired, version)
	case version < v.MinDecryption:
		return 0, fmt.Errorf("%w: version %d, and the oldest that unwraps is %d", keys.ErrRetired, version, v.MinDecryption)
	case version < v.Latest:
		return older, nil
	}
	return current, nil
}

// addPatient keeps the patients with the most to do.
func (plan *Plan) addPatient(p *patient) {
	if p.outcomes[older] == 0 {
		return
	}
	added := PatientPlan{
		KeyID: p.id, Envelopes: p.listed, Older: p.outcomes[older],
		Latest: p.versions.Latest, Usable: p.versions.MinDecryption, Rotated: p.versions.Rotated.UTC(),
	}
	at, _ := slices.BinarySearchFunc(plan.Largest, added, func(a, b PatientPlan) int {
		return cmp.Or(cmp.Compare(b.Older, a.Older), cmp.Compare(a.KeyID.String(), b.KeyID.String()))
	})
	if at == MaxLargest {
		return
	}
	plan.Largest = slices.Insert(plan.Largest, at, added)
	plan.Largest = plan.Largest[:min(len(plan.Largest), MaxLargest)]
}

// forecaster computes forecasts from what requests took while planning, and from the rates.
type forecaster struct {
	options                      Options
	prefixes                     int // that are listed
	meanCall, meanList, meanRead time.Duration
}

func (f forecaster) forecast(requests Requests) Forecast {
	atOnce := float64(f.options.Concurrency)
	listTime := float64(requests.Lists) * f.meanList.Seconds()
	requestTime := float64(requests.Keyring)*f.meanCall.Seconds() + listTime +
		float64(requests.Reads+writeCost*requests.Writes)*f.meanRead.Seconds()
	longest := requestTime / atOnce
	basis := fmt.Sprintf("%v per keyring call, %v per list and %v per read as measured, a write taken for %d reads, %d requests at a time",
		f.meanCall, f.meanList, f.meanRead, writeCost, f.options.Concurrency)
	consider := func(seconds float64, why string) {
		if seconds > longest {
			longest, basis = seconds, why
		}
	}
	if side := min(f.prefixes, objects.Listings, f.options.Concurrency); side > 0 {
		consider(listTime/float64(side), fmt.Sprintf("%v per list as measured, %d at a time", f.meanList, side))
	}
	if rate := f.options.KeyringRate; rate > 0 {
		consider(float64(requests.Keyring)/rate, fmt.Sprintf("the limit of %v keyring calls per second", rate))
	}
	if rate := f.options.StorageRate; rate > 0 {
		consider(float64(requests.Lists+requests.Reads+requests.Writes)/rate, fmt.Sprintf("the limit of %v lists, reads and writes per second", rate))
	}
	return Forecast{Requests: requests, Duration: time.Duration(longest * float64(time.Second)), Basis: basis}
}
