#!/bin/sh
# Checks the model of failover.pml within the bounds of README.md, then that
# every mutant is caught and every witness reached. run.sh mutants leaves the
# full check out. MEM is the memory limit in MB.
set -u
for tool in spin gcc; do
	command -v $tool >/dev/null || { echo "make model: $tool is missing: apt-get install spin gcc libc6-dev" >&2; exit 1; }
done
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" && cp "$here"/failover.pml "$here"/register.inc . || exit 1
bad=0

# check NAME WANTED-ERRORS SPIN-ARGUMENTS...
check() {
	name=$1; want=$2; shift 2
	rm -f pan pan.c
	spin -a "$@" failover.pml >spin.out 2>&1 && gcc -O2 -DSAFETY -DCOLLAPSE -DMEMLIM="${MEM:-4000}" -o pan pan.c 2>cc.out ||
		{ echo "$name: does not compile"; cat spin.out cc.out; bad=1; return; }
	timeout "${LIMIT:-600}" ./pan -m10000 -w24 >pan.out 2>&1
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
full() { check "full $*" 0 "$@"; }
mutant() { check "$*" 1 -DMUT_"$@"; }

if [ "${1:-}" != mutants ]; then
	full -DEM=3 -DWM=1 -DCM=1
	full -DEM=3 -DWM=2 -DCM=0
	full -DEM=3 -DWM=1 -DCM=0 -DK0=2
	full -DEM=2 -DWM=2 -DCM=2
	full -DEM=2 -DWM=2 -DCM=1 -DREGISTER=1 -DK0=2
	full -DEM=2 -DWM=2 -DCM=1 -DREGISTER=2
fi
for w in FAILOVER SWITCHOVER RESUME TAKEOVER; do
	check "witness $w" 1 -DWIT_$w -DEM=3 -DWM=1 -DCM=0
done
mutant NO_REVOKE -DEM=3 -DWM=1 -DCM=0
mutant SURVEY_FIRST -DEM=2 -DWM=1 -DCM=0
mutant NO_EPOCH_CHECK -DEM=3 -DWM=1 -DCM=0
mutant NO_AMNESIA_GUARD -DEM=2 -DWM=1 -DCM=1
mutant LONGEST_LOG -DEM=3 -DWM=3 -DCM=0 -DNO_SWITCHOVER
mutant NO_MARKER -DEM=3 -DWM=1 -DCM=0
mutant LOWER_SERVER_FIRST -DEM=2 -DWM=2 -DCM=1 -DREGISTER=1 -DK0=2
mutant RAISE_ETCD_FIRST -DEM=2 -DWM=2 -DCM=1 -DREGISTER=2
mutant RAISE_KEEPS_BASE -DEM=2 -DWM=2 -DCM=1 -DREGISTER=2
mutant K_FROM_SERVER -DEM=2 -DWM=2 -DCM=1 -DREGISTER=2
mutant DROP_ACKER -DEM=2 -DWM=2 -DCM=0 -DREGISTER=3
mutant RECYCLED_EPOCH -DEM=3 -DWM=1 -DCM=0
mutant SAME_EPOCH -DEM=3 -DWM=1 -DCM=0 -DTWO
mutant NO_CAS -DEM=3 -DWM=1 -DCM=0 -DTWO
mutant NO_BASE -DEM=3 -DWM=1 -DCM=0
mutant ONE_FEWER -DEM=2 -DWM=1 -DCM=0
mutant NO_ANY -DEM=3 -DWM=1 -DCM=0
mutant NO_SOURCES -DEM=3 -DWM=1 -DCM=0
mutant ACK_UNREGISTERED -DEM=3 -DWM=1 -DCM=0
mutant POLITE_STOP -DEM=2 -DWM=1 -DCM=1
mutant VARIABLE_IS_PROOF -DEM=2 -DWM=2 -DCM=0
mutant CERTIFY_BY_ANY -DEM=3 -DWM=1 -DCM=1
mutant ANY_CANDIDATE -DEM=3 -DWM=1 -DCM=0
[ $bad = 0 ] && echo 'no violation in the model; every mutant was caught' || echo 'NOT as it must be' >&2
exit $bad
