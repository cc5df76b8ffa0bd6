#!/usr/bin/env bash
# One Cloud TPU queued resource: one slice, or with --slices several joined to one cluster.
#
#   tpu.sh create --name=X --type=TYPE --spot|--on-demand   ask for it
#       TYPE             v5e:4x4, v5p:4x4x4, v6e:8x8, ... (as in jaxcomp plan), or
#                        v5litepod-16, v5p-128, v6e-64, ... (as in gcloud)
#       --slices=N       N slices that train together (default 1)
#       --wait           until it is ACTIVE; --poll=SECONDS between two looks (default 30)
#       --runtime-version=V    default: the one for the generation of TYPE
#       --valid-until-duration=D   leave the queue after D, for example 6h
#       --network=, --subnetwork=, --service-account=   handed to gcloud
#   tpu.sh setup --name=X                                   code and packages on all workers
#       --commit=REV     default: HEAD of this checkout; uncommitted changes stay here
#       --repo=URL       clone there instead of sending an archive from here
#       --env-file=FILE  lines NAME=VALUE for the job's environment, for example HF_TOKEN=...
#   tpu.sh run --name=X -- COMMAND ...                      start it on all workers
#       --attempt=ID     the same ID twice starts once (default: a new one)
#   tpu.sh status --name=X                                  queued resource, nodes, jobs
#   tpu.sh logs --name=X                                    what the job printed
#       --slice=I --worker=N (default 0 and 0), --lines=N (default 50), --follow
#   tpu.sh stop --name=X                                    SIGTERM, so that it saves
#       --grace=SECONDS  then SIGKILL (default 120)
#       --delete         then give the slice back, which ends its costs
#       --force          delete even if the job could not be stopped
#
# All: --project=P --zone=Z (default: gcloud's own), --internal-ip (no external addresses),
# --dry-run (print the commands, run none), --help.
# Exit codes: 0 done, 1 could not be done, 2 wrong arguments, 130 and 143 interrupted.

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=lib.sh
. "$HERE/lib.sh"
# shellcheck source=slice.sh
. "$HERE/slice.sh"
REPO=${HERE%/*}
COMMON="dry-run internal-ip"

main() {
  VERB=${1:-}
  case $VERB in
    create | setup | run | status | logs | stop) shift && "do_$VERB" "$@" ;;
    "" | -h | --help) usage ;;
    *) VERB="" && refuse "$(quote "$1") is not a command; expected one of create, setup, run, status, logs, stop" ;;
  esac
}

flags() { # "value flags" "switches" ARGUMENTS...
  parse_flags "name $CLOUD_FLAGS $1" "$COMMON $2" "${@:3}"
  [[ $VERB == run ]] || no_command
  need name "name the queued resource: --name=X"
  check_name "${FLAG[name]}"
  NAME=${FLAG[name]}
  [[ -z ${FLAG[slices]:-} ]] || need_count slices 1 1
  set_where
}

do_create() {
  flags "$CREATE_FLAGS poll" "spot on-demand wait" "$@"
  check_create_flags
  need_count slices 1 1
  need_count poll 30 1
  request
  dry || say "requested $NAME: ${FLAG[slices]} x $TOPOLOGY ($ACCELERATOR), $((CHIPS * ${FLAG[slices]})) chips"
  [[ -z ${FLAG[wait]:-} ]] || wait_active "$NAME"
  next "tpu.sh setup $(words_of "$NAME")"
}

request() {
  local ids=("--node-id=$NAME") spot=() address=()
  ((${FLAG[slices]} == 1)) || ids=("--node-count=${FLAG[slices]}" "--node-prefix=$NAME")
  [[ -z ${FLAG[spot]:-} ]] || spot=(--spot)
  [[ -z ${FLAG[internal-ip]:-} ]] || address=(--internal-ips)
  forward valid-until-duration network subnetwork service-account
  call gcloud compute tpus queued-resources create "$NAME" "${ids[@]}" \
    "--accelerator-type=$ACCELERATOR" "--runtime-version=${FLAG[runtime-version]:-$(runtime_version)}" \
    "${spot[@]}" "${address[@]}" "${FORWARD[@]}" "${WHERE[@]}" ||
    fail "gcloud refused to create $NAME, see above; if it says ALREADY_EXISTS: tpu.sh status $(words_of "$NAME"); if it says quota: ask for quota of this type in this zone"
}

do_setup() {
  flags "$SETUP_FLAGS" "" "$@"
  check_setup_flags
  need_active "$NAME"
  if [[ -n ${FLAG[repo]:-} ]]; then clone; else send; fi
  [[ -z ${FLAG[env-file]:-} ]] || each_node to_node "${FLAG[env-file]}" .jaxcomp-env ||
    fail "--env-file=${FLAG[env-file]} could not be copied, see above"
  dry || say "installing packages, a few minutes"
  on_all_workers "bash $WORKER install" || fail "a worker could not install the packages, see above; the same command tries again"
  check_workers
  on_all_workers "bash $WORKER ready" || fail "a worker did not answer; the same command tries again"
  next "tpu.sh run $(words_of "$NAME") -- jaxcomp sweep --config=configs/paper.py --workdir=gs://BUCKET/FOLDER"
}

# The old environment moves into the new checkout, where uv changes only what differs.
swap_in() { # COMMAND that fills jaxcomp.new
  echo "set -e; [ ! -e $WORKER ] || bash $WORKER idle; rm -rf jaxcomp.new; $1; rm -f jaxcomp/.venv/jaxcomp-ready; [ ! -d jaxcomp/.venv ] || mv jaxcomp/.venv jaxcomp.new/; rm -rf jaxcomp; mv jaxcomp.new jaxcomp"
}

send() {
  local archive=${TMPDIR:-/tmp}/jaxcomp-$NAME.tgz
  call git -C "$REPO" archive --format=tgz "--output=$archive" "${FLAG[commit]:-HEAD}" ||
    fail "git has no commit ${FLAG[commit]:-HEAD} in $REPO; expected --commit=REV of this checkout"
  each_node to_node "$archive" jaxcomp.tgz || fail "the code could not be copied to all workers, see above; for several workers gcloud needs your key in the agent: ssh-add ~/.ssh/google_compute_engine"
  call rm -f "$archive"
  on_all_workers "$(swap_in "mkdir jaxcomp.new; tar -xzf jaxcomp.tgz -C jaxcomp.new")" ||
    fail "the code could not be unpacked on all workers, see above; if a job runs there: tpu.sh stop $(words_of "$NAME")"
}

clone() {
  local get
  get="git clone --quiet $(quote "${FLAG[repo]}") jaxcomp.new"
  [[ -z ${FLAG[commit]:-} ]] || get+="; git -C jaxcomp.new checkout --quiet $(quote "${FLAG[commit]}")"
  on_all_workers "$(swap_in "$get")" ||
    fail "--repo=${FLAG[repo]} could not be cloned on all workers, see above; without --repo the code is sent from here"
}

check_workers() {
  local expected=0 problem
  if dry; then
    on_all_workers "bash $WORKER check"
    return
  fi
  on_all_workers "bash $WORKER check" >"$SCRATCH/check" || fail "the workers could not start JAX together, see above"
  [[ -z $TYPE_SEEN ]] || resolve_type "$TYPE_SEEN"
  [[ -z $TYPE_SEEN ]] || expected=$((CHIPS * ${#NODES[@]}))
  problem=$(grep '^JAXCOMP-CHECK ' "$SCRATCH/check" | awk -v expected="$expected" '
    { n++; if (n == 1) { host = $2; processes = $3; devices = $4; versions = $5 }
      if ($5 != versions) { print $2 " has " $5 " but " host " has " versions; bad = 1; exit }
      if ($4 != devices) { print $2 " sees " $4 " devices but " host " sees " devices; bad = 1; exit } }
    END { if (bad) exit
      if (!n) print "no worker printed its versions"
      else if (n != processes) print n " workers answered but JAX counts " processes
      else if (expected && devices != expected) print "JAX sees " devices " devices, the slice has " expected }')
  [[ -z $problem ]] || fail "the workers of $NAME do not agree: $problem; run setup again, and if it stays so delete and create the slice"
  say "$(awk '$1 == "JAXCOMP-CHECK" { n++; d = $4; v = $5 } END { print "workers: " n ", devices: " d ", " v }' "$SCRATCH/check")"
}

do_run() {
  flags attempt "" "$@"
  ((${#REST[@]})) || refuse "no command; expected: tpu.sh run --name=$NAME -- jaxcomp sweep --config=..."
  local attempt=${FLAG[attempt]:-$(date -u +%Y%m%dT%H%M%SZ)-$$}
  [[ $attempt =~ ^[A-Za-z0-9_.-]+$ ]] || refuse "--attempt=$(quote "$attempt") is not an id; expected letters, digits and _.-"
  need_active "$NAME"
  need_idle "$attempt"
  if ! on_all_workers "bash $WORKER start --attempt=$attempt -- $(line "${REST[@]}")"; then
    on_all_workers "bash $WORKER stop --attempt=$attempt --grace=10" || true
    fail "not every worker of $NAME started, see above; those that did were stopped again"
  fi
  next "tpu.sh status $(words_of "$NAME"), tpu.sh logs $(words_of "$NAME") --follow"
}

need_idle() { # ATTEMPT: workers that run this very attempt are no hindrance
  local busy
  read_jobs || fail "a worker of $NAME does not answer, so nothing was started: $PROBLEM"
  dry && return
  ! grep -q '^JAXCOMP [^ ]* unset ' <<<"$JOBS" || fail "$NAME is not set up; run: tpu.sh setup $(words_of "$NAME")"
  busy=$(awk -v attempt="$1" '$3 == "running" && $5 != attempt { print $2 " (attempt " $5 ")"; exit }' <<<"$JOBS")
  [[ -z $busy ]] || fail "a job runs already on $busy; wait for it, or: tpu.sh stop $(words_of "$NAME")"
}

do_status() {
  flags "" "" "$@"
  local code=0
  read_state "$NAME"
  dry || printf '%-16s %s  %s\n' "queued resource" "$NAME" "$STATE ${TYPE_SEEN:+$TYPE_SEEN x ${#NODES[@]}}"
  if [[ $STATE != ACTIVE ]]; then
    say "$(state_mend "$NAME")"
    [[ $STATE != UNKNOWN ]] || exit 1
    return
  fi
  node_states | if dry; then cat; else awk -F, '{ printf "%-16s %s  %s %s\n", "node", $1, $2, $3 }'; fi
  read_jobs || code=$?
  dry && return
  awk '{ last = $0; sub(/^[^|]*[|] ?/, "", last)
    printf "%-16s %s  %s%s%s\n", "worker", $2, $3, ($4 == "-" ? "" : " with exit code " $4), (last == "" ? "" : ": " last) }' <<<"$JOBS"
  [[ $code == 0 ]] || fail "not every worker of $NAME answers: $PROBLEM"
}

do_logs() {
  flags "slice worker lines" follow "$@"
  need_count slice 0 0
  need_count worker 0 0
  need_count lines 50 1
  local words=(bash "$WORKER" logs "--lines=${FLAG[lines]}")
  [[ -z ${FLAG[follow]:-} ]] || words+=(--follow)
  need_active "$NAME"
  ((${FLAG[slice]} < ${#NODES[@]})) || refuse "--slice=${FLAG[slice]} but $NAME has ${#NODES[@]}, counted from 0"
  [[ -z ${FLAG[follow]:-} ]] || stop_on_signal "no longer following; the job goes on"
  on_workers "${NODES[FLAG[slice]]}" "${FLAG[worker]}" "$(line "${words[@]}")"
}

do_stop() {
  flags grace "delete force" "$@"
  need_count grace 120 0
  [[ -z ${FLAG[force]:-} || -n ${FLAG[delete]:-} ]] || refuse "--force belongs to --delete; write both or none"
  read_state "$NAME"
  [[ $STATE != UNKNOWN ]] || fail "$(state_mend "$NAME")"
  if [[ $STATE == ABSENT ]]; then
    say "there is no queued resource $NAME: nothing to stop"
    return
  fi
  if [[ $STATE == ACTIVE ]]; then
    on_all_workers "if [ -e $WORKER ]; then bash $WORKER stop --mark --grace=${FLAG[grace]}; fi" || [[ -n ${FLAG[force]:-} ]] ||
      fail "the job could not be stopped on every worker, see above, and nothing was deleted; the same command tries again, --delete --force deletes all the same"
  else
    say "$NAME is $STATE: no job runs"
  fi
  if [[ -n ${FLAG[delete]:-} ]]; then
    delete_slice "$NAME" || fail "gcloud could not delete $NAME, see above; it may still cost money: the same command tries again"
    dry || say "deleted $NAME"
  else
    dry || say "$NAME stays and costs money; to give it back: tpu.sh stop $(words_of "$NAME") --delete"
  fi
}

main "$@"
