# shellcheck shell=bash disable=SC2034
# One queued resource: its state, its nodes, and commands on its workers. Sourced after lib.sh.

CLOUD_FLAGS="project zone slices"
# What tpu.sh create and tpu.sh setup take, and the others hand on to them.
CREATE_FLAGS="type runtime-version valid-until-duration network subnetwork service-account"
SETUP_FLAGS="commit repo env-file"
WORKER=jaxcomp/tpu_scripts/worker.sh  # on a worker, from the home folder in which ssh starts

set_where() { # WHERE and SSH from the flags; what is not given is left to gcloud's own configuration
  WHERE=()
  [[ -z ${FLAG[project]:-} ]] || WHERE+=("--project=${FLAG[project]}")
  [[ -z ${FLAG[zone]:-} ]] || WHERE+=("--zone=${FLAG[zone]}")
  SSH=("${WHERE[@]}" --quiet)
  [[ -z ${FLAG[internal-ip]:-} ]] || SSH+=(--internal-ip)
}

check_create_flags() {
  need type "say which slice, for example --type=v5e:4x4"
  resolve_type "${FLAG[type]}"
  [[ -n ${FLAG[spot]:-}${FLAG[on-demand]:-} ]] ||
    refuse "neither --spot nor --on-demand; write one: --spot costs less and can be preempted at any time"
  [[ -z ${FLAG[spot]:-} || -z ${FLAG[on-demand]:-} ]] || refuse "--spot and --on-demand exclude each other; write one"
  [[ -z ${FLAG[slices]:-} ]] || need_count slices 1 1
}

check_setup_flags() {
  [[ -z ${FLAG[env-file]:-} || -f ${FLAG[env-file]} ]] ||
    refuse "--env-file=${FLAG[env-file]} is no file; expected one with lines NAME=VALUE"
}

words_of() { # the flags that name this slice, for the commands that messages recommend
  forward project zone
  line "--name=$1" "${FORWARD[@]}"
}

asks() { # OUTPUT ERRORS COMMAND...: runs it, or in a dry run prints it and answers nothing
  if dry; then call "${@:3}"; else "${@:3}" >"$1" 2>"$2"; fi
}

# STATE is one of gcloud's, or ABSENT (no such queued resource), or UNKNOWN (gcloud gave another
# error: PROBLEM). Only the words NOT_FOUND mean absent: a lost network must not look like a preemption.
read_state() { # NAME: sets STATE, TYPE_SEEN, NODES
  local count=""
  scratch
  if asks "$SCRATCH/state" "$SCRATCH/problem" gcloud compute tpus queued-resources describe "$1" "${WHERE[@]}" \
    '--format=csv[no-heading](state.state,tpu.nodeSpec[0].node.acceleratorType,tpu.nodeSpec[0].multisliceParams.nodeCount)'; then
    if dry; then STATE=ACTIVE TYPE_SEEN=; else IFS=, read -r STATE TYPE_SEEN count <"$SCRATCH/state" || true; fi
  elif grep -q NOT_FOUND "$SCRATCH/problem"; then
    STATE=ABSENT TYPE_SEEN=
  else
    STATE=UNKNOWN TYPE_SEEN=
    PROBLEM=$(grep . "$SCRATCH/problem" | tail -n 1) || PROBLEM="gcloud gave no reason"
  fi
  set_nodes "$1" "${count:-1}"
}

set_nodes() { # NAME COUNT-SEEN
  local count=$2 i
  if [[ -n ${FLAG[slices]:-} ]]; then
    ((count == 1 || count == FLAG[slices])) ||
      refuse "--slices=${FLAG[slices]} but $1 was created with $count slices; write --slices=$count or leave it out"
    count=${FLAG[slices]}
  fi
  NODES=("$1")
  if ((count > 1)); then
    NODES=()
    for ((i = 0; i < count; i++)); do NODES+=("$1-$i"); done
  fi
}

state_mend() { # NAME: what STATE means and what to do
  case $STATE in
    ABSENT) echo "there is no queued resource $1; make one: tpu.sh create $(words_of "$1") --type=TYPE --spot" ;;
    UNKNOWN) echo "gcloud cannot say how $1 stands: $PROBLEM" ;;
    FAILED) echo "$1 is FAILED: the request was refused (quota, zone, type) or waited past its end; see 'gcloud compute tpus queued-resources describe $1', then: tpu.sh stop $(words_of "$1") --delete, and create again" ;;
    SUSPENDING | SUSPENDED) echo "$1 is $STATE: it was preempted or its nodes were deleted, and never becomes active again; tpu.sh stop $(words_of "$1") --delete, then create again; babysit.sh does both by itself" ;;
    DELETING) echo "$1 is being deleted; create it again when it is gone" ;;
    *) echo "$1 is $STATE, not ACTIVE yet; wait for it: tpu.sh status $(words_of "$1")" ;;
  esac
}

need_active() { # NAME
  read_state "$1"
  [[ $STATE == ACTIVE ]] || fail "$(state_mend "$1")"
}

wait_active() { # NAME: polls; FAILED, SUSPENDED and the like end it
  local seen="" unknown=0
  stop_on_signal "stopped waiting; $1 stays in the queue and costs money once it is ACTIVE; to give it up: tpu.sh stop $(words_of "$1") --delete"
  while :; do
    read_state "$1"
    if dry; then
      echo "# again every ${FLAG[poll]} seconds until the state is ACTIVE"
      return
    fi
    [[ $STATE == "$seen" ]] || say "$1: $STATE"
    seen=$STATE
    case $STATE in
      ACTIVE) return ;;
      FAILED | SUSPENDING | SUSPENDED | DELETING | ABSENT) fail "$(state_mend "$1")" ;;
      UNKNOWN) ((++unknown < 10)) || fail "$(state_mend "$1")" ;;
      *) unknown=0 ;;
    esac
    pause "${FLAG[poll]}"
  done
}

# --- nodes and workers ------------------------------------------------------------------------

each_node() { # FUNCTION ARGUMENTS...: FUNCTION NODE ARGUMENTS... for every node, all at once
  local node pid pids=() code=0
  if ((${#NODES[@]} == 1)); then
    "$1" "${NODES[0]}" "${@:2}"
    return
  fi
  if dry; then
    AT_ONCE=' &'
    for node in "${NODES[@]}"; do "$1" "$node" "${@:2}"; done
    AT_ONCE=
    echo wait
    return
  fi
  for node in "${NODES[@]}"; do
    "$1" "$node" "${@:2}" &
    pids+=($!)
  done
  for pid in "${pids[@]}"; do wait "$pid" || code=$?; done
  return "$code"
}

on_workers() { # NODE WORKERS COMMAND-LINE
  call gcloud compute tpus tpu-vm ssh "$1" "--worker=$2" "--command=$3" "${SSH[@]}"
}

on_all_workers() { # COMMAND-LINE
  each_node on_workers all "$1"
}

to_node() { # NODE FILE PLACE
  call gcloud compute tpus tpu-vm scp "$2" "$1:$3" --worker=all "${SSH[@]}"
}

node_states() { # NAME: one line a node: node, state, health
  local node
  for node in "${NODES[@]}"; do
    if dry; then
      describe_node "$node"
    else
      echo "$node,$(describe_node "$node" 2>/dev/null || echo unknown,-)"
    fi
  done
}

describe_node() {
  call gcloud compute tpus tpu-vm describe "$1" "${WHERE[@]}" '--format=csv[no-heading](state,health)'
}

# A worker without a checkout answers too, so that "not set up" and "does not answer" stay apart.
STATUS_LINE="if [ -e $WORKER ]; then bash $WORKER status; else echo \"JAXCOMP \$(hostname) unset - - |\"; fi"

read_jobs() { # sets JOBS, one line a worker: JAXCOMP HOST STATE CODE ATTEMPT | LAST LINE; fails if one is silent
  local code=0
  JOBS=
  if dry; then
    on_all_workers "$STATUS_LINE"
    return
  fi
  scratch
  on_all_workers "$STATUS_LINE" >"$SCRATCH/jobs" 2>"$SCRATCH/problem" || code=$?
  JOBS=$(grep '^JAXCOMP ' "$SCRATCH/jobs" | sort -V) || code=1
  PROBLEM=$(grep . "$SCRATCH/problem" | tail -n 1) || PROBLEM="no worker answered"
  return "$code"
}

# One word for all workers. "broken": one has ended and others still run, which then wait for it in
# vain. "rebooted" comes before "failed": jaxcomp fails where another machine was lost.
summary_of_jobs() { # sets JOB and JOB_CODE from JOBS
  local states codes
  states=$(awk '{ print $3 }' <<<"$JOBS" | sort -u | tr '\n' ' ')
  codes=$(awk '$3 == "finished" && $4 != 0 { print $4 }' <<<"$JOBS")
  JOB_CODE=$(awk '$1 != 143' <<<"$codes" | head -n 1)
  case $states in
    *unset*) JOB="unset" ;;
    "running " | "none " | "stopped ") JOB=${states% } ;;
    *running*) if [[ $states == "finished running " && -z $codes ]]; then JOB=running; else JOB=broken; fi ;;
    *stopped*) JOB=stopped ;;
    *rebooted*) JOB=rebooted ;;
    *died*) JOB=failed ;;
    *finished*)
      if [[ -n $JOB_CODE ]]; then
        JOB=failed
      elif [[ $states != "finished " ]]; then
        JOB=none
      elif [[ -n $codes ]]; then
        JOB=terminated
      else
        JOB="done"
      fi
      ;;
    *) JOB=none ;;
  esac
}

delete_node() { # NODE: gone already is as good
  local code=0
  scratch
  if dry; then
    call gcloud compute tpus tpu-vm delete "$1" "${WHERE[@]}" --quiet
    return
  fi
  gcloud compute tpus tpu-vm delete "$1" "${WHERE[@]}" --quiet 2>"$SCRATCH/$1" || code=$?
  [[ $code == 0 ]] || grep -q NOT_FOUND "$SCRATCH/$1" || cat "$SCRATCH/$1" >&2
}

delete_slice() { # NAME: the nodes, which cost money, and then the request that stands for them
  each_node delete_node
  call gcloud compute tpus queued-resources delete "$1" --force "${WHERE[@]}" --quiet
}

# --- several queued resources -----------------------------------------------------------------

read_names() { # NAMES from --names, or from --prefix and --count
  local i
  if [[ -n ${FLAG[names]:-} ]]; then
    [[ -z ${FLAG[prefix]:-}${FLAG[count]:-} ]] || refuse "--names and --prefix with --count exclude each other; write one"
    IFS=, read -r -a NAMES <<<"${FLAG[names]}"
  else
    need prefix "expected --prefix=P --count=N, or --names=A,B,C"
    need count "expected --count=N beside --prefix"
    need_count count 4 1
    NAMES=()
    for ((i = 0; i < FLAG[count]; i++)); do NAMES+=("${FLAG[prefix]}-$i"); done
  fi
  for i in "${NAMES[@]}"; do check_name "$i"; done
  [[ -z $(printf '%s\n' "${NAMES[@]}" | sort | uniq -d) ]] || refuse "--names=${FLAG[names]} has a name twice; expected different ones"
}

for_each_name() { # FUNCTION: FUNCTION NAME INDEX, for all names at once, each line led by its name
  local i pid pids=() code=0
  if dry || ((${#NAMES[@]} == 1)); then
    for i in "${!NAMES[@]}"; do "$1" "${NAMES[i]}" "$i"; done
    return
  fi
  for i in "${!NAMES[@]}"; do
    "$1" "${NAMES[i]}" "$i" > >(led_by "${NAMES[i]}") 2>&1 &
    pids+=($!)
  done
  for pid in "${pids[@]}"; do wait "$pid" || code=1; done
  return "$code"
}

led_by() { # NAME; the signals that end this script come to this process too, and its last lines still count
  local text
  trap '' INT TERM
  while IFS= read -r text; do echo "[$1] $text"; done
}
