package main

import (
	"context"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/vault/scope"
)

// scopeFlags say which patients a job is about.
type scopeFlags struct {
	all         bool
	shard       string
	shards      int
	keyIDs      []string
	keyIDFile   string
	patientFile string
}

func (s *scopeFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.BoolVar(&s.all, "all", false, "every patient")
	flags.StringVar(&s.shard, "shard", "", "share `i/n` of all patients, i from 0 to n-1")
	flags.IntVar(&s.shards, "shards", 0, "the share that JOB_COMPLETION_INDEX says, out of `n` (RECVAULT_SHARDS)")
	flags.StringArrayVar(&s.keyIDs, "key-id", nil, "the patient with this `KeyID`; can be repeated")
	flags.StringVar(&s.keyIDFile, "key-id-file", "", "the patients with the KeyIDs in this `file`, one to a line, - for standard input")
	flags.StringVar(&s.patientFile, "patient-file", "", "the patients with the identifiers in this `file`, one to a line, - for standard input")
	for _, one := range []string{"key-id", "key-id-file", "patient-file"} {
		for _, many := range []string{"all", "shard", "shards"} {
			cmd.MarkFlagsMutuallyExclusive(one, many)
		}
	}
	cmd.MarkFlagsMutuallyExclusive("all", "shard", "shards")
}

// indexVariable is where Kubernetes tells a pod of an Indexed Job which of them it is.
const indexVariable = "JOB_COMPLETION_INDEX"

// scope returns the patients that the flags name. That there are none is a mistake: all patients are a
// matter of saying so. pseudonyms is asked for the KeyIDs of patients who are given by their
// identifiers.
func (s *scopeFlags) scope(ctx context.Context, c *cli, pseudonyms func() (keys.Wrapper, error)) (scope.Scope, error) {
	if len(s.keyIDs) > 0 || s.keyIDFile != "" || s.patientFile != "" {
		ids, err := s.patients(ctx, c, pseudonyms)
		if err == nil && len(ids) == 0 {
			err = usagef("the files name no patient")
		}
		return scope.Of(ids...), err
	}
	if s.shard != "" {
		return scope.ParseShard(s.shard)
	}
	if s.all && c.getenv("RECVAULT_SHARDS") != "" {
		return scope.Scope{}, usagef("--all is every patient, but RECVAULT_SHARDS is set for a share of them: leave out one of the two")
	}
	shards := s.shards
	if text := c.getenv("RECVAULT_SHARDS"); shards == 0 && text != "" {
		var err error
		if shards, err = strconv.Atoi(text); err != nil {
			return scope.Scope{}, usagef("RECVAULT_SHARDS is not a number")
		}
	}
	index := c.getenv(indexVariable)
	switch {
	case shards != 0 && index == "":
		return scope.Scope{}, usagef("--shards (or RECVAULT_SHARDS) needs %s, which says which share; or give --shard i/n", indexVariable)
	case shards != 0:
		i, err := strconv.Atoi(index)
		if err != nil {
			return scope.Scope{}, usagef("%s is not a number", indexVariable)
		}
		return scope.Shard(i, shards)
	case index != "":
		// Each pod would do all the work.
		return scope.Scope{}, usagef("%s is set, so this is one of several: say how many with --shards or RECVAULT_SHARDS", indexVariable)
	case s.all:
		return scope.All(), nil
	}
	return scope.Scope{}, usagef("say which patients: --all, --shard, --shards, --key-id, --key-id-file or --patient-file")
}

func (s *scopeFlags) patients(ctx context.Context, c *cli, pseudonyms func() (keys.Wrapper, error)) ([]keys.KeyID, error) {
	var ids []keys.KeyID
	add := func(text string) error {
		id, err := keys.ParseKeyID(text)
		ids = append(ids, id)
		return err
	}
	for _, text := range s.keyIDs {
		if err := add(text); err != nil {
			return nil, err
		}
	}
	if s.keyIDFile != "" {
		if err := c.eachLine(ctx, s.keyIDFile, "KeyIDs", "--key-id-file", add); err != nil {
			return nil, err
		}
	}
	if s.patientFile == "" {
		return ids, nil
	}
	k, err := pseudonyms()
	if err != nil {
		return nil, err
	}
	err = c.eachLine(ctx, s.patientFile, "patients", "--patient-file", func(line string) error {
		id, err := k.KeyID(ctx, keys.Patient(line))
		ids = append(ids, id)
		return err
	})
	return ids, err
}
