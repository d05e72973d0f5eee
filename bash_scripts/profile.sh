# shellcheck shell=sh
# Sourced from the repository's root: the settings of PROFILE, a name in bash_scripts/profiles (default: mini) or the path of
# a file like those.
PROFILE=${PROFILE:-mini}
case $PROFILE in
    */*) profile_file=$PROFILE ;;
    *) profile_file=bash_scripts/profiles/$PROFILE.sh ;;
esac
if [ ! -f "$profile_file" ]; then
    known=$(cd bash_scripts/profiles && echo *.sh | sed 's/\.sh//g')
    echo "error: PROFILE=$PROFILE: no such profile; choose one of: $known, or name the path of a file like those" >&2
    exit 2
fi
# shellcheck source=bash_scripts/profiles/mini.sh
. "$profile_file"
