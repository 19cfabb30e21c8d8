package main

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"

	"golang.org/x/crypto/bcrypt"
)

// account is what the login knows of a user. It stands for an identity provider and for the hospital's own records.
type account struct {
	Account  string   `json:"account"` // appears in grants and in Vault's audit log, so not a patient's identifier
	Role     role     `json:"role"`
	Password string   `json:"password"`          // bcrypt
	Patient  string   `json:"patient,omitempty"` // patients: the hospital's number, which is their identifier for recvault
	Care     []string `json:"care,omitempty"`    // clinicians: the accounts of the patients in their care
}

type role string

const (
	patientRole   role = "patient"
	clinicianRole role = "clinician"
)

func (a account) caresFor(patient account) bool { return slices.Contains(a.Care, patient.Account) }

type accounts map[string]account

func readAccounts(path string) (accounts, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var list []account
	decoder := json.NewDecoder(file)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&list); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	all := accounts{}
	for _, a := range list {
		_, twice := all[a.Account]
		isPatient, isClinician := a.Role == patientRole && a.Patient != "", a.Role == clinicianRole && a.Patient == ""
		if twice || a.Account == "" || !isPatient && !isClinician {
			return nil, fmt.Errorf("%s: the account %q is there twice, or is neither a patient's nor a clinician's", path, a.Account)
		}
		all[a.Account] = a
	}
	return all, nil
}

// decoy is the hash of a random password. It is compared for accounts that do not exist, so that the answer takes as long as
// for those that do.
const decoy = "$2a$10$2h/yyrGNJgkpyVRoo8CVAu7k35JeqgEcS45l/QAzaj0cqYizTdHxS"

// signIn returns the account if the password is right.
func (all accounts) signIn(name, password string) (account, bool) {
	found, exists := all[name]
	hash := decoy
	if exists {
		hash = found.Password
	}
	err := bcrypt.CompareHashAndPassword([]byte(hash), []byte(password))
	return found, exists && err == nil
}
