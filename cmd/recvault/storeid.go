package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/recvault/recvault/keys"
)

type storeIDResult struct {
	StoreID keys.StoreID `json:"store_id"`
}

func (c *cli) storeIDCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "store-id",
		Short:   "Print the ID of the bucket and prefix",
		GroupID: groupSetUp,
		Long: `Print the ID of the bucket and prefix, for "recvault setup --store-id". It is
the content of the object store-id, which is created if it is missing.

Role: none at Vault. At the store: read, write.`,
		Example: "  recvault store-id --prefix clinic/",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := c.openObjects()
			if err != nil {
				return err
			}
			id, err := o.MakeStoreID(cmd.Context())
			if err != nil {
				return err
			}
			return c.print(storeIDResult{id})
		},
	}
}

func (r storeIDResult) writeText(w io.Writer) { fmt.Fprintln(w, r.StoreID) }
