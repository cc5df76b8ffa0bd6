#!/usr/bin/env bash
# jaxcomp on TPU slices of Google Kubernetes Engine, through xpk (pip install xpk; tried with 1.16.0).
#
#   xpk.sh cluster --cluster=C --type=v6e:8x8 --num-slices=1 --spot     or --on-demand, --reservation=R
#   xpk.sh start --cluster=C --name=X --type=v6e:8x8 -- jaxcomp sweep --config=paper --workdir=gs://...
#                         on every worker; --image=IMAGE: one with jaxcomp installed, else this
#                         checkout is put on a Python image and installs its packages at each start
#   xpk workload list --cluster=C
#   xpk workload delete --workload=X --cluster=C       ends a job; a SIGTERM first, so that it saves
#   xpk cluster delete --cluster=C                     ends the costs
#
# --type as in `jaxcomp plan` (or xpk's own). --dry-run prints the command and runs none. All other
# --flag=value go to xpk as they are: --project, --zone, --num-slices, ...
# A preempted or failed worker starts all workers again, ten times at most (--max-restarts), and the
# job resumes. Exit codes: those of xpk, 2 for wrong arguments.

set -euo pipefail
REPO=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

refuse() {
  echo "xpk.sh: $*" >&2
  exit 2
}

((BASH_VERSINFO[0] >= 5)) || refuse "bash $BASH_VERSION found, expected 5 or later; on macOS: brew install bash"

VERB="" NAME="" TYPE="" IMAGE="" CLUSTER="" CAPACITY=0 DRY="" FLAGS=() COMMAND=()

main() {
  VERB=${1:---help}
  case $VERB in
    cluster | start) shift ;;
    -h | --help) sed -n '2,/^$/s/^# \{0,1\}//p' "$0" && exit ;;
    *) refuse "$VERB is not a command; expected cluster or start; for the others see xpk.sh --help" ;;
  esac
  parse "$@"
  [[ -n $CLUSTER ]] || refuse "--cluster is missing; expected --cluster=C"
  set_type
  [[ -n $DRY ]] || command -v xpk >/dev/null || refuse "xpk is not installed; pip install xpk"
  "do_$VERB"
}

parse() {
  while (($#)); do
    case $VERB:$1 in
      *:--dry-run) DRY=1 ;;
      *:--type=*) TYPE=${1#*=} ;;
      start:--name=*) NAME=${1#*=} ;;
      start:--image=*) IMAGE=${1#*=} ;;
      start:--) COMMAND=("${@:2}") && break ;;
      *:--?*) FLAGS+=("$1") ;;
      *) refuse "'$1' is not a flag of $VERB; expected --flag=value, and a command only after start ... --" ;;
    esac
    case $1 in
      --cluster=?*) CLUSTER=1 ;;
      --spot | --on-demand | --reservation=?*) CAPACITY=$((CAPACITY + 1)) ;;
    esac
    shift
  done
}

# xpk writes v5litepod-4x4 for v5e:4x4. Its src/xpk/core/system_characteristics.py has no smaller v5e.
set_type() {
  local type=${TYPE/#v5e:/v5litepod-}
  type=${type/:/-}
  [[ $type =~ ^(v5litepod|v6e|v5p)-[0-9]+(x[0-9]+)*$ ]] ||
    refuse "--type='$TYPE' is no slice; expected v5e, v5p or v6e, as in --type=v6e:8x8"
  [[ ! $type =~ ^v5litepod-(1|1x1|4|2x2)$ ]] ||
    refuse "--type=$TYPE: xpk does not know it; of v5e it knows 2x4, 4x4, 4x8, 8x8, 8x16 and 16x16, as in --type=v5e:2x4; smaller ones: tpu_vm.sh"
  FLAGS+=("--tpu-type=$type")
}

call() {
  if [[ -n $DRY ]]; then printf '%q ' "$@" && echo; else "$@"; fi
}

do_cluster() {
  ((CAPACITY == 1)) || refuse "found $CAPACITY of --spot, --on-demand and --reservation=R; expected exactly one"
  call xpk cluster create "${FLAGS[@]}"
}

# Exit code 1 is a failure, but also how jaxcomp ends on a worker whose neighbour was preempted.
# exec: xpk hands SIGTERM to the shell that it starts the command in, and jaxcomp has to be that process.
do_start() {
  [[ -n $NAME ]] || refuse "--name is missing; expected --name=X, the name of the job"
  ((${#COMMAND[@]})) || refuse "no command; expected: xpk.sh start ... -- jaxcomp sweep --config=..."
  local command image=("--docker-image=$IMAGE")
  command="exec $(printf '%q ' "${COMMAND[@]}")"
  if [[ -z $IMAGE ]]; then
    image=(--base-docker-image=python:3.11 "--script-dir=$REPO")
    command="pip install --quiet uv && uv sync --quiet --no-dev --extra=tpu --extra=gcs && export PATH=\$PWD/.venv/bin:\$PATH && $command"
  fi
  [[ " ${FLAGS[*]}" == *" --max-restarts="* ]] || FLAGS+=(--max-restarts=10)
  call xpk workload create "--workload=$NAME" "${FLAGS[@]}" "${image[@]}" --restart-on-exit-codes=1 \
    --termination-grace-period-seconds=120 "--command=$command"
}

main "$@"
