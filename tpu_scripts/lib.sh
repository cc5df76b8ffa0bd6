# shellcheck shell=bash
# Shared by the scripts of this folder: errors, flags, quoting, --dry-run, and the shapes of slices.
# Sourced, never run.
set -euo pipefail

if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 404)); then
  echo "${0##*/}: bash $BASH_VERSION found, expected 4.4 or later; on macOS: brew install bash" >&2
  exit 2
fi

SCRIPT=${0##*/}
VERB=  # the subcommand, for messages

refuse() { # a wrong argument
  echo "$SCRIPT${VERB:+ $VERB}: $*" >&2
  exit 2
}

fail() { # right arguments, but it cannot be done
  echo "$SCRIPT${VERB:+ $VERB}: $*" >&2
  exit 1
}

say() { echo "$*" >&2; }

next() { # what to do now; of no use where another script does it
  [[ -n ${CALLED_BY_SCRIPT:-} ]] || dry || say "next: $*"
}

usage() { # the comment at the head of the script that was started
  sed -n '2,/^$/{s/^# \{0,1\}//p;}' "$0"
}

# --- quoting and --dry-run --------------------------------------------------------------------

quote() { # one word, as bash would read it back
  if [[ $1 =~ ^[A-Za-z0-9_./:=@%+,-]+$ ]]; then
    printf '%s' "$1"
  elif [[ $1 =~ ^(--[a-z-]+=)(.+)$ ]]; then
    printf '%s%s' "${BASH_REMATCH[1]}" "${BASH_REMATCH[2]@Q}"
  else
    printf '%s' "${1@Q}"
  fi
}

line() { # the words as one command line
  local word out=()
  for word in "$@"; do out+=("$(quote "$word")"); done
  echo "${out[*]}"
}

dry() { [[ -n ${FLAG[dry-run]:-} ]]; }

AT_ONCE=  # " &" while several nodes are served at the same time
call() { # every command that touches the cloud goes through here
  if dry; then
    echo "$(line "$@")$AT_ONCE"
  else
    "$@"
  fi
}

attend() { # a child that a signal to this script does not have to wait for
  "$@" &
  wait $!
}

pause() { # bash holds traps back while a child is in front, so the sleep is not
  attend sleep "$1" || true
}

SCRATCH=
scratch() { # a folder of this process, gone when it ends
  [[ -n $SCRATCH ]] && return
  SCRATCH=$(mktemp -d)
  trap 'rm -rf "$SCRATCH"' EXIT
}

stop_on_signal() { # MESSAGE: what goes on after this script has ended
  ON_SIGNAL=$1
  exec {LAST_WORDS}>&2
  trap 'interrupted 130' INT
  trap 'interrupted 143' TERM
}

interrupted() {
  trap '' INT TERM
  local children
  children=$(jobs -p)
  if [[ -n $children ]]; then
    # shellcheck disable=SC2086  # one word a process
    kill $children 2>/dev/null || true
    # By name: without, wait may be for the reader of our own output, which waits for us to end.
    # shellcheck disable=SC2086
    wait $children 2>/dev/null || true
  fi
  # The signal may have come to a function whose errors go to a file.
  say "$SCRIPT${VERB:+ $VERB}: $ON_SIGNAL" 2>&"$LAST_WORDS"
  exit "$1"
}

# --- flags ------------------------------------------------------------------------------------

declare -A FLAG=()
REST=()  # the words after --

parse_flags() { # "value flags" "switches" ARGUMENTS...: sets FLAG and REST
  local values=" $1 " switches=" $2 " name
  shift 2
  while (($#)); do
    case $1 in
      --help | -h) usage && exit 0 ;;
      --) REST=("${@:2}") && return ;;
      --?*) ;;
      *) refuse "$(quote "$1") is not a flag; expected --flag=value, and a command only after --" ;;
    esac
    name=${1%%=*}
    name=${name#--}
    if [[ $name =~ [^a-z-] || "$values$switches" != *" $name "* ]]; then
      # shellcheck disable=SC2086  # the flags are words
      refuse "--$name is not a flag of this command; the nearest is --$(nearest "$name" $values $switches); see $SCRIPT --help"
    elif [[ $switches == *" $name "* ]]; then
      [[ $1 != *=* ]] || refuse "--$name takes no value, found $(quote "${1#*=}"); write --$name alone"
      FLAG[$name]=1
    elif [[ $1 == *=?* ]]; then
      FLAG[$name]=${1#*=}
    elif [[ $1 != *=* && $# -gt 1 && $2 != --* ]]; then
      FLAG[$name]=$2
      shift
    else
      refuse "--$name has no value; expected --$name=VALUE"
    fi
    shift
  done
}

nearest() { # WORD CANDIDATES...: the candidate with the fewest letters changed
  printf '%s\n' "${@:2}" | awk -v word="$1" '
    function least(a, b, c) { return a < b ? (a < c ? a : c) : (b < c ? b : c) }
    function distance(s, t,    i, j, d) {
      for (i = 0; i <= length(s); i++) d[i, 0] = i
      for (j = 0; j <= length(t); j++) d[0, j] = j
      for (i = 1; i <= length(s); i++) for (j = 1; j <= length(t); j++)
        d[i, j] = least(d[i-1, j] + 1, d[i, j-1] + 1, d[i-1, j-1] + (substr(s, i, 1) != substr(t, j, 1)))
      return d[length(s), length(t)]
    }
    { n = distance(word, $0); if (NR == 1 || n < best) { best = n; name = $0 } }
    END { print name }'
}

need() { # FLAG MEND: the flag must have been given
  [[ -n ${FLAG[$1]:-} ]] || refuse "--$1 is missing; $2"
}

need_count() { # FLAG DEFAULT LEAST: a whole number
  FLAG[$1]=${FLAG[$1]:-$2}
  [[ ${FLAG[$1]} =~ ^(0|[1-9][0-9]{0,5})$ && ! ${FLAG[$1]} -lt $3 ]] ||
    refuse "--$1=${FLAG[$1]} is not a whole number of at least $3; for example --$1=$2"
}

no_command() {
  ((${#REST[@]} == 0)) || refuse "found a command after --, which only run takes; remove: $(line "${REST[@]}")"
}

check_name() { # NAME: what Google Cloud accepts as an id, with room for -0, -1, ... of slices
  [[ $1 =~ ^[a-z]([-a-z0-9]{0,53}[a-z0-9])?$ ]] ||
    refuse "--name=$(quote "$1") is not an id; expected lower-case letters, digits and -, starting with a letter, 55 at most"
}

forward() { # FLAGS...: those of them that were given, as words in FORWARD
  local name
  FORWARD=()
  for name in "$@"; do
    case ${FLAG[$name]:-} in
      "") ;;
      1) if [[ " $SWITCHES " == *" $name "* ]]; then FORWARD+=("--$name"); else FORWARD+=("--$name=1"); fi ;;
      *) FORWARD+=("--$name=${FLAG[$name]}") ;;
    esac
  done
}
SWITCHES="spot on-demand dry-run internal-ip delete force"  # of those, the ones without a value

# --- shapes of slices -------------------------------------------------------------------------

# Accelerator type of gcloud, topology as `jaxcomp plan` writes it, chips. v5e and v6e types count
# chips, v5p types count TensorCores, two a chip. gcloud cannot be given a topology: its --type knows
# v2, v3 and v4 only, so of the v5p shapes with as many chips only the one below can be had.
SHAPES='
v5litepod-1 v5e:1x1 1
v5litepod-4 v5e:2x2 4
v5litepod-8 v5e:2x4 8
v5litepod-16 v5e:4x4 16
v5litepod-32 v5e:4x8 32
v5litepod-64 v5e:8x8 64
v5litepod-128 v5e:8x16 128
v5litepod-256 v5e:16x16 256
v5p-8 v5p:2x2x1 4
v5p-16 v5p:2x2x2 8
v5p-32 v5p:2x2x4 16
v5p-64 v5p:2x4x4 32
v5p-128 v5p:4x4x4 64
v5p-256 v5p:4x4x8 128
v5p-384 v5p:4x4x12 192
v5p-512 v5p:4x8x8 256
v5p-640 v5p:4x4x20 320
v5p-768 v5p:4x8x12 384
v5p-896 v5p:4x4x28 448
v5p-1024 v5p:8x8x8 512
v5p-1152 v5p:4x12x12 576
v5p-1280 v5p:4x8x20 640
v5p-1536 v5p:8x8x12 768
v5p-2048 v5p:8x8x16 1024
v5p-2304 v5p:8x12x12 1152
v5p-3072 v5p:8x12x16 1536
v5p-4096 v5p:8x16x16 2048
v5p-6144 v5p:12x16x16 3072
v5p-8192 v5p:16x16x16 4096
v5p-12288 v5p:16x16x24 6144
v6e-1 v6e:1x1 1
v6e-4 v6e:2x2 4
v6e-8 v6e:2x4 8
v6e-16 v6e:4x4 16
v6e-32 v6e:4x8 32
v6e-64 v6e:8x8 64
v6e-128 v6e:8x16 128
v6e-256 v6e:16x16 256
'

resolve_type() { # NAME: sets ACCELERATOR, TOPOLOGY, CHIPS and GENERATION, or refuses
  local found
  found=$(awk -v name="$1" '$1 == name || $2 == name' <<<"$SHAPES")
  [[ -n $found ]] || refuse "--type=$(quote "$1") is no slice that exists; $(nearest_shapes "$1")"
  # shellcheck disable=SC2034  # read by the scripts that source this file
  read -r ACCELERATOR TOPOLOGY CHIPS <<<"$found"
  GENERATION=${TOPOLOGY%%:*}
}

nearest_shapes() { # NAME: a sentence with the next smaller and the next larger of its generation
  local generation
  case $1 in
    v5e* | v5litepod*) generation=v5e ;;
    v5p*) generation=v5p ;;
    v6e*) generation=v6e ;;
    *) echo "expected v5e, v5p or v6e, as in v5e:4x4 or v5litepod-16" && return ;;
  esac
  awk -v name="$1" -v generation="$generation" '
    BEGIN {
      sub(/^[a-z0-9]*[:-]/, "", name)
      wanted = 1; n = split(name, side, "x"); for (i = 1; i <= n; i++) wanted *= side[i]
      if (n == 1 && generation == "v5p") wanted /= 2
    }
    $2 ~ "^" generation ":" {
      if ($3 <= wanted) below = $2 " (" $1 ")"
      else if (above == "") above = $2 " (" $1 ")"
    }
    END { print "the nearest: " below (below != "" && above != "" ? " and " : "") above }' <<<"$SHAPES"
}

runtime_version() { # the one that Google documents for GENERATION
  case $GENERATION in
    v5e) echo v2-alpha-tpuv5-lite ;;
    v5p) echo v2-alpha-tpuv5 ;;
    v6e) echo v2-alpha-tpuv6e ;;
  esac
}
