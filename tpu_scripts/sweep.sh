#!/usr/bin/env bash
# One sweep on many slices: slice i of N runs `jaxcomp sweep --shard=i/N` on one shared gs:// workdir,
# whose ledger keeps what is done.
#
#   sweep.sh start --prefix=P --count=N|--names=A,B,C --type=TYPE --spot|--on-demand
#                  --config=CONFIG --workdir=gs://BUCKET/FOLDER [-- more flags of jaxcomp sweep]
#       asks for the slices that do not exist, waits for each, sets up the ones that are not set up
#       (a slice that is keeps its code: tpu.sh setup renews it), starts, and shows how all stand
#       --slices, --runtime-version, --valid-until-duration, --network, --subnetwork, --service-account
#                      as in tpu.sh create
#       --commit, --repo, --env-file          as in tpu.sh setup
#       --poll=SECONDS between two looks while waiting (default 30)
#   sweep.sh status --prefix=P --count=N|--names=A,B,C
#   sweep.sh stop   --prefix=P --count=N|--names=A,B,C [--grace=SECONDS] [--delete [--force]]
#
# All: --project, --zone, --internal-ip, --dry-run, --help as in tpu.sh.
# Spot slices: `babysit.sh ... -- jaxcomp sweep ... --shard={i}/{n}` does the same and also renews
# what was preempted.
# Exit codes: 0 done, 1 not on every slice, 2 wrong arguments, 130 and 143 interrupted.

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=lib.sh
. "$HERE/lib.sh"
# shellcheck source=slice.sh
. "$HERE/slice.sh"
export CALLED_BY_SCRIPT=1
WHICH="names prefix count $CLOUD_FLAGS"

main() {
  VERB=${1:-}
  case $VERB in
    start | status | stop) shift && "do_$VERB" "$@" ;;
    "" | -h | --help) usage ;;
    *) VERB="" && refuse "$(quote "$1") is not a command; expected start, status or stop" ;;
  esac
}

do_start() {
  parse_flags "$WHICH $CREATE_FLAGS $SETUP_FLAGS config workdir poll" "spot on-demand internal-ip dry-run" "$@"
  read_names
  need config "expected --config=configs/paper.py or another config"
  need workdir "expected --workdir=gs://BUCKET/FOLDER, which all slices share"
  [[ ${FLAG[workdir]} == gs://?*/?* ]] ||
    refuse "--workdir=${FLAG[workdir]} is on no bucket; slices share no disk: expected gs://BUCKET/FOLDER"
  check_create_flags
  check_setup_flags
  need_count poll 30 1
  set_where
  local code=0
  stop_on_signal "interrupted; slices that were asked for stay and cost money: sweep.sh status, sweep.sh stop --delete"
  for_each_name bring_up || code=1
  for_each_name show || code=1
  [[ $code == 0 ]] || fail "not every slice runs its part, see above; the same command tries again"
}

bring_up() { # NAME INDEX
  # shellcheck disable=SC2034  # so that each name gets its own
  SCRATCH=
  stop_on_signal "interrupted"
  read_state "$1"
  if dry; then
    echo "# if there is no $1 yet:"
    STATE=ABSENT
  fi
  if [[ $STATE == ABSENT ]]; then
    # shellcheck disable=SC2086  # the flags are words
    forward $CREATE_FLAGS slices project zone spot on-demand internal-ip dry-run
    attend "$HERE/tpu.sh" create "--name=$1" "${FORWARD[@]}" || fail "$1 was not created"
  fi
  wait_active "$1"
  stop_on_signal "interrupted"
  read_jobs || fail "a worker of $1 does not answer: $PROBLEM"
  dry || summary_of_jobs
  if ! dry && [[ $JOB == running || $JOB == broken ]]; then
    say "$1: runs already"
    return
  fi
  if dry || [[ $JOB == unset ]]; then
    ! dry || echo "# if a worker is not set up:"
    # shellcheck disable=SC2086  # the flags are words
    forward $SETUP_FLAGS slices project zone internal-ip dry-run
    attend "$HERE/tpu.sh" setup "--name=$1" "${FORWARD[@]}" || fail "$1 was not set up"
  fi
  forward slices project zone internal-ip dry-run
  attend "$HERE/tpu.sh" run "--name=$1" "${FORWARD[@]}" -- \
    jaxcomp sweep "--config=${FLAG[config]}" "--workdir=${FLAG[workdir]}" "--shard=$2/${#NAMES[@]}" "${REST[@]}" ||
    fail "$1 was not started"
}

show() { # NAME
  forward slices project zone internal-ip dry-run
  "$HERE/tpu.sh" status "--name=$1" "${FORWARD[@]}"
}

do_status() {
  parse_flags "$WHICH" "internal-ip dry-run" "$@"
  no_command
  read_names
  for_each_name show
}

do_stop() {
  parse_flags "$WHICH grace" "delete force internal-ip dry-run" "$@"
  no_command
  read_names
  for_each_name end
}

end() { # NAME
  forward slices project zone grace delete force internal-ip dry-run
  "$HERE/tpu.sh" stop "--name=$1" "${FORWARD[@]}"
}

main "$@"
