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
	Account  string   `json:"account"`  // appears in grants and in Vault's audit log, so not a patient's identifier
	Password string   `json:"password"` // bcrypt
	Patient  string   `json:"patient"`  // patients: the hospital's number, which is their identifier for recvault
	Care     []string `json:"care"`     // clinicians: the accounts of the patients in their care
}

func (a account) clinician() bool { return a.Patient == "" }

func (a account) caresFor(patient account) bool { return slices.Contains(a.Care, patient.Account) }

type accounts map[string]account

func readAccounts(file string) (accounts, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var list []account
	if err := json.Unmarshal(text, &list); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	all := accounts{}
	for _, a := range list {
		all[a.Account] = a
	}
	return all, nil
}

// decoy is compared for accounts that do not exist, so that an answer takes as long as for those that do.
var decoy = func() []byte {
	hash, err := bcrypt.GenerateFromPassword([]byte("nobody"), bcrypt.DefaultCost)
	if err != nil {
		panic(err)
	}
	return hash
}()

// signIn returns the account if the password is right.
func (all accounts) signIn(name, password string) (account, bool) {
	found, known := all[name]
	hash := decoy
	if known {
		hash = []byte(found.Password)
	}
	err := bcrypt.CompareHashAndPassword(hash, []byte(password))
	return found, known && err == nil
}
