package keystest

import (
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/keys"
)

func grantDetails(f *fixture) {
	patient, id := f.enrolled()
	rec := f.newRecording(id)
	const clockSlack = 2 * time.Second // keyrings count whole seconds
	for what, options := range map[string]keys.GrantOptions{
		"shortest":   {TTL: time.Minute, Subject: "s", Purpose: "X-1"},
		"everything": {TTL: time.Hour, Subject: "dr-lee", Purpose: keys.BreakTheGlass, Reason: "unconscious on arrival", RequestID: "case-7", MaxUses: 3},
		"longest": {
			TTL: keys.MaxGrantTTL, Subject: strings.Repeat("s", keys.MaxSubjectLen),
			Purpose: keys.OwnPurpose + keys.Purpose(strings.Repeat("P", keys.MaxPurposeLen-len(keys.OwnPurpose))),
			Reason:  strings.Repeat("r", keys.MaxReasonLen), RequestID: strings.Repeat("r", keys.MaxRequestIDLen), MaxUses: keys.MaxGrantUses,
		},
		"beyond ASCII":   {TTL: time.Minute, Subject: strings.Repeat("李", keys.MaxSubjectLen/3), Purpose: keys.Research, Reason: strings.Repeat("李", keys.MaxReasonLen/3), RequestID: "n° 5"},
		"punctuation":    {TTL: time.Minute, Subject: `{{identity}} "q" \ <&>/..*+=,`, Purpose: keys.PatientRequest, Reason: `{{"}} \n, "key_id": "*"`, RequestID: `%00{"a":1}`},
		"escaped":        {TTL: time.Minute, Subject: strings.Repeat("<", keys.MaxSubjectLen), Purpose: keys.Legal, Reason: strings.Repeat("&", keys.MaxReasonLen), RequestID: strings.Repeat(">", keys.MaxRequestIDLen)},
		"odd TTL":        {TTL: 90*time.Second + 123456789, Subject: "s", Purpose: keys.Treatment},
		"wildcards":      {TTL: time.Minute, Subject: "*", Purpose: "X--", Reason: "*", RequestID: "+"},
		"the same twice": {TTL: time.Minute, Subject: "dr-lee", Purpose: keys.Treatment, RequestID: "dr-lee"},
	} {
		f.Run(what, func(f *fixture) {
			issued := time.Now()
			grant, err := f.Issue(f.Context(), patient, options)
			require.NoError(f, err)
			assert.Equal(f, id, grant.KeyID())
			assert.Equal(f, options.Subject, grant.Details().Subject)
			assert.Equal(f, options.Purpose, grant.Details().Purpose)
			assert.Equal(f, options.Reason, grant.Details().Reason)
			assert.Equal(f, options.RequestID, grant.Details().RequestID)
			assert.Equal(f, options.MaxUses, grant.Details().MaxUses)
			assert.NotEmpty(f, grant.Accessor())
			assert.False(f, grant.IsZero())
			assert.True(f, grant.Expires().After(time.Now()))
			assert.False(f, grant.Expires().After(issued.Add(options.TTL+clockSlack)), "the grant lasts longer than asked for")
			assert.NotContains(f, grant.Token(), string(patient))
			f.opens(grant, rec)

			text := grant.Reveal()
			require.LessOrEqual(f, len(text), keys.MaxGrantLen)
			parsed, err := keys.ParseGrant(text)
			require.NoError(f, err)
			f.opens(parsed, rec)
		})
	}

	first, second := f.newGrant(patient), f.newGrant(patient)
	assert.NotEqual(f, first.Accessor(), second.Accessor())
	assert.NotEqual(f, first.Token(), second.Token())
}

func grantOptionsBounds(f *fixture) {
	patient, _ := f.enrolled()
	for what, spoil := range map[string]func(*keys.GrantOptions){
		"no TTL":                   func(o *keys.GrantOptions) { o.TTL = 0 },
		"negative TTL":             func(o *keys.GrantOptions) { o.TTL = -time.Minute },
		"TTL too short":            func(o *keys.GrantOptions) { o.TTL = keys.MinGrantTTL - 1 },
		"TTL too long":             func(o *keys.GrantOptions) { o.TTL = keys.MaxGrantTTL + 1 },
		"no subject":               func(o *keys.GrantOptions) { o.Subject = "" },
		"subject too long":         func(o *keys.GrantOptions) { o.Subject = strings.Repeat("s", keys.MaxSubjectLen+1) },
		"subject not printable":    func(o *keys.GrantOptions) { o.Subject = "dr\nlee" },
		"subject not UTF-8":        func(o *keys.GrantOptions) { o.Subject = "dr\xff" },
		"no purpose":               func(o *keys.GrantOptions) { o.Purpose = "" },
		"purpose too long":         func(o *keys.GrantOptions) { o.Purpose = keys.Purpose(strings.Repeat("P", keys.MaxPurposeLen+1)) },
		"purpose in lower case":    func(o *keys.GrantOptions) { o.Purpose = "treat" },
		"purpose with space":       func(o *keys.GrantOptions) { o.Purpose = "TREAT BTG" },
		"request ID too long":      func(o *keys.GrantOptions) { o.RequestID = strings.Repeat("r", keys.MaxRequestIDLen+1) },
		"request ID not printable": func(o *keys.GrantOptions) { o.RequestID = "a\x00b" },
		"negative uses":            func(o *keys.GrantOptions) { o.MaxUses = -1 },
		"too many uses":            func(o *keys.GrantOptions) { o.MaxUses = keys.MaxGrantUses + 1 },
	} {
		f.Run(what, func(f *fixture) {
			o := options()
			spoil(&o)
			grant, err := f.Issue(f.Context(), patient, o)
			assert.ErrorIs(f, err, keys.ErrInvalidGrantOptions)
			assert.True(f, grant.IsZero(), "Issue returned a grant with the error")
		})
	}
}

// grantBeforeEnrolment checks that a login can issue a grant before the patient has recordings.
func grantBeforeEnrolment(f *fixture) {
	patient := f.newPatient()
	grant := f.newGrant(patient)
	_, err := f.Versions(f.Context(), grant.KeyID())
	assert.ErrorIs(f, err, keys.ErrNotEnrolled, "issuing enrolled the patient")

	id, err := f.Enrol(f.Context(), patient)
	require.NoError(f, err)
	assert.Equal(f, id, grant.KeyID())
	f.opens(grant, f.newRecording(id))
}

func otherPatientsGrant(f *fixture) {
	alice, aliceID := f.enrolled()
	bob, bobID := f.enrolled()
	aliceRec, bobRec := f.newRecording(aliceID), f.newRecording(bobID)
	aliceGrant, bobGrant := f.newGrant(alice), f.newGrant(bob)

	f.denied(f.unwrap(bobGrant, aliceRec))
	f.denied(f.unwrap(aliceGrant, bobRec))
	f.denied(f.unwrap(bobGrant, recording{binding: NewRecordingID(aliceID).Binding(), wrapped: bobRec.wrapped}))

	stranger, err := f.KeyID(f.Context(), f.newPatient())
	require.NoError(f, err)
	f.denied(f.unwrap(bobGrant, recording{binding: NewRecordingID(stranger).Binding(), wrapped: bobRec.wrapped}))

	// A refusal does not end a grant.
	f.opens(bobGrant, bobRec)
	f.opens(aliceGrant, aliceRec)
}

// tamperedDetails checks that the details of a grant have no effect on what it opens.
func tamperedDetails(f *fixture) {
	alice, aliceID := f.enrolled()
	bob, bobID := f.enrolled()
	aliceRec, bobRec := f.newRecording(aliceID), f.newRecording(bobID)
	aliceGrant, bobGrant := f.newGrant(alice), f.newGrant(bob)

	forged := keys.NewGrant(aliceGrant.Details(), bobGrant.Token())
	f.denied(f.unwrap(forged, aliceRec))
	f.opens(forged, bobRec)

	parsed, err := keys.ParseGrant(forged.Reveal())
	require.NoError(f, err)
	f.denied(f.unwrap(parsed, aliceRec))

	f.opens(keys.NewGrant(keys.GrantDetails{KeyID: aliceID}, aliceGrant.Token()), aliceRec)

	// RevokeSelf ends the grant with the forged grant's token, not the one that its details name.
	require.NoError(f, f.RevokeSelf(f.Context(), forged))
	f.ended(f.unwrap(bobGrant, bobRec))
	f.opens(aliceGrant, aliceRec)
}

func malformedGrants(f *fixture) {
	patient, id := f.enrolled()
	rec := f.newRecording(id)
	grant := f.newGrant(patient)
	token := grant.Token()
	middle := len(token) / 2
	f.watch.secret("half of a grant token", []byte(token[middle:]))
	for what, malformed := range map[string]string{
		"empty":              "",
		"a word":             "token",
		"too long":           strings.Repeat("x", 1<<20),
		"dots":               "..",
		"a path":             "../../sys/seal",
		"a line break":       token + "\n",
		"a header":           "x\r\nX-Vault-Token: root",
		"a zero byte":        token + "\x00",
		"a space before":     " " + token,
		"beyond ASCII":       "tökèn",
		"not UTF-8":          "\xff\xfe",
		"cut":                token[:len(token)-1],
		"cut in half":        token[:middle],
		"longer":             token + "A",
		"another's secret":   token[:middle] + strings.Map(nextLetter, token[middle:]),
		"upper case":         strings.ToUpper(token),
		"twice":              token + token,
		"the accessor":       grant.Accessor(),
		"the revealed grant": grant.Reveal(),
		"a JWT of no one":    "eyJhbGciOiJub25lIn0.eyJpc3MiOiJyZWN2YXVsdCJ9.",
	} {
		f.Run(what, func(f *fixture) {
			spoilt := keys.NewGrant(grant.Details(), malformed)
			assert.ErrorIs(f, f.unwrap(spoilt, rec), keys.ErrInvalidGrant, "Unwrap")
			assert.ErrorIs(f, f.CheckGrant(f.Context(), spoilt), keys.ErrInvalidGrant, "CheckGrant")
			assert.ErrorIs(f, f.RevokeSelf(f.Context(), spoilt), keys.ErrInvalidGrant, "RevokeSelf")
		})
	}
	assert.ErrorIs(f, f.unwrap(keys.Grant{}, rec), keys.ErrInvalidGrant, "Unwrap: the zero grant")
	assert.ErrorIs(f, f.CheckGrant(f.Context(), keys.Grant{}), keys.ErrInvalidGrant, "CheckGrant: the zero grant")
	assert.ErrorIs(f, f.RevokeSelf(f.Context(), keys.Grant{}), keys.ErrInvalidGrant, "RevokeSelf: the zero grant")
	f.opens(grant, rec)
}

func checkedGrant(f *fixture) {
	patient, id := f.enrolled()
	rec := f.newRecording(id)
	check := func(grant keys.Grant) error { return f.CheckGrant(f.Context(), grant) }
	grant := f.newGrant(patient)
	assert.NoError(f, check(grant))
	assert.NoError(f, check(f.newGrant(f.newPatient())), "the patient is not enrolled")
	o := options()
	o.DescribeOnly = true
	assert.NoError(f, check(f.newGrantWith(patient, o)))

	o = options()
	o.MaxUses = 2
	limited := f.newGrantWith(patient, o)
	assert.NoError(f, check(limited))
	f.opens(limited, rec)
	f.ended(check(limited))

	bob, bobID := f.enrolled()
	bobs := f.newGrant(bob)
	f.denied(check(keys.NewGrant(grant.Details(), bobs.Token())))
	require.NoError(f, f.Erase(f.Context(), bobID))
	assert.NoError(f, check(bobs), "the patient was erased")
	require.NoError(f, f.RevokeSelf(f.Context(), grant))
	f.ended(check(grant))
}

// nextLetter replaces a letter or digit by its neighbour. Mapped over half a token, it gives another
// token of the same form. Changing one character is not enough: some do not count in some tokens.
func nextLetter(r rune) rune {
	switch {
	case r == 'z', r == 'Z', r == '9':
		return r - 1
	case unicode.IsLetter(r), unicode.IsDigit(r):
		return r + 1
	}
	return r
}

func expiry(f *fixture) {
	patient, id := f.enrolled()
	rec := f.newRecording(id)
	lasting := f.newGrant(patient)
	o := options()
	o.TTL = keys.MinGrantTTL
	shortest := f.newGrantWith(patient, o)
	o.TTL, o.MaxUses = 2*keys.MinGrantTTL, keys.MaxGrantUses
	grant := f.newGrantWith(patient, o)

	var refused error
	require.Eventually(f, func() bool {
		_, refused = f.Unwrap(f.Context(), grant, rec.binding, rec.wrapped)
		return refused != nil
	}, 10*time.Second, 20*time.Millisecond, "the grant did not expire")
	// The keyring starts the TTL before it returns the grant, so the end may come a little earlier.
	assert.False(f, time.Now().Before(grant.Expires().Add(-time.Second)), "the grant ended before it expired")
	f.ended(refused)
	f.ended(f.unwrap(shortest, rec))
	f.ended(f.CheckGrant(f.Context(), shortest))

	details := grant.Details()
	details.Expires = details.Expires.Add(time.Hour)
	f.ended(f.unwrap(keys.NewGrant(details, grant.Token()), rec))

	assert.ErrorIs(f, f.RevokeSelf(f.Context(), grant), keys.ErrInvalidGrant)
	assert.ErrorIs(f, f.Revoke(f.Context(), grant.Accessor()), keys.ErrInvalidGrant)
	f.opens(lasting, rec)
}

func revokeByAccessor(f *fixture) {
	patient, id := f.enrolled()
	rec := f.newRecording(id)
	for what, uses := range map[string]int{"unlimited": 0, "limited": 5} {
		f.Run(what, func(f *fixture) {
			o := options()
			o.MaxUses = uses
			grant, other := f.newGrantWith(patient, o), f.newGrantWith(patient, o)
			f.opens(grant, rec)
			require.NoError(f, f.Revoke(f.Context(), grant.Accessor()))
			f.ended(f.unwrap(grant, rec))
			f.ended(f.unwrap(grant, rec))
			assert.ErrorIs(f, f.RevokeSelf(f.Context(), grant), keys.ErrInvalidGrant)
			assert.ErrorIs(f, f.Revoke(f.Context(), grant.Accessor()), keys.ErrInvalidGrant)
			f.opens(other, rec)
		})
	}
}

func revokeByHolder(f *fixture) {
	patient, id := f.enrolled()
	rec := f.newRecording(id)
	for what, uses := range map[string]int{"unlimited": 0, "limited": 5} {
		f.Run(what, func(f *fixture) {
			o := options()
			o.MaxUses = uses
			grant, other := f.newGrantWith(patient, o), f.newGrantWith(patient, o)
			f.opens(grant, rec)
			require.NoError(f, f.RevokeSelf(f.Context(), grant))
			f.ended(f.unwrap(grant, rec))
			assert.ErrorIs(f, f.RevokeSelf(f.Context(), grant), keys.ErrInvalidGrant)
			assert.ErrorIs(f, f.Revoke(f.Context(), grant.Accessor()), keys.ErrInvalidGrant)
			f.opens(other, rec)
		})
	}
}

func unknownAccessor(f *fixture) {
	patient, id := f.enrolled()
	rec, grant := f.newRecording(id), f.newGrant(patient)
	accessor := grant.Accessor()
	other := byte('a')
	if accessor[0] == other {
		other = 'b'
	}
	for what, unknown := range map[string]string{
		"empty":        "",
		"a word":       "accessor",
		"one byte off": string(other) + accessor[1:],
		"cut":          accessor[:len(accessor)-1],
		"longer":       accessor + "a",
		"a path":       "../patients/" + id.String(),
		"in a folder":  "./" + accessor,
		"a KeyID":      id.String(),
		"a line break": accessor + "\n",
		"a zero byte":  accessor + "\x00",
		"a wildcard":   "*",
		"not UTF-8":    "\xff",
		"too long":     strings.Repeat("a", 1<<16),
	} {
		f.Run(what, func(f *fixture) {
			assert.ErrorIs(f, f.Revoke(f.Context(), unknown), keys.ErrInvalidGrant)
		})
	}
	f.opens(grant, rec)
}

func copiedGrant(f *fixture) {
	patient, id := f.enrolled()
	rec, grant := f.newRecording(id), f.newGrant(patient)
	parsed, err := keys.ParseGrant(grant.Reveal())
	require.NoError(f, err)
	assert.Equal(f, grant.KeyID(), parsed.KeyID())
	assert.Equal(f, grant.Accessor(), parsed.Accessor())
	assert.True(f, grant.Expires().Equal(parsed.Expires()))

	f.opens(parsed, rec)
	require.NoError(f, f.RevokeSelf(f.Context(), parsed))
	f.ended(f.unwrap(grant, rec))
	f.ended(f.unwrap(parsed, rec))
}

func usedUp(f *fixture) {
	patient, id := f.enrolled()
	rec := f.newRecording(id)
	for _, uses := range []int{1, 3} {
		f.Run(strconv.Itoa(uses), func(f *fixture) {
			o := options()
			o.MaxUses = uses
			grant := f.newGrantWith(patient, o)
			for range uses {
				f.opens(grant, rec)
			}
			f.ended(f.unwrap(grant, rec))
			f.ended(f.unwrap(grant, rec))
			assert.ErrorIs(f, f.RevokeSelf(f.Context(), grant), keys.ErrInvalidGrant)
			assert.ErrorIs(f, f.Revoke(f.Context(), grant.Accessor()), keys.ErrInvalidGrant)
		})
	}
}

// refusedAttemptTakesUse checks that a user who tries a leaked list of recordings uses up the grant.
func refusedAttemptTakesUse(f *fixture) {
	_, aliceID := f.enrolled()
	bob, bobID := f.enrolled()
	aliceRec, bobRec := f.newRecording(aliceID), f.newRecording(bobID)
	o := options()
	o.MaxUses = 3
	grant := f.newGrantWith(bob, o)
	f.denied(f.unwrap(grant, aliceRec))
	f.opens(grant, bobRec)
	f.denied(f.unwrap(grant, aliceRec))
	f.ended(f.unwrap(grant, bobRec))

	o.MaxUses = 2
	grant = f.newGrantWith(bob, o)
	altered := bobRec
	altered.binding = NewRecordingID(bobID).Binding()
	assert.ErrorIs(f, f.unwrap(grant, altered), keys.ErrIntegrity)
	f.opens(grant, bobRec)
	f.ended(f.unwrap(grant, bobRec))

	o.MaxUses = 1
	grant = f.newGrantWith(bob, o)
	f.denied(f.unwrap(grant, aliceRec))
	f.ended(f.unwrap(grant, bobRec))
}

func revocationTakesUse(f *fixture) {
	patient, id := f.enrolled()
	rec := f.newRecording(id)
	o := options()
	o.MaxUses = 2
	grant := f.newGrantWith(patient, o)
	f.opens(grant, rec)
	require.NoError(f, f.RevokeSelf(f.Context(), grant), "the last use")
	f.ended(f.unwrap(grant, rec))
}

func describeOnly(f *fixture) {
	patient, id := f.enrolled()
	grant, err := f.Issue(f.Context(), patient, keys.GrantOptions{
		TTL: time.Minute, Subject: "dr-lee", Purpose: keys.CareManagement, DescribeOnly: true,
	})
	require.NoError(f, err)
	assert.True(f, grant.Details().DescribeOnly)
	rec := f.newRecording(id)
	assert.ErrorIs(f, f.unwrap(grant, rec), keys.ErrDenied)
	key := keys.NewKey()
	wrapped, err := f.Wrap(f.Context(), rec.binding.RecordingID().MetadataBinding(), key)
	require.NoError(f, err)
	f.opens(grant, recording{rec.binding.RecordingID().MetadataBinding(), wrapped, key.Bytes()})

	// Its details do not widen it, and it opens no other patient's metadata.
	details := grant.Details()
	details.DescribeOnly = false
	assert.ErrorIs(f, f.unwrap(keys.NewGrant(details, grant.Token()), rec), keys.ErrDenied)
	_, other := f.enrolled()
	foreign := NewRecordingID(other).MetadataBinding()
	wrapped, err = f.Wrap(f.Context(), foreign, key)
	require.NoError(f, err)
	assert.ErrorIs(f, f.unwrap(grant, recording{foreign, wrapped, key.Bytes()}), keys.ErrDenied)
	require.NoError(f, f.RevokeSelf(f.Context(), grant))
}
