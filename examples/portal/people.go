package main

import (
	"bytes"
	"context"
	"slices"
	"time"

	"github.com/recvault/recvault/examples/internal/deployment"
	"github.com/recvault/recvault/examples/sample"
	"github.com/recvault/recvault/vault"
)

// account identifies a user of the portal.
type account struct {
	ID   string // shown in grants, events and Vault's audit log, so not the patient's identifier
	Name string
	Role role
}

// role is what an account may do.
type role string

const (
	patientRole   role = "patient"
	clinicianRole role = "clinician"
	securityRole  role = "security"
)

// person is an account and what the login knows about it.
type person struct {
	account
	number        string         // patients: the hospital's number, which is their identifier for recvault
	consultations []consultation // patients only
	care          []string       // clinicians: the accounts of the patients in their care
}

type consultation struct {
	title   string
	with    string
	daysAgo int
}

// people are the users of the portal. They are invented.
var people = []person{
	{
		account: account{"P-1042", "Amina Rahman", patientRole}, number: "hospital-number-7340012",
		consultations: []consultation{
			{"Asthma review", "Dr Helen Novak", 3},
			{"Inhaler technique", "Nurse Peter Lind", 24},
			{"First consultation", "Dr Helen Novak", 61},
		},
	},
	{
		account: account{"P-1107", "Thomas Keller", patientRole}, number: "hospital-number-7340145",
		consultations: []consultation{
			{"Follow-up after knee surgery", "Dr Helen Novak", 6},
			{"Physiotherapy plan", "Sofia Brandt", 13},
		},
	},
	{
		account: account{"P-1219", "Grace Okafor", patientRole}, number: "hospital-number-7340388",
		consultations: []consultation{
			{"Antenatal consultation, week 28", "Dr Ines Moreau", 9},
			{"Antenatal consultation, week 24", "Dr Ines Moreau", 37},
			{"Iron deficiency: results", "Dr Ines Moreau", 44},
		},
	},
	{
		account: account{"P-1305", "Lukas Hoang", patientRole}, number: "hospital-number-7340561",
		consultations: []consultation{
			{"Counselling session 5", "Dr Maria Santos", 2},
			{"Counselling session 4", "Dr Maria Santos", 16},
		},
	},
	{account: account{"dr-novak", "Dr Helen Novak", clinicianRole}, care: []string{"P-1042", "P-1107"}},
	{account: account{"security-desk", "Security desk", securityRole}},
}

// find returns the person with this account.
func find(people []person, id string) (person, bool) {
	i := slices.IndexFunc(people, func(p person) bool { return p.ID == id })
	if i < 0 {
		return person{}, false
	}
	return people[i], true
}

// seed enrols the patients and puts their consultations. It uses the roles of enroller and writer, as a
// process that records would.
func seed(ctx context.Context, d *deployment.Deployment, people []person) error {
	writer, err := vault.New(d.Writer, d.Store, vault.WithPrefix(d.Prefix))
	if err != nil {
		return err
	}
	defer writer.Close()
	today := time.Now().Truncate(24 * time.Hour)
	for _, p := range people {
		if p.Role != patientRole {
			continue
		}
		if err := d.Enrol(ctx, d.Patient(p.number)); err != nil {
			return err
		}
		for i, c := range p.consultations {
			id, err := writer.Put(ctx, d.Patient(p.number), bytes.NewReader(sample.Video), vault.Metadata{
				ContentType: sample.ContentType,
				Title:       c.title,
				RecordedAt:  today.AddDate(0, 0, -c.daysAgo).Add(9*time.Hour + time.Duration(i)*95*time.Minute),
				Duration:    sample.Duration,
				Attributes:  map[string]string{"with": c.with},
			})
			if err != nil {
				return err
			}
			d.Recorded(d.Patient(p.number), id)
		}
	}
	return nil
}
