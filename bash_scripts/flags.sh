# shellcheck shell=sh
# Sourced by profile.sh: what a wrapper makes of the flags at its end.

# given FLAG VALUE [WORD ...]: the last value of FLAG among the words, in full or shortened as argparse reads it; or VALUE
given() {
    given_flag=$1 given_value=$2
    shift 2
    while [ $# -gt 0 ]; do
        case $1 in
            --?*)
                case $given_flag in
                    "${1%%=*}"*) case $1 in *=*) given_value=${1#*=} ;; *) given_value=${2:-} ;; esac ;;
                esac
                ;;
        esac
        shift
    done
    printf '%s\n' "$given_value"
}

# drawn SPLIT NUMBER SEED [WORD ...]: the folder's name of a draw of images, such as val2014-500-seed42. No number is all of
# them. --split, --limit and --seed among the words win.
drawn() {
    drawn_split=$1 drawn_number=$2 drawn_seed=$3
    shift 3
    drawn_split=$(given --split "$drawn_split" "$@")
    drawn_number=$(given --limit "$drawn_number" "$@")
    drawn_seed=$(given --seed "$drawn_seed" "$@")
    printf '%s\n' "$drawn_split-${drawn_number:-all}-seed$drawn_seed"
}

# keep_own "FLAG ..." ADVICE [WORD ...]: refuses, in full or shortened, flags that a wrapper gives each of its calls a value
# of its own: the last one wins, so all calls would get the same.
keep_own() {
    own=$1 advice=$2
    shift 2
    for word in "$@"; do
        case $word in
            --?*) ;;
            *[!a-z]*:--*) continue ;;
            ?*:--?*) word=${word#*:} ;;  # VERB:--flag
            *) continue ;;
        esac
        for flag in $own; do
            case $flag in
                "${word%%=*}"*)
                    echo "error: $flag: the wrapper sets it; $advice" >&2
                    exit 2
                    ;;
            esac
        done
    done
}

# share "VERB ..." "VERB: FLAG ..." [WORD ...]: gives each flag among the words to those of the verbs that know it, for `with`;
# the flags of the second list to that verb alone, and VERB:--flag to the verb that it names. Refuses others before any work.
# The verb of a group, such as score chair, is written score.chair, and named chair.
share() {
    share_verbs=$1 share_own=$2 share_found=
    shift 2
    if [ $# -eq 0 ]; then return; fi
    share_found=$("$PYTHON" -m llava_hh.command_line.route "$share_verbs" "$share_own" "$@") || exit $?  # VERB=WORD, each ended by the byte 037
    if [ -z "$share_found" ]; then exit 0; fi  # --help
}

# with VERB COMMAND [ARGUMENT ...]: runs the command with the flags that `share` gave to the verb behind it
with() {
    with_verb=$1 with_ifs=$IFS
    shift
    set -f
    IFS=$(printf '\037')
    for with_word in $share_found; do
        case $with_word in "$with_verb="*) set -- "$@" "${with_word#*=}" ;; esac
    done
    IFS=$with_ifs
    set +f
    "$@"
}

# no_flags [WORD ...]: for wrappers that have none
no_flags() {
    if [ $# -eq 0 ]; then return; fi
    echo "error: $1: this wrapper has no flags; expected none" >&2
    exit 2
}
