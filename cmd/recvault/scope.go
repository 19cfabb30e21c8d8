package main

import (
	"cmp"
	"context"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/vault/scope"
)

// scopeFlags select the patients of a job.
type scopeFlags struct {
	all         bool
	shard       string
	shards      int
	keyIDs      []string
	keyIDFile   string
	patientFile string

	metrics metrics // every job for several patients has them
}

func (s *scopeFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.BoolVar(&s.all, "all", false, "every patient")
	flags.StringVar(&s.shard, "shard", "", "share `i/n` of all patients, with i from 0 to n-1")
	flags.IntVar(&s.shards, "shards", 0, "share JOB_COMPLETION_INDEX out of `n` (RECVAULT_SHARDS)")
	flags.StringArrayVar(&s.keyIDs, "key-id", nil, "the patient with this `KeyID`; can be repeated")
	flags.StringVar(&s.keyIDFile, "key-id-file", "", "the patients with the KeyIDs in this `file`, one per line, - for standard input")
	flags.StringVar(&s.patientFile, "patient-file", "", "the patients with the identifiers in this `file`, one per line, - for standard input")
	s.metrics.addFlag(flags)
	for _, one := range []string{"key-id", "key-id-file", "patient-file"} {
		for _, many := range []string{"all", "shard", "shards"} {
			cmd.MarkFlagsMutuallyExclusive(one, many)
		}
	}
	cmd.MarkFlagsMutuallyExclusive("all", "shard", "shards")
}

// indexVariable is the variable in which Kubernetes passes its index to a pod of an Indexed Job.
const indexVariable = "JOB_COMPLETION_INDEX"

// scope returns the patients that the flags select. It is a usage error to select none: all patients take --all.
// openKeyring is called only to derive KeyIDs from identifiers.
func (s *scopeFlags) scope(ctx context.Context, c *cli, openKeyring func() (keys.Wrapper, error)) (scope.Scope, error) {
	if len(s.keyIDs) > 0 || s.keyIDFile != "" || s.patientFile != "" {
		ids, err := s.patients(ctx, c, openKeyring)
		if err == nil && len(ids) == 0 {
			err = usagef("the file has no patient")
		}
		return scope.Of(ids...), err
	}
	if s.shard != "" {
		return scope.ParseShard(s.shard)
	}
	if s.all && c.getenv("RECVAULT_SHARDS") != "" {
		return scope.Scope{}, usagef("--all selects every patient, but RECVAULT_SHARDS selects a share: use only one of the two")
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
		return scope.Scope{}, usagef("--shards (or RECVAULT_SHARDS) needs %s, the number of the share; or use --shard i/n", indexVariable)
	case shards != 0:
		i, err := strconv.Atoi(index)
		if err != nil {
			return scope.Scope{}, usagef("%s is not a number", indexVariable)
		}
		return scope.Shard(i, shards)
	case index != "":
		// Every pod would do all the work.
		return scope.Scope{}, usagef("%s is set, so this is one of several processes: set their number with --shards or RECVAULT_SHARDS", indexVariable)
	case s.all:
		return scope.All(), nil
	}
	return scope.Scope{}, usagef("no patients selected: use --all, --shard, --shards, --key-id, --key-id-file or --patient-file")
}

// label names the selected patients for metrics, also if the flags are not valid: "all", a share such as "0/4", or "named".
func (s *scopeFlags) label(c *cli) string {
	n := c.getenv("RECVAULT_SHARDS")
	if s.shards != 0 {
		n = strconv.Itoa(s.shards)
	}
	shard := cmp.Or(s.shard, c.getenv(indexVariable)+"/"+n)
	switch _, err := scope.ParseShard(shard); {
	case s.all:
		return "all"
	case err == nil:
		return shard
	}
	return "named"
}

// patients returns the KeyIDs of the patients who are named one by one.
func (s *scopeFlags) patients(ctx context.Context, c *cli, openKeyring func() (keys.Wrapper, error)) ([]keys.KeyID, error) {
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
	k, err := openKeyring()
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
