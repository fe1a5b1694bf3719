/*
 * The failover protocol of interrex, for SPIN. README.md says what is checked,
 * within which bounds, and which function each step stands for; run.sh runs
 * the check and every mutant.
 *
 * Three instances, each with its agent. One process takes one action after
 * the other in every possible order; an action is what one node, or etcd,
 * does at once. A host that is down takes no action, and a lost message is an
 * order that is never obeyed: both need no action of their own. An order that
 * was given stays in the network and may be obeyed at any later time.
 *
 * Commits (clients' and markers) are bits, in the order in which they began.
 */

#ifndef EM
#define EM 3            /* highest epoch that can be issued; the first is 1 */
#endif
#ifndef WM
#define WM 2            /* commits by clients */
#endif
#ifndef CM
#define CM 1            /* crashes of servers */
#endif
#ifndef K0
#define K0 1            /* k of the first epoch */
#endif
#ifndef ACKS
#define ACKS 1          /* k of the epochs after it, by policy */
#endif

/* Where only ends are looked at (I7, see below), one host may die for good, and
 * nothing fails any more in the last epoch. */
#ifdef ENDS
#define UP(i)  (!HAS(dead, i))
#define FAULTS (E < EM)
#else
#define UP(i)  1
#define FAULTS 1
#endif

#define N    3
#define NONE 3          /* no node */
#define ANY  4          /* in sources: may acknowledge either */

#define FAILOVER   1
#define SWITCHOVER 2
#define RESUME     3

#define B(i)       (1 << (i))
#define HAS(m, i)  (((m) >> (i)) & 1)
#define LACKS(a,b) ((b) & ~(a))          /* what of b is not in a */
#define CNT(m)     (((m) & 1) + (((m) >> 1) & 1) + (((m) >> 2) & 1))
#define LOG(m)     (CNT(m) + CNT((m) >> 3))
#define LOW(m)     ((m) & -(m))
#define UNARMED 3       /* of srvk: nothing is acknowledged */

/* Instances. */
byte exe[N];            /* executed, in its binary log: durable */
byte rcv[N];            /* received: executed or in its relay log */
byte wait[N];           /* commits of its clients that wait for acknowledgement */
byte sent[N];           /* commits that it has acknowledged to their primary */
byte src[N];            /* whom its receiver replicates from */
bit  ack[N];            /* its receiver acknowledges */
bit  open[N];           /* clients may write */
byte mep[N];            /* epoch whose marker it is writing, 0: none */
byte oep[N];            /* epoch in which it was opened last */
byte srvk[N];           /* how many acknowledgements its commits wait for */
byte adm[N];            /* whom it lets receive: durable */
byte prom[N];           /* highest epoch promised: durable */
bit  cert[N];           /* certified: holds all it acknowledged before it started */

/* The record in etcd. The primary of epoch PE is tgt of it. */
byte E = 1;             /* State.Epoch */
byte PE = 1;            /* Primary.Epoch */
bit  popen = 1;         /* Primary.Phase is Open, no operation */
byte base;              /* Primary.Base */
byte A = 6;             /* Register.Ackers */
byte K = K0;            /* Register.K */
byte sources[N];        /* State.Sources */
#ifdef REGISTER
byte L;                 /* Register.Leaving */
byte NK;                /* Register.NextK */
/* Obey on its way in an instance's gate: what it read. */
bit  rdv[N];
byte rda[N], rdk[N];
bit  rdf;               /* the record is still as the primary read it */
bit  ob;                /* the primary has obeyed this very revision ... */
byte obase;             /* ... and then had executed, or was committing, this */
byte cal = NONE;        /* at this very revision this one acknowledged nobody */
#ifdef MUT_NO_MARK
byte odrop;
#endif
#ifdef MUT_ABANDONED
bit  abv; byte abi, aba, abk;
#endif
#ifdef MUT_LATE_ORDER
bit  lov; byte loa, lok;
#endif
#endif

/* Orders of each epoch that may still be on their way. */
byte tgt[EM+1];         /* candidate, or primary */
byte regs[EM+1];        /* who was ordered to follow tgt and to acknowledge */
byte ordk[EM+1];        /* 1 + k of the order to promote, 0: none or obeyed */
bit  ford[EM+1];        /* the others were ordered to follow tgt */
byte ahx[EM+1];         /* who was ordered to go ahead */
bit  aha[EM+1];         /* ... and to acknowledge */

/* The operation of the newest epoch; lst: 0 none, 1 revoking, 2 looking
 * around, 3 recorded. */
byte le, lk, lst, lto = NONE, seen, cnt, un;
bit  oc;                /* the old primary itself is closed */
byte l1;                /* epoch of an older leader that goes on, 0: none */
#ifdef TWO              /* what that one knows: it goes on to record, too */
byte l1seen, l1cnt, l1un, l1from = NONE;
bit  l1oc;
#define ENDED1 l1 = 0; l1seen = 0; l1cnt = 0; l1un = 0; l1oc = 0; l1from = NONE
#else
#define ENDED1 l1 = 0
#endif
#ifdef MUT_SURVEY_FIRST
byte frz;
#endif

byte nt;                /* commits begun */
byte nw;                /* ... by clients */
byte cr;                /* crashes */
#ifdef ENDS
byte dead;              /* the host that is gone for good */
#endif

/* Ghosts: nobody in the system knows these. */
byte acked;             /* commits a client was told of */
byte hi = 1;            /* highest epoch ever issued */
byte who[EM+1];         /* which instance acknowledged in the epoch */
byte mkd;               /* epochs whose marker was acknowledged */
bit  tookover;          /* an operation in flight was taken over */

byte t, x, y;           /* scratch, 0 between actions */

#define PRIM     tgt[PE]
#define REG      A
#define QUIET    (popen && E == PE)
#ifdef REGISTER
#define CHANGED  NEWREV; rdf = 0
#ifdef MUT_NO_REVISION
#define NEWREV   skip
#else
#define NEWREV   ob = 0; obase = 0; cal = NONE
#endif
#define NOINTENT L = 0; NK = 0
#else
#define CHANGED  skip
#define NOINTENT skip
#endif
#define NEEDED   (CNT(REG) - K + 1)
#define NEED     ((NEEDED < 1) -> 1 : NEEDED)

#if defined(MUT_NO_EPOCH_CHECK)
#define MAY(i,e)  1
#elif defined(MUT_PROMISE_ONCE)
#define MAY(i,e)  (prom[i] < (e))
#else
#define MAY(i,e)  (prom[i] <= (e))
#endif
#define PROMISE(i,e) INTERRUPT(i); prom[i] = ((prom[i] < (e)) -> (e) : prom[i])
#if defined(REGISTER)
#define INTERRUPT(i) rdv[i] = 0; rda[i] = 0; rdk[i] = 0
#else
#define INTERRUPT(i) skip
#endif

#ifdef MUT_NO_AMNESIA_GUARD
#define CERT(i) 1
#else
#define CERT(i) cert[i]
#endif
#ifdef MUT_NO_BASE
#define UNION0 0
#else
#define UNION0 base
#endif
#if defined(MUT_NO_BASE) || defined(NO_WHOLE)
#define WHOLE(i) 1
#else
#define WHOLE(i) (LACKS(rcv[i], base) == 0)
#endif
#define PROOF(i) (HAS(REG, i) && CERT(i) && WHOLE(i))

#ifdef MUT_ONE_FEWER
#define ENOUGH(c, o) ((o) || CNT(c) >= NEED - 1)
#elif defined(MUT_NO_REVOKE)
#define ENOUGH(c, o) 1
#elif defined(MUT_K_FROM_SERVER)
#define ENOUGH(c, o) ((o) || (srvk[PRIM] != UNARMED && CNT(c) >= CNT(REG) - srvk[PRIM] + 1))
#elif defined(MUT_SURVEY_FIRST)
#define ENOUGH(c, o) ((o) || CNT((c) & frz) >= NEED)
#else
#define ENOUGH(c, o) ((o) || CNT(c) >= NEED)
#endif

/* I1: what a client was told of is on the primary of the record. */
#define KEPT assert(LACKS(exe[PRIM], acked) == 0)

/* Acknowledgements in flight matter only while their commit waits. */
inline sweep() {
	sent[0] = sent[0] & (wait[0] | wait[1] | wait[2]);
	sent[1] = sent[1] & (wait[0] | wait[1] | wait[2]);
	sent[2] = sent[2] & (wait[0] | wait[1] | wait[2])
}

/* Orders of an epoch that every node is above are refused by all. */
inline forget() {
#ifndef MUT_NO_EPOCH_CHECK
	x = 1;
	do
	:: x < PE ->
		if
		:: prom[0] > x && prom[1] > x && prom[2] > x ->
			tgt[x] = 0; regs[x] = 0; ordk[x] = 0; ford[x] = 0; ahx[x] = NONE; aha[x] = 0;
			if :: !(oep[0] == x || oep[1] == x || oep[2] == x ||
			        mep[0] == x || mep[1] == x || mep[2] == x) -> who[x] = NONE :: else fi
		:: else
		fi;
		x++
	:: else -> break
	od;
	x = 0;
	if :: l1 != 0 && prom[0] > l1 && prom[1] > l1 && prom[2] > l1 -> ENDED1 :: else fi
#else
	skip
#endif
}

/* ---- servers ---- */

inline write(p) {       /* a client's commit begins on an open primary */
	t = B(nt); nt++; nw++;
	exe[p] = exe[p] | t; rcv[p] = rcv[p] | t; wait[p] = wait[p] | t; t = 0
}

inline receive(i) {     /* the next transaction; it is acknowledged at once */
	t = LACKS(rcv[i], exe[src[i]]); t = LOW(t);
	rcv[i] = rcv[i] | t;
	if :: ack[i] -> sent[i] = sent[i] | (rcv[i] & wait[src[i]]) :: else fi;
	t = 0
}


/* Who has acknowledged the oldest waiting commit of p. */
#define GOT(p) (HAS2(0,p) + HAS2(1,p) + HAS2(2,p))
#define HAS2(i,p) ((sent[i] & LOW(wait[p])) != 0)

/* I3: what the recorded primary acknowledges is on K of the ackers that the
 * record has now, or in the base set. */
#define ON(i,p) (HAS(A, i) && HAS2(i,p))
#ifdef NO_GUARANTEE
#define GUARANTEE(p) skip
#else
#define GUARANTEE(p) assert(p != PRIM || x != PE || LACKS(base, t) == 0 || ON(0,p) + ON(1,p) + ON(2,p) >= K)
#endif

inline acknowledge(p) { /* enough acknowledgements: the client is told */
	t = LOW(wait[p]);
	x = ((mep[p] != 0) -> mep[p] : oep[p]);
	GUARANTEE(p);
	wait[p] = wait[p] & ~t;
	acked = acked | t; t = 0;
	/* I2: one instance acknowledges in an epoch. */
	assert(who[x] == NONE || who[x] == p);
	who[x] = p; x = 0;
	if :: mep[p] != 0 && wait[p] == 0 -> mkd = mkd | B(mep[p]) :: else fi;
	KEPT;
	sweep()
}

inline stop(i) {        /* the server's process ends and starts again, closed */
#ifdef MUT_POLITE_STOP
	acked = acked | wait[i];
#endif
	rcv[i] = exe[i];  /* the relay log's tail was in no file yet */
	open[i] = 0; mep[i] = 0; wait[i] = 0; src[i] = NONE; ack[i] = 0; cert[i] = 0; srvk[i] = UNARMED;
#ifdef REGISTER
	rdv[i] = 0; rda[i] = 0; rdk[i] = 0
#endif
}

inline crash(i) { cr++; stop(i); KEPT; sweep() }

/* ---- agents ---- */

inline certify(i) { cert[i] = 1 }

inline isolate(i) {     /* an instance that the record does not name is closed */
	PROMISE(i, E);
	if
	:: wait[i] != 0 -> stop(i)
	:: else -> open[i] = 0; mep[i] = 0
	fi;
	sweep(); forget()
}

#define ACKER(i,e) HAS(regs[e], i)
/* Where ackers can leave, an order to acknowledge is obeyed only if the record,
 * read now, is of its epoch and has the instance as an acker. */
#if defined(REGISTER) && !defined(MUT_STALE_REGISTERED)
#ifdef REGISTERED_IN_ANY_EPOCH
#define FRESHLY(i,e,a) (!(a) || HAS(A, i))
#else
#define FRESHLY(i,e,a) (!(a) || ((e) == E && HAS(A, i)))
#endif
#else
#define FRESHLY(i,e,a) 1
#endif
#define SOURCE_HAS(i,e) (src[i] == tgt[e] || LACKS(exe[tgt[e]], rcv[i]) == 0)
#define CHANGES(i,e)    (src[i] != tgt[e] || ack[i] != ACKER(i,e) || prom[i] < e || open[i] || mep[i])

inline point(i, e, a) {
	PROMISE(i, e);
	open[i] = 0; mep[i] = 0; srvk[i] = UNARMED;
	src[i] = tgt[e]; ack[i] = a;
	if :: ack[i] && HAS(adm[src[i]], i) -> sent[i] = sent[i] | (rcv[i] & wait[src[i]]) :: else fi;
	forget()
}

inline follow(i, e) {
#ifdef MUT_ACK_UNREGISTERED
	point(i, e, 1)
#else
	point(i, e, ACKER(i,e))
#endif
}

inline goahead(i, e) { point(i, e, aha[e]); ahx[e] = NONE; aha[e] = 0 }

inline promote(e) {     /* armed, and the marker's commit begins */
	x = tgt[e];
	PROMISE(x, e);
	srvk[x] = ordk[e] - 1; ordk[e] = 0;
	adm[x] = 7; /* the record that names it keeps nobody out */
	src[x] = NONE; ack[x] = 0;
	mep[x] = e;
#ifndef MUT_NO_MARKER
	t = B(nt); nt++;
	exe[x] = exe[x] | t; rcv[x] = rcv[x] | t; wait[x] = wait[x] | t; t = 0;
#endif
	x = 0;
	forget()
}

#ifdef MUT_NO_MARKER
#define MARKED skip
#else
#define MARKED assert(HAS(mkd, mep[i]))
#endif
inline openwrites(i) {  /* the marker was acknowledged */
	/* I1: nothing is served before it is known who acknowledges. */
	MARKED;
	open[i] = 1; oep[i] = mep[i]; mep[i] = 0; cert[i] = 1;
	if :: PRIM == i -> KEPT :: else fi;
	forget()
}

/* ---- the leader ---- */

#define BEGIN(kind) \
	if \
	:: lst == 1 || lst == 2 -> l1 = le; KEEP; tookover = 1 \
	:: lst == 3 -> tookover = 1 \
	:: else \
	fi; \
	CHANGED; \
	NEXT; \
	/* I5: no epoch is issued twice. */ \
	FRESH; \
	hi = E; le = E; lk = kind; lst = 1; lto = NONE; seen = 0; cnt = 0; un = UNION0; oc = 0; CLEARF

/* Every change of the record is a transaction that compares it with what the
 * leader knows, which is a record of the epoch that it has claimed. */
#ifdef MUT_NO_CAS
#define CAS(e) 1
#else
#define CAS(e) ((e) == E)
#endif
#ifdef TWO
#define KEEP l1seen = seen; l1cnt = cnt; l1un = un; l1oc = oc; l1from = ((lst == 1 && lk == FAILOVER) -> PRIM : NONE)
#else
#define KEEP skip
#endif
#if defined(MUT_RECYCLED_EPOCH)
#define NEXT E = ((QUIET && E > 1) -> E : E + 1)
#elif defined(MUT_SAME_EPOCH)
#define NEXT E = ((E > PE) -> E : E + 1)
#else
#define NEXT E = E + 1
#endif
#if defined(MUT_SAME_EPOCH) || defined(MUT_RECYCLED_EPOCH)
#define FRESH skip
#else
#define FRESH assert(E > hi)
#endif
#ifdef MUT_SURVEY_FIRST
#define CLEARF frz = 0
#else
#define CLEARF skip
#endif

inline claim(kind) { BEGIN(kind); forget() }

inline claimswitch(to, ahead) {
	BEGIN(SWITCHOVER);
	lto = to; tgt[E] = to;
	if
	:: ahead ->
		y = 3 - PRIM - to;
		ahx[E] = y; aha[E] = HAS(REG, y);
#ifndef MUT_NO_ANY
		if :: HAS(REG, y) -> sources[y] = ANY :: else fi;
#endif
		y = 0
	:: else
	fi;
	forget()
}

inline freeze(i) {      /* of a failover: the receiver stops, then the sets are read */
#if !defined(MUT_NO_REVOKE) && !defined(MUT_SURVEY_FIRST)
	PROMISE(i, le); src[i] = NONE; ack[i] = 0;
#endif
	seen = seen | B(i);
	if :: PROOF(i) -> cnt = cnt | B(i); un = un | rcv[i] :: else fi;
	forget()
}

inline stopafter(i) { PROMISE(i, le); src[i] = NONE; ack[i] = 0; frz = frz | B(i); forget() }

inline closeold(p) {    /* of a failover, and the draining of a switchover */
	PROMISE(p, le);
	if :: wait[p] == 0 -> open[p] = 0; mep[p] = 0 :: else fi; /* else: of a mutant only */
	src[p] = NONE; ack[p] = 0;
	seen = seen | B(p);
	if :: LACKS(exe[p], base) == 0 -> oc = 1; un = un | exe[p] :: else fi;
	if :: lk == SWITCHOVER -> lst = 2 :: else fi;
	forget()
}

inline lookold(p) {     /* of a resume */
	PROMISE(p, le);
	src[p] = NONE; ack[p] = 0;
	seen = seen | B(p); un = exe[p]; lst = 2;
	forget()
}

inline look(i) {        /* its receiver goes on */
	seen = seen | B(i);
	if :: PROOF(i) -> cnt = cnt | B(i) :: else fi
}

inline late(i) {        /* a freeze that an older leader ordered */
	PROMISE(i, l1); src[i] = NONE; ack[i] = 0; forget()
}

/* Those that answered and may follow c: closed, and with nothing that c will lack. */
#define FOLLOWER(f, c) (HAS(seen, f) && f != (c) && !open[f] && LACKS(rcv[c] | un, rcv[f]) == 0)
#define FOLLOWERS(c) (FOLLOWER(0,c) | (FOLLOWER(1,c) << 1) | (FOLLOWER(2,c) << 2))
#ifdef MUT_LONGEST_LOG
#define FIT(c) ((!HAS(seen,0) || LOG(rcv[c]) >= LOG(rcv[0])) && (!HAS(seen,1) || LOG(rcv[c]) >= LOG(rcv[1])) && (!HAS(seen,2) || LOG(rcv[c]) >= LOG(rcv[2])))
#define FOLLOWING(c) (seen & ~B(c))
#else
#define FIT(c) (LACKS(rcv[c], un) == 0)
#define FOLLOWING(c) FOLLOWERS(c)
#endif

#define ORDERED(n, c) \
	if \
	:: HAS(A, n) -> sources[n] = ((sources[n] != NONE && sources[n] != c) -> ANY : c) \
	:: else \
	fi

#ifdef MUT_NO_SOURCES
#define ELSEWHERE(n, c) skip
#else
#define ELSEWHERE(n, c) if :: (sources[n] == c || sources[n] == ANY) && n != c -> y = y | B(n) :: else fi
#endif

inline record(c) {      /* caught up, then the point of no return */
	x = FOLLOWING(c);
#ifndef MUT_LONGEST_LOG
	if :: lk != RESUME -> exe[c] = exe[c] | un :: else fi;
#else
	exe[c] = rcv[c];
#endif
	if
	:: lk == SWITCHOVER -> PROMISE(c, le); src[c] = NONE; ack[c] = 0
	:: else
	fi;
	/* nextRegister */
	sources[c] = NONE;
	if
	:: lk == FAILOVER ->
		if :: HAS(seen,0) -> sources[0] = NONE :: else fi;
		if :: HAS(seen,1) -> sources[1] = NONE :: else fi;
		if :: HAS(seen,2) -> sources[2] = NONE :: else fi
	:: else
	fi;
	if
	:: c == PRIM -> /* sameRegister */
		y = REG;
		if :: CNT(x & REG) < K -> y = y | x :: else fi
	:: else ->      /* ackersAmong */
		y = x & (cnt | (oc << PRIM));
		if :: CNT(y) < ACKS -> y = x :: else fi;
		K = ACKS
	fi;
	NOINTENT; CHANGED;
	ELSEWHERE(0, c); ELSEWHERE(1, c); ELSEWHERE(2, c);
	PE = E; popen = 0;
	A = y; regs[E] = y; tgt[E] = c; ordk[E] = K + 1; ford[E] = 1;
	base = ((lk == RESUME) -> un : exe[c]);
	x = 0; y = 0;
	ORDERED(0, c); ORDERED(1, c); ORDERED(2, c);
	lst = 3; lto = NONE; seen = 0; cnt = 0; un = 0; oc = 0; CLEARF;
	KEPT;
	forget()
}

/* ---- the leader in quiet times ---- */

/* Not vacuous: each of these must be reached, so its assertion must fail. */
#if defined(WIT_FAILOVER)
#define WIT assert(!(lk == FAILOVER && acked != 0))
#elif defined(WIT_SWITCHOVER)
#define WIT assert(lk != SWITCHOVER)
#elif defined(WIT_RESUME)
#define WIT assert(lk != RESUME)
#elif defined(WIT_TAKEOVER)
#define WIT assert(!(tookover && lk == FAILOVER))
#else
#define WIT skip
#endif
#ifdef WIT_REFUSED
#define WITREFUSED assert(0)
#else
#define WITREFUSED skip
#endif
#ifdef WIT_READMIT
bit dropped[N];
#define WITADMIT assert(!dropped[i])
#else
#define WITADMIT skip
#endif

inline done() { WIT; popen = 1; lst = 0; lk = 0; le = 0; CHANGED }
inline admit(i) { WITADMIT; A = A | B(i); regs[PE] = regs[PE] | B(i); ORDERED(i, PRIM); CHANGED }
inline confirm(i) { sources[i] = PRIM; CHANGED }

inline rebuild(i) {
	PROMISE(i, PE);
	stop(i); exe[i] = exe[PRIM]; rcv[i] = exe[i];
	adm[i] = adm[PRIM]; /* the accounts are copied, too */
	sweep(); forget()
}

#define EACH(F) F(0) F(1) F(2)

#define SERVER(i) \
	:: d_step { UP(i) && open[i] && nw < WM -> write(i) } \
	:: d_step { UP(i) && src[i] != NONE && UP(src[i]) && HAS(adm[src[i]], i) && LACKS(rcv[i], exe[src[i]]) != 0 -> receive(i) } \
	:: d_step { UP(i) && wait[i] != 0 && GOT(i) >= srvk[i] -> acknowledge(i) } \
	:: d_step { UP(i) && exe[i] != rcv[i] -> exe[i] = rcv[i] } \
	:: d_step { FAULTS && UP(i) && cr < CM -> crash(i) }

#ifdef MUT_CERTIFY_BY_ANY
#define CERTIFIABLE(i) 1
#else
#define CERTIFIABLE(i) (open[src[i]] && prom[i] <= oep[src[i]])
#endif
#define AGENT(i) \
	:: d_step { UP(i) && !cert[i] && src[i] != NONE && UP(src[i]) && CERTIFIABLE(i) && LACKS(rcv[i], exe[src[i]]) == 0 -> certify(i) } \
	:: d_step { UP(i) && i != PRIM && (open[i] || mep[i] || wait[i]) -> isolate(i) } \
	:: d_step { UP(i) && mep[i] != 0 && prom[i] == mep[i] && wait[i] == 0 -> openwrites(i) }

#define OBEY(i, e) \
	:: d_step { UP(i) && ford[e] && tgt[e] != i && MAY(i,e) && CHANGES(i,e) && FRESHLY(i,e,ACKER(i,e)) && wait[i] == 0 && SOURCE_HAS(i,e) -> follow(i, e) } \
	:: d_step { UP(i) && ahx[e] == i && tgt[e] != i && tgt[e] + i <= 3 && MAY(i,e) && FRESHLY(i,e,aha[e]) && wait[i] == 0 && LACKS(exe[3 - i - tgt[e]], rcv[i]) == 0 -> goahead(i, e) }
#define OBEYALL(e) OBEY(0,e) OBEY(1,e) OBEY(2,e) \
	:: d_step { UP(tgt[e]) && ordk[e] != 0 && MAY(tgt[e],e) -> promote(e) }

#ifdef MUT_VARIABLE_IS_PROOF
#define SHUT(i) 1
#else
#define SHUT(i) (wait[i] == 0)
#endif
#if defined(MUT_AWAIT_PRIMARY)
#define ALLOWED(i) HAS(seen, PRIM)
#elif defined(MUT_SAME_CANDIDATE)
#define ALLOWED(i) (popen || i == PRIM)
#else
#define ALLOWED(i) 1
#endif
#define LEADER(i) \
	:: d_step { UP(i) && lst == 1 && lk == FAILOVER && !HAS(seen,i) && i != PRIM && MAY(i,le) -> freeze(i) } \
	:: d_step { UP(i) && lst == 1 && lk != RESUME && !HAS(seen,i) && i == PRIM && MAY(i,le) && SHUT(i) -> closeold(i) } \
	:: d_step { UP(i) && lst == 1 && lk == FAILOVER && i == PRIM && prom[i] < le && wait[i] != 0 -> PROMISE(i, le); forget() } \
	:: d_step { UP(i) && lst == 1 && lk == RESUME && i == PRIM && MAY(i,le) && LACKS(exe[i], base) == 0 -> lookold(i) } \
	:: d_step { UP(i) && lst == 2 && !HAS(seen,i) -> look(i) } \
	:: d_step { lst == 1 && lk == FAILOVER && CAS(le) && HAS(seen,i) && ALLOWED(i) && ENOUGH(cnt, oc) && FIT(i) && CNT(FOLLOWING(i)) >= ACKS -> record(i) } \
	:: d_step { lst == 2 && lk == SWITCHOVER && CAS(le) && i == lto && HAS(seen,i) && oc && MAY(i,le) && FIT(i) && CNT(FOLLOWING(i)) >= ACKS -> record(i) } \
	:: d_step { lst == 2 && lk == RESUME && CAS(le) && i == PRIM && CNT(FOLLOWING(i)) >= ACKS -> record(i) } \
	:: d_step { UP(i) && l1 != 0 && prom[i] < l1 -> late(i) }

#define QUIETLY(i) \
	:: d_step { UP(i) && QUIET && i != PRIM && open[PRIM] && !HAS(REG,i) && cert[i] && src[i] == PRIM -> admit(i) } \
	:: d_step { UP(i) && QUIET && i != PRIM && HAS(REG,i) && src[i] == PRIM && prom[i] >= PE && sources[i] != PRIM -> confirm(i) } \
	:: d_step { UP(i) && UP(PRIM) && QUIET && i != PRIM && open[PRIM] && MAY(i,PE) && LACKS(exe[PRIM], rcv[i]) != 0 -> rebuild(i) }

#if defined(MUT_SAME_EPOCH)
#define CANCLAIM (E < EM || (E == EM && PE < E && lst != 0 && l1 == 0))
#elif defined(MUT_RECYCLED_EPOCH)
#define CANCLAIM (E < EM || (QUIET && nt < EM + WM))
#elif defined(MUT_IGNORE_UNFINISHED)
#define CANCLAIM (E < EM && lst == 0)
#else
#define CANCLAIM (E < EM)
#endif

#include "register.inc"

#ifdef ENDS
/* I7: a run ends where nobody can do anything any more. Then the newest
 * operation is finished, and commits are acknowledged; or what it depends on is
 * gone, and waiting is right. These say when it is not: of the instances that
 * are left, whatever the leader knows of them, enough prove what was
 * acknowledged (I3), and one may lead that others can follow. A failover is
 * for a primary that is gone; what was begun while it is there is resumed. */
#define ABLE(i)         (UP(i) && PROOF(i))
#define ACKNOWLEDGED    (base | (ABLE(0) -> rcv[0] : 0) | (ABLE(1) -> rcv[1] : 0) | (ABLE(2) -> rcv[2] : 0))
#define BEHIND(f, c)    (UP(f) && f != (c) && LACKS(rcv[c], rcv[f]) == 0)
#define OTHERS(c)       (BEHIND(0,c) | (BEHIND(1,c) << 1) | (BEHIND(2,c) << 2))
#define LEADS(c)        (UP(c) && LACKS(rcv[c], ACKNOWLEDGED) == 0 && CNT(OTHERS(c)) >= ACKS)
#define MUSTPROMOTE     (lst == 1 && lk == FAILOVER && !UP(PRIM) && ABLE(0) + ABLE(1) + ABLE(2) >= NEED && (LEADS(0) || LEADS(1) || LEADS(2)))
#define MUSTRESUME      (lst != 3 && lk == RESUME && UP(PRIM) && LACKS(exe[PRIM], base) == 0 && CNT(OTHERS(PRIM)) >= ACKS)
#define MUSTOPEN        (lst == 3 && UP(PRIM) && CNT(OTHERS(PRIM) & A) >= K)

inline ended() {
	assert(E == EM); /* until then a leader that died is superseded */
	if
	:: QUIET -> assert(open[PRIM] && wait[PRIM] == 0)
	:: else -> assert(!MUSTPROMOTE && !MUSTRESUME && !MUSTOPEN)
	fi
}
#endif

init {
	d_step {
		src[0] = NONE; src[1] = 0; src[2] = 0;
		ack[1] = 1; ack[2] = 1;
		open[0] = 1; oep[0] = 1; srvk[0] = K0;
		cert[0] = 1; cert[1] = 1; cert[2] = 1;
		prom[0] = 1; prom[1] = 1; prom[2] = 1;
		adm[0] = 7; adm[1] = 7; adm[2] = 7; srvk[1] = UNARMED; srvk[2] = UNARMED;
		sources[0] = NONE; sources[1] = 0; sources[2] = 0;
		regs[1] = 6; ford[1] = 1;
		x = 0;
		do :: x <= EM -> ahx[x] = NONE; who[x] = NONE; x++ :: else -> break od;
		x = 0; mkd = 2
	}
end:	do
	EACH(SERVER)
	EACH(AGENT)
	OBEYALL(1)
#if EM >= 2
	OBEYALL(2)
#endif
#if EM >= 3
	OBEYALL(3)
#endif
#if EM >= 4
	OBEYALL(4)
#endif
	EACH(LEADER)
	EACH(QUIETLY)
	:: d_step { lst == 3 && CAS(le) && open[PRIM] && oep[PRIM] == E -> done() }
	:: d_step { CANCLAIM -> claim(FAILOVER) }
	:: d_step { CANCLAIM -> claim(RESUME) }
#ifndef NO_SWITCHOVER
#ifdef MUT_ANY_CANDIDATE
#define REPLICATES(i) 1
#else
#define REPLICATES(i) (src[i] != NONE && LACKS(exe[PRIM], rcv[i]) == 0)
#endif
#define SWITCH(i) \
	:: d_step { CANCLAIM && QUIET && i != PRIM && REPLICATES(i) -> claimswitch(i, 0) } \
	:: d_step { CANCLAIM && QUIET && i != PRIM && REPLICATES(i) && src[3 - PRIM - i] == PRIM -> claimswitch(i, 1) }
	EACH(SWITCH)
#endif
#ifdef TWO
/* The older leader has all that it needs to record i. With the comparison, it
 * learns at the latest by being refused that it is superseded. */
#define READY(i) (l1from != NONE && i != l1from && HAS(l1seen,i) && ENOUGH(l1cnt, l1oc) && LACKS(rcv[i], l1un) == 0 && (l1seen & ~B(i)) != 0)
#define OLDER(i) \
	:: d_step { l1 != 0 && READY(i) && CAS(l1) -> \
		seen = l1seen; cnt = l1cnt; un = l1un; oc = l1oc; lk = FAILOVER; le = l1; E = l1; ENDED1; record(i) } \
	:: d_step { l1 != 0 && READY(i) && !CAS(l1) -> WITREFUSED; ENDED1 }
	EACH(OLDER)
#endif
#ifdef MUT_SURVEY_FIRST
#define STOPPED(i) \
	:: d_step { lst == 1 && lk == FAILOVER && HAS(seen,i) && !HAS(frz,i) && i != PRIM && MAY(i,le) -> stopafter(i) }
	EACH(STOPPED)
#endif
#ifdef REGISTER
	EACH(OBEYS)
	EACH(ACKERS)
	KCHANGES
#endif
#ifdef ENDS
#define DIE(i) \
	:: d_step { FAULTS && dead == 0 -> dead = B(i) }
	EACH(DIE)
	:: else -> d_step { ended() }; break
#endif
	od
}
