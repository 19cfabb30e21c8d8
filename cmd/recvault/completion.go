package main

import (
	"bytes"
	"strings"

	"github.com/spf13/cobra"
)

// addCompletion adds cobra's completion command, whose script for bash works without the bash-completion package too.
func addCompletion(root *cobra.Command) {
	root.InitDefaultCompletionCmd()
	bash, _, err := root.Find([]string{"completion", "bash"})
	if err != nil {
		panic("internal error: cobra has no completion for bash")
	}
	bash.Long = strings.Replace(bash.Long, "This script depends on the 'bash-completion' package.\n"+
		"If it is not installed already, you can install it via your OS's package manager.",
		"The script uses the package bash-completion if it is installed, and works without it. Then\n"+
			"put the line for your current session into ~/.bashrc.", 1)
	bash.RunE = func(cmd *cobra.Command, _ []string) error {
		plain, err := cmd.Flags().GetBool("no-descriptions")
		if err != nil {
			return err
		}
		var script bytes.Buffer
		if err := root.GenBashCompletionV2(&script, !plain); err != nil {
			return err
		}
		script.WriteString(bashWords)
		_, err = script.WriteTo(cmd.OutOrStdout())
		return err
	}
}

// bashWords replaces what cobra's script needs of the package bash-completion. The words are those between spaces:
// bash itself also cuts them at "=" and ":", and replaces only the last part.
const bashWords = `
if ! declare -F _get_comp_words_by_ref >/dev/null 2>&1; then
    __recvault_init_completion()
    {
        COMPREPLY=()
        read -ra words <<<"${COMP_LINE:0:COMP_POINT}"
        if [[ ${COMP_LINE:0:COMP_POINT} == *[[:space:]] ]]; then
            words+=("")
        fi
        cword=$((${#words[@]} - 1))
        cur=${words[cword]}
        prev=${words[cword - 1]-}
    }
fi
`
