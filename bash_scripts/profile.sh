# shellcheck shell=sh disable=SC2034,SC2094,SC2295  # wrappers read them; no file is written; profile_blank is a set in patterns
# Sourced after `cd` to the repository's root: the settings of PROFILE, which is a name in bash_scripts/profiles (default:
# mini) or a file like those, seen from where the wrapper was started. llava_hh/command_line/profiles.py asks this file too.
. bash_scripts/python.sh
. bash_scripts/flags.sh

profile_blank=$(printf ' \t')
profile_cr=$(printf '\r')
profile_bom=$(printf '\357\273\277')
profile_letters=abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_
# what no value holds: $, backtick, backslash and control characters; and what an unquoted one doesn't hold either
profile_never=$(printf '$`\\\001\002\003\004\005\006\007\010\011\012\013\014\015\016\017\020\021\022\023\024\025\026\027\030')
profile_never=$profile_never$(printf '\031\032\033\034\035\036\037\177')
profile_quoted="'\";&|<>()~"

profile_stop() {
    printf '%s\n' "error: $1" >&2
    exit 2
}

# profile_find NAME FOLDER: profile_file, that of a name in bash_scripts/profiles, or of a path seen from FOLDER
profile_find() {
    case $1 in
        /*) profile_file=$1 ;;
        */*) profile_file=$2/$1 ;;
        *)
            profile_file=bash_scripts/profiles/$1.sh
            if [ ! -f "$profile_file" ]; then profile_file=$2/$1; fi
            ;;
    esac
    if [ -f "$profile_file" ] && [ -r "$profile_file" ]; then return 0; fi
    profile_known=$(cd bash_scripts/profiles && echo *.sh | sed 's/defaults\.sh //; s/\.sh//g')
    profile_fault="no such profile; choose one of: $profile_known, or name the path of a file like those"
    return 1
}

# profile_take_apart LINE: profile_name and profile_value, no name where there is nothing but a comment; profile_fault
profile_take_apart() {
    profile_name='' profile_value='' profile_fault=''
    profile_rest=${1%"$profile_cr"}
    profile_rest=${profile_rest#"${profile_rest%%[!$profile_blank]*}"}
    case $profile_rest in '' | '#'*) return ;; esac
    profile_name=${profile_rest%%=*}
    case $profile_rest in *=*) ;; *) profile_name='' ;; esac
    case $profile_name in
        '' | *[!$profile_letters]*)
            profile_name=none
            profile_fault='expected name=value, as in top_k=20, without blanks around ='
            return
            ;;
    esac
    profile_rest=${profile_rest#*=}
    case $profile_rest in
        \"*\"*)
            profile_rest=${profile_rest#\"}
            profile_value=${profile_rest%%\"*}
            profile_rest=${profile_rest#*\"}
            profile_odd=$profile_never
            ;;
        *)
            profile_value=${profile_rest%%[$profile_blank]*}
            profile_rest=${profile_rest#"$profile_value"}
            profile_odd=$profile_never$profile_quoted
            ;;
    esac
    case $profile_value in
        *["$profile_never"]*) profile_fault="$profile_name: a value holds no \$, backtick, backslash or control character" ;;
        *["$profile_odd"]*) profile_fault="$profile_name: a value with any of '\";&|<>()~ stands in double quotes, \" in none" ;;
        *)
            case $profile_rest in
                '' | [$profile_blank]*) ;;
                *) profile_fault="$profile_name: expected nothing but a comment after the value in quotes" && return ;;
            esac
            profile_rest=${profile_rest#"${profile_rest%%[!$profile_blank]*}"}
            case $profile_rest in
                '' | '#'*) ;;
                *) profile_fault="$profile_name: a value with blanks stands in double quotes" ;;
            esac
            ;;
    esac
}

# profile_open FILE: profile_next, the profile that its first setting names as inherit=..., or nothing
profile_open() {
    if [ "$(tr -d '\000' < "$1" | wc -c)" -ne "$(wc -c < "$1")" ]; then
        profile_stop "$1: holds zero bytes; expected lines of text"
    fi
    profile_next='' profile_number=0
    while IFS= read -r profile_line || [ -n "$profile_line" ]; do
        profile_number=$((profile_number + 1))
        if [ "$profile_number" -eq 1 ]; then profile_line=${profile_line#"$profile_bom"}; fi
        profile_take_apart "$profile_line"
        case $profile_name in
            '') continue ;;
            inherit) profile_next=$profile_value ;;
            *) return 0 ;;
        esac
        if [ -z "$profile_fault" ] && [ -z "$profile_next" ]; then profile_fault="inherit: expected a profile"; fi
        if [ -n "$profile_fault" ]; then profile_stop "$1, line $profile_number: $profile_fault"; fi
        return 0
    done < "$1"
}

# profile_read FILE: sets what the file sets; those of the defaults are the names that there are
profile_read() {
    profile_number=0 profile_seen=' '
    while IFS= read -r profile_line || [ -n "$profile_line" ]; do
        profile_number=$((profile_number + 1))
        if [ "$profile_number" -eq 1 ]; then profile_line=${profile_line#"$profile_bom"}; fi
        profile_take_apart "$profile_line"
        if [ -z "$profile_name" ]; then continue; fi
        if [ "$1" = "$profile_defaults" ]; then profile_settings="$profile_settings $profile_name"; fi
        if [ -z "$profile_fault" ]; then
            case "$profile_seen" in *" $profile_name "*) profile_fault="$profile_name: is set in a line above already" ;; esac
            case "$profile_name:$profile_seen" in inherit:*[!\ ]*) profile_fault="inherit: comes before all other settings" ;; esac
            case " inherit $profile_settings " in
                *" $profile_name "*) ;;
                *) profile_fault="$profile_name: no such setting; did you mean $(profile_nearest "$profile_name")?" ;;
            esac
        fi
        if [ -n "$profile_fault" ]; then profile_stop "$1, line $profile_number: $profile_fault"; fi
        profile_seen="$profile_seen$profile_name "
        if [ "$profile_name" = inherit ]; then continue; fi
        # shellcheck disable=SC2229  # the setting of that name is read
        IFS= read -r "$profile_name" <<END
$profile_value
END
        profile_lack "$1"
    done < "$1"
}

# profile_lack FILE: notes whether the setting that was just read has no value though it needs one
profile_lack() {
    if [ "$1" = "$profile_defaults" ]; then
        case $profile_value in '?' | [0-9]*) profile_needed="$profile_needed$profile_name " ;; esac
    fi
    case $profile_lacking in
        *" $profile_name "*) profile_lacking="${profile_lacking%%" $profile_name "*} ${profile_lacking#*" $profile_name "}" ;;
    esac
    case $profile_value in '' | '?') ;; *) return ;; esac
    case $profile_needed in *" $profile_name "*) profile_lacking="$profile_lacking$profile_name " ;; esac
}

# profile_nearest NAME: the setting that the name differs from by the fewest letters
profile_nearest() {
    awk -v given="$1" -v names="$profile_settings" 'BEGIN {
        n = split(names, known, " ")
        for (k = 1; k <= n; k++) {
            m = length(known[k])
            for (j = 0; j <= m; j++) row[j] = j
            for (i = 1; i <= length(given); i++) {
                corner = row[0]++
                for (j = 1; j <= m; j++) {
                    edits = corner + (substr(given, i, 1) != substr(known[k], j, 1))
                    corner = row[j]
                    if (row[j] + 1 < edits) edits = row[j] + 1
                    if (row[j - 1] + 1 < edits) edits = row[j - 1] + 1
                    row[j] = edits
                }
            }
            if (k == 1 || row[m] < fewest) { fewest = row[m]; nearest = known[k] }
        }
        print nearest
    }'
}

# profile_read_all: the file of PROFILE, those it inherits from, and the defaults, the last of them first
profile_read_all() {
    profile_defaults=bash_scripts/profiles/defaults.sh
    profile_settings='' profile_needed=' ' profile_lacking=' '
    profile_find "$PROFILE" "${OLDPWD:-.}" || profile_stop "PROFILE=$PROFILE: $profile_fault"
    case $profile_file in bash_scripts/profiles/*) ;; *) PROFILE=$profile_file ;; esac
    set -- "$profile_file"
    while profile_open "$1" && [ -n "$profile_next" ]; do
        if [ $# -eq 10 ]; then profile_fault="more than 10 files in a row, or in a circle"; fi
        if [ $# -lt 10 ] && profile_find "$profile_next" "$(dirname "$1")"; then
            set -- "$profile_file" "$@"
            continue
        fi
        profile_stop "$1, line $profile_number: inherit=$profile_next: $profile_fault"
    done
    for profile_file in "$profile_defaults" "$@"; do profile_read "$profile_file"; done
    # shellcheck disable=SC2086  # a list of names
    set -- $profile_lacking
    if [ $# -gt 0 ]; then profile_stop "$profile_file: no value for $*"; fi
}

# profile_first "A | B": profile_value, the first of these folders that is there, or A
profile_first() {
    profile_rest="$1|" profile_value=''
    while [ -n "$profile_rest" ]; do
        profile_part=${profile_rest%%|*} profile_rest=${profile_rest#*|}
        profile_part=${profile_part#"${profile_part%%[! ]*}"}
        profile_part=${profile_part%"${profile_part##*[! ]}"}
        if [ -d "$profile_part" ]; then profile_value=$profile_part && return; fi
        if [ -z "$profile_value" ]; then profile_value=$profile_part; fi
    done
}

keep_own --profile "give PROFILE=... in front" "$@"
PROFILE=${PROFILE:-mini}
profile_read_all
profile_first "$model_path"
model_path=$profile_value

# what attribute.sh, choose_adhh.sh and prepare_vti.sh make
attributed=$result_path/$(drawn train2014 "$attribution_images" "$draw_seed")
head_list=$attributed/identify_attention_head/attribution_result.json
choice=$result_path/choose_adhh/$(drawn train2014 "$choice_images" "$choice_seed")/choice.json
vti_vectors=$result_path/vti/vectors.safetensors

# head lists are at least as long as every number of heads that the profile takes of one; doctor.sh reports other values
for number in "$top_k" "$bias_top_k" "$inheritance_top_k" "$reweight_top_k" "$removal_top_k" "$finetune_top_k" "$part_top_k"; do
    case $number$list_length in
        *[!0-9]* | ??????????????????*) ;; # nor what a shell cannot count to
        *) if [ "$number" -gt "$list_length" ]; then list_length=$number; fi ;;
    esac
done
