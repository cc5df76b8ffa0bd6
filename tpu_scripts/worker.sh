#!/usr/bin/env bash
# Runs on every worker of a slice, started by tpu.sh over ssh; nobody needs to call it by hand.
#
#   worker.sh install                      uv and the packages of this checkout
#   worker.sh check                        all workers together: versions and devices, one line
#   worker.sh ready                        mark this worker as set up
#   worker.sh idle                         exit 3 if a job runs here
#   worker.sh start --attempt=ID -- CMD    start CMD, free of this ssh connection
#   worker.sh status                       one line: host, state, exit code, attempt, last output
#   worker.sh logs [--lines=N] [--follow]  what the job printed
#   worker.sh stop [--attempt=ID] [--grace=SECONDS] [--mark]
#                                          SIGTERM, wait, then SIGKILL; --mark: not to be restarted
#
# One job at a time, in ~/.jaxcomp-job: lock, attempt, command, boot, pid, exit, log.

set -euo pipefail
REPO=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
JOB=$HOME/.jaxcomp-job
ATTEMPT="" GRACE=120 LINES_SHOWN=50 FOLLOW="" MARK=""
COMMAND=()

main() {
  local verb=${1:---help}
  shift || true
  while (($#)); do
    case $1 in
      --attempt=*) ATTEMPT=${1#*=} ;;
      --grace=*) GRACE=${1#*=} ;;
      --lines=*) LINES_SHOWN=${1#*=} ;;
      --follow) FOLLOW=1 ;;
      --mark) MARK=1 ;;
      --) COMMAND=("${@:2}") && break ;;
      *) echo "worker.sh: $1 is not a flag" >&2 && exit 2 ;;
    esac
    shift
  done
  case $verb in
    install | check | ready | idle | start | keep | status | logs | stop) "do_$verb" ;;
    --help) sed -n '2,/^$/{s/^# \{0,1\}//p;}' "$0" ;;
    *) echo "worker.sh: $verb is not one of install, check, ready, idle, start, status, logs, stop" >&2 && exit 2 ;;
  esac
}

saved() { cat "$JOB/$1" 2>/dev/null || true; }

# The lock is held by the job's processes themselves, so a reboot or kill -9 leaves no stale one.
running() {
  [[ -e $JOB/lock ]] && ! flock --nonblock --shared "$JOB/lock" true
}

do_install() {
  cd "$REPO"
  [[ ! -e ~/.jaxcomp-env ]] || chmod 600 ~/.jaxcomp-env
  export PATH=$HOME/.local/bin:$PATH
  command -v uv >/dev/null || PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --quiet --user uv
  # Python 3.11: pyproject.toml pins JAX to one version there, so a slice made again gets the same.
  uv sync --quiet --no-dev --python=3.11 --extra=tpu --extra=gcs
}

do_check() {
  "$REPO/.venv/bin/python" - <<'PY'
import importlib.metadata
import platform
import socket

import jax

jax.distributed.initialize(initialization_timeout=300)
names = ["jax", "jaxlib", "libtpu", "flax", "optax", "orbax-checkpoint", "grain"]
found = [f"{name}={importlib.metadata.version(name)}" for name in names]
versions = ",".join([f"python={platform.python_version()}", *found])
print("JAXCOMP-CHECK", socket.gethostname(), jax.process_count(), jax.device_count(), versions)
PY
}

do_ready() { touch "$REPO/.venv/jaxcomp-ready"; }

do_idle() {
  running || return 0
  echo "worker.sh on $(hostname): a job runs here: $(saved command)" >&2
  exit 3
}

# gcloud repeats a command whose connection broke, so the same attempt a second time is no error.
do_start() {
  [[ -e $REPO/.venv/jaxcomp-ready ]] || { echo "worker.sh on $(hostname): not set up; run tpu.sh setup" >&2 && exit 4; }
  mkdir -p "$JOB"
  exec 9>>"$JOB/lock"
  if [[ $(saved attempt) == "$ATTEMPT" ]]; then
    echo "attempt $ATTEMPT was started already"
    return
  fi
  # A status that looks at the same moment holds the lock too, for an instant.
  flock --nonblock 9 || { do_idle && flock 9; }
  rm -f "$JOB/exit" "$JOB/pid" "$JOB/stopped"
  printf '%q ' "${COMMAND[@]}" >"$JOB/command"
  cat /proc/sys/kernel/random/boot_id >"$JOB/boot"
  echo "$ATTEMPT" >"$JOB/attempt"
  echo "--- $(date -u +%FT%TZ) attempt $ATTEMPT: $(saved command)" >>"$JOB/log"
  setsid nohup bash "${BASH_SOURCE[0]}" keep -- "${COMMAND[@]}" </dev/null >>"$JOB/log" 2>&1 &
  echo "started attempt $ATTEMPT on $(hostname)"
}

# The job's own process gets no uv around it: SIGTERM shall reach jaxcomp once, while it saves.
do_keep() {
  local code=0 child
  trap : TERM HUP
  cd "$REPO"
  export PATH=$REPO/.venv/bin:$HOME/.local/bin:$PATH PYTHONUNBUFFERED=1
  if [[ -e ~/.jaxcomp-env ]]; then
    set -a
    # shellcheck disable=SC1090
    . ~/.jaxcomp-env
    set +a
  fi
  "${COMMAND[@]}" &
  child=$!
  echo "$$" >"$JOB/group"
  echo "$child" >"$JOB/pid"
  wait "$child" || code=$?
  while kill -0 "$child" 2>/dev/null; do # a signal ended the wait, not the job
    code=0
    wait "$child" || code=$?
  done
  echo "--- exit code $code" >>"$JOB/log"
  echo "$code" >"$JOB/exit.new"
  mv "$JOB/exit.new" "$JOB/exit"
}

do_status() {
  local state=none code=-
  if [[ ! -e $REPO/.venv/jaxcomp-ready ]]; then
    state="unset"
  elif running; then
    state=running
  elif [[ -e $JOB/exit ]]; then
    state=finished code=$(saved exit)
    [[ ! -e $JOB/stopped ]] || state=stopped
  elif [[ -e $JOB/attempt && $(saved boot) != $(cat /proc/sys/kernel/random/boot_id) ]]; then
    state=rebooted
  elif [[ -e $JOB/attempt ]]; then
    state=died
  fi
  echo "JAXCOMP $(hostname) $state $code $(saved attempt | grep . || echo -) | $(last_output)"
}

last_output() {
  [[ -e $JOB/log ]] || return 0
  tail -c 8192 "$JOB/log" | tr '\r' '\n' | grep '[^[:space:]]' | grep -v '^--- exit code' | tail -n 1 | cut -c 1-160 || true
}

do_logs() {
  [[ -e $JOB/log ]] || { echo "worker.sh on $(hostname): no job has run here" >&2 && exit 3; }
  if [[ -n $FOLLOW ]]; then exec tail -n "$LINES_SHOWN" -F "$JOB/log"; else tail -n "$LINES_SHOWN" "$JOB/log"; fi
}

do_stop() {
  local second
  [[ -z $ATTEMPT || $(saved attempt) == "$ATTEMPT" ]] || return 0
  # Also between two attempts of babysit.sh; but what has finished well stays so.
  [[ -z $MARK || ! -d $JOB || $(saved exit) == 0 ]] || touch "$JOB/stopped"
  running || { echo "$(hostname): no job runs" && return; }
  for ((second = 0; second < 10; second++)); do
    [[ ! -e $JOB/pid ]] || break
    sleep 1
  done
  kill -TERM "$(saved pid)" 2>/dev/null || true
  for ((second = 0; second < GRACE; second++)); do
    running || { echo "$(hostname): stopped, exit code $(saved exit)" && return; }
    sleep 1
  done
  kill -KILL -- "-$(saved group)"
  echo 137 >"$JOB/exit"
  echo "$(hostname): killed after $GRACE s; what it did since its last checkpoint is lost"
}

main "$@"
