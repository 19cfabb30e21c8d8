package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/recvault/recvault/keys"
)

const secretsHelp = `Tokens, grants and patient identifiers are never arguments: every user of a
machine can see arguments, and shells store them. Each is read from a file, from
standard input (the file "-"), or from the environment.

    Vault token          --token-file FILE     VAULT_TOKEN
    Secret ID or JWT     --login-file FILE
    Grant                --grant-file FILE     RECVAULT_GRANT
    Patient identifier   --patient-file FILE   RECVAULT_PATIENT
    S3 credentials                             AWS_ACCESS_KEY_ID,
                                               AWS_SECRET_ACCESS_KEY,
                                               AWS_SESSION_TOKEN

A file takes precedence over the environment. One line break at the end is
removed, and nothing else: patient identifiers are compared byte for byte. Only
one secret can come from standard input. On a terminal the command prompts for
it and does not show it.

A patient identifier is personal data. After enrolment, the KeyID stands for it:
wherever a KeyID is enough, commands take --key-id. KeyIDs, recording IDs and
the accessors of grants are not secret.

No command prints a patient identifier or a token. Only "recvault grant --out -"
prints a grant.`

// maxSecretFile is the greatest size, in bytes, of a file with a secret or with metadata. A larger file was named by
// mistake.
const maxSecretFile = 64 << 10

// dash names standard input or output in place of a file.
const dash = "-"

// secret reads a secret from a file or standard input, or from the environment if no file is named.
func (c *cli) secret(ctx context.Context, what, file, flag, variable string) (string, error) {
	if file == "" {
		if text := trimLineBreak([]byte(c.getenv(variable))); len(text) > 0 {
			return string(text), nil
		}
		return "", usagef("no %s: set %s, or name a file with %s (- for standard input)", what, variable, flag)
	}
	var text []byte
	var err error
	if terminal, ok := c.stdin.(*os.File); ok && file == dash && term.IsTerminal(int(terminal.Fd())) {
		text, err = c.prompt(ctx, terminal, what)
	} else {
		text, err = c.readSmallFile(ctx, file, what, flag)
	}
	if err != nil {
		return "", fmt.Errorf("read the %s: %w", what, err)
	}
	text = trimLineBreak(text)
	if len(text) == 0 {
		return "", usagef("the file of %s is empty: it should hold the %s", flag, what)
	}
	return string(text), nil
}

// vaultToken reads the operator's Vault token, once.
func (c *cli) vaultToken(ctx context.Context) (string, error) {
	token, err := c.secret(ctx, "Vault token", c.settings.tokenFile, "--token-file", "VAULT_TOKEN")
	if err == nil && strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		err = usagef("the Vault token has a character that no token has")
	}
	return token, err
}

// readSmallFile reads a file of at most maxSecretFile bytes.
func (c *cli) readSmallFile(ctx context.Context, name, what, flag string) ([]byte, error) {
	in, err := c.openInput(ctx, name, what, flag)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	text, err := io.ReadAll(io.LimitReader(in, maxSecretFile+1))
	if err == nil && len(text) > maxSecretFile {
		err = fmt.Errorf("it has more than %d bytes", maxSecretFile)
	}
	return text, err
}

func trimLineBreak(text []byte) []byte {
	return bytes.TrimSuffix(bytes.TrimSuffix(text, []byte("\n")), []byte("\r"))
}

// prompt asks for a secret on a terminal, which does not show what is typed.
func (c *cli) prompt(ctx context.Context, terminal *os.File, what string) ([]byte, error) {
	state, err := term.GetState(int(terminal.Fd()))
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(c.stderr, "%s: ", what)
	defer fmt.Fprintln(c.stderr)
	type answer struct {
		text []byte
		err  error
	}
	answered := make(chan answer, 1)
	go func() { // may last as long as the process, as in interruptible
		text, err := term.ReadPassword(int(terminal.Fd()))
		answered <- answer{text, err}
	}()
	select {
	case a := <-answered:
		return a.text, a.err
	case <-ctx.Done():
		return nil, errors.Join(ctx.Err(), term.Restore(int(terminal.Fd()), state))
	}
}

// grantFlag is the file that holds a grant.
type grantFlag struct{ file string }

func (g *grantFlag) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&g.file, "grant-file", "", "`file` with the grant, - for standard input (RECVAULT_GRANT: the grant itself)")
}

// given reports whether there is a grant, in a file or in the environment.
func (g *grantFlag) given(c *cli) bool { return g.file != "" || c.getenv("RECVAULT_GRANT") != "" }

// read reads the grant.
func (g *grantFlag) read(ctx context.Context, c *cli) (keys.Grant, error) {
	text, err := c.secret(ctx, "grant", g.file, "--grant-file", "RECVAULT_GRANT")
	if err != nil {
		return keys.Grant{}, err
	}
	return keys.ParseGrant(text)
}

// patientFlag names a patient, by identifier or by KeyID.
type patientFlag struct {
	file    string
	keyID   string
	byKeyID bool // the command has --key-id
}

func (p *patientFlag) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&p.file, "patient-file", "",
		"`file` with the patient's identifier, - for standard input (RECVAULT_PATIENT: the identifier itself)")
}

// addKeyID adds the flags of a command for which a KeyID is enough.
func (p *patientFlag) addKeyID(cmd *cobra.Command) {
	p.add(cmd)
	p.byKeyID = true
	cmd.Flags().StringVar(&p.keyID, "key-id", "", "the patient's `KeyID`, instead of the identifier")
	cmd.MarkFlagsMutuallyExclusive("key-id", "patient-file")
}

// read reads the patient's identifier.
func (p *patientFlag) read(ctx context.Context, c *cli) (keys.Patient, error) {
	if p.byKeyID && p.file == "" && c.getenv("RECVAULT_PATIENT") == "" {
		return "", usagef("no patient: set --key-id, or pass the identifier in RECVAULT_PATIENT or with --patient-file")
	}
	text, err := c.secret(ctx, "patient's identifier", p.file, "--patient-file", "RECVAULT_PATIENT")
	if err != nil {
		return "", err
	}
	if strings.ContainsAny(text, "\r\n") {
		return "", usagef("the patient's identifier has more than one line")
	}
	return keys.Patient(text), keys.Patient(text).Validate()
}

// findKeyID returns the patient's KeyID. Without --key-id, it opens the keyring and derives it from the identifier.
func (p *patientFlag) findKeyID(ctx context.Context, c *cli, open func() (keys.Wrapper, error)) (keys.KeyID, error) {
	if p.keyID != "" {
		return keys.ParseKeyID(p.keyID)
	}
	patient, err := p.read(ctx, c)
	if err != nil {
		return keys.KeyID{}, err
	}
	k, err := open()
	if err != nil {
		return keys.KeyID{}, err
	}
	return k.KeyID(ctx, patient)
}

// patients reads a file with one patient identifier per line.
func (c *cli) patients(ctx context.Context, file string) ([]keys.Patient, error) {
	var patients []keys.Patient
	err := c.eachLine(ctx, file, "patients", "--patient-file", func(line string) error {
		patients = append(patients, keys.Patient(line))
		return keys.Patient(line).Validate()
	})
	return patients, err
}

// eachLine calls a function with each non-empty line of a file.
func (c *cli) eachLine(ctx context.Context, file, what, flag string, do func(line string) error) error {
	in, err := c.openInput(ctx, file, what, flag)
	if err != nil {
		return fmt.Errorf("read the %s: %w", what, err)
	}
	defer in.Close()
	lines := bufio.NewScanner(in)
	for number := 1; lines.Scan(); number++ {
		if lines.Text() == "" {
			continue
		}
		if err := do(lines.Text()); err != nil {
			return fmt.Errorf("line %d of the %s: %w", number, what, err)
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read the %s: %w", what, err)
	}
	return nil
}
