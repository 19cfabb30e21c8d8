package rotation_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/recvault/recvault/internal/testserver"
)

// object has the fields of a Kubernetes object that these tests check.
type object struct {
	Kind     string
	Metadata struct{ Name, GenerateName, Namespace string }
	Data     map[string]string // of a ConfigMap
	Spec     struct {
		job         `yaml:",inline"`
		JobTemplate struct{ Spec job } `yaml:"jobTemplate"` // of a CronJob
	}
}

type job struct {
	CompletionMode string `yaml:"completionMode"`
	Completions    int
	Parallelism    int
	Template       struct{ Spec pod }
}

type pod struct {
	ServiceAccountName string `yaml:"serviceAccountName"`
	RestartPolicy      string `yaml:"restartPolicy"`
	SecurityContext    struct {
		RunAsNonRoot bool `yaml:"runAsNonRoot"`
	} `yaml:"securityContext"`
	Containers []container
}

type container struct {
	Name string
	Args []string
	Env  []struct {
		Name, Value string
		ValueFrom   struct {
			SecretKeyRef struct{ Name, Key string } `yaml:"secretKeyRef"`
		} `yaml:"valueFrom"`
	}
	EnvFrom []struct {
		ConfigMapRef struct{ Name string } `yaml:"configMapRef"`
	} `yaml:"envFrom"`
	SecurityContext struct {
		AllowPrivilegeEscalation *bool `yaml:"allowPrivilegeEscalation"`
		ReadOnlyRootFilesystem   bool  `yaml:"readOnlyRootFilesystem"`
	} `yaml:"securityContext"`
}

// manifests reads the objects of all manifests.
func manifests(t *testing.T) []object {
	t.Helper()
	files, err := filepath.Glob("kubernetes/*.yaml")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	var objects []object
	for _, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		for decoder := yaml.NewDecoder(bytes.NewReader(text)); ; {
			var o object
			err := decoder.Decode(&o)
			if errors.Is(err, io.EOF) {
				break
			}
			require.NoError(t, err, file)
			require.NotEmpty(t, o.Kind, file)
			objects = append(objects, o)
		}
	}
	return objects
}

// TestManifestsRunOnRealServers runs the arguments and settings of every container as a dry run, once for each
// pod. Only addresses and credentials are those of the test's own servers.
func TestManifestsRunOnRealServers(t *testing.T) {
	d := deploy(t)
	d.record(t)
	d.run(t, "rotate", "--all")
	objects := manifests(t)
	config := find(t, objects, "ConfigMap", "recvault").Data
	life := testserver.Lifetime{TTL: 2 * time.Second, Max: 4 * time.Second}
	logins := map[string]testserver.Login{"rotator": d.vault.JWT(t, "rotator", life), "retirer": d.vault.JWT(t, "retirer", life)}
	var verbs []string
	for _, o := range objects {
		j := o.Spec.job
		switch o.Kind {
		case "CronJob":
			j = o.Spec.JobTemplate.Spec
		case "Job":
		default:
			continue
		}
		t.Run(o.Metadata.Name+o.Metadata.GenerateName, func(t *testing.T) {
			assert.Equal(t, "Indexed", j.CompletionMode)
			assert.Equal(t, j.Completions, j.Parallelism)
			p := j.Template.Spec
			assert.Equal(t, "Never", p.RestartPolicy)
			assert.True(t, p.SecurityContext.RunAsNonRoot)
			find(t, objects, "ServiceAccount", p.ServiceAccountName)
			account := logins[strings.TrimPrefix(p.ServiceAccountName, "recvault-")]
			require.NotEmpty(t, account, p.ServiceAccountName)
			require.Len(t, p.Containers, 1)
			c := p.Containers[0]
			assert.True(t, c.SecurityContext.ReadOnlyRootFilesystem)
			require.NotNil(t, c.SecurityContext.AllowPrivilegeEscalation)
			assert.False(t, *c.SecurityContext.AllowPrivilegeEscalation)
			verbs = append(verbs, c.Args[0])
			for index := range j.Completions {
				cmd := exec.CommandContext(t.Context(), d.binary, append(slices.Clone(c.Args), "--dry-run")...)
				cmd.Env = append(d.settings(t, c, config), "JOB_COMPLETION_INDEX="+strconv.Itoa(index),
					"RECVAULT_LOGIN_MOUNT="+account.Mount, "RECVAULT_LOGIN_FILE="+account.File)
				var stderr bytes.Buffer
				cmd.Stderr = &stderr
				out, err := cmd.Output()
				if c.Args[0] == "retire" {
					// The rotation was just now, so retire reports that the grace period has not passed.
					assert.Equal(t, 6, cmd.ProcessState.ExitCode(), stderr.String())
					assert.Contains(t, string(out), "grace_period")
				} else {
					assert.NoError(t, err, stderr.String())
				}
				assert.Contains(t, string(out), `"scope": "shard `+strconv.Itoa(index)+"/"+strconv.Itoa(j.Completions)+`"`)
			}
		})
	}
	slices.Sort(verbs)
	assert.Equal(t, []string{"retire", "rewrap", "rewrap", "rotate"}, verbs)
}

// find returns the object of a kind with this name.
func find(t *testing.T, objects []object, kind, name string) object {
	t.Helper()
	i := slices.IndexFunc(objects, func(o object) bool { return o.Kind == kind && o.Metadata.Name == name })
	require.GreaterOrEqual(t, i, 0, "%s %s", kind, name)
	return objects[i]
}

// settings returns a container's environment, with the test's values for what differs between clusters.
func (d *deployment) settings(t *testing.T, c container, config map[string]string) []string {
	t.Helper()
	ours := map[string]string{}
	for _, setting := range d.environment() {
		name, value, _ := strings.Cut(setting, "=")
		ours[name] = value
	}
	variables := map[string]string{}
	for _, from := range c.EnvFrom {
		require.Equal(t, "recvault", from.ConfigMapRef.Name)
		for name, value := range config {
			variables[name] = value
		}
	}
	for _, variable := range c.Env {
		variables[variable.Name] = variable.Value
		if secret := variable.ValueFrom.SecretKeyRef; secret.Name != "" {
			require.Equal(t, "recvault-s3", secret.Name)
		}
	}
	// Other tests share the servers, so this one has a mount and policies of its own.
	settings := []string{"RECVAULT_MOUNT=" + ours["RECVAULT_MOUNT"], "RECVAULT_POLICY_PREFIX=" + ours["RECVAULT_POLICY_PREFIX"]}
	for name, value := range variables {
		if mine, ok := ours[name]; ok {
			value = mine
		}
		settings = append(settings, name+"="+value)
	}
	for _, needed := range []string{"VAULT_ADDR", "AWS_ENDPOINT_URL", "RECVAULT_BUCKET", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "RECVAULT_SHARDS"} {
		require.Contains(t, variables, needed)
	}
	return settings
}
