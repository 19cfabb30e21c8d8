package keystest

import (
	"crypto/rand"
	"strings"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/keys"
)

func pseudonyms(f *fixture) {
	alice, bob := f.newPatient(), f.newPatient()

	before, err := f.KeyID(f.Context(), alice)
	require.NoError(f, err)
	enrolled, err := f.Enrol(f.Context(), alice)
	require.NoError(f, err)
	after, err := f.KeyID(f.Context(), alice)
	require.NoError(f, err)
	assert.Equal(f, before, enrolled, "enrolling changed the pseudonym")
	assert.Equal(f, before, after, "the pseudonym is not the same each time")

	parsed, err := keys.ParseKeyID(before.String())
	require.NoError(f, err, "the pseudonym is not a KeyID")
	assert.Equal(f, before, parsed)

	other, err := f.KeyID(f.Context(), bob)
	require.NoError(f, err)
	assert.NotEqual(f, before, other, "two patients share a pseudonym")

	_, err = f.Versions(f.Context(), other)
	assert.ErrorIs(f, err, keys.ErrNotEnrolled, "asking for a pseudonym enrolled the patient")
}

// similarPatients checks that identifiers are compared byte for byte, and that no byte has a meaning.
func similarPatients(f *fixture) {
	text := "Émile/" + rand.Text()
	seen := make(map[keys.KeyID]string)
	for what, similar := range map[string]string{
		"unchanged":        text,
		"lower case":       strings.ToLower(text),
		"upper case":       strings.ToUpper(text),
		"decomposed":       strings.Replace(text, "É", "E\u0301", 1),
		"space before":     " " + text,
		"space after":      text + " ",
		"line break after": text + "\n",
		"zero byte after":  text + "\x00",
		"zero byte within": text[:8] + "\x00" + text[8:],
		"cut":              text[:len(text)-1],
		"path":             "../" + text,
		"wildcard":         text + "*",
		"percent":          text + "%20",
		"braces":           "{{" + text + "}}",
		"number":           strings.Repeat("0", 20) + text[10:],
		"number, shorter":  strings.Repeat("0", 19) + text[10:],
		"quotes":           `"` + text + `"`,
		"byte order mark":  "\ufeff" + text,
	} {
		f.Run(what, func(f *fixture) {
			f.watch.secret("patient identifier", []byte(similar))
			id, err := f.Enrol(f.Context(), keys.Patient(similar))
			require.NoError(f, err)
			assert.Empty(f, seen[id], "two identifiers are the same patient")
			seen[id] = what

			again, err := f.KeyID(f.Context(), keys.Patient(similar))
			require.NoError(f, err)
			assert.Equal(f, id, again)
		})
	}
}

func longestPatient(f *fixture) {
	text := rand.Text() + strings.Repeat("x", keys.MaxPatientLen)
	text = text[:keys.MaxPatientLen]
	f.watch.secret("patient identifier", []byte(text))
	id, err := f.Enrol(f.Context(), keys.Patient(text))
	require.NoError(f, err)
	f.opens(f.newGrant(keys.Patient(text)), f.newRecording(id))
}

func enrolTwice(f *fixture) {
	patient, id := f.enrolled()
	rec := f.newRecording(id)
	require.NoError(f, f.Rotate(f.Context(), id))

	again, err := f.Enrol(f.Context(), patient)
	require.NoError(f, err)
	assert.Equal(f, id, again)

	f.hasVersions(id, 2, 1, 1) // the second Enrol did not change the versions
	f.opens(f.newGrant(patient), rec)
}

func invalidPatients(f *fixture) {
	canary := rand.Text()
	f.watch.secret("patient identifier", []byte(canary))
	for what, patient := range map[string]keys.Patient{
		"empty":     "",
		"too long":  keys.Patient(canary + strings.Repeat("x", keys.MaxPatientLen+1-len(canary))),
		"huge":      keys.Patient(canary + strings.Repeat("x", 1<<20)),
		"not UTF-8": keys.Patient(canary + "\xff"),
		"cut UTF-8": keys.Patient(canary + "\xc3"),
		"surrogate": keys.Patient(canary + "\xed\xa0\x80"),
		"overlong":  keys.Patient(canary + "\xc0\xaf"),
	} {
		f.Run(what, func(f *fixture) {
			_, err := f.Enrol(f.Context(), patient)
			assert.ErrorIs(f, err, keys.ErrInvalidPatient, "Enrol")
			_, err = f.KeyID(f.Context(), patient)
			assert.ErrorIs(f, err, keys.ErrInvalidPatient, "KeyID")
			_, err = f.Issue(f.Context(), patient, options())
			assert.ErrorIs(f, err, keys.ErrInvalidPatient, "Issue")
		})
	}
}
