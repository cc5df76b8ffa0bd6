#!/usr/bin/env bash
# TPU pods on Google Kubernetes Engine through xpk (`pip install xpk`; written against 1.16.0), which
# makes a cluster with Kueue and starts JobSets on it. Without xpk: jobset.yaml beside this script.
#
#   xpk.sh cluster --cluster=C --type=TYPE --spot|--on-demand|--reservation=R
#       a cluster for --slices=N slices of TYPE (default 1), TYPE as in tpu.sh create, of v5e from
#       2x4 on
#   xpk.sh start --cluster=C --name=X --type=TYPE -- COMMAND ...
#       COMMAND on every worker of --slices=N slices (default 1), in a container
#       --image=IMAGE        one in which jaxcomp is installed; without it, this checkout is put on a
#                            Python 3.11 image and installs its packages at each start
#       --max-restarts=N     after preemptions and failures alike (default 10)
#   xpk.sh status --cluster=C
#   xpk.sh stop --cluster=C --name=X             end the job; a SIGTERM first, so that it saves
#   xpk.sh delete --cluster=C                    the whole cluster, which ends its costs
#
# All: --project=P --zone=Z (default: gcloud's own), --dry-run, --help.
# Exit codes: those of xpk, 2 wrong arguments.

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=lib.sh
. "$HERE/lib.sh"

main() {
  VERB=${1:-}
  case $VERB in
    cluster | start | status | stop | delete) shift && "do_$VERB" "$@" ;;
    "" | -h | --help) usage ;;
    *) VERB="" && refuse "$(quote "$1") is not a command; expected cluster, start, status, stop or delete" ;;
  esac
}

flags() { # "value flags" "switches" ARGUMENTS...
  parse_flags "cluster project zone $1" "dry-run $2" "${@:3}"
  [[ $VERB == start ]] || no_command
  need cluster "name the cluster: --cluster=C"
  dry || command -v xpk >/dev/null || fail "xpk is not installed; pip install xpk, or use jobset.yaml"
  forward project zone
  WHERE=("--cluster=${FLAG[cluster]}" "${FORWARD[@]}")
}

need_slices() {
  need type "say which slices, for example --type=v5e:4x4"
  resolve_type "${FLAG[type]}"
  # Its src/xpk/core/system_characteristics.py: every other type of lib.sh is there too.
  [[ ! $TOPOLOGY =~ ^v5e:(1x1|2x2)$ ]] ||
    refuse "--type=$(quote "${FLAG[type]}"): xpk does not know $ACCELERATOR; of v5e it knows 2x4, 4x4, 4x8, 8x8, 8x16 and 16x16, as in --type=v5e:2x4; smaller ones: tpu.sh"
  need_count slices 1 1
  SLICES=("--tpu-type=$ACCELERATOR" "--num-slices=${FLAG[slices]}")
}

do_cluster() {
  flags "type slices reservation" "spot on-demand" "$@"
  need_slices
  forward spot on-demand reservation
  ((${#FORWARD[@]} == 1)) || refuse "found ${#FORWARD[@]} of --spot, --on-demand and --reservation=R; write exactly one"
  call xpk cluster create "${WHERE[@]}" "${SLICES[@]}" "${FORWARD[@]}"
}

# Exit code 1 is a failure, but also how jaxcomp ends on a worker whose neighbour was preempted.
# exec: xpk hands SIGTERM to the shell that it starts the command in, and jaxcomp has to be that process.
do_start() {
  flags "name type slices image max-restarts" "" "$@"
  need name "name the job: --name=X"
  check_name "${FLAG[name]}"
  need_slices
  need_count max-restarts 10 0
  ((${#REST[@]})) || refuse "no command; expected: xpk.sh start ... -- jaxcomp sweep --config=..."
  local image=("--docker-image=${FLAG[image]:-}") command
  command="exec $(line "${REST[@]}")"
  if [[ -z ${FLAG[image]:-} ]]; then
    image=(--base-docker-image=python:3.11 "--script-dir=${HERE%/*}")
    command="pip install --quiet uv && uv sync --quiet --no-dev --extra=tpu --extra=gcs && export PATH=\$PWD/.venv/bin:\$PATH && $command"
  fi
  call xpk workload create "--workload=${FLAG[name]}" "${WHERE[@]}" "${SLICES[@]}" "${image[@]}" \
    "--max-restarts=${FLAG[max-restarts]}" --restart-on-exit-codes=1 --termination-grace-period-seconds=120 "--command=$command"
}

do_status() {
  flags "" "" "$@"
  call xpk workload list "${WHERE[@]}"
}

do_stop() {
  flags name "" "$@"
  need name "name the job: --name=X"
  call xpk workload delete "--workload=${FLAG[name]}" "${WHERE[@]}"
}

do_delete() {
  flags "" "" "$@"
  call xpk cluster delete "${WHERE[@]}"
}

main "$@"
