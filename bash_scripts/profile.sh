# shellcheck shell=sh disable=SC2034  # the wrapper that sources this reads them
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
# all that a profile may set; nothing of it is taken from the environment
profile_settings="model_path coco_path nocaps_path result_path published_heads question
    attribution_images attribution_captions report_images random_draws top_k threshold max_new_tokens batch_size
    base_model reference_model training_steps training_checkpoints paper_values
    bias_top_k inheritance_top_k reweight_images reweight_top_k reweight_draws
    removal_top_k removal_adhh removal_images
    instruct_path instruct_images finetune_top_k finetune_attention_coeff finetune_untie finetune_steps
    finetune_batch_size finetune_learning_rate finetune_checkpointing finetune_seeds finetune_report_images
    part_objects part_images part_top_k part_threshold pope_images pope_questions
    baseline_images slow_baseline_images baseline_batch_size halc_detector halc_scorer"
# shellcheck disable=SC2086  # profile_settings is a list
unset $profile_settings
# shellcheck source=bash_scripts/profiles/mini.sh
. "$profile_file"

# drawn SPLIT NUMBER SEED [FLAG ...]: the folder's name of a draw of images, such as val2014-500-seed42. No number is all of
# them. --split, --limit and --seed among the flags win, as argparse reads them: the last one, in full or shortened.
drawn() {
    split=$1 number=$2 seed=$3
    shift 3
    while [ $# -gt 0 ]; do
        case $1 in
            *=*) value=${1#*=} ;;
            *) value=${2:-} ;;
        esac
        case ${1%%=*} in
            --sp | --spl | --spli | --split) split=$value ;;
            --l | --li | --lim | --limi | --limit) number=$value ;;
            --se | --see | --seed) seed=$value ;;
        esac
        shift
    done
    echo "$split-${number:-all}-seed$seed"
}
# keep_own "FLAG ..." ADVICE [GIVEN ...]: refuses, in full or shortened, flags that a wrapper gives each of its calls a value
# of its own: the last one wins, so all calls would get the same.
keep_own() {
    own=$1 advice=$2
    shift 2
    for given in "$@"; do
        case $given in --?*) ;; *) continue ;; esac
        for flag in $own; do
            case $flag in
                "${given%%=*}"*)
                    echo "error: $flag: the wrapper sets it; $advice" >&2
                    exit 2
                    ;;
            esac
        done
    done
}
draw_seed=42  # of every draw of images but that of choose_adhh.sh
choice_seed=1
choice_images=150
reference_images=100  # of reference_loss.sh
# what attribute.sh and choose_adhh.sh make
attributed=${result_path:-}/$(drawn train2014 "${attribution_images:-}" "$draw_seed")
head_list=$attributed/identify_attention_head/attribution_result.json
choice=${result_path:-}/choose_adhh/$(drawn train2014 "$choice_images" "$choice_seed")/choice.json

list_length=30  # of head lists: at least as long as every number of heads that the profile takes of one
for number in ${top_k:-} ${bias_top_k:-} ${inheritance_top_k:-} ${reweight_top_k:-} ${removal_top_k:-} ${finetune_top_k:-} \
    ${part_top_k:-}; do
    case $number in
        *[!0-9]*) ;;  # doctor.sh reports values that are not numbers
        *) if [ "$number" -gt "$list_length" ]; then list_length=$number; fi ;;
    esac
done
