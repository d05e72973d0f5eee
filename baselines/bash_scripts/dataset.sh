# shellcheck shell=sh disable=SC2034  # the wrapper that sources this reads them
# Sourced after the profile: the split and the result folder of DATASET, which is coco (the default) or nocaps.
keep_own --dataset "give DATASET=nocaps in front" "$@"
dataset=${DATASET:-coco}
case $dataset in
    coco) split=val2014 prefix='' ;;
    nocaps)
        if [ -z "$nocaps_path" ]; then
            echo "error: DATASET=nocaps: PROFILE=$PROFILE has no nocaps (its nocaps_path is empty)" >&2
            exit 2
        fi
        split=out-domain prefix=nocaps_
        ;;
    *)
        echo "error: DATASET=$dataset: no such data set; choose one of: coco nocaps" >&2
        exit 2
        ;;
esac
out=$result_path/baselines/$prefix$(drawn "$split" "$baseline_images" "$draw_seed" "$@")
