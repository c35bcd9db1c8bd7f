/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The handover of docs/handover.md as a model for spin: one source, one destination, an operator,
 * two attempts (unless told otherwise) over a connection each, two switchovers in each (the first may be called off).
 *
 * What is left out, because it has no say in who owns the guest: RAM, passes, rehearsals,
 * heartbeats. What is in: every frame from END on, with its number in its direction.
 *
 *	-DFAULTS	a frame may be lost or doubled, either side may lose patience (or find the
 *			connection broken) at any moment, the destination may refuse the state
 *	-DCRASH_S	the source may die at any step
 *	-DCRASH_D	the destination may die at any step
 *	-DATTEMPTS=n	how many
 *	-DMUTANT=n	one rule of the protocol is broken on purpose: the checks must find it
 *
 * Checked in every run: at no time do both sides run the guest, or own it; the source commits only
 * to a destination that has loaded the very state it commits to. And in the end one of them runs it.
 */
#ifndef MUTANT
#define MUTANT 0
#endif
#define RESUMES_AFTER_COMMIT  1 /* the source, when RUNNING does not come */
#define RUNS_WHEN_READY       2 /* the destination, without a commit */
#define TAKES_ANY_READY       3 /* the source takes the answer to a switchover it has called off */
#define SHOWS_TOKEN_EARLY     4 /* the operator gets it before the commit */
#define FORGETS_ABORT         5 /* the destination runs it on a broken connection */
#define STAYS_DARK            6 /* the source, when the other side fails before the commit */
#define HIDES_TOKEN           7 /* the source, when it is undecided */

#ifndef ATTEMPTS
#define ATTEMPTS 2
#endif
#define ROUNDS   2

mtype = { END, READY, AGAIN, COMMIT, RUNNING, ABORT, FAIL };

/* Frames carry their number in their direction, and the round or the token that they are about. */
chan to_d[2] = [3] of { mtype, byte, byte };
chan to_s[2] = [3] of { mtype, byte, byte };
chan connect = [0] of { byte };
bool up[2];

bool s_runs = true, s_given, s_dead;
bool d_runs, d_owns, d_dead, d_undecided;
byte d_loaded;           /* the round whose state it holds whole; 0 = none */
bool shown[2];    /* the source shows this attempt's token */
bool brought[2];  /* the operator has told it to the destination */

#define check() assert(!(s_runs && d_runs)); assert(!(d_owns && !s_given)); \
		assert(!(d_runs && !d_owns)); assert(!(s_runs && s_given))

#ifdef FAULTS
#define impatient true
#else
#define impatient false
#endif

/* What a connection that breaks swallows nobody knows. */
inline put(to, type, word)
{
	if
	:: up[a] && nfull(to) -> to!type, sent, word
	:: !up[a]
#ifdef FAULTS
	:: up[a] /* lost */
	:: up[a] && len(to) < 2 -> atomic { to!type, sent, word; to!type, sent, word }
#endif
	fi;
	sent++
}

#define broken (!up[a] || impatient)

proctype Source() provided (!s_dead)
{
	byte a, round, sent, due, number, about;
	mtype type;

attempt:
	if
	:: a == ATTEMPTS -> goto stays
	:: else
	fi;
	if
	:: goto stays /* nobody asks for a migration */
	:: connect!a
	fi;
	round = 1; sent = 0; due = 0;

dark:
	s_runs = false;
#if MUTANT == SHOWS_TOKEN_EARLY
	shown[a] = true;
#endif
	put(to_d[a], END, round);

answer:
	number = 0; about = 0; type = 0;
	if
	:: to_s[a]?type, number, about
	:: broken -> goto failed
	:: round < ROUNDS -> goto call_off /* would overrun */
	fi;
	if
	:: number != due -> goto failed
	:: else -> due++
	fi;
	if
	:: type == FAIL -> goto failed
#if MUTANT == TAKES_ANY_READY
	:: type == READY
#else
	:: type == READY && about == round
	:: type == READY && about < round -> goto answer
#endif
	:: else -> goto failed
	fi;
	if
	:: round < ROUNDS -> goto call_off
	:: goto gives_up /* cancelled */
	:: atomic {
		assert(d_dead || d_loaded == round);
		s_given = true; /* the commit point */
		check()
	   }
	fi;
	put(to_d[a], COMMIT, a);
	if
	:: to_s[a]?type, number, about
	:: broken -> goto undecided
	fi;
	if
	:: number == due && type == RUNNING -> goto done
	:: else -> goto undecided
	fi;

call_off:
	atomic { s_runs = true; check() }
	put(to_d[a], AGAIN, round);
	round++;
	goto dark;

gives_up: /* the guest does not wait for the farewell */
	atomic { s_runs = true; check() }
	put(to_d[a], ABORT, 0);

failed:
#if MUTANT == STAYS_DARK
	goto done;
#endif
	atomic { s_runs = true; check() }
	up[a] = false;
	a++;
	goto attempt;

undecided:
#if MUTANT == RESUMES_AFTER_COMMIT
	atomic { s_runs = true; s_given = false; check() }
#endif
#if MUTANT != HIDES_TOKEN
	shown[a] = true;
#endif
	up[a] = false;
	goto done;

stays:
	s_runs = true;
done:
	skip
}

proctype Destination() provided (!d_dead)
{
	byte a, sent, due, number, about;
	mtype type;

waiting:
	d_loaded = 0;
end_waiting:
	connect?a;
	sent = 0; due = 0;

receiving:
	d_loaded = 0; number = 0; about = 0; type = 0;
	if
	:: to_d[a]?type, number, about
	:: broken -> goto lost
	fi;
	if
	:: number != due -> goto lost
	:: else -> due++
	fi;
	if
	:: type == END
	:: else -> goto lost /* ABORT and what does not belong here */
	fi;
#ifdef FAULTS
	if
	:: put(to_s[a], FAIL, 0) -> goto lost
	:: true
	fi;
#endif
	d_loaded = about;
	put(to_s[a], READY, about);
#if MUTANT == RUNS_WHEN_READY
	goto take;
#endif

ready:
	if
	:: to_d[a]?type, number, about
	:: broken -> goto undecided
	fi;
	if
	:: number != due -> goto undecided
	:: else -> due++
	fi;
	if
	:: type == COMMIT && about == a -> goto take
	:: type == ABORT -> goto lost
	:: type == AGAIN -> goto receiving
	:: else -> goto undecided
	fi;

undecided:
#if MUTANT == FORGETS_ABORT
	goto take;
#endif
	d_undecided = true;
	up[a] = false;
end_undecided:
	brought[a];
	d_undecided = false;

take:
	atomic { d_owns = true; d_runs = true; check() }
	put(to_s[a], RUNNING, 0);
	goto done;

lost:
	up[a] = false;
	goto waiting;

done:
	skip
}

/* Carries a token that the source shows to a destination that asks for it. */
proctype Operator()
{
end:
	do
	:: d_undecided && shown[0] && !brought[0] -> brought[0] = true
	:: d_undecided && shown[1] && !brought[1] -> brought[1] = true
	od
}

#ifdef CRASH_S
proctype CrashOfSource()
{
end:
	atomic { !s_dead -> s_dead = true; s_runs = false; up[0] = false; up[1] = false }
}
#endif

#ifdef CRASH_D
proctype CrashOfDestination()
{
end:
	atomic { !d_dead -> d_dead = true; d_runs = false; up[0] = false; up[1] = false }
}
#endif

/*
 * When nothing can happen any more. Since no execution goes on for ever (the runner checks that
 * too), this is what holds in the end.
 */
proctype End()
{
	timeout ->
	assert(s_dead || s_given || s_runs);           /* before the commit: never none */
	assert(s_dead || d_dead || s_runs || d_runs) /* neither died: one runs it */
}

init
{
	up[0] = true;
	up[1] = true;
	atomic {
		run Source();
		run Destination();
		run Operator();
		run End();
#ifdef CRASH_S
		run CrashOfSource();
#endif
#ifdef CRASH_D
		run CrashOfDestination();
#endif
	}
}
