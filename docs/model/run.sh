#!/bin/sh
# Checks the model of failover.pml within the bounds of README.md, then that
# every mutant is caught and every witness reached. run.sh quick leaves the
# larger checks out, run.sh short all but a share of everything. MEM is the
# memory limit in MB.
set -u
share=${1:-all}
for tool in spin gcc; do
	command -v $tool >/dev/null || { echo "make model: $tool is missing: apt-get install spin gcc libc6-dev" >&2; exit 1; }
done
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" && cp "$here"/failover.pml "$here"/register.inc . || exit 1
bad=0 checks=0

# check NAME WANTED-ERRORS SPIN-ARGUMENTS...; how and opt are pan's and gcc's.
check() {
	name=$1; want=$2; shift 2
	checks=$((checks + 1))
	rm -f pan pan.c
	spin -a "$@" failover.pml >spin.out 2>&1 && gcc "$opt" "$how" -DCOLLAPSE -DMEMLIM="${MEM:-4000}" -o pan pan.c 2>cc.out ||
		{ echo "$name: does not compile"; cat spin.out cc.out; bad=1; return; }
	loops=; [ "$how" = -DSAFETY ] || loops=-l
	timeout "${LIMIT:-600}" ./pan -m10000 -w24 $loops >pan.out 2>&1
	errors=$(sed -n 's/.*errors: \([0-9]*\).*/\1/p' pan.out)
	states=$(sed -n 's/ *\([0-9e.+]*\) states, stored.*/\1/p' pan.out)
	took=$(sed -n 's/pan: elapsed time //p' pan.out)
	why=$(sed -n 's/^pan:1: //p' pan.out | head -n 1)
	verdict=ok
	[ "${errors:-none}" = "$want" ] || verdict=WRONG
	case $want$why in 0?* | 1*'invalid'* | 1) verdict=WRONG ;; esac
	if [ "$want" = 0 ] && grep -q -e 'not completed' -e 'max search depth too small' pan.out; then verdict=WRONG; fi
	[ "$verdict" = ok ] || bad=1
	printf '%-5s %-42s %10s states %12s  %s\n' "$verdict" "$name" "${states:-?}" "${took:-?}" "$why"
}
how=-DSAFETY
# A counterexample is found sooner than an optimised program is compiled.
full() { opt=-O2; check "full $*" 0 "$@"; }
# Where runs end; and that they do: any cycle is an error (-DNP, pan -l).
ends() { opt=-O2 how=-DNP; check "ends $*" 0 -DENDS "$@"; how=-DSAFETY; }
mutant() { opt=-O0; wanted "$1" || return 0; check "$*" 1 -DMUT_"$@"; }
longer() { opt=-O2; wanted "$1" || return 0; check "$*" 1 -DMUT_"$@"; } # but not of these
witness() { opt=-O0; wanted "$1" || return 0; check "witness $*" 1 -DWIT_"$@"; }
wanted() {
	[ "$share" = short ] || return 0
	case $1 in
	FAILOVER | REFUSED | NO_REVOKE | SURVEY_FIRST | NO_EPOCH_CHECK | NO_AMNESIA_GUARD | LONGEST_LOG | NO_MARKER | K_FROM_SERVER) ;;
	RECYCLED_EPOCH | SAME_EPOCH | NO_CAS | ONE_FEWER | ACK_UNREGISTERED | POLITE_STOP | VARIABLE_IS_PROOF) ;;
	IGNORE_UNFINISHED | PROMISE_ONCE | SAME_CANDIDATE | AWAIT_PRIMARY) ;;
	NO_MARK | DROP_FIRST | ABANDONED | LOWER_SERVER_FIRST) ;;
	*) return 1 ;;
	esac
}

full -DEM=2 -DWM=1 -DCM=1
full -DEM=2 -DWM=1 -DCM=1 -DREGISTER=2
ends -DEM=2 -DWM=1 -DCM=1
if [ "$share" != short ]; then
	full -DTWO -DEM=3 -DWM=1 -DCM=0
	full -DEM=2 -DWM=1 -DCM=0 -DREGISTER=1
	full -DNO_WHOLE -DEM=2 -DWM=1 -DCM=0 -DREGISTER=1
	ends -DEM=3 -DWM=1 -DCM=0
	full -DENDS -DEM=2 -DWM=1 -DCM=1 -DREGISTER=2
fi
if [ "$share" = all ]; then
	full -DEM=3 -DWM=1 -DCM=1
	full -DTWO -DEM=3 -DWM=1 -DCM=1
	full -DEM=3 -DWM=2 -DCM=0
	full -DEM=3 -DWM=1 -DCM=0 -DK0=2
	full -DEM=2 -DWM=2 -DCM=2
	full -DEM=1 -DWM=1 -DCM=1 -DREGISTER=4
	full -DEM=3 -DWM=0 -DCM=0 -DREGISTER=1
	full -DREGISTERED_IN_ANY_EPOCH -DEM=3 -DWM=0 -DCM=0 -DREGISTER=1
	ends -DNO_WHOLE -DEM=3 -DWM=1 -DCM=0
	ends -DTWO -DEM=3 -DWM=1 -DCM=0
	ends -DEM=3 -DWM=1 -DCM=0 -DK0=2
	ends -DEM=2 -DWM=2 -DCM=2
	full -DENDS -DEM=3 -DWM=1 -DCM=1
	full -DENDS -DEM=2 -DWM=1 -DCM=0 -DREGISTER=1 # which has cycles: marked, taken back
fi
for w in FAILOVER SWITCHOVER RESUME TAKEOVER; do
	witness $w -DEM=3 -DWM=1 -DCM=0
done
witness REFUSED -DEM=3 -DWM=1 -DCM=0 -DTWO
witness READMIT -DEM=2 -DWM=1 -DCM=0 -DREGISTER=1
mutant NO_REVOKE -DEM=3 -DWM=1 -DCM=0
mutant SURVEY_FIRST -DEM=2 -DWM=1 -DCM=0
mutant NO_EPOCH_CHECK -DEM=3 -DWM=1 -DCM=0
mutant NO_AMNESIA_GUARD -DEM=2 -DWM=1 -DCM=1
mutant LONGEST_LOG -DEM=3 -DWM=2 -DCM=0 -DNO_SWITCHOVER
mutant NO_MARKER -DENDS -DEM=2 -DWM=1 -DCM=0 -DK0=2
mutant K_FROM_SERVER -DEM=2 -DWM=1 -DCM=1 -DREGISTER=2
mutant RECYCLED_EPOCH -DEM=2 -DWM=1 -DCM=0
mutant SAME_EPOCH -DEM=3 -DWM=1 -DCM=0 -DTWO
mutant NO_CAS -DEM=3 -DWM=1 -DCM=1 -DTWO
mutant NO_BASE -DEM=2 -DWM=1 -DCM=1 -DREGISTER=2
mutant ONE_FEWER -DEM=3 -DWM=1 -DCM=1
mutant NO_ANY -DEM=3 -DWM=1 -DCM=1
mutant NO_SOURCES -DEM=3 -DWM=1 -DCM=1
mutant ACK_UNREGISTERED -DEM=3 -DWM=1 -DCM=1
mutant POLITE_STOP -DEM=3 -DWM=1 -DCM=1
mutant VARIABLE_IS_PROOF -DEM=2 -DWM=2 -DCM=0
longer CERTIFY_BY_ANY -DEM=3 -DWM=1 -DCM=1
longer ANY_CANDIDATE -DEM=3 -DWM=1 -DCM=0
# Nothing is lost without these, and an operation is left unfinished.
mutant IGNORE_UNFINISHED -DENDS -DEM=3 -DWM=1 -DCM=0
mutant PROMISE_ONCE -DENDS -DEM=2 -DWM=1 -DCM=0
mutant SAME_CANDIDATE -DENDS -DEM=3 -DWM=1 -DCM=0
mutant AWAIT_PRIMARY -DENDS -DEM=2 -DWM=1 -DCM=0
# The register within an epoch.
mutant NO_MARK -DEM=1 -DWM=1 -DCM=0 -DREGISTER=1
mutant DROP_FIRST -DEM=1 -DWM=1 -DCM=0 -DREGISTER=1
mutant LATE_ORDER -DEM=1 -DWM=1 -DCM=0 -DREGISTER=1
mutant LATE_ORDER -DEM=1 -DWM=1 -DCM=0 -DREGISTER=2
mutant ABANDONED -DEM=1 -DWM=1 -DCM=0 -DREGISTER=1
mutant ABANDONED -DEM=1 -DWM=1 -DCM=0 -DREGISTER=2
mutant NO_REVISION -DEM=1 -DWM=1 -DCM=0 -DREGISTER=1
mutant NO_REVISION -DEM=1 -DWM=1 -DCM=0 -DREGISTER=2
longer DROP_KEEPS_BASE -DEM=2 -DWM=1 -DCM=1 -DREGISTER=1
mutant RAISE_KEEPS_BASE -DEM=2 -DWM=1 -DCM=1 -DREGISTER=2
mutant LOWER_SERVER_FIRST -DEM=1 -DWM=1 -DCM=0 -DREGISTER=2 -DK0=2
mutant RAISE_RECORD_FIRST -DEM=1 -DWM=1 -DCM=0 -DREGISTER=2
mutant FORGET_SOURCE -DEM=1 -DWM=1 -DCM=0 -DREGISTER=1
mutant TARGET_WITHOUT_SOURCES -DEM=1 -DWM=1 -DCM=0 -DREGISTER=1
mutant STALE_REGISTERED -DEM=1 -DWM=1 -DCM=0 -DREGISTER=1
[ $bad = 0 ] && echo "ok: $checks checks: no violation in the model, every witness reached, every mutant caught$([ "$share" = all ] || echo " ($share)")" || echo 'NOT as it must be' >&2
exit $bad
