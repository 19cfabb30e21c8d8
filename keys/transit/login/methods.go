package login

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/hashicorp/vault/api"
	"github.com/hashicorp/vault/api/auth/approle"
	"github.com/hashicorp/vault/api/auth/kubernetes"

	"github.com/recvault/recvault/keys"
)

// File takes the token from a file that another program keeps, such as a sink of Vault Agent. It has the token in
// clear, with or without a line break at the end. It is read again every second, and it is never renewed.
func File(path string) api.AuthMethod { return file{path} }

type file struct{ path string }

func (f file) Login(context.Context, *api.Client) (*api.Secret, error) {
	token, err := read(f.path)
	if err != nil {
		return nil, err
	}
	if strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) { // cannot be sent in a header
		return nil, fmt.Errorf("%w: the file has a character that no token has", keys.ErrUnauthenticated)
	}
	return &api.Secret{Auth: &api.SecretAuth{ClientToken: token}}, nil
}

// AppRole logs in to the AppRole auth method at a mount, such as "approle". The file has the secret ID, and is read
// again for each login, so a secret ID must not have a limit of uses.
func AppRole(mount, roleID, secretIDFile string) api.AuthMethod {
	return method(func() (api.AuthMethod, error) {
		return approle.NewAppRoleAuth(roleID, &approle.SecretID{FromFile: secretIDFile}, approle.WithMountPath(mount))
	})
}

// ServiceAccountFile is the file with the token of a pod's service account.
const ServiceAccountFile = "/var/run/secrets/kubernetes.io/serviceaccount/token"

// Kubernetes logs in to the Kubernetes auth method at a mount, such as "kubernetes", with the token of the pod's
// service account. The file is read again for each login, because Kubernetes replaces the token.
func Kubernetes(mount, role, file string) api.AuthMethod {
	return method(func() (api.AuthMethod, error) {
		token, err := read(file)
		if err != nil {
			return nil, err
		}
		return kubernetes.NewKubernetesAuth(role, kubernetes.WithMountPath(mount), kubernetes.WithServiceAccountToken(token))
	})
}

// JWT logs in to the JWT auth method at a mount, such as "jwt", with a JWT in a file that is read again for each login:
// that of a CI system, or of a workload identity (SPIFFE).
func JWT(mount, role, file string) api.AuthMethod {
	return Kubernetes(mount, role, file) // the two methods have the same login
}

// method is a login that is prepared when it is made.
type method func() (api.AuthMethod, error)

func (m method) Login(ctx context.Context, client *api.Client) (*api.Secret, error) {
	prepared, err := m()
	if err != nil {
		return nil, err
	}
	return prepared.Login(ctx, client)
}

// maxFile is the size of a file with a token, in bytes, beyond which it is something else.
const maxFile = 64 << 10

// read reads a file that is not empty, without white space at its ends.
func read(path string) (string, error) {
	in, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer in.Close()
	text, err := io.ReadAll(io.LimitReader(in, maxFile+1))
	text = bytes.TrimSpace(text)
	switch {
	case err != nil:
		return "", err
	case len(text) == 0 || len(text) > maxFile:
		return "", fmt.Errorf("%w: the file has %d bytes, and should have a token", keys.ErrUnauthenticated, len(text))
	}
	return string(text), nil
}
