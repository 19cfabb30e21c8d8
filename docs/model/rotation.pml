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
 *	NO_RERUN        a process that crashed is not run again
 *	STOPPED_CLOCK   time stands still
 */

/*
 * Sizes. ./run checks two models. By default there are two recordings and one rotator: recording 0 was
 * committed long ago, and recording 1 is put now. With ALONE there are recording 1 and two rotators.
 */
#ifdef ALONE
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
 * A wrapped recording key: the version of the envelope key, and the recording that it belongs to. In the
 * store, the version also stands for the ETag: a replacement always raises it, so two contents of one name
 * never have the same.
 */
typedef Wrapped {
	byte version;	/* 0: there is no envelope */
	byte key;	/* the recording key inside; recording r has key r + 1 */
};

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
bool retired_too_early;	/* the minimum was raised above an envelope in the store */

bool calm;	/* from now on there are no crashes, deletions or erasures */

#define present(r)    (envelope[r].version > 0)
#define old(r)        (present(r) && envelope[r].version < latest)
#define unreadable(r) (present(r) && envelope[r].version < oldest)
#define lost(r)       (committed[r] && !deleted[r] && !present(r))
#define mistaken(r)   (present(r) && envelope[r].key != r + 1)

/* (1) Every committed recording opens, unless its patient was erased. */
ltl readable { [] (erased || (!unreadable(0) && !unreadable(1))) }

/* (2) A committed recording stays until it is deleted or its patient is erased, and its envelope wraps its own key. */
ltl nothing_lost { [] (erased || (!lost(0) && !lost(1) && !mistaken(0) && !mistaken(1))) }

/* A deleted recording stays deleted. */
ltl stays_deleted { [] (!(deleted[0] && present(0)) && !(deleted[1] && present(1))) }

/* An envelope's version never falls. */
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
bool lost_race, refused, left_over, rewrapped_late;
#define watch(what) what = true
ltl reach_retired   { [] !(!erased && oldest == VERSIONS && present(0) && present(1)) }
ltl reach_lost_race { [] !(!erased && lost_race) }
ltl reach_refused   { [] !(!erased && refused) }
ltl reach_left_over { [] !(!erased && left_over) }
ltl reach_rewrapped { [] !(!erased && rewrapped_late && committed[1] && oldest == VERSIONS) }
ltl reach_late      { [] !(!erased && present(1) && !over[1] && stopwatch[1] == COMMIT && envelope[1].version < latest) }
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

inline put_if_absent(r, w) {
	if
	:: if_none_match(envelope[r].version == 0) ->
		went_back = went_back || w < envelope[r].version;
		envelope[r].version = w;
		envelope[r].key = r + 1;
		committed[r] = true;
		printf("SAY writer %d: the envelope arrives, under v%d\n", r, w)
	:: else -> printf("SAY writer %d: the envelope arrives again, and is refused\n", r)
	fi
}

inline put_if_match(r, w, etag) {
	if
	:: if_match(envelope[r].version == etag) ->
		went_back = went_back || w.version < envelope[r].version;
		envelope[r].version = w.version;
		envelope[r].key = w.key;
		printf("SAY rotator %d: replaces the envelope of recording %d, by one under v%d\n", _pid - 1, r, w.version)
	:: else ->
		watch(lost_race);
		printf("SAY rotator %d: finds that the envelope has changed\n", _pid - 1)
	fi
}

inline read(w, r) {
	w.version = envelope[r].version;
	w.key = envelope[r].key;
	printf("SAY rotator %d: reads the envelope of recording %d, under v%d\n", _pid - 1, r, w.version)
}

inline delete(r) {
	envelope[r].version = 0;
	envelope[r].key = 0
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
	seen.version = 0; seen.key = 0;
	rewrapped.version = 0; rewrapped.key = 0
}

/* ---- the processes ---- */

/* vault.Put of recording r. The request of a writer that crashes may still arrive, or was never sent. */
proctype Writer(byte r) {
	byte wrapped;

	/* begin: reads the clock before it asks for the wrap. */
	atomic { stopwatch[r] = 0; printf("SAY writer %d: reads the clock\n", r) }
	if
	:: atomic { !erased -> wrapped = latest; printf("SAY writer %d: wraps under v%d, uploads\n", r, wrapped) }
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
			printf("SAY writer %d: commits, finds its wrap too old\n", r);
			goto rewrapping
#endif
		:: else ->
			stopwatch[r] = 0;
			printf("SAY writer %d: commits its wrap under v%d\n", r, wrapped);
			goto sending
		fi
	}
rewrapping:
	if
	:: atomic { !erased -> wrapped = latest; printf("SAY writer %d: wraps again, under v%d\n", r, wrapped) }
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
		put_if_absent(r, wrapped)
	   }
	:: break
	od;
ended:
	atomic { wrapped = 0; stopwatch[r] = LONG; over[r] = true }
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
	:: atomic { !erased && seen.version >= oldest ->
		rewrapped.version = latest;
#ifdef MIX_UP
		rewrapped.key = 3 - seen.key;	/* recording 0 gets the key of recording 1, and the reverse */
#else
		rewrapped.key = seen.key;
#endif
		seen.key = 0;
		printf("SAY rotator %d: rewraps it to v%d\n", _pid - 1, latest)
	   }
	:: atomic { !erased && seen.version < oldest ->	/* another rotator has rewrapped it, and its version was retired */
		watch(refused);
		forget();
		goto end
	   }
	:: atomic { erased -> forget(); goto end }
	:: atomic { !calm -> goto crash }
	fi;
	if
	:: atomic { put_if_match(r, rewrapped, seen.version); forget(); goto end }	/* if the race was lost, to read again */
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
	:: atomic { r < RECORDINGS && present(r) && envelope[r].version < newest ->
		printf("SAY retirer: recording %d is still under v%d\n", r, envelope[r].version);
		watch(left_over);
		goto again
	   }
	:: atomic { r < RECORDINGS && !(present(r) && envelope[r].version < newest) ->
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
		run Writer(1);
#ifndef ALONE
		envelope[0].version = 1;
		envelope[0].key = 1;
		committed[0] = true;
#endif
		run Rotator();
#if ROTATORS == 2
		run Rotator();
#endif
		run Retirer();
		run Eraser();
		run Deleter();
		run Clock();
#ifdef CALM
		run Weather()
#endif
	}
}
