#!/usr/bin/env bash
# One Cloud TPU slice as a queued resource, through gcloud.
#
#   tpu_vm.sh create NAME --type=v5e:4x4 --spot --service-account=SA   ask for it; --on-demand costs
#                                       more and is not preempted; the type as in `jaxcomp plan`
#   tpu_vm.sh state NAME                until it says ACTIVE
#   tpu_vm.sh setup NAME                HEAD of this checkout and its packages, on all workers;
#                                       --env-file=FILE: lines NAME=VALUE for the job, as HF_TOKEN=...
#   tpu_vm.sh run NAME -- jaxcomp sweep --config=paper --workdir=gs://BUCKET/runs/paper
#                                       the same command on all workers; it outlives this terminal
#   tpu_vm.sh logs NAME --worker=0      what it prints, until Ctrl-C
#   tpu_vm.sh stop NAME                 SIGTERM: it saves; the same `run` resumes
#   tpu_vm.sh delete NAME               ends the costs
#
# --dry-run prints the commands and runs none. All other --flag=value go to gcloud as they are:
# --project, --zone, --internal-ips (create), --internal-ip (the others), --valid-until-duration=6h, ...
# Exit codes: 0 done, 1 not done, 2 wrong arguments. A preempted slice stays gone: sky.yaml asks again.

set -euo pipefail
REPO=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

refuse() {
  echo "tpu_vm.sh: $*" >&2
  exit 2
}

((BASH_VERSINFO[0] >= 5)) || refuse "bash $BASH_VERSION found, expected 5 or later; on macOS: brew install bash"

VERB="" NAME="" TYPE="" PRICE="" ENV_FILE="" DRY="" FLAGS=() COMMAND=()

main() {
  VERB=${1:---help}
  case $VERB in
    create | state | setup | run | logs | stop | delete) ;;
    -h | --help) sed -n '2,/^$/s/^# \{0,1\}//p' "$0" && exit ;;
    *) refuse "$VERB is not a command; expected create, state, setup, run, logs, stop or delete" ;;
  esac
  NAME=${2:-}
  [[ $NAME =~ ^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$ ]] ||
    refuse "'$NAME' is not a name; expected: tpu_vm.sh $VERB NAME, of lower-case letters, digits and -, a letter first"
  parse "${@:3}"
  [[ -n $DRY ]] || command -v gcloud >/dev/null || {
    echo "tpu_vm.sh: gcloud is not installed; see https://cloud.google.com/sdk/docs/install" >&2
    exit 1
  }
  "do_$VERB"
}

parse() {
  while (($#)); do
    case $VERB:$1 in
      *:--dry-run) DRY=1 ;;
      create:--type=*) TYPE=${1#*=} ;;
      create:--spot | create:--on-demand) PRICE+=$1 ;;
      setup:--env-file=*) ENV_FILE=${1#*=} ;;
      run:--) COMMAND=("${@:2}") && break ;;
      *:--?*) FLAGS+=("$1") ;;
      *) refuse "'$1' is not a flag of $VERB; expected --flag=value, and a command only after run NAME --" ;;
    esac
    shift
  done
}

call() {
  if [[ -n $DRY ]]; then printf '%q ' "$@" && echo; else "$@"; fi
}

on_workers() { # COMMAND LINE
  call gcloud compute tpus tpu-vm ssh "$NAME" --worker=all "--command=$1" "${FLAGS[@]}"
}

# gcloud names a slice by its number of chips, v5p by TensorCores, two a chip, and chooses the shape.
accelerator() { # sets ACCELERATOR and RUNTIME from TYPE, in gcloud's words or those of `jaxcomp plan`
  local kind=${TYPE%%[:-]*} shape of_a_chip=1 prefix shapes="1x1 2x2 2x4 4x4 4x8 8x8 8x16 16x16"
  kind=${kind/litepod/e} prefix=$kind
  case $kind in
    v5e) prefix=v5litepod RUNTIME=v2-alpha-tpuv5-lite ;;
    v6e) RUNTIME=v2-alpha-tpuv6e ;;
    v5p)
      RUNTIME=v2-alpha-tpuv5 of_a_chip=2
      shapes="2x2x1 2x2x2 2x2x4 2x4x4 4x4x4 4x4x8 4x4x12 4x8x8 4x4x20 4x8x12 4x4x28 8x8x8 4x12x12 4x8x20"
      shapes+=" 8x8x12 8x8x16 8x12x12 8x12x16 8x16x16 12x16x16 16x16x16 16x16x24"
      ;;
    *) refuse "--type='$TYPE' is no slice; expected v5e, v5p or v6e, as in --type=v5e:4x4 or --type=v5litepod-16" ;;
  esac
  for shape in $shapes; do
    ACCELERATOR=$prefix-$((${shape//x/*} * of_a_chip))
    [[ $TYPE != "$kind:$shape" && $TYPE != "$ACCELERATOR" ]] || return 0
  done
  refuse "--type=$TYPE is no slice that Google Cloud has; of $kind it has $shapes, as in --type=$kind:${shapes%% *}"
}

do_create() {
  accelerator
  case $PRICE in
    --spot | --on-demand) PRICE=${PRICE/--on-demand/} ;;
    *) refuse "found '$PRICE', expected exactly one of --spot (costs less, can be preempted at any time) and --on-demand" ;;
  esac
  trap 'created $?' EXIT
  call gcloud compute tpus queued-resources create "$NAME" "--node-id=$NAME" "--accelerator-type=$ACCELERATOR" \
    "--runtime-version=$RUNTIME" ${PRICE:+"$PRICE"} "${FLAGS[@]}"
}

created() {
  [[ -z $DRY ]] && (($1 != 2)) || return 0 # 2: gcloud refused the flags
  (($1 == 0)) || echo "tpu_vm.sh: gcloud did not say that $NAME was created, see above" >&2
  echo "In the queue $NAME is free; from ACTIVE on it costs money until: tpu_vm.sh delete $NAME ${FLAGS[*]}" >&2
}

do_state() {
  call gcloud compute tpus queued-resources describe "$NAME" "--format=value(state.state)" "${FLAGS[@]}"
}

copy() { # FILE PLACE-ON-THE-WORKERS
  call gcloud compute tpus tpu-vm scp "$1" "$NAME:$2" --worker=all "${FLAGS[@]}"
}

# Python 3.11: pyproject.toml pins JAX there, so that a slice made again gets the same packages.
do_setup() {
  local archive=${TMPDIR:-/tmp}/jaxcomp-$NAME.tgz
  [[ -z $ENV_FILE || -f $ENV_FILE ]] || refuse "--env-file=$ENV_FILE is no file; expected one with lines NAME=VALUE"
  call git -C "$REPO" archive --format=tgz "--output=$archive" HEAD
  copy "$archive" jaxcomp.tgz
  call rm "$archive"
  [[ -z $ENV_FILE ]] || copy "$ENV_FILE" jaxcomp.env
  on_workers "set -e
if systemctl --quiet is-active jaxcomp; then echo \"a job runs on \$(hostname); first: tpu_vm.sh stop $NAME\" >&2; exit 1; fi
mkdir -p jaxcomp; find jaxcomp -mindepth 1 -maxdepth 1 ! -name .venv -exec rm -rf {} +
tar -xzf jaxcomp.tgz -C jaxcomp; touch jaxcomp.env; chmod 600 jaxcomp.env; cd jaxcomp
PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --quiet --user uv
~/.local/bin/uv sync --quiet --no-dev --python=3.11 --extra=tpu --extra=gcs
.venv/bin/python -c 'import jax
jax.distributed.initialize()
print(f\"worker {jax.process_index()} of {jax.process_count()}: {jax.device_count()} chips, jax {jax.__version__}\")'"
}

# As a unit of systemd: one job at a time, free of this ssh connection, with a log. KillMode: SIGTERM
# to jaxcomp alone, which passes it on. $$: systemd would expand $NAME in the command once more.
do_run() {
  ((${#COMMAND[@]})) || refuse "no command; expected: tpu_vm.sh run $NAME -- jaxcomp sweep --config=..."
  # shellcheck disable=SC2016  # expanded on the workers
  on_workers 'cd jaxcomp && { sudo systemctl reset-failed jaxcomp 2>/dev/null || true; } &&
sudo systemd-run --quiet --unit=jaxcomp --uid="$(id -u)" --gid="$(id -g)" --setenv=PATH="$PWD/.venv/bin:$PATH" --setenv=HOME="$HOME" --setenv=PYTHONUNBUFFERED=1 --property=WorkingDirectory="$PWD" --property=EnvironmentFile="$HOME/jaxcomp.env" --property=KillMode=mixed --property=TimeoutStopSec=120 --property=SuccessExitStatus=143 -- /usr/bin/env '"$(printf '%q ' "${COMMAND[@]//\$/\$\$}")" || {
    echo "tpu_vm.sh: not every worker of $NAME started, see above; tpu_vm.sh stop $NAME ${FLAGS[*]}, then again" >&2
    exit 1
  }
}

do_logs() {
  call gcloud compute tpus tpu-vm ssh "$NAME" "--command=sudo journalctl --unit=jaxcomp --output=cat --lines=100 --follow" "${FLAGS[@]}"
}

do_stop() {
  on_workers "sudo systemctl stop jaxcomp"
  [[ -n $DRY ]] || echo "$NAME goes on costing money until: tpu_vm.sh delete $NAME ${FLAGS[*]}" >&2
}

do_delete() {
  trap 'deleted $?' EXIT
  call gcloud compute tpus queued-resources delete "$NAME" --force --quiet "${FLAGS[@]}"
}

deleted() {
  (($1 == 0)) || echo "tpu_vm.sh: $NAME was not deleted, see above: the TPU VM $NAME still costs money if 'gcloud compute tpus tpu-vm list ${FLAGS[*]}' shows it, and the request $NAME will once it is ACTIVE; again: tpu_vm.sh delete $NAME ${FLAGS[*]}" >&2
}

main "$@"
