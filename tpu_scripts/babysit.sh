#!/usr/bin/env bash
# Keeps a command going on one or many queued resources until it has finished: asks for the slice,
# sets it up, starts the command, and does so again after each preemption. The command must resume
# by itself when it is started again, as those of jaxcomp do.
#
#   babysit.sh --names=A,B,C --type=TYPE --spot|--on-demand -- COMMAND ...
#   babysit.sh --prefix=P --count=N ...      the same for P-0 ... P-(N-1)
#       in COMMAND {i} becomes the place of the name in the list, from 0, and {n} the number of names
#   --slices, --runtime-version, --valid-until-duration, --network, --subnetwork, --service-account
#                            as in tpu.sh create
#   --commit, --repo, --env-file              as in tpu.sh setup; HEAD is looked up once, at the start
#   --poll=SECONDS           between two looks (default 60)
#   --backoff=SECONDS        before a retry, doubled each time up to an hour (default 60)
#   --max-failures=N         retries after failures that were no preemption (default 3); then it
#                            shows the end of the job's log and gives up, and the slice stays
#   --delete-when-done       give the slice back when the command has finished
#   --state-dir=DIR          what it remembers (default: ~/.local/state/jaxcomp)
#   --project, --zone, --internal-ip, --dry-run, --help   as in tpu.sh
#
# Killed or interrupted, it leaves slices and jobs as they are; the same command takes them up again.
# A job ended by `tpu.sh stop` is not restarted: babysitting of it ends. A job that was started by
# other means is waited for.
# Exit codes: 0 all have finished, 1 one has not, 2 wrong arguments, 130 and 143 interrupted.

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=lib.sh
. "$HERE/lib.sh"
# shellcheck source=slice.sh
. "$HERE/slice.sh"
export CALLED_BY_SCRIPT=1

main() {
  parse_flags "names prefix count $CLOUD_FLAGS $CREATE_FLAGS $SETUP_FLAGS poll backoff max-failures state-dir" \
    "spot on-demand internal-ip delete-when-done dry-run" "$@"
  read_names
  ((${#REST[@]})) || refuse "no command; expected: babysit.sh --names=A ... -- jaxcomp sweep --config=..."
  check_create_flags
  check_setup_flags
  need_count poll 60 1
  need_count backoff 60 1
  need_count max-failures 3 0
  set_where
  STATES=${FLAG[state-dir]:-${XDG_STATE_HOME:-$HOME/.local/state}/jaxcomp}
  dry || mkdir -p "$STATES" || refuse "--state-dir=$STATES cannot be made; expected a folder that can be written"
  stop_on_signal "babysitting ended"
  for_each_name babysit
}

babysit() { # NAME INDEX
  local word
  NAME=$1
  COMMAND=()
  for word in "${REST[@]}"; do
    word=${word//'{i}'/$2}
    COMMAND+=("${word//'{n}'/${#NAMES[@]}}")
  done
  if dry; then
    rehearse
    return
  fi
  SCRATCH=
  stop_on_signal "babysitting of $NAME ended; slice and job go on and cost money; the same command takes them up again"
  take_lock
  load_state
  SEEN=
  while :; do step; done
}

# --- what is remembered -----------------------------------------------------------------------

take_lock() {
  local lock=$STATES/$NAME.lock holder
  if ! mkdir "$lock" 2>/dev/null; then
    holder=$(cat "$lock/pid" 2>/dev/null || true)
    [[ -z $holder ]] || ! kill -0 "$holder" 2>/dev/null || fail "$NAME has a babysitter already, process $holder; end that one first"
  fi
  echo "$BASHPID" >"$lock/pid"
  scratch
  # shellcheck disable=SC2064  # the folder as it is now
  trap "rm -rf $(quote "$SCRATCH") $(quote "$lock")" EXIT
}

load_state() {
  local key value
  FAILURES=0 TROUBLE=0 STARTS=0 ID=$(date -u +%Y%m%dT%H%M%SZ) COMMIT=${FLAG[commit]:-} STORED=
  if [[ -e $STATES/$NAME.state ]]; then
    while IFS='=' read -r key value; do
      case $key in
        failures) FAILURES=$value ;;
        trouble) TROUBLE=$value ;;
        starts) STARTS=$value ;;
        id) ID=$value ;;
        commit) COMMIT=${FLAG[commit]:-$value} ;;
        command) STORED=$value ;;
      esac
    done <"$STATES/$NAME.state"
    [[ $STORED == "$(line "${COMMAND[@]}")" ]] ||
      fail "$NAME was babysat with another command: $STORED; finish that one, or remove $STATES/$NAME.state"
  fi
  # A commit made meanwhile must not change the code in the middle of a run.
  [[ -n $COMMIT || -n ${FLAG[repo]:-} ]] || COMMIT=$(git -C "${HERE%/*}" rev-parse HEAD) ||
    fail "${HERE%/*} is no git checkout; expected one, or --repo=URL"
  save_state
}

save_state() {
  printf '%s\n' "failures=$FAILURES" "trouble=$TROUBLE" "starts=$STARTS" "id=$ID" "commit=$COMMIT" \
    "command=$(line "${COMMAND[@]}")" >"$STATES/$NAME.state.new"
  mv "$STATES/$NAME.state.new" "$STATES/$NAME.state"
}

# --- one look and what follows from it --------------------------------------------------------

look() { # sets NOW
  read_state "$NAME"
  NOW=$STATE
  if dry; then
    node_states
    read_jobs
    return
  fi
  [[ $STATE == ACTIVE ]] || return 0
  local nodes
  nodes=$(node_states)
  if grep -qE ',(PREEMPTED|TERMINATED),' <<<"$nodes"; then
    NOW=preempted
  elif read_jobs; then
    summary_of_jobs
    NOW=$JOB
    ours || [[ $JOB == "unset" || $JOB == none ]] || if grep -q ' running ' <<<"$JOBS"; then NOW=foreign; else NOW=none; fi
  else
    NOW=silent
  fi
}

# Whatever ran here before, started by hand or for another command, says nothing about this one.
ours() { awk -v id="babysit-$ID-" 'index($5, id) == 1 { n = 1 } END { exit !n }' <<<"$JOBS"; }

step() {
  local before=$SEEN
  look
  SEEN=$NOW
  [[ $NOW == "$before" ]] || say "$(date +%H:%M:%S) $NAME: $(in_words)"
  case $NOW in
    ABSENT) ask_for_slice || trouble "the slice was refused" ;;
    FAILED)
      trouble "the request FAILED"
      renew
      ;;
    SUSPENDED | preempted) renew ;;
    "unset") set_up || trouble_if_active "setup failed" ;;
    none | rebooted) start || trouble_if_active "the start failed" ;;
    running) settled ;;
    failed) job_failed ;;
    broken) [[ $before != broken ]] || halt_rest ;;
    terminated) [[ $before != terminated ]] || start || trouble_if_active "the start failed" ;;
    "done") finish ;;
    stopped) give_up "it was stopped by tpu.sh stop" ;;
  esac
  pause "${FLAG[poll]}"
}

in_words() {
  case $NOW in
    ABSENT) echo "there is none yet" ;;
    preempted) echo "a node was preempted" ;;
    UNKNOWN) echo "gcloud does not say how it stands, waiting: $PROBLEM" ;;
    silent) echo "ACTIVE, but not every worker answers, waiting: $PROBLEM" ;;
    "unset") echo "ACTIVE, not set up" ;;
    none) echo "ACTIVE, no job" ;;
    foreign) echo "a job runs that was not started from here; waiting for its end" ;;
    broken) echo "the job has ended on some workers and not on others" ;;
    terminated) echo "the job got a SIGTERM that was not from tpu.sh stop; perhaps a preemption" ;;
    *) echo "$NOW" ;;
  esac
}

ask_for_slice() {
  # shellcheck disable=SC2086  # the flags are words
  forward $CREATE_FLAGS slices project zone spot on-demand internal-ip dry-run
  attend "$HERE/tpu.sh" create "--name=$NAME" "${FORWARD[@]}"
}

renew() {
  say "$NAME: asking for a new slice"
  delete_slice "$NAME" || trouble "the old slice could not be deleted"
}

set_up() {
  [[ -z ${COMMIT:-} ]] || FLAG[commit]=$COMMIT
  # shellcheck disable=SC2086  # the flags are words
  forward $SETUP_FLAGS slices project zone internal-ip dry-run
  attend "$HERE/tpu.sh" setup "--name=$NAME" "${FORWARD[@]}"
}

# The number of the start is saved first: killed right after, it starts the same attempt, once.
start() {
  forward slices project zone internal-ip dry-run
  if ! dry; then
    STARTS=$((STARTS + 1))
    save_state
  fi
  attend "$HERE/tpu.sh" run "--name=$NAME" "--attempt=babysit-${ID:-$(date -u +%Y%m%dT%H%M%SZ)}-${STARTS:-1}" "${FORWARD[@]}" -- "${COMMAND[@]}"
}

settled() {
  ((TROUBLE == 0)) || { TROUBLE=0 && save_state; }
}

halt_rest() {
  say "$NAME: stopping the job on the workers that still run it"
  on_all_workers "bash $WORKER stop" || true
}

job_failed() {
  FAILURES=$((FAILURES + 1))
  save_state
  ((FAILURES <= ${FLAG[max-failures]})) || give_up "the job failed by itself $FAILURES times, last with exit code ${JOB_CODE:-unknown}"
  say "$NAME: the job failed by itself with exit code ${JOB_CODE:-unknown}; restart $FAILURES of ${FLAG[max-failures]} in $(backoff "$FAILURES") s"
  pause "$(backoff "$FAILURES")"
  start || trouble_if_active "the start failed"
}

trouble() { # WHAT
  TROUBLE=$((TROUBLE + 1))
  save_state
  ((TROUBLE <= ${FLAG[max-failures]})) || give_up "$1, $TROUBLE times in a row"
  say "$NAME: $1; retry $TROUBLE of ${FLAG[max-failures]} in $(backoff "$TROUBLE") s"
  pause "$(backoff "$TROUBLE")"
}

trouble_if_active() { # a preemption in the middle of setup or start is nobody's failure
  read_state "$NAME"
  [[ $STATE != ACTIVE ]] || trouble "$1"
}

backoff() { # COUNT
  local seconds=$((${FLAG[backoff]} << ($1 < 12 ? $1 - 1 : 11)))
  echo $((seconds < 3600 ? seconds : 3600))
}

give_up() { # WHY; the same command starts over: with a fresh count, and not from what it found now
  local node worker
  FAILURES=0 TROUBLE=0 ID=$(date -u +%Y%m%dT%H%M%SZ)-$$
  save_state
  if [[ $NOW == failed ]]; then
    worker=$(awk '$3 == "died" || ($3 == "finished" && $4 != 0 && $4 != 143) { print $2; exit }' <<<"$JOBS")
    say "--- the end of the log of $worker"
    for node in "${NODES[@]}"; do
      on_workers "$node" all "if [ \$(hostname) = $(quote "$worker") ]; then bash $WORKER logs --lines=40; fi" >&2 || true
    done
    say "---"
  fi
  fail "gave up on $NAME: $1; the slice stays and costs money; the same command goes on, or: tpu.sh stop $(words_of "$NAME") --delete"
}

finish() {
  say "$NAME: the command has finished"
  rm -f "$STATES/$NAME.state"
  if [[ -n ${FLAG[delete-when-done]:-} ]]; then
    delete_slice "$NAME" || fail "$NAME could not be deleted and costs money: tpu.sh stop $(words_of "$NAME") --delete"
  else
    say "$NAME stays and costs money; to give it back: tpu.sh stop $(words_of "$NAME") --delete"
  fi
  exit 0
}

rehearse() { # --dry-run: the way from nothing to a running job
  read_state "$NAME"
  echo "# if there is no $NAME yet:"
  ask_for_slice
  echo "# again every ${FLAG[poll]} seconds until the state is ACTIVE:"
  look
  echo "# if a worker is not set up:"
  set_up
  look
  start
  look
  echo "# from here on again every ${FLAG[poll]} seconds; after a preemption:"
  AFTER=$(delete_slice "$NAME")
  echo "# ${AFTER//$'\n'/$'\n'# }"
  echo "# and from the start"
}

main "$@"
