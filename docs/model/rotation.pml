/*
 * Rotation, retirement and erasure of one patient's envelope key, concurrent with writers, with crashes.
 *
 * README.md maps each part to the code, and ./run checks everything. Each -D below removes one part of the
 * protocol, and ./run shows what then goes wrong.
 *
 *	NO_REWRAP       a writer commits its wrap however old it is
 *	NO_DEADLINE     a commit may arrive at any time
 *	LATE_DEADLINE   the deadline counts from the sending, not from the clock reading that found the wrap
 *	                fresh
 *	NO_IFNONE       a commit replaces an envelope that exists
 *	NO_IFMATCH      a rewrap replaces an envelope that was changed or deleted since it was read
 *	NO_GRACE        a retirer does not wait after a rotation
 *	SHORT_GRACE     it waits exactly as long as freshness and deadline together
 *	NO_RESCAN       it scans before it waits, and not again
 *	RAISE_TO_NEWEST it retires up to the newest version at the end of its scan, not at the beginning
 *	OBJECTS_FIRST   an erasure starts with the objects and not with the key
 *	EARLY_DELETE    a recording is deleted before its put has ended
 *	MIX_UP          a rotator stores a rewrapped key in another recording's envelope
 *	REWRAP_ONE      a rewrap moves the recording key's wrap and leaves the metadata key's
 *	SCAN_ONE        a retirer looks at the recording key's wrap only
 *	TRUST_LABELS    a retirer believes the labels of wrapped keys, and does not have the keyring re-wrap them
 *	NO_RERUN        a process that crashed is not run again
 *	STOPPED_CLOCK   time stands still
 */

/*
 * Sizes. ./run checks three models. By default there are two recordings and one rotator: recording 0 was
 * committed long ago, and recording 1 is put now. With ALONE there are recording 1 and two rotators. With EDITED
 * there are recording 0 and two rotators, and somebody edits one label of its wrapped keys, or both, once.
 */
#if defined(ALONE) || defined(EDITED)
#define ROTATORS 2
#else
#define ROTATORS 1
#endif
#define RECORDINGS 2
#define VERSIONS   3	/* of the envelope key, so at most two rotations */

/* Durations, in ticks. Steps between two ticks may happen in any order. */
#ifndef FRESHNESS
#define FRESHNESS 2
#endif
#define COMMIT    1
#if defined(NO_GRACE)
#define GRACE 0
#elif defined(SHORT_GRACE)
#define GRACE (FRESHNESS + COMMIT)
#else
#define GRACE (FRESHNESS + COMMIT + 1)
#endif
#define LONG  (FRESHNESS + 1)	/* longer than any time that a writer measures */

/* ---- the store: the envelopes ---- */

/*
 * An envelope: the versions of the envelope key that wrap the recording key and the metadata key, and the recording that
 * the keys belong to. In the store, the versions and the edited label also stand for the ETag: a replacement raises at
 * least one of the versions, so two contents of one name never have the same.
 *
 * A label names the version, unless it was edited. The keyring cannot use a wrapped key under an edited label. Once
 * somebody repairs the label, it can, as long as the version unwraps.
 */
typedef Wrapped {
	byte version;	/* of the recording key's wrap; 0: there is no envelope */
	byte meta;	/* of the metadata key's wrap */
	byte key;	/* the keys inside; recording r has keys r + 1 */
#ifdef EDITED
	byte label;	/* the version that edited labels name; 0: none was edited */
	byte whose;	/* KEY, META or both together */
#endif
};

#define KEY  1
#define META 2

#ifdef EDITED
#define edited(w)     (w.label > 0)
#define key_label(w)  (w.label > 0 && w.whose != META -> w.label : w.version)	/* to be printed; LTL has another -> */
#define meta_label(w) (w.label > 0 && w.whose != KEY -> w.label : w.meta)
#define key_at(w, least)  (w.version >= least || (w.whose != META && w.label >= least))
#define meta_at(w, least) (w.meta >= least || (w.whose != KEY && w.label >= least))
#define same_edit(v, w) (v.label == w.label && v.whose == w.whose)
inline copy_edit(to, from) { to.label = from.label; to.whose = from.whose }
inline no_edit(w) { w.label = 0; w.whose = 0 }
#else
#define edited(w)     false
#define key_label(w)  w.version
#define meta_label(w) w.meta
#define key_at(w, least)  (w.version >= least)
#define meta_at(w, least) (w.meta >= least)
#define same_edit(v, w) true
inline copy_edit(to, from) { skip }
inline no_edit(w) { skip }
#endif

/* A retirer finds the envelope at this version, or a newer one, by its labels: both wraps are. */
#ifdef SCAN_ONE
#define labelled(w, least) key_at(w, least)
#else
#define labelled(w, least) (key_at(w, least) && meta_at(w, least))
#endif

/* The keyring can re-wrap both keys. */
#define rewrappable(w) (!edited(w) && w.version >= oldest && w.meta >= oldest)

/* What a retirer wants to see of an envelope beside its labels. */
#if defined(TRUST_LABELS)
#define proved(w) true
#elif defined(SCAN_ONE)
#define proved(w) (w.version >= oldest)
#else
#define proved(w) rewrappable(w)
#endif

Wrapped envelope[RECORDINGS];

/* ---- the keyring: the envelope key ---- */

byte latest = 1;	/* the newest version */
byte oldest = 1;	/* min_decryption_version */
bool erased;		/* the key was deleted */

/* ---- time ---- */

byte since[VERSIONS + 1];	/* time since a version was made; counts up to GRACE */
byte stopwatch[RECORDINGS];	/* time that each writer measures; counts up to LONG */

/* ---- for the properties; no process of the protocol reads these ---- */

bool committed[RECORDINGS];
bool deleted[RECORDINGS];
bool over[RECORDINGS];	/* the put has ended, and none of its requests can still arrive */
bool went_back;		/* an envelope was replaced by one under an older version */
bool retired_too_early;	/* the minimum was raised above a wrap in the store */

bool calm;	/* from now on there are no crashes, deletions or erasures */

#define present(r)    (envelope[r].version > 0)
#define old(r)        (present(r) && !(key_at(envelope[r], latest) && meta_at(envelope[r], latest)))
#define unreadable(r) (present(r) && (envelope[r].version < oldest || envelope[r].meta < oldest))
#define lost(r)       (committed[r] && !deleted[r] && !present(r))
#define mistaken(r)   (present(r) && envelope[r].key != r + 1)

/* (1) Every committed recording opens, at least with repaired labels, unless its patient was erased. */
ltl readable { [] (erased || (!unreadable(0) && !unreadable(1))) }

/* (2) A committed recording stays until it is deleted or its patient is erased, and its envelope wraps its own key. */
ltl nothing_lost { [] (erased || (!lost(0) && !lost(1) && !mistaken(0) && !mistaken(1))) }

/* A deleted recording stays deleted. */
ltl stays_deleted { [] (!(deleted[0] && present(0)) && !(deleted[1] && present(1))) }

/* The versions of an envelope never fall. */
ltl never_back { [] !went_back }

/* (3) Once there are no more crashes, all envelopes reach the newest version, and the others are retired. */
ltl rotation_ends { <> [] (erased || (oldest == latest && !old(0) && !old(1))) }

/* (4) The minimum is raised only when no envelope in the store is under an older version. */
ltl retired_in_time { [] !retired_too_early }

/*
 * With WATCH: states that the model must be able to reach, or the claims above would be vacuous. These
 * claims must fail.
 */
#ifdef WATCH
bool lost_race, refused, left_over, rewrapped_late, unproved;
#define watch(what) what = true
ltl reach_retired   { [] !(!erased && oldest == VERSIONS && present(0) && present(1)) }
ltl reach_lost_race { [] !(!erased && lost_race) }
ltl reach_refused   { [] !(!erased && refused) }
ltl reach_left_over { [] !(!erased && left_over) }
ltl reach_rewrapped { [] !(!erased && rewrapped_late && committed[1] && oldest == VERSIONS) }
ltl reach_late      { [] !(!erased && present(1) && !over[1] && stopwatch[1] == COMMIT && old(1)) }
ltl reach_mixed     { [] !(!erased && present(1) && envelope[1].version != envelope[1].meta) }
ltl reach_unproved  { [] !(!erased && unproved) }
ltl reach_deleted   { [] !(!erased && deleted[0] && deleted[1] && oldest == VERSIONS) }
ltl reach_erased    { [] !(erased && committed[0] && committed[1] && !deleted[0] && !deleted[1] && !present(0) && !present(1)) }
ltl reach_stray     { [] !(erased && !present(0) && present(1)) }
#else
#define watch(what) skip
#endif

/* ---- requests to the store, each of them atomic ---- */

#ifdef NO_IFNONE
#define if_none_match(condition) true
#else
#define if_none_match(condition) (condition)
#endif
#ifdef NO_IFMATCH
#define if_match(condition) true
#else
#define if_match(condition) (condition)
#endif

inline put_if_absent(r, w, m) {
	if
	:: if_none_match(envelope[r].version == 0) ->
		went_back = went_back || w < envelope[r].version || m < envelope[r].meta;
		envelope[r].version = w;
		envelope[r].meta = m;
		envelope[r].key = r + 1;
		no_edit(envelope[r]);
		committed[r] = true;
		printf("SAY writer %d: the envelope arrives, under v%d and v%d\n", r, w, m)
	:: else -> printf("SAY writer %d: the envelope arrives again, and is refused\n", r)
	fi
}

inline put_if_match(r, w, etag) {
	if
	:: if_match(envelope[r].version == etag.version && envelope[r].meta == etag.meta && same_edit(envelope[r], etag)) ->
		went_back = went_back || w.version < envelope[r].version || w.meta < envelope[r].meta;
		envelope[r].version = w.version;
		envelope[r].meta = w.meta;
		envelope[r].key = w.key;
		no_edit(envelope[r]);
		printf("SAY rotator %d: replaces the envelope of recording %d, by one under v%d and v%d\n", _pid - 1, r, w.version, w.meta)
	:: else ->
		watch(lost_race);
		printf("SAY rotator %d: finds that the envelope has changed\n", _pid - 1)
	fi
}

inline read(w, r) {
	w.version = envelope[r].version;
	w.meta = envelope[r].meta;
	w.key = envelope[r].key;
	copy_edit(w, envelope[r]);
	printf("SAY rotator %d: reads the envelope of recording %d, under v%d and v%d\n", _pid - 1, r, key_label(w), meta_label(w))
}

inline delete(r) {
	envelope[r].version = 0;
	envelope[r].meta = 0;
	envelope[r].key = 0;
	no_edit(envelope[r])
}

/* A deletion before the commit of its recording would be undone, because the commit finds no envelope. */
#ifdef EARLY_DELETE
#define may_delete(r) true
#else
#define may_delete(r) over[r]
#endif

#define counting (since[2] < GRACE || since[3] < GRACE || stopwatch[0] < LONG || stopwatch[1] < LONG)
inline count(timer, limit) { timer = (timer < limit -> timer + 1 : limit) }

/* A process that starts again has lost all that it knew. */
inline forget() {
	r = 0;
	seen.version = 0; seen.meta = 0; seen.key = 0;
	no_edit(seen);
	rewrapped.version = 0; rewrapped.meta = 0; rewrapped.key = 0
}

/* ---- the processes ---- */

inline wrap_other() {
	wrapped = (wrapped == 0 -> latest : wrapped);
	meta = (meta == 0 -> latest : meta)
}

/* vault.Put of recording r. The request of a writer that crashes may still arrive, or was never sent. */
proctype Writer(byte r) {
	byte wrapped, meta;

	/* begin: reads the clock before it asks for the wrap. */
	atomic { stopwatch[r] = 0; printf("SAY writer %d: reads the clock\n", r) }
	/* Both wraps are made side by side, so either may be first. */
	if
	:: atomic { !erased -> wrapped = latest; printf("SAY writer %d: wraps the recording key under v%d\n", r, wrapped) }
	:: atomic { !erased -> meta = latest; printf("SAY writer %d: wraps the metadata key under v%d\n", r, meta) }
	:: atomic { erased -> goto ended }
	:: goto ended
	fi;
	if
	:: atomic { !erased -> wrap_other(); printf("SAY writer %d: has wraps under v%d and v%d, uploads\n", r, wrapped, meta) }
	:: atomic { erased -> goto ended }
	:: goto ended
	fi;

	/* The upload may take any time. */
	if
	:: true
	:: goto ended
	fi;

	/* commit: the deadline, and the age of a wrap made now, count from this clock reading. */
	atomic {
		if
#ifndef NO_REWRAP
		:: stopwatch[r] > FRESHNESS ->
			stopwatch[r] = 0;
			watch(rewrapped_late);
			wrapped = 0; meta = 0;
			printf("SAY writer %d: commits, finds its wraps too old\n", r);
			goto rewrapping
#endif
		:: else ->
			stopwatch[r] = 0;
			printf("SAY writer %d: commits its wraps under v%d and v%d\n", r, wrapped, meta);
			goto sending
		fi
	}
rewrapping:
	if
	:: atomic { !erased -> wrapped = latest; printf("SAY writer %d: wraps the recording key again, under v%d\n", r, wrapped) }
	:: atomic { !erased -> meta = latest; printf("SAY writer %d: wraps the metadata key again, under v%d\n", r, meta) }
	:: atomic { erased -> goto ended }
	:: goto ended
	fi;
	if
	:: atomic { !erased -> wrap_other(); printf("SAY writer %d: has wraps under v%d and v%d\n", r, wrapped, meta) }
	:: atomic { erased -> goto ended }
	:: goto ended
	fi;
sending:
#ifdef LATE_DEADLINE
	atomic { stopwatch[r] = 0; printf("SAY writer %d: sends the envelope\n", r) };
#endif
	/* The request arrives never, once, or several times, because it is repeated when an answer is lost. */
	do
	:: atomic {
#ifndef NO_DEADLINE
		stopwatch[r] <= COMMIT ->
#endif
		put_if_absent(r, wrapped, meta)
	   }
	:: break
	od;
ended:
	atomic { wrapped = 0; meta = 0; stopwatch[r] = LONG; over[r] = true }
}

/* Rotate and Rewrap of package rotation. A pass over all envelopes is a step for each old one. */
proctype Rotator() {
	byte r;
	Wrapped seen, rewrapped;

end:	do
	:: atomic { !erased && latest < VERSIONS ->
		latest++;
		since[latest] = 0;
		printf("SAY rotator %d: rotates to v%d\n", _pid - 1, latest)
	   }
	:: atomic { !erased && old(0) -> r = 0; read(seen, 0) } -> goto rewrap
	:: atomic { !erased && old(1) -> r = 1; read(seen, 1) } -> goto rewrap
	od;
rewrap:
	if
	:: atomic { !erased && rewrappable(seen) ->
		rewrapped.version = latest;
#ifdef REWRAP_ONE
		rewrapped.meta = seen.meta;
#else
		rewrapped.meta = latest;
#endif
#ifdef MIX_UP
		rewrapped.key = 3 - seen.key;	/* recording 0 gets the keys of recording 1, and the reverse */
#else
		rewrapped.key = seen.key;
#endif
		seen.key = 0;
		printf("SAY rotator %d: rewraps it to v%d and v%d\n", _pid - 1, rewrapped.version, rewrapped.meta)
	   }
	:: atomic { !erased && !rewrappable(seen) ->	/* an edited label, or another rotator has rewrapped it, and its version was retired */
		watch(refused);
		forget();
		goto end
	   }
	:: atomic { erased -> forget(); goto end }
	:: atomic { !calm -> goto crash }
	fi;
	if
	:: atomic { put_if_match(r, rewrapped, seen); forget(); goto end }	/* if the race was lost, to read again */
	:: atomic { !calm -> goto crash }
	fi;
crash:
	atomic {
		forget();
		printf("SAY rotator %d: crashes\n", _pid - 1);
#ifndef NO_RERUN
		goto end
#endif
	}
}

/* Retire of package rotation. */
proctype Retirer() {
	byte newest, r;

end:	atomic { !erased && oldest < latest ->
		newest = latest;
		printf("SAY retirer: reads that the newest version is v%d\n", newest)
	}
#ifdef NO_RESCAN
	goto scan;
wait:
#endif
	if
	:: atomic { since[newest] >= GRACE -> printf("SAY retirer: the grace period of v%d is over\n", newest) }
	:: atomic { !calm -> goto again }
	fi;
#ifdef NO_RESCAN
	goto raise;
scan:
#endif
	do
	:: atomic { r < RECORDINGS && present(r) && !labelled(envelope[r], newest) ->
		printf("SAY retirer: recording %d is still under v%d and v%d\n", r, key_label(envelope[r]), meta_label(envelope[r]));
		watch(left_over);
		goto again
	   }
#ifndef TRUST_LABELS
	/* The proof depends on what was read, and on nothing that changes, so both are one step. */
	:: atomic { r < RECORDINGS && present(r) && labelled(envelope[r], newest) && !proved(envelope[r]) ->
		printf("SAY retirer: the keyring cannot re-wrap the keys of recording %d\n", r);
		watch(unproved);
		goto again
	   }
#endif
	:: atomic { r < RECORDINGS && !(present(r) && !(labelled(envelope[r], newest) && proved(envelope[r]))) ->
		printf("SAY retirer: recording %d is not in the way\n", r);
		r++
	   }
	:: r == RECORDINGS -> break
	:: atomic { !calm -> goto again }
	od;
#ifdef NO_RESCAN
	goto wait;
raise:
#endif
	if
	:: atomic { !erased ->
#ifdef RAISE_TO_NEWEST
		newest = latest;
#endif
		oldest = newest;
		retired_too_early = retired_too_early || unreadable(0) || unreadable(1);
		printf("SAY retirer: retires what is older than v%d\n", newest)
	   }
	:: atomic { erased }
	:: atomic { !calm }
	fi;
again:
	atomic { newest = 0; r = 0; goto end }
}

#ifdef EDITED
inline edit(which) {
	envelope[0].label = latest;
	envelope[0].whose = which;
	printf("SAY editor: edits labels of recording 0, which is under v%d and v%d, to v%d and v%d\n",
		envelope[0].version, envelope[0].meta, key_label(envelope[0]), meta_label(envelope[0]))
}

/* Somebody who can write to the bucket: edits labels to name the newest version. */
proctype Editor() {
end:	if
	:: atomic { present(0) && envelope[0].version < latest -> edit(KEY) }
	:: atomic { present(0) && envelope[0].meta < latest -> edit(META) }
	:: atomic { present(0) && envelope[0].version < latest && envelope[0].meta < latest -> edit(KEY + META) }
	fi
}
#endif

/* Confirm of package erasure: at any time, or never. */
proctype Eraser() {
	byte r;

end:	!calm;
again:
#ifdef OBJECTS_FIRST
	goto objects;
key:
#endif
	atomic {
		erased = true;
		latest = 1; oldest = 1; since[2] = GRACE; since[3] = GRACE;	/* no longer used */
		printf("SAY eraser: deletes the key\n")
	};
#ifdef OBJECTS_FIRST
	goto done;
#endif
objects:
	do
	:: atomic { r < RECORDINGS -> delete(r); printf("SAY eraser: deletes recording %d\n", r); r++ }
	:: atomic { r == RECORDINGS -> r = 0; break }
	:: atomic { !calm -> printf("SAY eraser: crashes\n"); r = 0; goto again }
	od;
#ifdef OBJECTS_FIRST
	goto key;
done:
#endif
	skip
}

/* vault.Delete of any recordings, or of none. */
proctype Deleter() {
end:	do
	:: atomic { !calm && present(0) && may_delete(0) -> delete(0); deleted[0] = true; printf("SAY deleter: deletes recording 0\n") }
	:: atomic { !calm && present(1) && may_delete(1) -> delete(1); deleted[1] = true; printf("SAY deleter: deletes recording 1\n") }
	od
}

/* Time may pass at any moment, as long as a timer is running. */
proctype Clock() {
#ifndef STOPPED_CLOCK
end:	do
	:: atomic { counting ->
		count(since[2], GRACE);
		count(since[3], GRACE);
		count(stopwatch[0], LONG);
		count(stopwatch[1], LONG);
		printf("SAY time passes\n")
	   }
	od
#else
	skip
#endif
}

#ifdef CALM
/* Sets calm at some time. Without CALM it never comes, so the safety properties are checked with all crashes. */
proctype Weather() {
	calm = true
}
#endif

init {
	atomic {
		since[2] = GRACE;	/* not made yet: nothing to count */
		since[3] = GRACE;
		over[0] = true;
		stopwatch[0] = LONG;
		stopwatch[1] = LONG;
#ifdef EDITED
		over[1] = true;
#else
		run Writer(1);
#endif
#ifndef ALONE
		envelope[0].version = 1;
		envelope[0].meta = 1;
		envelope[0].key = 1;
		committed[0] = true;
#endif
		run Rotator();
#if ROTATORS == 2
		run Rotator();
#endif
		run Retirer();
#ifdef EDITED
		run Editor();
#endif
		run Eraser();
		run Deleter();
		run Clock();
#ifdef CALM
		run Weather()
#endif
	}
}
